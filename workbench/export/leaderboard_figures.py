"""The leaderboard as pictures: gain against cost, context by context, time and memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.export.dots import dots_across
from workbench.export.figures import dress
from workbench.export.leaderboard_labels import WIDTHS, Line, Spot, place_labels
from workbench.export.leaderboard_tables import ALL, Board, Row, context_rows, number
from workbench.export.palette import HARM_SCALE, MARKERS, SERIES
from workbench.export.probe_plots import Point as RowPoint
from workbench.export.probe_plots import look
from workbench.export.summaries import metric_text

COST = "cross_entropy_increase"
GAIN = "harm_reduction"
RATIOS: dict[str, str] = {"latency_ratio": "time", "memory_ratio": "memory"}
PARETO_HELP = (
    "Up is more harm prevented, right is worse fluency: the best place is at the top left. Bars "
    "are 95% intervals in both directions; nobody beats a method on the dotted front."
)
RATES_HELP = {
    metric: f"A mark is a method's share of {what}, its bar the 95% interval; left is better."
    for metric, what in {
        "harm_rate": "harmful replies to harmful prompts",
        "over_refusal_rate": "refusals of harmless prompts, benign and look-alike in equal number",
        "degenerate_rate": "replies to any prompt that are no longer language",
    }.items()
}
CONTEXT_HELP = (
    "A row is a context frame, a column a method; the number is the share in percent, blue is low, "
    "brown is high. Point at a cell for its interval and n. An empty cell was not measured."
)
COST_HELP = (
    "Time and memory of a reply beside the plain model's: 1 is no dearer. The bar is the 95% "
    "interval over repeated measurements on one machine."
)
_NEUTRAL = "#7f7f7f"
_HEIGHT = 500
_FRAME = 86
"""Pixels of a figure's height that its margins, ticks and axis title take."""
_HEAT_FRAME = 115
"""The same of a heat map, without its ticks."""
_AROUND = 0.07
_ROW = 26
_LETTER = 6.5


@dataclass(frozen=True)
class Point:
    """A method: cost in nats a token, gain in percent, each with its interval."""

    method: str
    cost: tuple[float, float, float]
    gain: tuple[float, float, float]


def pareto_points(board: Board, split: str = ALL) -> list[Point]:
    """Every method with a cost and a gain; the plain model stands at the origin."""
    found = board.pooled(split)
    points = [Point("none", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))]
    for method in board.methods:
        if (method, COST) in found and (method, GAIN) in found:
            cost = _interval(found[(method, COST)], 1.0)
            gain = _interval(found[(method, GAIN)], 100.0)
            if not (math.isnan(cost[0]) or math.isnan(gain[0])):
                points.append(Point(method, cost, gain))
    return points


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats: none costs no more and prevents no less, and differs in one."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost[0], -p.gain[0])):
        if not front or point.gain[0] > front[-1].gain[0]:
            front.append(point)
    return front


def pareto_figure(board: Board, split: str = ALL, widths: Sequence[int] = WIDTHS) -> go.Figure:
    """Harm reduction against fluency cost, with intervals and the front; names at the points.

    Args:
        board: The leaderboard.
        split: One split, or all together.
        widths: Of the plotting area in pixels, at which names must not cover each other.
    """
    points = pareto_points(board, split)
    front = pareto_front(points)
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[point.cost[0] for point in front],
            y=[point.gain[0] for point in front],
            mode="lines",
            line={"shape": "hv", "dash": "dot", "color": _NEUTRAL},
            name="Pareto front",
            hoverinfo="skip",
        )
    )
    for place, point in enumerate(points):
        figure.add_trace(_mark(point, place))
    dress(
        figure,
        x="fluency cost (cross-entropy of harmless replies, nats a token above none)",
        y="harm prevented (%)",
        height=_HEIGHT,
    )
    across, up = (_range([getattr(p, name) for p in points]) for name in ("cost", "gain"))
    figure.update_xaxes(range=across, zeroline=False)
    figure.update_yaxes(range=up, zeroline=False)
    spots = {
        p.method: Spot(p.method, _shares(p.cost, across), _shares(p.gain, up[::-1])) for p in points
    }
    steps = _steps([spots[point.method] for point in front])
    offsets = place_labels(list(spots.values()), _HEIGHT - _FRAME, steps, widths)
    for point, offset in zip(points, offsets, strict=True):
        figure.add_annotation(
            x=point.cost[0],
            y=point.gain[0],
            text=point.method,
            ax=offset.right,
            ay=offset.down,
            xanchor="left" if offset.right > 0 else "right" if offset.right < 0 else "center",
            yanchor="middle",
            arrowhead=0,
            arrowwidth=0.8,
            arrowcolor=_NEUTRAL,
            standoff=7,
            borderpad=0,
        )
    return figure.update_layout(showlegend=False)


def _steps(front: Sequence[Spot]) -> list[Line]:
    """The lines of the front: to the right, then upwards."""
    steps: list[Line] = []
    for here, there in pairwise(front):
        corner = (there.x[1], here.y[1])
        steps += [((here.x[1], here.y[1]), corner), (corner, (there.x[1], there.y[1]))]
    return steps


def _range(intervals: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """From the least to the greatest end, with room around."""
    ends = [end for interval in intervals for end in interval if not math.isnan(end)]
    low, high = min(ends), max(ends)
    room = _AROUND * (high - low or 1.0)
    return low - room, high + room


def _shares(
    interval: tuple[float, float, float], between: tuple[float, float]
) -> tuple[float, float, float]:
    """Where low end, estimate and high end lie, as shares of the way between two values."""
    estimate, low, high = interval
    start, end = between
    at = sorted(
        (value - start) / (end - start)
        for value in (estimate, low, high)
        if not math.isnan(value)
    )  # fmt: skip
    return at[0], (estimate - start) / (end - start), at[-1]


def context_figure(board: Board, metric: str, split: str = ALL) -> go.Figure:
    """A metric by method and context frame as a heat map; single contexts before composed ones."""
    rows = context_rows(board, metric, split)
    methods = [method for method in board.methods if method in set(rows["method"])]
    frames = sorted(dict.fromkeys(rows["frame"]), key=lambda frame: "+" in frame)
    cells = {(row["frame"], row["method"]): row for row in rows.to_dict("records")}
    values = [
        [_percent(cells.get((frame, method)), "estimate") for method in methods] for frame in frames
    ]
    figure = go.Figure(
        go.Heatmap(
            x=methods,
            y=[_frame_text(frame) for frame in frames],
            z=values,
            text=[["" if math.isnan(v) else f"{v:.0f}" for v in line] for line in values],
            customdata=[
                [_context_said(cells.get((frame, method))) for method in methods]
                for frame in frames
            ],
            texttemplate="%{text}",
            hovertemplate="%{x}, %{y}: %{customdata}<extra></extra>",
            hoverongaps=False,
            colorscale=[[at, colour] for at, colour in HARM_SCALE],
            zmin=0,
            zmax=100,
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "%"}, "thickness": 12},
        )
    )
    below = _LETTER * max((len(method) for method in methods), default=0)
    height = int(_HEAT_FRAME + 0.75 * below + _ROW * max(3, len(frames)))
    dress(figure, x="method", y="context frame", height=height)
    figure.update_xaxes(tickangle=-40, showgrid=False, type="category", side="bottom")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", ticklabelstandoff=6)
    return figure.update_layout(showlegend=False)


def _frame_text(frame: str) -> str:
    return frame.replace("_", " ").replace("+", " + ")


def _percent(row: Mapping[Any, Any] | None, key: str) -> float:
    return math.nan if row is None else 100.0 * number(row[key])


def _context_said(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "not measured"
    ends = (_percent(row, "estimate"), _percent(row, "low"), _percent(row, "high"))
    return f"{_said(ends, 1)} %, n = {row['n']}"


def rates_figure(board: Board, metric: str = "harm_rate", split: str = ALL) -> go.Figure:
    """A rate of every method with its interval, a row a method."""
    found = board.pooled(split)
    methods = [method for method in board.methods if (method, metric) in found]
    intervals = [_interval(found[method, metric], 100.0) for method in methods]
    points = [
        RowPoint(method, *interval, f"{_said(interval, 1)} %, n = {found[method, metric]['n']}")
        for method, interval in zip(methods, intervals, strict=True)
    ]
    figure = go.Figure(dots_across(metric_text(metric).name, points, look(0)))
    dress(
        figure, x=f"{metric_text(metric).name} (%)", y="", height=90 + _ROW * max(3, len(methods))
    )
    figure.update_yaxes(categoryorder="array", categoryarray=methods, autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return figure.update_layout(showlegend=False)


def cost_figure(board: Board) -> go.Figure:
    """Time and memory beside the plain model, a row a method, with intervals."""
    found = board.pooled(ALL)
    methods = [m for m in board.methods if any((m, metric) in found for metric in RATIOS)]
    places = {method: len(methods) - 1 - index for index, method in enumerate(methods)}
    figure = go.Figure()
    for series, (metric, name) in enumerate(RATIOS.items()):
        shown = {m: _interval(found[m, metric], 1.0) for m in methods if (m, metric) in found}
        known = (
            pd.DataFrame(shown, index=["estimate", "low", "high"])
            .T.astype(float)
            .dropna(subset=["estimate"])
        )
        figure.add_trace(
            go.Scatter(
                x=known["estimate"],
                y=[
                    places[str(method)] + (0.14 if series == 0 else -0.14) for method in known.index
                ],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (known["high"] - known["estimate"]).fillna(0.0),
                    "arrayminus": (known["estimate"] - known["low"]).fillna(0.0),
                    "thickness": 1.5,
                },
                mode="markers",
                marker={"size": 9, "color": SERIES[series], "symbol": MARKERS[series]},
                name=name,
                customdata=[
                    f"{method}: {_said((row['estimate'], row['low'], row['high']), 2)} × {name}"
                    for method, row in known.iterrows()
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.add_vline(x=1, line={"width": 1, "dash": "dot", "color": _NEUTRAL})
    dress(
        figure, x="× the plain model", y="", height=130 + _ROW * max(3, len(methods))
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(places.values()),
        ticktext=list(places),
        range=[-0.6, len(methods) - 0.4],
        zeroline=False,
    )
    return figure


def _mark(point: Point, place: int) -> go.Scatter:
    # Colours and markers run through their lists at different speeds, so that no pair repeats.
    lap = place // len(SERIES)
    return go.Scatter(
        x=[point.cost[0]],
        y=[point.gain[0]],
        error_x=_bar(point.cost),
        error_y=_bar(point.gain),
        mode="markers",
        name=point.method,
        marker={
            "size": 10,
            "opacity": 0.85,  # of two at one place, both are seen
            "color": SERIES[place % len(SERIES)],
            "symbol": MARKERS[(place + lap) % len(MARKERS)],
        },
        hovertemplate=(
            f"{point.method}: {_said(point.gain, 1)} % prevented, "
            f"{_said(point.cost, 4)} nats a token<extra></extra>"
        ),
    )


def _bar(interval: tuple[float, float, float]) -> dict[str, object]:
    estimate, low, high = interval
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if math.isnan(high) else high - estimate],
        "arrayminus": [0.0 if math.isnan(low) else estimate - low],
        "thickness": 1.5,
    }


def _said(interval: tuple[float, float, float], decimals: int) -> str:
    estimate, low, high = (f"{value:.{decimals}f}" for value in interval)
    return f"{estimate} [{low}, {high}]"


def _interval(row: Row, factor: float) -> tuple[float, float, float]:
    estimate, low, high = (factor * number(row[key]) for key in ("estimate", "low", "high"))
    return estimate, low, high
