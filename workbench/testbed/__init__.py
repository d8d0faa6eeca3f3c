"""The embedded world: small language models on a procedural corpus whose truth is known.

It is a *model organism*: it shows mechanisms and tests methods, and is no evidence about large
models. It enters the program as one more data source and one more set of checkpoints.
"""
