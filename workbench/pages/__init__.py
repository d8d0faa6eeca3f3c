"""The pages of the app, one a file: widgets that call functions below and draw their records.

Modules whose docstring says *light* import neither torch nor transformers at their top, so that
the first page is on the screen before those have loaded.
"""
