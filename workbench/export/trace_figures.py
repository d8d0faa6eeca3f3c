"""Figures of responses along their tokens."""

from collections.abc import Sequence

import plotly.graph_objects as go

from workbench.export.figures import dress
from workbench.export.guidance_words import guidance_text
from workbench.export.palette import ATTENTION_SCALE, GUIDED, UNGUIDED
from workbench.export.responses import ResponseRecord

_MOST_WRITTEN = 96
"""Cells of a heat map that have room for their numbers."""
TOKEN_AXIS = "new token t (index)"
HARM_HELP = (
    "Each point is the value module's harm score of the response up to that token. Above the "
    "dashed line (s = 0, probability ½) the response counts as harmful."
)
ATTENTION_HELP = (
    "Share of its attention that the predicting token pays to all bridge slots together, mean "
    "over heads and over the blocks above the bridge; 0 where the gate is closed."
)
HEATMAP_HELP = (
    "The same share for every block and head, mean over the response's tokens: bright heads are "
    "the ones that read the bridge."
)


def harm_score_figure(records: Sequence[ResponseRecord]) -> go.Figure:
    """Harm score s_t against the token index, one line a response, threshold at 0."""
    figure = go.Figure()
    for record in records:
        if record.scored:
            figure.add_trace(_line(record, [token.harm_score for token in record.tokens], "s = "))
    start, end = _token_range(records)
    figure.update_xaxes(range=[start, end])
    figure.add_trace(
        go.Scatter(
            x=[start, end],
            y=[0, 0],
            name="threshold",
            mode="lines",
            line={"color": "#808080", "dash": "dash", "width": 1.5},
            hoverinfo="skip",
        )
    )
    return dress(figure, x=TOKEN_AXIS, y="harm score s<sub>t</sub> (logit)", unified=True)


def slot_attention_figure(records: Sequence[ResponseRecord]) -> go.Figure:
    """Mean attention on the slots against the token index."""
    figure = go.Figure()
    for record in records:
        if record.attended:
            shares = [token.mean_slot_attention for token in record.tokens]
            figure.add_trace(_line(record, shares, "share = "))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(range=_token_range(records))
    return dress(figure, x=TOKEN_AXIS, y="attention on slots (share, 0 to 1)", unified=True)


def slot_attention_heatmap(record: ResponseRecord) -> go.Figure:
    """Attention on the slots by block and head, mean over tokens."""
    grids = [token.slot_attention for token in record.tokens if token.slot_attention is not None]
    n_layers = len(record.slot_layers)
    n_heads = len(grids[0][0]) if grids and grids[0] else 0
    mean = [
        [sum(grid[layer][head] for grid in grids) / len(grids) for head in range(n_heads)]
        for layer in range(n_layers)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=mean,
            x=[f"head {head}" for head in range(n_heads)],
            y=[f"block {layer}" for layer in record.slot_layers],
            colorscale=ATTENTION_SCALE,
            zmin=0,
            xgap=1,
            ygap=1,
            texttemplate="%{z:.2f}" if n_layers * n_heads <= _MOST_WRITTEN else None,
            colorbar={"title": {"text": "share"}, "thickness": 14},
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
        )
    )
    return dress(figure, x="attention head", y="block above the bridge")


def _token_range(records: Sequence[ResponseRecord]) -> list[float]:
    """The same token axis for every figure of these responses."""
    longest = max((len(record.tokens) for record in records), default=1)
    return [-0.5, max(longest, 2) - 0.5]


def _line(record: ResponseRecord, values: list[float | None], prefix: str) -> go.Scatter:
    unguided = record.guidance == "none"
    return go.Scatter(
        x=list(range(len(values))),
        y=values,
        name=guidance_text(record.guidance),
        mode="lines+markers",
        cliponaxis=False,
        line={"color": UNGUIDED if unguided else GUIDED, "dash": "dot" if unguided else "solid"},
        marker={"symbol": "circle-open" if unguided else "diamond", "size": 7},
        customdata=[token.text for token in record.tokens],
        hovertemplate=f"“%{{customdata}}” {prefix}%{{y:.3f}}",
    )
