"""What every figure shares: titles with units, margins, and a file of its own."""

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
