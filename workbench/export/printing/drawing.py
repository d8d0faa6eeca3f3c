"""A plotly figure as a matplotlib figure of a given width."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from workbench.export.figures import HEIGHT
from workbench.export.printing.panels import Panel, Scale, panels_of
from workbench.export.printing.style import (
    DOUBLE,
    GREY,
    PIXELS_PER_INCH,
    SETTINGS,
    SINGLE,
    SMALL_SIZE,
    colour,
    dash,
    marker,
    plain,
    text_width,
    wrapped,
)
from workbench.export.printing.traces import draw_traces, heat_map_colours, write_numbers

_ROOM_FOR_LABELS = 0.35
"""Share of the width that names on the vertical axis may take."""
_LEGEND_ROW = 0.15
_LEGEND_MARK = 0.42
_BAR_WIDTH = 0.1
_COLOUR_BAR = 0.75
_LINE = 0.105
_BETWEEN_NAMES = 0.06
_AROUND_NAMES = 0.4
_MOST_COLUMNS = 6
_MOST_NAMES = 6
_MOST_LEGEND_ROWS = 4
_NARROW = 0.16
_SIGNS = 0.45
"""Inches that numbers and title of a vertical axis take."""


def fitting_width(figure: go.Figure) -> float:
    """The narrower of one and two columns in which a figure can be read."""
    panels = panels_of(figure)
    heat = [t for panel in panels for t in panel.traces if t.type == "heatmap"]
    names = [name for _, name in _legend_entries(figure)]
    points = [n for n in figure.layout.annotations if n.xref != "paper" and n.ax is not None]
    crowded = (
        len(panels) > 2
        or len(heat) > 1
        or any(len(trace.x) > _MOST_COLUMNS for trace in heat)
        or len(names) > _MOST_LEGEND_ROWS * _legend_columns(names, SINGLE)
        or (not heat and any(len(panel.x.categories) > _MOST_NAMES for panel in panels))
        or len(points) > _MOST_NAMES
    )
    return DOUBLE if crowded else SINGLE


def plot_width(width: float = DOUBLE) -> int:
    """About how wide the axes of a printed figure are, in the pixels of the screen's figure."""
    return round((width - _SIGNS) * PIXELS_PER_INCH)


def print_figure(figure: go.Figure, width: float) -> Figure:
    """Draw a figure for print: the same data, texts and colours, at a width in inches.

    Heights follow the figure's own, a row of a legend and of a long name more. What belongs to the
    screen alone (what the pointer shows) is left out.

    Raises:
        ExportError: The figure holds a kind of series that print does not know.
    """
    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        panels = panels_of(figure)
        entries = _legend_entries(figure)
        entries = [(handle, wrapped(n, width - _LEGEND_MARK, SMALL_SIZE)) for handle, n in entries]
        columns = _legend_columns([name for _, name in entries], width)
        tall = max(
            float(figure.layout.height or HEIGHT) / PIXELS_PER_INCH,
            *(_height_of_names(panel.y, width) for panel in panels),
        )
        drawn = Figure(
            figsize=(width, tall + _legend_height([n for _, n in entries], columns)),
            layout="constrained",
        )
        drawn.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
        shares = [panel.right - panel.left for panel in panels]
        grid = drawn.subplots(1, len(panels), squeeze=False, width_ratios=shares)[0]
        room = _room(panels, width)
        for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            draw_traces(axes, figure, panel)
            inches = room * shares[number] / sum(shares)
            _dress(axes, panel, inches=inches, tall=tall, width=width, first=number == 0)
            _shapes(axes, figure, panel)
        _notes(list(grid), figure, panels)
        _colour_bars(drawn, list(grid), panels, tall=tall)
        if entries:
            drawn.legend(
                [handle for handle, _ in entries], [name for _, name in entries],
                loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.0,
                borderpad=0.0,
            )  # fmt: skip
        if any(trace.type == "heatmap" for trace in figure.data):
            drawn.draw_without_rendering()  # lays out: numbers must know how large their cells are
            for axes, panel in zip(grid, panels, strict=True):
                write_numbers(axes, panel)
        return drawn


def _legend_height(names: Sequence[str], columns: int) -> float:
    lines = [1 + name.count("\n") for name in names]
    rows = [lines[start::columns] for start in range(columns)] if names else []
    return _LEGEND_ROW * max((sum(column) for column in rows), default=0)


def _height_of_names(scale: Scale, width: float) -> float:
    """What names below each other need, where each may take several lines."""
    names = scale.categories or _tick_texts(scale)
    lines = (
        wrapped(plain(name), _ROOM_FOR_LABELS * width, SMALL_SIZE).count("\n") + 1 for name in names
    )
    return len(names) * (_LINE * max(lines, default=0) + _BETWEEN_NAMES) + _AROUND_NAMES


def _room(panels: Sequence[Panel], width: float) -> float:
    """About how many inches all axes together are wide."""
    names = max((_names_width(panel.y, width) for panel in panels[:1]), default=0.0)
    bars = any(trace.type == "heatmap" for panel in panels for trace in panel.traces)
    return max(0.3 * width, width - (names or _SIGNS) - (_COLOUR_BAR if bars else 0.1))


def _names_width(scale: Scale, width: float) -> float:
    names = scale.categories or _tick_texts(scale)
    return min(_ROOM_FOR_LABELS * width, max((text_width(plain(n)) for n in names), default=0.0))


def _tick_texts(scale: Scale) -> list[str]:
    return [] if scale.about.ticktext is None else [str(text) for text in scale.about.ticktext]


def _dress(
    axes: Axes, panel: Panel, *, inches: float, tall: float, width: float, first: bool
) -> None:
    """Titles with units, ticks and ranges of both axes."""
    heat = any(trace.type == "heatmap" for trace in panel.traces)
    axes.set_xlabel(wrapped(plain(panel.x.about.title.text), inches))
    axes.set_ylabel(wrapped(plain(panel.y.about.title.text), 0.75 * tall))
    _ticks(axes, panel.x, up=False, room=inches)
    _ticks(axes, panel.y, up=True, room=_ROOM_FOR_LABELS * width)
    for scale, up in ((panel.x, False), (panel.y, True)):
        _limits(axes, scale, up=up)
    if panel.y.about.showticklabels is False or (not first and panel.y.about.matches):
        axes.tick_params(axis="y", labelleft=False)
    if heat:
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    if panel.x.about.showticklabels is False:
        axes.tick_params(axis="x", labelbottom=False)
    _empty(axes, panel)


def _empty(axes: Axes, panel: Panel) -> None:
    if not panel.traces:
        axes.set_xticks([])
        axes.set_yticks([])


def _ticks(axes: Axes, scale: Scale, *, up: bool, room: float) -> None:
    axis = axes.yaxis if up else axes.xaxis
    if scale.categories:
        places: Sequence[float] = range(len(scale.categories))
        names = scale.categories
    elif scale.about.tickvals is not None:
        places, names = [float(v) for v in scale.about.tickvals], _tick_texts(scale)
    else:
        if scale.about.dtick == 1:
            axis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        return
    if up:
        axis.set_ticks(places, [wrapped(plain(name), room, SMALL_SIZE) for name in names])
        return
    each = room / max(1, len(names))
    broken = [wrapped(plain(name), 0.95 * each, SMALL_SIZE) for name in names]
    turned = max((text_width(name) for name in broken), default=0.0) > 0.95 * each
    steep = 90 if each < _NARROW else 40
    axis.set_ticks(
        places, [plain(name) for name in names] if turned else broken,
        rotation=(steep if turned else 0), ha="right" if turned and steep < 90 else "center",
        rotation_mode="anchor" if turned and steep < 90 else "default",
    )  # fmt: skip


def _limits(axes: Axes, scale: Scale, *, up: bool) -> None:
    get, put = (axes.get_ylim, axes.set_ylim) if up else (axes.get_xlim, axes.set_xlim)
    if scale.about.range is not None:
        low, high = (float(end) for end in scale.about.range)
        put(low, high)
    elif scale.categories:
        put(-0.5, len(scale.categories) - 0.5)
    elif scale.about.rangemode == "tozero":
        low, high = get()
        put(min(0.0, low) if low < 0 else 0.0, high)
    if scale.reversed:
        put(*reversed(get()))


def _shapes(axes: Axes, figure: go.Figure, panel: Panel) -> None:
    """Reference lines, level or upright, across the whole panel."""
    for shape in figure.layout.shapes:
        if shape.type != "line" or (shape.xref or "x").split(" ")[0] not in (panel.name, "paper"):
            continue
        looks: dict[str, Any] = {
            "color": colour(shape.line.color),
            "linestyle": dash(shape.line.dash),
            "linewidth": 0.7,
            "zorder": 1.5,
        }
        if shape.y0 == shape.y1:
            axes.axhline(float(panel.y.at([shape.y0])[0]), **looks)
        elif shape.x0 == shape.x1:
            axes.axvline(float(panel.x.at([shape.x0])[0]), **looks)


def _notes(grid: Sequence[Axes], figure: go.Figure, panels: Sequence[Panel]) -> None:
    """Headings of panels, names at points, and words where nothing was measured."""
    for note in figure.layout.annotations:
        if note.xref != "paper":
            number = next(i for i, panel in enumerate(panels) if panel.name == (note.xref or "x"))
            _name_at_point(grid[number], panels[number], note)
            continue
        if len(panels) == 1:
            grid[0].text(
                0.5, 0.5, wrapped(plain(note.text), 2.5), ha="center", va="center",
                transform=grid[0].transAxes,
            )  # fmt: skip
            continue
        middles = [(panel.left + panel.right) / 2 for panel in panels]
        number = int(np.argmin([abs(middle - float(note.x)) for middle in middles]))
        grid[number].set_title(plain(note.text), pad=3)


def _name_at_point(axes: Axes, panel: Panel, note: Any) -> None:  # noqa: ANN401
    at = (float(panel.x.at([note.x])[0]), float(panel.y.at([note.y])[0]))
    points = 72 / PIXELS_PER_INCH
    far = note.showarrow is not False
    right, down = (
        (float(note.ax or 0), float(note.ay or 0)) if far else (float(note.xshift or 0), 0.0)
    )
    arrow = {
        "arrowstyle": "-", "color": colour(note.arrowcolor), "linewidth": 0.5, "shrinkA": 0.5,
        "shrinkB": 2.5,
    }  # fmt: skip
    axes.annotate(
        plain(note.text), at, xytext=(right * points, -down * points),
        textcoords="offset points", fontsize=SMALL_SIZE, zorder=5, annotation_clip=False,
        color=colour(note.font.color or "#000000"),
        ha={"left": "left", "right": "right"}.get(str(note.xanchor), "center"), va="center",
        arrowprops=arrow if far else None,
    )  # fmt: skip


def _colour_bars(
    drawn: Figure, grid: Sequence[Axes], panels: Sequence[Panel], *, tall: float
) -> None:
    """One colour bar, of the first heat map that shows one, for all panels."""
    maps = [t for panel in panels for t in panel.traces if t.type == "heatmap"]
    shown = next((trace for trace in maps if trace.showscale is not False), None)
    if shown is None:
        return
    bar = drawn.colorbar(
        heat_map_colours(shown), ax=list(grid), fraction=0.06, pad=0.02, aspect=28
    )  # fmt: skip
    bar.set_label(wrapped(plain(shown.colorbar.title.text), min(2.2, 0.75 * tall)))
    bar.outline.set_visible(False)


def _legend_columns(names: Sequence[str], width: float) -> int:
    longest = max((text_width(name) for name in names), default=1.0)
    return max(1, min(len(names), int(width / (longest + _LEGEND_MARK))))


def _legend_entries(figure: go.Figure) -> list[tuple[Line2D | Patch, str]]:
    """Series and reference lines that the legend names, with what they look like."""
    if figure.layout.showlegend is False:
        return []
    series = [
        (_handle(trace), plain(trace.name))
        for trace in figure.data
        if trace.type != "heatmap" and trace.showlegend is not False and trace.name
    ]
    lines: list[tuple[Line2D | Patch, str]] = [
        (
            Line2D([], [], color=colour(s.line.color), linestyle=dash(s.line.dash), linewidth=0.7),
            plain(s.name),
        )
        for s in figure.layout.shapes
        if s.showlegend and s.name
    ]
    entries = [*series, *lines]
    return entries if len(entries) > 1 else []


def _handle(trace: Any) -> Line2D | Patch:  # noqa: ANN401 - plotly has no types
    mark = trace.marker
    symbol = mark.color if isinstance(mark.color, str) else None
    if trace.type == "bar":
        return Patch(facecolor=colour(symbol, mark.opacity))
    mode = trace.mode or "lines"
    shape, hollow = marker(mark.symbol if isinstance(mark.symbol, str) else None)
    tint = colour(symbol or trace.line.color or GREY)
    return Line2D(
        [], [], color=colour(trace.line.color or symbol),
        linestyle=dash(trace.line.dash) if "lines" in mode else "none",
        marker=shape if "markers" in mode else "none", markersize=4,
        markerfacecolor="none" if hollow else tint, markeredgecolor=tint,
        markeredgewidth=0.8 if hollow else 0.0,
    )  # fmt: skip
