"""The Export page's work: making the files, offering them, and a look at what is in them.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.export.bundling import BUNDLE_FILE, export_runs
from workbench.export.paper_tables import table_latex
from workbench.export.run_contents import RunContents, read_runs
from workbench.pages.exhibits_output import show_table
from workbench.pages.guard import told_in_words
from workbench.pages.widgets import counted, figure_block, table_block

_MADE = "export-made"
_KIB = 1024


@dataclass(frozen=True)
class _Archive:
    """What one press of the button made, kept in the session it belongs to.

    Attributes:
        runs: Whose.
        formats: Which.
        name: Of the file.
        content: The archive.
        files: Names and sizes in bytes of what is in it, or beside it.
    """

    runs: tuple[Path, ...]
    formats: tuple[str, ...]
    name: str
    content: bytes
    files: tuple[tuple[str, int], ...]


def offer(runs: tuple[Path, ...], formats: tuple[str, ...], *, make: bool) -> None:
    """Make the files where asked, offer what was made, and show what is in it.

    Args:
        runs: Run folders.
        formats: As ``workbench export`` takes them.
        make: Whether the button was pressed.
    """
    if make:
        with told_in_words(), st.spinner("Writing tables and figures …", show_time=True):
            st.session_state[_MADE] = _make(runs, formats)
    made = st.session_state.get(_MADE)
    if isinstance(made, _Archive) and (made.runs, made.formats) == (runs, formats):
        _offer(made)
    with st.spinner("Reading the runs …"):
        contents = read_runs(runs, partial=True)
    for run in contents:
        _preview(run)


def _make(runs: tuple[Path, ...], formats: tuple[str, ...]) -> _Archive:
    with tempfile.TemporaryDirectory(prefix="svgt-export-") as scratch:
        folder = Path(scratch) / "export"
        made = export_runs(runs, formats, folder, partial=True)
        files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in made)
        if formats == ("bundle",):
            whole = folder / BUNDLE_FILE
        else:
            whole = Path(shutil.make_archive(str(Path(scratch) / "all"), "zip", folder))
        return _Archive(runs, formats, "svgt-export.zip", whole.read_bytes(), files)


def _offer(made: _Archive) -> None:
    st.download_button(
        f"Download ({len(made.content) / _KIB:,.0f} KiB)", made.content, made.name,
        mime="application/zip", on_click="ignore", icon=":material/download:", key="take",
        type="primary",
    )  # fmt: skip
    with st.expander(counted(len(made.files), "file"), icon=":material/folder_zip:"):
        sizes = [(name, round(size / _KIB, 1)) for name, size in made.files]
        table_block(pd.DataFrame(sizes, columns=["file", "KiB"]), key="export-files")


def _preview(run: RunContents) -> None:
    """The first figure and table of a run as they will look, and how much more there is."""
    exhibits = run.exhibits
    st.subheader(run.name, anchor=False)
    rows = ", ".join(f"{len(frame)} in {name}" for name, frame in run.records.items())
    st.caption(
        f"{run.record.kind}: {counted(len(exhibits.tables), 'table')}, "
        f"{counted(len(exhibits.figures), 'figure')}; "
        f"records: {rows or 'none'}."
    )
    if not run.finished:
        st.warning("Not finished: every caption will say so.", icon=":material/hourglass_top:")
    if exhibits.figures:
        names = {figure.name: figure for figure in exhibits.figures}
        chosen = st.selectbox("Figure", list(names), key=f"figure-{run.name}")
        figure_block(
            names[chosen].figure, key=f"{run.name}-{chosen}", title=names[chosen].title,
            how_to_read=names[chosen].caption,
        )  # fmt: skip
    if exhibits.tables:
        tables = {table.name: table for table in exhibits.tables}
        chosen = st.selectbox("Table", list(tables), key=f"table-{run.name}")
        show_table(f"{run.name}-{chosen}", tables[chosen])
        with st.expander("Its LaTeX", icon=":material/data_object:"):
            st.code(table_latex(tables[chosen]), language="latex")
