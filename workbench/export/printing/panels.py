"""The coordinate systems of a plotly figure, and how their values become numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.errors import ExportError

PRINTED = ("scatter", "bar", "heatmap")
"""Kinds of series that print knows."""


@dataclass(eq=False)
class Scale:
    """One axis: plotly's description of it, and its categories where it has names for places.

    Attributes:
        about: Plotly's axis.
        categories: Names in the order of their places 0, 1, ...; empty for numbers.
    """

    about: Any
    categories: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, about: Any, values: Iterable[object]) -> "Scale":  # noqa: ANN401
        """The scale of an axis with these values on it, in order of appearance."""
        found = [value for value in values if value is not None]
        named = about.type == "category" or any(_is_name(value) for value in found)
        if not named:
            return cls(about)
        order = [str(name) for name in (about.categoryarray if about.categoryarray else ())]
        return cls(about, list(dict.fromkeys([*order, *map(str, found)])))

    @property
    def reversed(self) -> bool:
        """Whether the values fall from left to right, or rise from top to bottom."""
        return str(self.about.autorange) == "reversed"

    def at(self, values: Iterable[object] | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Where values stand; NaN for what is missing."""
        places = {name: float(place) for place, name in enumerate(self.categories)}
        return np.array(
            [
                math.nan if value is None
                else places[str(value)] if self.categories
                else float(str(value))
                for value in (() if values is None else values)
            ]
        )  # fmt: skip


@dataclass(eq=False)
class Panel:
    """One pair of axes with everything drawn in it.

    Attributes:
        x, y: Its scales.
        traces: In the order they are drawn.
        left, right: Of its place, as shares of the figure's width.
        name: Plotly's letter and number of the pair, for example ``x2``.
    """

    x: Scale
    y: Scale
    traces: list[Any]
    left: float
    right: float
    name: str


def panels_of(figure: go.Figure) -> list[Panel]:
    """The panels of a figure from left to right; a figure without series has one.

    Raises:
        ExportError: A kind of series that print does not know.
    """
    grouped: dict[tuple[str, str], list[Any]] = {}
    for trace in figure.data:
        if trace.type not in PRINTED:
            raise ExportError(
                f"a series of kind '{trace.type}' cannot be printed; known: {', '.join(PRINTED)}"
            )
        grouped.setdefault((trace.xaxis or "x", trace.yaxis or "y"), []).append(trace)
    panels = [
        _panel(figure, x, y, traces) for (x, y), traces in (grouped or {("x", "y"): []}).items()
    ]
    return sorted(panels, key=lambda panel: panel.left)


def _panel(figure: go.Figure, x: str, y: str, traces: list[Any]) -> Panel:
    across, up = figure.layout[x.replace("x", "xaxis")], figure.layout[y.replace("y", "yaxis")]
    left, right = across.domain or (0.0, 1.0)
    return Panel(
        Scale.of(across, (value for trace in traces for value in _values(trace.x))),
        Scale.of(up, (value for trace in traces for value in _values(trace.y))),
        traces,
        float(left),
        float(right),
        x,
    )


def _values(values: Iterable[object] | None) -> Iterable[object]:
    return () if values is None else values


def _is_name(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False
