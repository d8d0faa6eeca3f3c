"""Exhibits of ``workbench judge``: rates of every judge, agreement with others and with people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.export.dots import dots_across
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.figures import dress
from workbench.export.paper_tables import Cell, PaperTable
from workbench.export.probe_plots import Point, look
from workbench.runs import SUMMARY_FILE, RunFolder

JUDGES_HELP = "A mark is the estimate, its bar the 95% interval."
METRICS: dict[str, tuple[str, float, str]] = {
    "rate": ("share of yes", 100.0, "%"),
    "kappa": ("Cohen's kappa", 1.0, "1 perfect, 0 chance"),
    "agreement": ("equal answers", 100.0, "%"),
    "accuracy": ("answers equal to people's", 100.0, "%"),
    "precision": ("yes that people confirm", 100.0, "%"),
    "recall": ("people's yes that is found", 100.0, "%"),
}
"""Metric to its name, factor and unit."""

Row = Mapping[str, Any]


def judging_exhibits(run: RunFolder) -> Exhibits:
    """A table and a figure of every metric."""
    if not run.file(SUMMARY_FILE).exists():
        return Exhibits()
    rows = run.read_summary()
    found = {metric: [row for row in rows if row["metric"] == metric] for metric in METRICS}
    measured = {metric: part for metric, part in found.items() if part}
    return Exhibits(
        tuple(_table(metric, part) for metric, part in measured.items()),
        joined(
            [
                paper_figure(
                    metric, _title(metric), judges_figure(metric, part), JUDGES_HELP,
                    _evidence(part),
                )
                for metric, part in measured.items()
            ]
        ),
    )  # fmt: skip


def judges_figure(metric: str, rows: Sequence[Row]) -> go.Figure:
    """One metric with intervals, a row a judge (or pair), a colour a property."""
    name, factor, unit = METRICS[metric]
    figure = go.Figure()
    for number, shown in enumerate(dict.fromkeys(str(row["property"]) for row in rows)):
        part = [row for row in rows if row["property"] == shown]
        points = [Point(_who(row), *_numbers(row, factor), f"n = {row['n']}") for row in part]
        figure.add_trace(dots_across(shown.replace("_", " "), points, look(number)))
    judges = list(dict.fromkeys(_who(row) for row in rows))
    dress(figure, x=f"{name} ({unit})", y="", height=110 + 34 * max(2, len(judges)))
    figure.update_yaxes(categoryorder="array", categoryarray=judges, autorange="reversed")
    return figure.update_layout(scattermode="group")


def _table(metric: str, rows: Sequence[Row]) -> PaperTable:
    name, factor, unit = METRICS[metric]
    form = ".2f" if factor == 1.0 else ".1f"
    return PaperTable(
        metric,
        f"{name[:1].upper()}{name[1:]} ({unit}). {_evidence(rows)}",
        ("judge", "against", "property", "partial refusals"),
        ("estimate", "n", "unscored"),
        tuple(
            (
                (str(row["judge"]), str(row["against"] or "–"), str(row["property"]),
                 str(row["partial"] or "–")),
                (Cell.of(*_numbers(row, factor), form), Cell(str(row["n"])),
                 Cell(str(row["unscored"]))),
            )
            for row in rows
        ),
    )  # fmt: skip


def _numbers(row: Row, factor: float) -> tuple[float, float, float]:
    estimate, low, high = (
        math.nan if row[key] is None else factor * float(row[key])
        for key in ("estimate", "low", "high")
    )
    return estimate, low, high


def _who(row: Row) -> str:
    against = f" / {row['against']}" if row["against"] else ""
    partial = f" (partial: {row['partial']})" if row["partial"] else ""
    return f"{row['judge']}{against}{partial}"


def _title(metric: str) -> str:
    name = METRICS[metric][0]
    return f"{name[:1].upper()}{name[1:]} by judge"


def _evidence(rows: Sequence[Row]) -> str:
    counts = sorted(int(row["n"]) for row in rows)
    n = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    return (
        f"n = {n} scored replies; bootstrap seed {seeds}; 95% interval by bootstrap clustered by "
        "group. No test was made."
    )
