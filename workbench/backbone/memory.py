"""Running out of memory, said as what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workbench.errors import MemoryLimitError

_CPU = "DefaultCPUAllocator"


@contextmanager
def memory_named(doing: str, remedy: str) -> Iterator[None]:
    """Within, an allocation that fails is a user's error that says what to lower.

    Args:
        doing: What was being done, as in *out of memory while ...*.
        remedy: What to lower.

    Raises:
        MemoryLimitError: The device, or this machine, has no room.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _CPU not in str(error):
            raise
        said = str(error).strip().partition("\n")[0]
        raise MemoryLimitError(f"out of memory while {doing}: {remedy} ({said})") from error
