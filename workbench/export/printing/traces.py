"""Series of a plotly figure, drawn on matplotlib's axes."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from workbench.export.palette import text_colour
from workbench.export.printing.panels import Panel
from workbench.export.printing.style import (
    GREY,
    LETTER,
    SMALL_SIZE,
    colour,
    colour_map,
    dash,
    marker,
    plain,
)

Floats = NDArray[np.float64]
_GROUP = 0.62
"""Share of a category that the series side by side in it take."""
_BAR = 0.75
_MARKER = 0.42
"""Points of print for a pixel of a marker's size."""
_ERROR: dict[str, Any] = {"fmt": "none", "elinewidth": 0.8, "capsize": 1.6, "capthick": 0.8}
_LEAST_TEXT = 4.6
"""Points; smaller numbers are left out."""
_FILLED = 0.9
_WIDE_DIGITS = 1.2
"""Digits are wider than the mean letter."""


def draw_traces(axes: Axes, figure: go.Figure, panel: Panel) -> None:
    """Draw all series of a panel; the numbers in heat maps come later, see :func:`write_numbers`.

    Args:
        axes: Where.
        figure: What they belong to.
        panel: The panel.
    """
    shifts = _shifts(figure, panel)
    for trace in panel.traces:
        if trace.type == "heatmap":
            _heat_map(axes, panel, trace)
        elif trace.type == "bar":
            _bars(axes, panel, trace, *shifts.get(id(trace), (0.0, _BAR)))
        elif trace.type == "scatter" and trace.fill == "toself":
            _band(axes, panel, trace)
        else:
            _series(axes, panel, trace, shifts.get(id(trace), (0.0, 0.0))[0])


def heat_map_colours(trace: go.Heatmap) -> ScalarMappable:
    """From the numbers of a heat map to its colours."""
    values = _matrix(trace)
    low = float(np.nanmin(values)) if trace.zmin is None else float(trace.zmin)
    high = float(np.nanmax(values)) if trace.zmax is None else float(trace.zmax)
    return ScalarMappable(Normalize(low, high, clip=True), colour_map(trace.colorscale))


def _shifts(figure: go.Figure, panel: Panel) -> dict[int, tuple[float, float]]:
    """How far series side by side stand from their category's middle, and how wide they are."""
    layout = figure.layout
    bars = [t for t in panel.traces if t.type == "bar"]
    grouped = bars if layout.barmode not in ("overlay", "relative", "stack") else []
    if layout.scattermode == "group":
        grouped = [t for t in panel.traces if t.type == "scatter" and t.mode == "markers"]
    share = _GROUP if len(grouped) > 1 else _BAR
    step = share / max(1, len(grouped))
    first = -step * (len(grouped) - 1) / 2
    return {id(trace): (first + step * number, step) for number, trace in enumerate(grouped)}


def _series(axes: Axes, panel: Panel, trace: go.Scatter, shift: float) -> None:
    """A line, marks, or both, with their intervals."""
    x, y = panel.x.at(trace.x), panel.y.at(trace.y)
    if panel.x.categories:
        x = x + shift
    elif panel.y.categories:
        y = y + shift
    mode = trace.mode or "lines"
    shown = colour(_first(trace.marker.color) or trace.line.color)
    if trace.opacity is not None or trace.marker.opacity is not None:
        shown = (*shown[:3], float(trace.marker.opacity or trace.opacity))
    if "lines" in mode:
        steps = "steps-post" if trace.line.shape == "hv" else "default"
        axes.plot(
            x, y, color=colour(trace.line.color or _first(trace.marker.color)),
            linestyle=dash(trace.line.dash), drawstyle=steps, zorder=3,
        )  # fmt: skip
    errors: dict[str, Any] = {
        "xerr": _ends(trace.error_x, len(x)),
        "yerr": _ends(trace.error_y, len(x)),
    }
    if any(error is not None for error in errors.values()):
        drawn = colour((trace.error_y.color or trace.error_x.color) or _first(trace.marker.color))
        axes.errorbar(x, y, **errors, ecolor=drawn, zorder=2.5, **_ERROR)
    if "markers" in mode:
        shape, hollow = marker(_first(trace.marker.symbol))
        size = _MARKER * float(_first(trace.marker.size) or 8)
        axes.plot(
            x, y, linestyle="none", marker=shape, markersize=size, zorder=4, clip_on=False,
            markerfacecolor="none" if hollow else shown, markeredgecolor=shown,
            markeredgewidth=0.8 if hollow else 0.0,
        )  # fmt: skip
    if "text" in mode:
        _texts(axes, x, y, trace)


def _texts(axes: Axes, x: Floats, y: Floats, trace: go.Scatter) -> None:
    beside = str(trace.textposition or "middle center")
    offset = (-3 if "left" in beside else 3 if "right" in beside else 0,
              3 if "top" in beside else -3 if "bottom" in beside else 0)  # fmt: skip
    for across, up, text in zip(x, y, trace.text, strict=True):
        axes.annotate(
            plain(text), (across, up), xytext=offset, textcoords="offset points",
            fontsize=SMALL_SIZE, ha={-3: "right", 3: "left"}.get(offset[0], "center"),
            va={-3: "top", 3: "bottom"}.get(offset[1], "center"), zorder=5,
        )  # fmt: skip


def _band(axes: Axes, panel: Panel, trace: go.Scatter) -> None:
    axes.fill(
        panel.x.at(trace.x), panel.y.at(trace.y), facecolor=colour(trace.fillcolor),
        edgecolor="none", zorder=2,
    )  # fmt: skip


def _bars(axes: Axes, panel: Panel, trace: go.Bar, shift: float, width: float) -> None:
    level = trace.orientation == "h"
    along, across = (trace.x, panel.y.at(trace.y)) if level else (trace.y, panel.x.at(trace.x))
    lengths = (panel.x if level else panel.y).at(along)
    places = across + shift
    fills = [colour(text, trace.marker.opacity) for text in _each(trace.marker.color, len(places))]
    edge = trace.marker.line
    outline: dict[str, Any] = (
        {"edgecolor": colour(_first(edge.color)), "linewidth": 0.8}
        if edge.width
        else {"linewidth": 0.0}
    )
    ends = _ends(trace.error_x if level else trace.error_y, len(places))
    drawn = colour((trace.error_x if level else trace.error_y).color)
    known = ~np.isnan(lengths)
    kept = [fill for fill, measured in zip(fills, known, strict=True) if measured]
    if level:
        axes.barh(places[known], lengths[known], width, color=kept, zorder=2, **outline)
        if ends is not None:
            axes.errorbar(lengths, places, xerr=ends, ecolor=drawn, zorder=3, **_ERROR)
    else:
        axes.bar(places[known], lengths[known], width, color=kept, zorder=2, **outline)
        if ends is not None:
            axes.errorbar(places, lengths, yerr=ends, ecolor=drawn, zorder=3, **_ERROR)


def _heat_map(axes: Axes, panel: Panel, trace: go.Heatmap) -> None:
    colours = heat_map_colours(trace)
    axes.pcolormesh(
        _edges(panel.x.at(trace.x)), _edges(panel.y.at(trace.y)),
        np.ma.masked_invalid(_matrix(trace)), cmap=colours.get_cmap(),
        norm=Normalize(*colours.get_clim(), clip=True), edgecolors="white", linewidth=0.5,
    )  # fmt: skip


def write_numbers(axes: Axes, panel: Panel) -> None:
    """Write the numbers of heat maps into their cells, where they can be read.

    The axes must have their final size: the cells decide how large the numbers are.
    """
    for trace in panel.traces:
        if trace.type == "heatmap" and trace.text is not None and trace.texttemplate:
            _write_numbers(axes, panel, trace)


def _write_numbers(axes: Axes, panel: Panel, trace: go.Heatmap) -> None:
    columns, rows, values = panel.x.at(trace.x), panel.y.at(trace.y), _matrix(trace)
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    longest = max((len(str(text)) for line in trace.text for text in line), default=1)
    size = min(
        SMALL_SIZE,
        _FILLED * box.width * points / len(columns) / (LETTER * _WIDE_DIGITS * max(longest, 2)),
        _FILLED * box.height * points / len(rows),
    )
    if size < _LEAST_TEXT:
        return
    colours = heat_map_colours(trace)
    for row, line, numbers in zip(rows, trace.text, values, strict=True):
        for column, text, value in zip(columns, line, numbers, strict=True):
            if not math.isnan(value):
                axes.text(
                    column, row, plain(text), ha="center", va="center", fontsize=size,
                    color=text_colour(_hex(colours.to_rgba(value))), zorder=4,
                )  # fmt: skip


def _edges(middles: Floats) -> Floats:
    """Where cells begin and end, half-way between their middles."""
    if len(middles) == 1:
        return np.array([middles[0] - 0.5, middles[0] + 0.5])
    between = (middles[1:] + middles[:-1]) / 2
    return np.concatenate([[2 * middles[0] - between[0]], between, [2 * middles[-1] - between[-1]]])


def _matrix(trace: go.Heatmap) -> Floats:
    return np.array(
        [[math.nan if value is None else float(value) for value in line] for line in trace.z]
    )


def _ends(error: Any, n: int) -> Floats | None:  # noqa: ANN401 - plotly has no types
    """Distances to both ends of the intervals, shape (2, n); None where there are none."""
    if error.array is None:
        return None
    upper = _filled(error.array, n)
    lower = upper if error.arrayminus is None else _filled(error.arrayminus, n)
    return np.array([lower, upper])


def _filled(values: Iterable[float | None], n: int) -> list[float]:
    filled = [0.0 if value is None or math.isnan(value) else float(value) for value in values]
    return filled if len(filled) == n else [0.0] * n


def _each(value: Any, n: int) -> list[str]:  # noqa: ANN401
    return [value or GREY] * n if value is None or isinstance(value, str) else [*map(str, value)]


def _first(value: Any) -> Any:  # noqa: ANN401
    """The value, or the first of several: marks of one series look alike."""
    return value[0] if isinstance(value, tuple | list | np.ndarray) and len(value) else value


def _hex(rgba: Any) -> str:  # noqa: ANN401
    return "#" + "".join(f"{round(255 * float(channel)):02x}" for channel in rgba[:3])
