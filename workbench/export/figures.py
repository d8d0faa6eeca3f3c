"""What every figure shares: titles with units, margins, and a file of its own."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go

HEIGHT = 340


def dress(
    figure: go.Figure, *, x: str, y: str, height: int = HEIGHT, unified: bool = False
) -> go.Figure:
    """Give a figure axis titles and the common layout; returns the same figure."""
    figure.update_layout(
        height=height,
        showlegend=True,
        margin={"l": 10, "r": 10, "t": 36, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
        hovermode="x unified" if unified else "closest",
    )
    figure.update_xaxes(title_text=x, automargin=True)
    figure.update_yaxes(title_text=y, automargin=True)
    return figure


def standalone_html(figure: go.Figure) -> str:
    """The figure as one HTML file that needs no network."""
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def figure_frame(figure: go.Figure) -> pd.DataFrame:
    """The numbers that a figure draws, one mark a row.

    Returns:
        Columns ``series``, ``x``, ``y``, and as far as they are drawn ``value`` (of a heat map's
        cell) and the ends ``low`` and ``high`` of intervals (along x: ``x_low``, ``x_high``).
    """
    rows = [row for trace in figure.data for row in _marks(trace)]
    return pd.DataFrame(rows, columns=None if rows else ["series", "x", "y"])


def _marks(trace: Any) -> Iterator[dict[str, object]]:  # noqa: ANN401 - plotly has no types
    name = trace.name or ""
    if trace.type == "heatmap":
        for y, line in zip(_listed(trace.y), _listed(trace.z), strict=True):
            for x, value in zip(_listed(trace.x), _listed(line), strict=True):
                yield {"series": name, "x": x, "y": y, "value": value}
        return
    xs, ys = _listed(trace.x), _listed(trace.y)
    for place, (x, y) in enumerate(zip(xs, ys, strict=True)):
        ends = {**_ends(trace.error_y, y, place, ""), **_ends(trace.error_x, x, place, "x_")}
        yield {"series": name, "x": x, "y": y, **ends}


def _ends(bars: Any, middle: Any, place: int, prefix: str) -> dict[str, object]:  # noqa: ANN401
    above = _listed(bars.array)
    if not above or not isinstance(middle, int | float):
        return {}
    below = _listed(bars.arrayminus) or above
    return {f"{prefix}low": middle - below[place], f"{prefix}high": middle + above[place]}


def _listed(values: Any) -> list[Any]:  # noqa: ANN401
    if values is None:
        return []
    return list(values.tolist() if hasattr(values, "tolist") else values)
