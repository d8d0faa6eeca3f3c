"""The one vocabulary of axis names.

Every tensor in a signature carries its shape, ``Float[Tensor, "batch seq d_model"]``, and the
names in it come from here; a test reads all annotations and names a stranger. One name has one
meaning in the whole code, so that a shape can be read without looking for its author.
"""

from collections.abc import Mapping
from types import MappingProxyType

AXES: Mapping[str, str] = MappingProxyType(
    {
        "batch": "rows that go through a model together; one prompt each",
        "seq": "positions of the (left-padded) token sequence",
        "response": "positions of a response, right-padded",
        "query": "positions that attend",
        "key": "positions that are attended to",
        "d_model": "width of the backbone's residual stream",
        "d_value": "width of the value space z",
        "bridge": "the K latent tokens the bridge writes; their slots in the sequence",
        "layer": "blocks of the backbone",
        "read": "the blocks a trigger reads, in ascending order",
        "head": "attention heads",
        "d_head": "width of one attention head",
        "context": "context frames a prompt can stand in",
        "vocab": "entries of the tokenizer",
        "n": "examples of a whole data set, not of one batch",
    }
)
"""Axis name to meaning."""
