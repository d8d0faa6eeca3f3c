"""Exhibits of ``workbench train``: the metrics of each stage's best state, and its curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.evaluation.training_progress import read_progress
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.paper_tables import Cell, PaperTable
from workbench.export.training_figures import (
    LOSS_HELP,
    SHARE_HELP,
    STAGE_NAMES,
    loss_figure,
    share_figure,
    stages_in,
)
from workbench.runs import SUMMARY_FILE, RunFolder


def training_exhibits(run: RunFolder) -> Exhibits:
    """Tables and figures of a training; of an unfinished one, the curves so far."""
    summary = run.read_summary() if run.file(SUMMARY_FILE).exists() else []
    tables = (final_table(summary),) if summary else ()
    curves = read_progress(run.path).curves
    evidence = f"Backbone {run.record.config.get('backbone')}, seed {run.record.seed}."
    return Exhibits(
        tables,
        joined(
            [
                paper_figure(
                    f"{stage}-{name}", f"{STAGE_NAMES[stage]}, {text}", draw(curves, stage),
                    reading, evidence,
                )
                for stage in stages_in(curves)
                for name, text, draw, reading in (
                    ("losses", "losses", loss_figure, LOSS_HELP),
                    ("validation", "validation", share_figure, SHARE_HELP),
                )
            ]
        ),
    )  # fmt: skip


def final_table(summary: Sequence[Mapping[str, Any]]) -> PaperTable:
    """What each stage's best state reached on validation, a row a metric."""
    stages = list(dict.fromkeys(str(row["stage"]) for row in summary))
    metrics = list(dict.fromkeys(str(row["metric"]) for row in summary))
    found = {(str(row["metric"]), str(row["stage"])): row for row in summary}
    counts = sorted(int(row["n"]) for row in summary if row.get("n") is not None)
    n = " to ".join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]]))) or "unknown"
    first = summary[0]
    return PaperTable(
        "validation",
        f"Validation metrics of each stage's best state, {first['config']} on "
        f"{first['backbone']}; n = {n} examples; seed {first['seed']}. One training: no interval, "
        "and no test was made.",
        ("metric",),
        tuple(stages),
        tuple(
            (
                (metric.replace("_", " "),),
                tuple(_cell(found.get((metric, stage))) for stage in stages),
            )
            for metric in metrics
        ),
    )


def _cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None or row["estimate"] is None:
        return Cell()
    return Cell(f"{float(row['estimate']):.3f}")
