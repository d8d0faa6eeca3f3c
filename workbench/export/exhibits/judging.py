"""Exhibits of ``workbench judge``: rates of every judge, agreement with others and with people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.export.dots import dots_across
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.figures import dress
from workbench.export.paper_tables import NOTHING, Cell, PaperTable, parts_of
from workbench.export.probe_plots import Point, look
from workbench.export.summaries import metric_text
from workbench.runs import SUMMARY_FILE, RunFolder

JUDGES_HELP = "A mark is the estimate, its bar the 95% interval."
METRICS = ("rate", "kappa", "agreement", "accuracy", "precision", "recall")
"""Each is a table and a figure, in this order."""

Row = Mapping[str, Any]


def judging_exhibits(run: RunFolder) -> Exhibits:
    """A table and a figure of every metric."""
    if not run.file(SUMMARY_FILE).exists():
        return Exhibits()
    rows = run.read_summary()
    found = {metric: [row for row in rows if row["metric"] == metric] for metric in METRICS}
    measured = {metric: part for metric, part in found.items() if part}
    return Exhibits(
        tuple(part for metric, rows in measured.items() for part in parts_of(_table(metric, rows))),
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
    text = metric_text(metric)
    figure = go.Figure()
    measured = [row for row in rows if row["estimate"] is not None]
    for number, shown in enumerate(dict.fromkeys(str(row["property"]) for row in measured)):
        part = [row for row in measured if row["property"] == shown]
        points = [Point(_who(row), *_numbers(row, text.factor), f"n = {row['n']}") for row in part]
        figure.add_trace(dots_across(shown.replace("_", " "), points, look(number)))
    judges = list(dict.fromkeys(_who(row) for row in measured))
    dress(figure, x=text.title, y="", height=110 + 34 * max(2, len(judges)))
    figure.update_yaxes(categoryorder="array", categoryarray=judges, autorange="reversed")
    return figure.update_layout(scattermode="group")


def _table(metric: str, rows: Sequence[Row]) -> PaperTable:
    text = metric_text(metric)
    form = f".{text.decimals}f"
    return PaperTable(
        metric,
        f"{text.title[:1].upper()}{text.title[1:]}{_pairs(rows)}. {_evidence(rows)}",
        ("judge", "against", "property", "partial refusals"),
        ("estimate", "scored", "unscored"),
        tuple(
            (
                (str(row["judge"]), str(row["against"] or NOTHING),
                 str(row["property"] or NOTHING), str(row["partial"] or NOTHING)),
                (Cell.of(*_numbers(row, text.factor), form), Cell(str(row["n"])),
                 Cell(_unscored(row))),
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


def _pairs(rows: Sequence[Row]) -> str:
    against = any(row["against"] for row in rows)
    return "; scored: by both sides; unscored: by the judge / by the other side" if against else ""


def _who(row: Row) -> str:
    against = f" / {row['against']}" if row["against"] else ""
    partial = f" (partial: {row['partial']})" if row["partial"] else ""
    return f"{row['judge']}{against}{partial}"


def _unscored(row: Row) -> str:
    """What a judge left open; of two, what either did."""
    other = f" / {row['unscored_against']}" if row["against"] else ""
    return f"{row['unscored']}{other}"


def _title(metric: str) -> str:
    name = metric_text(metric).name
    return f"{name[:1].upper()}{name[1:]} by judge"


def _evidence(rows: Sequence[Row]) -> str:
    counts = sorted(int(row["n"]) for row in rows)
    n = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    return (
        f"n = {n} scored replies; bootstrap seed {seeds}; 95% interval by bootstrap clustered by "
        "group (Wilson where a share is 0 or 1). No test was made."
    )
