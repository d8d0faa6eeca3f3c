"""Exhibits of ``workbench evaluate``: every metric as a table, by split and by frame as figures."""

from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.summaries import (
    ALL_FRAMES,
    FRAMES_HELP,
    METRICS,
    SUMMARY_HELP,
    SummaryRow,
    frames_figure,
    metric_evidence,
    metric_figure,
    metric_paper_table,
    metric_text,
    summary_rows,
)
from workbench.runs import SUMMARY_FILE, RunFolder

_BY_FRAME = ("harm_rate", "benign_refusal_rate")


def evaluation_exhibits(run: RunFolder) -> Exhibits:
    """Tables and figures of an evaluation."""
    if not run.file(SUMMARY_FILE).exists():
        return Exhibits()
    rows = summary_rows(run.read_summary())
    whole = [row for row in rows if row.frame in ("", ALL_FRAMES)]
    measured = {row.metric: None for row in whole if row.estimate == row.estimate}
    metrics = [metric for metric in METRICS if metric in measured]
    metrics += [metric for metric in measured if metric not in METRICS]
    return Exhibits(
        tuple(metric_paper_table(whole, metric) for metric in metrics),
        joined(
            [
                *(
                    paper_figure(
                        f"{_file(metric)}-by-split", _title(metric, "by split"),
                        metric_figure(whole, metric), SUMMARY_HELP, metric_evidence(whole, metric),
                    )
                    for metric in metrics
                ),
                *(
                    paper_figure(
                        f"{_file(metric)}-by-frame", _title(metric, "by frame"),
                        frames_figure(_single_frames(rows), metric), FRAMES_HELP,
                        metric_evidence(_single_frames(rows), metric),
                    )
                    for metric in _BY_FRAME
                ),
            ]
        ),
    )  # fmt: skip


def _single_frames(rows: tuple[SummaryRow, ...]) -> list[SummaryRow]:
    return [row for row in rows if row.frame not in ("", ALL_FRAMES)]


def _file(metric: str) -> str:
    return metric.replace("_", "-")


def _title(metric: str, where: str) -> str:
    name = metric_text(metric).name
    return f"{name[:1].upper()}{name[1:]} {where}"
