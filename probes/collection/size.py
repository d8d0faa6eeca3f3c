"""How large a collection gets, before anything is read, and whether the disk holds it.

    bytes = bytes a number x sum over sites of (rows x layers x width)

A row is an example, for ``response_tokens`` a token of a response. Numbers are kept as ``float32``
(4 bytes), ``float16`` or ``bfloat16`` (2), and always read back as float32. Half precision rounds:
a number of ordinary size changes by at most the unit round-off, as a share of itself.

============  ==========  ===========================  =====================================
number type   round-off   range of ordinary size       beyond it
============  ==========  ===========================  =====================================
float32       none        that of the states           –
float16       2^-11       6.2e-5 to 65504              above: refused; below: off by 3e-8 at most
bfloat16      2^-8        1.2e-38 to 3.3e38            below: lost
============  ==========  ===========================  =====================================
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from probes.collection.sites import SiteArray
from workbench.errors import ConfigError, RunError

StoredType = Literal["float32", "float16", "bfloat16"]
STORED_TYPES: tuple[StoredType, ...] = get_args(StoredType)
ROUND_OFF: dict[StoredType, float] = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative change of a number of ordinary size."""
_BYTES: dict[StoredType, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
_MARGIN_SHARE = 0.02
_MARGIN_BYTES = 64 * 2**20


def stored_type(name: str) -> StoredType:
    """The number type of a name.

    Raises:
        ConfigError: It is unknown.
    """
    for known in STORED_TYPES:
        if name == known:
            return known
    raise ConfigError(f"states cannot be kept as {name}: choose from {', '.join(STORED_TYPES)}")


@dataclass(frozen=True)
class SizeEstimate:
    """What a collection writes.

    Attributes:
        rows: Rows by site: examples, or tokens of responses.
        bytes: Bytes by site.
        dtype: Number type on disk.
    """

    rows: dict[str, int]
    bytes: dict[str, int]
    dtype: StoredType

    @property
    def total(self) -> int:
        """Bytes of all sites together."""
        return sum(self.bytes.values())

    @property
    def needed(self) -> int:
        """Bytes that must be free: with a margin for tables, and for whoever else writes."""
        return self.total + round(_MARGIN_SHARE * self.total) + _MARGIN_BYTES

    def __str__(self) -> str:
        """One line: bytes, sites and rows."""
        sites = ", ".join(f"{site} ({rows} rows)" for site, rows in self.rows.items())
        return f"{in_words(self.total)} as {self.dtype}: {sites}"


def estimate_size(arrays: Sequence[SiteArray], dtype: StoredType = "float32") -> SizeEstimate:
    """The size of a collection from its layout alone.

    Args:
        arrays: What is written, see :func:`probes.collection.sites.site_arrays`.
        dtype: Number type on disk.
    """
    return SizeEstimate(
        {array.site: array.shape[0] for array in arrays},
        {array.site: math.prod(array.shape) * _BYTES[dtype] for array in arrays},
        dtype,
    )


def require_room(folder: Path, size: SizeEstimate) -> None:
    """Check that the disk has room for what is going to be written.

    Raises:
        RunError: It has not; what is needed and what is free is named, and what to lower.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if size.needed <= free:
        return
    half = "" if size.dtype != "float32" else ", or keep them as float16 or bfloat16 (half of it)"
    raise RunError(
        f"the states need {in_words(size.total)} and a margin, together {in_words(size.needed)}, "
        f"in {folder}, where {in_words(free)} are free: collect fewer layers, sites or "
        f"examples{half}"
    )


def in_words(n_bytes: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.2f} {unit}"
    return f"{n_bytes} bytes"
