"""The exhibits of a run on the screen: its tables and figures as a paper would show them.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from functools import partial

import plotly.graph_objects as go
import streamlit as st

from workbench.export.exhibits import Exhibits, PaperFigure
from workbench.export.paper_tables import PaperTable, table_frame, table_latex
from workbench.pages.probe_output import Panel, show_panels
from workbench.pages.widgets import download, wrapped_table


def show_exhibits(name: str, exhibits: Exhibits) -> None:
    """Show every table with its files, then every figure; say so where there is neither yet.

    Args:
        name: Of the run; elements and files are named after it.
        exhibits: What the run has to show.
    """
    if not exhibits.tables and not exhibits.figures:
        st.info("Nothing to show yet: this run has measured too little.")
    for table in exhibits.tables:
        show_table(f"{name}-{table.name}", table)
    show_panels([_panel(name, figure) for figure in exhibits.figures], ())


def show_table(stem: str, table: PaperTable) -> None:
    """Show a table with its caption and files.

    Args:
        stem: Of its element and files.
        table: What is shown.
    """
    frame = table_frame(table)
    wrapped_table(frame)
    st.caption(table.caption)
    with st.container(horizontal=True):
        download(
            "Table (CSV)", lambda: frame.to_csv(index=False), f"{stem}-table.csv", mime="text/csv"
        )
        download(
            "Table (LaTeX)", partial(table_latex, table), f"{stem}.tex", mime="text/x-tex",
            help_="For the package booktabs; the caption states unit, n and seed.",
        )  # fmt: skip


def _panel(name: str, figure: PaperFigure) -> Panel:
    def draw() -> go.Figure:
        return figure.figure

    return Panel(f"{name}-{figure.name}", figure.title, figure.caption, draw)
