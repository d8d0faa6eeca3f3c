"""Pictures of states on their main axes: colour and shape say the context, filling says harm.

They draw the table that ``probes.projection`` makes, one row an example.
"""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from workbench.export.figures import dress
from workbench.export.palette import SERIES
from workbench.export.probe_plots import empty_figure
from workbench.export.probe_words import context_text

PROJECTION_HELP = (
    "One mark a prompt (or reply), on the axes along which the states differ most. Filled marks "
    "are harmful, open ones harmless; colour and shape tell the context. Where filled and open "
    "marks of a context part along one line and those of another context along another, the value "
    "direction has turned. A click on a name hides it. A picture only: the numbers come from all "
    "dimensions."
)
_SHAPES = ("circle", "square", "diamond")
"""Shapes that exist filled and open, in two and in three dimensions."""


def projection_figure(frame: pd.DataFrame, *, dimensions: int = 2) -> go.Figure:
    """States on their first two or three principal components.

    Args:
        frame: Of one site and layer, see :meth:`probes.projection.Projection.frame`.
        dimensions: 2 or 3.

    Raises:
        ValueError: Neither 2 nor 3.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"{dimensions} dimensions cannot be drawn")
    axes = [f"pc{axis}" for axis in range(1, dimensions + 1)]
    if frame.empty or any(axis not in frame or frame[axis].isna().any() for axis in axes):
        return empty_figure(f"these states have fewer than {dimensions} dimensions")
    figure = go.Figure()
    for number, context in enumerate(dict.fromkeys(frame["context"])):
        for harmful in (False, True):
            part = frame[(frame["context"] == context) & (frame["harmful"] == harmful)]
            if not part.empty:
                figure.add_trace(_marks(part, axes, number, str(context), harmful))
    titles = [_title(frame, axis) for axis in axes]
    if dimensions == 2:
        dress(figure, x=titles[0], y=titles[1], height=560)
        figure.update_yaxes(scaleanchor="x", constrain="domain")
        figure.update_xaxes(constrain="domain")
    else:
        dress(figure, x="", y="", height=640)
        scene = zip(("xaxis", "yaxis", "zaxis"), titles, strict=True)
        figure.update_layout(scene={name: {"title": {"text": text}} for name, text in scene})
        # Farther away than by default, or the titles of the axes are cut off.
        figure.update_layout(scene_camera={"eye": {"x": 2.0, "y": 2.0, "z": 1.3}})
    figure.update_layout(
        legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top", "itemsizing": "constant"}
    )
    return figure


def _marks(
    part: pd.DataFrame, axes: Sequence[str], number: int, context: str, harmful: bool
) -> go.Scatter | go.Scatter3d:
    kind = go.Scatter if len(axes) == 2 else go.Scatter3d
    shape = _SHAPES[number // len(SERIES) % len(_SHAPES)]
    harmless = "safe" if (part["contrast"] == "response").all() else "harmless"
    name = f"{context_text(context)}, {'harmful' if harmful else harmless}"
    return kind(
        **{letter: part[axis] for letter, axis in zip("xyz", axes, strict=False)},
        name=name,
        mode="markers",
        marker={
            "color": SERIES[number % len(SERIES)],
            "symbol": shape if harmful else f"{shape}-open",
            "size": 7 if len(axes) == 2 else 3.5,
            "opacity": 0.8,
        },
        customdata=part["group"],
        hovertemplate=f"{name}<br>%{{customdata}}<extra></extra>",
    )


def _title(frame: pd.DataFrame, axis: str) -> str:
    share = float(frame[f"explained{axis.removeprefix('pc')}"].iloc[0])
    return f"PC {axis.removeprefix('pc')} ({share:.0%} of the variance)"
