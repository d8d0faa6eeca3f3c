"""What to lower when memory runs out, in the words of whoever asked for the work.

A forward pass does not know which command, or which step of a training, it serves. Who does says so
around the work, and the place where memory ran out repeats it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_IN_PYTHON = (
    "lower the batch size, ask for fewer new tokens or shorter prompts, or load the backbone with "
    "dtype='bfloat16'"
)
_REMEDY = ContextVar("_REMEDY", default=_IN_PYTHON)


def memory_remedy() -> str:
    """What the innermost ``remedied_by`` around the caller says; else what helps in Python."""
    return _REMEDY.get()


@contextmanager
def remedied_by(remedy: str) -> Iterator[None]:
    """Within, this is what to do when memory runs out."""
    token = _REMEDY.set(remedy)
    try:
        yield
    finally:
        _REMEDY.reset(token)
