"""Printed figures as files, the same bytes for the same figure every time."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from workbench.errors import ExportError
from workbench.export.printing.style import SETTINGS
from workbench.files import atomic_path

PRINT_FORMATS: tuple[str, ...] = ("pdf", "svg", "png")
_COLOURS = 256
_NO_DATE: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "svgt-workbench", "Producer": "matplotlib"},
    "svg": {"Date": None, "Creator": "svgt-workbench"},
    "png": {"Software": None},
}


def write_print(figure: Figure, path: Path) -> Path:
    """Write a figure as its suffix says: PDF and SVG as vectors, PNG at 300 dots an inch.

    Raises:
        ExportError: Another suffix.
        RunError: The file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in PRINT_FORMATS:
        raise ExportError(f"a figure is written as {', '.join(PRINT_FORMATS)}, not as '{kind}'")
    with mpl.rc_context(SETTINGS), atomic_path(path) as temporary:  # type: ignore[arg-type]
        figure.savefig(temporary, format=kind, metadata=_NO_DATE[kind])
    return path


def png_bytes(figure: Figure, dots: int) -> bytes:
    """A figure as a small PNG image for a screen, with so many dots an inch and 256 colours."""
    drawn, small = BytesIO(), BytesIO()
    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        figure.savefig(drawn, format="png", dpi=dots, metadata=_NO_DATE["png"])
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()
