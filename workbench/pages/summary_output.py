"""The summary of a run (light): one metric at a time, as a figure and a table."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from workbench.export.summaries import (
    ALL_FRAMES,
    METRICS,
    SUMMARY_HELP,
    SummaryRow,
    metric_figure,
    metric_latex,
    metric_table,
    metric_text,
    summary_frame,
)
from workbench.pages.widgets import download, figure_block, table_block


def show_summary(name: str, summary: Sequence[SummaryRow]) -> None:
    """Ask for a metric, splits and frames, and show them."""
    metric_box, frame_box = st.columns(2)
    measured = {row.metric: None for row in summary}
    metrics = [*(m for m in METRICS if m in measured), *(m for m in measured if m not in METRICS)]
    metric = metric_box.selectbox(
        "Metric", metrics, format_func=lambda name: metric_text(name).name, key="metric"
    )
    splits = list(dict.fromkeys(row.split for row in summary))
    wanted = st.pills(
        "Splits", splits, selection_mode="multi", default=splits, key="splits",
        format_func=lambda name: name.replace("_", " "),
    )  # fmt: skip
    frames = list(dict.fromkeys(row.frame for row in summary))
    first = [ALL_FRAMES] if ALL_FRAMES in frames else frames
    shown = frame_box.multiselect("Context frames", frames, default=first, key="frames")
    rows = [row for row in summary if row.split in wanted and row.frame in shown]
    if not any(row.metric == metric for row in rows):
        st.info("Nothing left: choose at least one split and one frame that have this metric.")
        return
    stem = f"{Path(name).name}-{metric}"
    figure_block(
        metric_figure(rows, metric), key=stem, title=metric_text(metric).title,
        how_to_read=SUMMARY_HELP,
    )  # fmt: skip
    table = metric_table(rows, metric)
    st.dataframe(table, width="stretch", key="metric-table")
    with st.container(horizontal=True):
        download("Table (CSV)", table.to_csv, f"{stem}-table.csv", mime="text/csv")
        download(
            "Table (LaTeX)", lambda: metric_latex(rows, metric), f"{stem}.tex", mime="text/x-tex",
            help_="For the package booktabs; the caption states unit, n and seed.",
        )  # fmt: skip
    with st.expander("All rows", icon=":material/table:"):
        table_block(summary_frame(rows), key=stem)
