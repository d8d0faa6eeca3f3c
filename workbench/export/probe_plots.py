"""What the probes' figures are made of: heat maps, lines with bands, bars with intervals.

NaN means *not measured*: a dash in a heat map, a gap in a line, a missing bar that its label still
names. Series differ in colour and in marker or dash.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from probes.records import Record
from workbench.export.figures import dress
from workbench.export.palette import HARM_SCALE, MARKERS, SERIES
from workbench.export.probe_text import NOT_MEASURED, Form, evidence

AGREEMENT_SCALE = tuple(
    (position, colour)
    for position, (_, colour) in zip(
        (at for at, _ in HARM_SCALE), reversed(HARM_SCALE), strict=True
    )
)
"""Brown where a direction is reversed, near-white where nothing is left, blue where it holds."""

GREY = "#7f7f7f"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_BAND_OPACITY = 0.18
_ROW_HEIGHT = 34
_LEAST_HEIGHT = 240
_MOST_ROWS_WITH_TEXT = 16


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map: its number and the label under the pointer."""

    value: float
    label: str

    @classmethod
    def of(cls, record: Record | None, form: Form) -> "Cell":
        """The cell of a record, or of none."""
        if record is None:
            return cls(math.nan, "not measured")
        return cls(record.estimate, evidence(record, form))


@dataclass(frozen=True)
class Grid:
    """A heat map's content.

    Attributes:
        rows: Names from top to bottom.
        columns: Names from left to right.
        cells: Row by row.
        form: How numbers are written.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    form: Form = field(default_factory=Form)

    @property
    def values(self) -> list[list[float]]:
        """The numbers, row by row."""
        return [[cell.value for cell in row] for row in self.cells]


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Attributes:
        title: Quantity and unit.
        low, high: Where it ends; values beyond take the colour of the end. None: the data's.
        colours: A name of plotly's, or stops.
    """

    title: str
    low: float | None = None
    high: float | None = None
    colours: str | Sequence[tuple[float, str]] = AGREEMENT_SCALE


def heat_traces(
    grid: Grid, scale: Scale, *, show_scale: bool = True
) -> list[go.Heatmap | go.Scatter]:
    """A heat map with numbers in its cells and dashes where nothing was measured."""
    written = len(grid.rows) <= _MOST_ROWS_WITH_TEXT and len(grid.columns) <= _MOST_ROWS_WITH_TEXT
    values = grid.values
    traces: list[go.Heatmap | go.Scatter] = [
        go.Heatmap(
            z=[[None if math.isnan(value) else value for value in row] for row in values],
            x=list(grid.columns),
            y=list(grid.rows),
            text=[[grid.form.number(value) for value in row] for row in values],
            texttemplate="%{text}" if written else None,
            customdata=[[cell.label for cell in row] for row in grid.cells],
            hovertemplate="%{y} – %{x}<br>%{customdata}<extra></extra>",
            colorscale=list(scale.colours) if not isinstance(scale.colours, str) else scale.colours,
            zmin=scale.low,
            zmax=scale.high,
            xgap=1,
            ygap=1,
            showscale=show_scale,
            colorbar={"title": {"text": scale.title, "side": "right"}, "thickness": 14},
        )
    ]
    missing = [
        (row, column, cell.label)
        for row, line in zip(grid.rows, grid.cells, strict=True)
        for column, cell in zip(grid.columns, line, strict=True)
        if math.isnan(cell.value)
    ]
    if missing:
        traces.append(
            go.Scatter(
                x=[column for _, column, _ in missing],
                y=[row for row, _, _ in missing],
                mode="text",
                text=[NOT_MEASURED] * len(missing),
                customdata=[label for *_, label in missing],
                hovertemplate="%{y} – %{x}<br>%{customdata}<extra></extra>",
                showlegend=False,
            )
        )
    return traces


def heat_map(grid: Grid, scale: Scale, *, x: str, y: str) -> go.Figure:
    """One heat map as a figure, its first row on top."""
    figure = go.Figure(heat_traces(grid, scale))
    dress(figure, x=x, y=y, height=max(_LEAST_HEIGHT, _ROW_HEIGHT * len(grid.rows) + 110))
    tidy_heat_map(figure)
    figure.update_layout(margin={"t": 16})
    return figure


def tidy_heat_map(figure: go.Figure) -> go.Figure:
    """The first row on top, no ticks and lines between the cells."""
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    figure.update_xaxes(showgrid=False, ticks="")
    figure.update_layout(showlegend=False)
    return figure


@dataclass(frozen=True)
class Look:
    """How one series is drawn: the same everywhere it appears.

    Attributes:
        colour: Of line, band and marker.
        marker: Symbol.
        dash: Of the line.
    """

    colour: str
    marker: str
    dash: str = "solid"


def look(number: int) -> Look:
    """The look of the series with this number; colours repeat with other markers and dashes."""
    lap = number // len(SERIES)
    return Look(
        SERIES[number % len(SERIES)],
        MARKERS[(number + lap) % len(MARKERS)],
        _DASHES[lap % len(_DASHES)],
    )


@dataclass(frozen=True)
class Point:
    """One point of a series: place, estimate, interval, and the label under the pointer."""

    x: float | str
    y: float
    low: float
    high: float
    label: str

    @classmethod
    def of(cls, x: float | str, record: Record, form: Form) -> "Point":
        """The point of a record."""
        return cls(
            x,
            record.estimate * form.factor,
            record.low * form.factor,
            record.high * form.factor,
            evidence(record, form),
        )


def line_with_band(name: str, points: Sequence[Point], style: Look) -> list[go.Scatter]:
    """A line through the estimates and the band of their intervals."""
    line = go.Scatter(
        x=[point.x for point in points],
        y=[_none_if_nan(point.y) for point in points],
        name=name,
        legendgroup=name,
        mode="lines+markers",
        cliponaxis=False,  # a mark on an axis is whole
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": style.marker, "size": 8},
        customdata=[point.label for point in points],
        hovertemplate=f"{name}, %{{x}}<br>%{{customdata}}<extra></extra>",
    )
    bands = [
        go.Scatter(
            x=[point.x for point in run] + [point.x for point in reversed(run)],
            y=[point.high for point in run] + [point.low for point in reversed(run)],
            legendgroup=name,
            fill="toself",
            fillcolor=_translucent(style.colour),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
        for run in _measured_runs(points)
    ]
    return [*bands, line]


def dots_with_intervals(name: str, points: Sequence[Point], style: Look) -> go.Scatter:
    """Estimates with vertical intervals."""
    return go.Scatter(
        x=[point.x for point in points],
        y=[_none_if_nan(point.y) for point in points],
        error_y=_errors(points, style),
        name=name,
        mode="markers",
        cliponaxis=False,
        marker={"size": 10, "color": style.colour, "symbol": style.marker},
        customdata=[point.label for point in points],
        hovertemplate="%{x}<br>%{customdata}<extra>" + name + "</extra>",
    )


def bars_with_intervals(name: str, points: Sequence[Point], style: Look) -> go.Bar:
    """Horizontal bars with intervals; ``Point.x`` names the bar."""
    return go.Bar(
        y=[point.x for point in points],
        x=[_none_if_nan(point.y) for point in points],
        error_x=_errors(points, style),
        orientation="h",
        name=name,
        marker={"color": style.colour, "opacity": 0.5},
        customdata=[point.label for point in points],
        hovertemplate="%{y}<br>%{customdata}<extra>" + name + "</extra>",
    )


def bar_figure(
    name: str, points: Sequence[Point], *, x: str, y: str, style: Look | None = None
) -> go.Figure:
    """Bars with intervals from top to bottom, and a line at zero."""
    figure = go.Figure(bars_with_intervals(name, points, style or look(1)))
    dress(figure, x=x, y=y, height=max(200, 40 * len(points) + 110))
    figure.update_layout(showlegend=False, margin={"t": 16})
    figure.update_yaxes(
        categoryorder="array", categoryarray=[point.x for point in points], autorange="reversed"
    )
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    for point in points:
        if math.isnan(point.y):
            figure.add_annotation(
                x=0, y=point.x, text="not measured", showarrow=False, xanchor="left", xshift=6,
                font={"color": GREY},
            )  # fmt: skip
    return figure


def reference_line(figure: go.Figure, y: float, text: str) -> go.Figure:
    """A dashed horizontal line; the legend says what it stands for."""
    figure.add_hline(
        y=y, line={"color": GREY, "dash": "dash", "width": 1.5}, name=text, showlegend=True
    )
    return figure


def shows_intervals(figure: go.Figure) -> bool:
    """Whether any interval is drawn: a band, or a bar at a mark."""
    return any(_has_interval(trace) for trace in figure.data)


def drawn_names(figure: go.Figure) -> set[str]:
    """What can be read in a figure: series, panels, and bars by name."""
    series = {str(trace.name) for trace in (*figure.data, *figure.layout.shapes) if trace.name}
    panels = {str(note.text) for note in figure.layout.annotations}
    bars = {str(name) for trace in figure.data if trace.type == "bar" for name in trace.y}
    return series | panels | bars


def caption(*sentences: str | tuple[str, bool]) -> str:
    """Sentences in a row; those paired with False are left out."""
    said = (s if isinstance(s, str) else s[0] for s in sentences if isinstance(s, str) or s[1])
    return " ".join(said)


def _has_interval(trace: go.Bar | go.Scatter | go.Heatmap) -> bool:
    if trace.type == "heatmap":
        return False
    if trace.type == "scatter" and trace.fill == "toself":
        return True
    errors = (trace.error_x, trace.error_y) if trace.type in ("bar", "scatter") else ()
    return any(e.array is not None and any(a is not None for a in e.array) for e in errors)


def empty_figure(text: str, *, x: str = "", y: str = "") -> go.Figure:
    """A figure that says why it is empty."""
    figure = dress(go.Figure(), x=x, y=y)
    figure.add_annotation(text=text, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5)
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    return figure


def _errors(points: Sequence[Point], style: Look) -> dict[str, object]:
    """Distances to both ends; none where there is no interval."""
    return {
        "type": "data",
        "visible": any(not math.isnan(point.high - point.low) for point in points),
        "symmetric": False,
        "array": [_gap(point.y, point.high) for point in points],
        "arrayminus": [_gap(point.low, point.y) for point in points],
        "thickness": 2,
        "color": style.colour,
    }


def _gap(low: float, high: float) -> float | None:
    gap = high - low
    return None if math.isnan(gap) else max(gap, 0.0)


def _measured_runs(points: Sequence[Point]) -> list[list[Point]]:
    """Stretches of neighbouring points that have intervals; a single one makes no band."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isnan(point.low) or math.isnan(point.high):
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if len(run) > 1]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND_OPACITY})"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
