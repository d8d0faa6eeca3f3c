"""Runs of one kind side by side: one metric, with intervals, and differences to the first run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import PurePosixPath

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import RunError
from workbench.export.figures import dress
from workbench.export.palette import MARKERS, SERIES
from workbench.export.summaries import ALL_FRAMES, MetricText, metric_text
from workbench.export.training_figures import training_text
from workbench.statistics import Interval, independent_difference

_KEYS = (
    "backbone", "method", "guidance", "config", "probe", "head", "x",
    "ablation", "reference", "variant", "judge", "against", "property", "partial", "stage",
    "split", "frame", "seed",
)  # fmt: skip
"""What tells the rows of a summary apart; a probe's ``split`` names contrast, site and block."""
_LEVEL = 0.95
_NOTHING = "–"
_AROUND, _LINE = 140, 32
"""Heights in pixels: of the figure without its lines, and of each."""

Row = Mapping[str, object]


@dataclass(frozen=True)
class Comparison:
    """One metric of several runs.

    Attributes:
        metric: Which.
        text: How it is written.
        runs: Names of the runs; the first is what the others are compared with.
        places: What was measured, in words, by what differs within a run.
        estimates: By place and run; a run that lacks a place has none.
    """

    metric: str
    text: MetricText
    runs: tuple[str, ...]
    places: tuple[str, ...]
    estimates: Mapping[tuple[str, str], Interval]

    def difference(self, place: str, run: str) -> Interval | None:
        """A run's estimate minus the first run's; None where either is not measured."""
        first = self.estimates.get((place, self.runs[0]))
        second = self.estimates.get((place, run))
        if first is None or second is None:
            return None
        return independent_difference(first, second)


def shared_metrics(runs: Mapping[str, Sequence[Row]]) -> list[str]:
    """Metrics that at least two of the runs have, in the order of the first."""
    measured = [dict.fromkeys(str(row.get("metric")) for row in rows) for rows in runs.values()]
    names = dict.fromkeys(name for run in measured for name in run)
    return [name for name in names if sum(name in run for run in measured) > 1]


def text_of(runs: Mapping[str, Sequence[Row]], metric: str) -> MetricText:
    """How the metric is written; a stage of a training gives some names a meaning of their own."""
    own = [row for rows in runs.values() for row in rows if row.get("metric") == metric]
    return training_text(metric) if any(row.get("stage") for row in own) else metric_text(metric)


def compare(runs: Mapping[str, Sequence[Row]], metric: str, *, frames: bool) -> Comparison:
    """Line up one metric of several runs.

    A place is named by what differs within a run: that two runs have different backbones or
    configurations is what they are compared for, and keeps no place apart.

    Args:
        runs: By name, the rows of ``summary.json``.
        metric: Which metric.
        frames: With the rows of single context frames, not only those of all.

    Raises:
        RunError: A run has two rows for one place.
    """
    kept = {name: _rows(rows, metric, frames) for name, rows in runs.items()}
    keys = [key for key in _KEYS if any(_varies(rows, key) for rows in kept.values())]
    estimates: dict[tuple[str, str], Interval] = {}
    for name, rows in kept.items():
        for row in rows:
            words = [_words(key, row[key]) for key in keys if row.get(key) not in ("", None)]
            place = ", ".join(dict.fromkeys(words)) or "whole run"
            if (place, name) in estimates:
                raise RunError(f"{name} measured {metric} twice for '{place}': nothing to line up")
            estimates[place, name] = _interval(row)
    places = tuple(dict.fromkeys(place for place, _ in estimates))
    return Comparison(metric, text_of(runs, metric), tuple(runs), places, estimates)


def comparison_table(found: Comparison) -> pd.DataFrame:
    """Places down; every run's estimate, then its difference to the first run."""
    heading = f"{found.text.name} ({found.text.unit})"
    columns: dict[str, list[str]] = {heading: list(found.places)}
    for run in found.runs:
        columns[run] = [_cell(found.estimates.get((place, run)), found) for place in found.places]
    for run in found.runs[1:]:
        columns[f"{run} − {found.runs[0]}"] = [
            _cell(found.difference(place, run), found, signed=True) for place in found.places
        ]
    return pd.DataFrame(columns)


def short_headings(found: Comparison) -> dict[str, str]:
    """Narrow headings for :func:`comparison_table`, the runs without the folders they share."""
    shared = commonpath(found.runs)
    names = {run: PurePosixPath(run).relative_to(shared).as_posix() for run in found.runs}
    first = found.runs[0]
    differences = {f"{run} − {first}": f"Δ {names[run]}" for run in found.runs[1:]}
    return {**names, **differences}


def comparison_help(figure: go.Figure) -> str:
    """How to read :func:`comparison_figure`, of intervals only where some are drawn."""
    ends = [end for trace in figure.data for end in trace.error_x.array]
    if all(math.isnan(end) for end in ends):
        return (
            "A dot is a run's estimate; these runs stored no intervals with it. The table's "
            "differences are against the first run."
        )
    return (
        "A dot is a run's estimate, its bar the 95% interval stored with it. The table's "
        "differences are against the first run; their intervals take the runs as independent, so "
        "for runs on the same prompts they are wider than need be."
    )


def comparison_figure(found: Comparison) -> go.Figure:
    """Dots with intervals, a place a line, one colour and marker a run."""
    figure = go.Figure()
    factor = found.text.factor
    for number, run in enumerate(found.runs):
        here = [
            (place, found.estimates[place, run])
            for place in found.places
            if (place, run) in found.estimates
        ]
        figure.add_trace(
            go.Scatter(
                x=[value.estimate * factor for _, value in here],
                y=[place for place, _ in here],
                orientation="h",
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [(value.high - value.estimate) * factor for _, value in here],
                    "arrayminus": [(value.estimate - value.low) * factor for _, value in here],
                    "thickness": 2,
                },
                mode="markers",
                cliponaxis=False,
                name=run,
                marker={
                    "size": 9,
                    "color": SERIES[number % len(SERIES)],
                    "symbol": MARKERS[number % len(MARKERS)],
                },
                customdata=[_cell(value, found) for _, value in here],
                hovertemplate="%{y}: %{customdata}",
            )
        )
    figure.update_layout(scattermode="group", scattergap=0.6)
    dress(figure, x=found.text.title, y="", height=_AROUND + _LINE * len(found.places))
    return figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(found.places),
        autorange="reversed",
    )  # fmt: skip


def _rows(rows: Sequence[Row], metric: str, frames: bool) -> list[Row]:
    own = [row for row in rows if row.get("metric") == metric and row.get("estimate") is not None]
    whole = [row for row in own if row.get("frame") in (None, "", ALL_FRAMES)]
    return own if frames or not whole else whole


def _varies(rows: Sequence[Row], key: str) -> bool:
    return len({str(row.get(key)) for row in rows}) > 1


def _words(key: str, value: object) -> str:
    named = key in ("against", "head", "partial", "seed", "x")
    return f"{key} {value}" if named else str(value).replace("_", " ")


def _interval(row: Row) -> Interval:
    estimate, low, high = (_number(row.get(name)) for name in ("estimate", "low", "high"))
    n = row.get("n")
    return Interval(estimate, low, high, n if isinstance(n, int) else 0, 0, _LEVEL, "as stored")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _cell(value: Interval | None, found: Comparison, *, signed: bool = False) -> str:
    if value is None or math.isnan(value.estimate):
        return _NOTHING
    form = f"{'+' if signed else ''}z.{found.text.decimals}f"
    text = format(value.estimate * found.text.factor, form)
    if math.isnan(value.low) or math.isnan(value.high):
        return text
    low, high = (format(end * found.text.factor, form) for end in (value.low, value.high))
    return f"{text} [{low}, {high}]"
