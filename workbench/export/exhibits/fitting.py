"""Exhibits of ``workbench fit``: the settings, and every candidate's utility where it was tuned."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.evaluation.tuning import TUNING_FILE, UTILITY
from workbench.export.dots import dots_across
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.figures import dress
from workbench.export.paper_tables import Cell, PaperTable
from workbench.export.probe_plots import Point, look
from workbench.files import read_parquet
from workbench.guidance.artifact import read_artifact_record
from workbench.runs import RunFolder

TUNING_HELP = (
    "Utility in points: harm prevented, less what is refused or broken more than without guidance; "
    "further right is better. A mark is a candidate, its bar the 95% interval; the ringed one was "
    "chosen: the best, or for a control that should do harm the one that prevents least of it."
)
_WHOLE = "all"
_COLUMNS = {
    UTILITY: "utility", "harm_change": "Δ harm", "over_refusal_change": "Δ over-refusal",
    "degenerate_change": "Δ degenerate",
}  # fmt: skip


def fitting_exhibits(run: RunFolder) -> Exhibits:
    """Table of the fitted settings; table and figure of the candidates of a tuning."""
    tables = [_settings(run)] if run.record.status == "finished" else []
    if not run.file(TUNING_FILE).exists():
        return Exhibits(tuple(tables))
    tuning = read_parquet(run.file(TUNING_FILE))
    whole = tuning[tuning["split"] == _WHOLE]
    evidence = _evidence(run, whole)
    figure = tuning_figure(whole)
    return Exhibits(
        (*tables, _candidates(whole, evidence)),
        joined(
            [paper_figure("candidates", "Candidates of the tuning", figure, TUNING_HELP, evidence)]
        ),
    )


def tuning_figure(whole: pd.DataFrame) -> go.Figure:
    """Utility of every candidate with its interval, a row a candidate; the chosen one is ringed."""
    rows = whole[whole["metric"] == UTILITY].to_dict("records")
    names = [_candidate(row) for row in rows]
    points = [
        Point(name, row["estimate"], row["low"], row["high"], f"n = {row['n']}")
        for name, row in zip(names, rows, strict=True)
    ]
    figure = go.Figure(dots_across("candidate", points, look(1)))
    chosen = [p for p, row in zip(points, rows, strict=True) if row["selected"]]
    figure.add_trace(
        go.Scatter(
            x=[point.y for point in chosen], y=[point.x for point in chosen], mode="markers",
            marker={"symbol": "circle-open", "size": 17, "color": "#7f7f7f"}, name="chosen",
            hoverinfo="skip",
        )
    )  # fmt: skip
    dress(figure, x="utility on validation (points)", y="", height=110 + 30 * max(3, len(names)))
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    return figure


def _candidates(whole: pd.DataFrame, evidence: str) -> PaperTable:
    rows = []
    for _, part in whole.groupby("candidate", sort=True):
        found = {str(row["metric"]): row for row in part.to_dict("records")}
        mark = " ←" if bool(part["selected"].iloc[0]) else ""
        name = f"{_candidate(part.iloc[0].to_dict())}{mark}"
        rows.append(((name,), tuple(_cell(found.get(metric)) for metric in _COLUMNS)))
    return PaperTable(
        "candidates",
        f"Candidates on the validation splits, in points. {evidence} ←: chosen.",
        ("candidate",),
        tuple(_COLUMNS.values()),
        tuple(rows),
    )


def _settings(run: RunFolder) -> PaperTable:
    fitted = read_artifact_record(run.path)
    settings = {**fitted.config, "seed": run.record.seed}
    method, backbone = run.record.config.get("method"), run.record.config.get("backbone")
    return PaperTable(
        "settings",
        f"Settings of {method} fitted on {backbone}, seed {run.record.seed}. They are inputs: no "
        "interval, and no test was made.",
        ("setting",),
        ("value",),
        tuple(((name.replace("_", " "),), (Cell(_said(v)),)) for name, v in settings.items()),
    )


def _candidate(row: Mapping[Any, Any]) -> str:
    settings = json.loads(str(row["config"]))
    return ", ".join(f"{name} {_said(value)}" for name, value in settings.items()) or "as it is"


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(row: Mapping[Any, Any] | None) -> Cell:
    if row is None:
        return Cell()
    return Cell.of(row["estimate"], row["low"], row["high"], "+.1f")


def _evidence(run: RunFolder, whole: pd.DataFrame) -> str:
    counts = sorted(int(n) for n in whole.loc[whole["metric"] == UTILITY, "n"])
    n = " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]]))) or "unknown"
    return (
        f"Validation splits, n = {n} prompts a candidate; seed {run.record.seed}; 95% interval by "
        "bootstrap clustered by group. No test was made."
    )
