"""Dots with level intervals, a row each: rates by method, candidates, judges."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.export.probe_plots import Look, Point


def dots_across(name: str, points: Sequence[Point], style: Look) -> go.Scatter:
    """Estimates with level intervals; ``Point.x`` names the row."""
    return go.Scatter(
        x=[None if math.isnan(point.y) else point.y for point in points],
        y=[point.x for point in points],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_length(point.high - point.y) for point in points],
            "arrayminus": [_length(point.y - point.low) for point in points],
            "thickness": 1.5,
            "color": style.colour,
        },
        orientation="h",
        mode="markers",
        cliponaxis=False,
        name=name,
        marker={"size": 9, "color": style.colour, "symbol": style.marker},
        customdata=[point.label for point in points],
        hovertemplate="%{y}: %{x:.3g}<br>%{customdata}<extra>" + name + "</extra>",
    )


def _length(distance: float) -> float | None:
    return None if math.isnan(distance) else max(0.0, distance)
