"""The look of print: sizes, fonts, colours, markers, and texts without HTML."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import LinearSegmentedColormap, to_rgba
from plotly import colors as plotly_colours

SINGLE = 3.25
"""Width of one column in inches."""
DOUBLE = 6.75
"""Width of both columns in inches."""

PIXELS_PER_INCH = 150.0
"""How large a pixel of the screen is on paper, where a figure gives a height or a distance."""
GREY = "#7f7f7f"
TEXT_SIZE = 7.0
SMALL_SIZE = 6.5
LETTER = 0.52
"""Mean width of a letter as a share of its height."""

SETTINGS: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine has it
    "font.size": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "axes.titlesize": TEXT_SIZE,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
    "legend.fontsize": SMALL_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType outlines; journals refuse Type 3
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "svgt-workbench",
    "figure.dpi": 100.0,
    "savefig.dpi": 300.0,
}
"""Of matplotlib, for everything drawn here."""

_MARKERS = {
    "circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "x": "X", "cross": "P",
    "star": "*", "triangle-down": "v",
}  # fmt: skip
_DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (4, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (4, 1.5, 1, 1.5)),
    "longdash": (0, (7, 2)),
    "longdashdot": (0, (7, 1.5, 1, 1.5)),
}
_RGBA = re.compile(r"rgba?\(([^)]*)\)")
_TAG = re.compile(r"<(sub|sup)>(.*?)</\1>")
_OTHER_TAG = re.compile(r"</?[a-z][^>]*>")


def colour(text: str | None, opacity: float | None = None) -> tuple[float, float, float, float]:
    """A colour of plotly as red, green, blue and opacity, each from 0 to 1."""
    found = _RGBA.fullmatch(text or "")
    if found is None:
        return to_rgba(text or GREY, opacity)
    channels = [float(part) for part in found[1].split(",")]
    alpha = channels[3] if len(channels) > 3 else 1.0
    red, green, blue = (channel / 255 for channel in channels[:3])
    return (red, green, blue, alpha if opacity is None else alpha * opacity)


def colour_map(scale: str | Sequence[Sequence[Any]]) -> LinearSegmentedColormap:
    """A colour scale of plotly: its name, or its stops."""
    stops: Sequence[Any] = plotly_colours.get_colorscale(scale) if isinstance(scale, str) else scale
    return LinearSegmentedColormap.from_list(
        "scale", [(float(stop[0]), colour(stop[1])) for stop in stops]
    )


def marker(symbol: str | None) -> tuple[str, bool]:
    """A marker, and whether it is hollow."""
    name = symbol or "circle"
    return _MARKERS.get(name.removesuffix("-open"), "o"), name.endswith("-open")


def dash(name: str | None) -> Any:  # noqa: ANN401 - matplotlib's own union
    """A line style."""
    return _DASHES.get(name or "solid", "-")


def plain(text: object) -> str:
    """A text of plotly without HTML; lines stay, what stands low or high becomes mathematics."""
    escaped = str(text or "").replace("$", r"\$").replace("<br>", "\n")
    raised = _TAG.sub(
        lambda found: f"$_{{{found[2]}}}$" if found[1] == "sub" else f"$^{{{found[2]}}}$", escaped
    )
    return _OTHER_TAG.sub("", raised)


def wrapped(text: str, inches: float, size: float = TEXT_SIZE) -> str:
    """A text broken into lines that are about so long."""
    letters = max(4, int(inches * 72 / (LETTER * size)))
    lines = (textwrap.wrap(line, letters, break_long_words=False) for line in text.splitlines())
    return "\n".join("\n".join(line) for line in lines)


def text_width(text: str, size: float = SMALL_SIZE) -> float:
    """About how wide a text is, in inches."""
    return max((len(line) for line in text.splitlines()), default=0) * LETTER * size / 72
