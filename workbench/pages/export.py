"""Export (light): choose runs and formats, look at what comes out, take it away."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.pages.guard import told_in_words
from workbench.pages.run_choice import listed_runs
from workbench.pages.widgets import lasting_choices, tell_unknown

if TYPE_CHECKING:
    from workbench.pages.run_browser import RunView

FORMATS: dict[str, str] = {
    "bundle": "all of it, with settings, environment, hashes and a README",
    "latex": "booktabs tables, and one document of all",
    "pdf": "figures for print, fonts embedded",
    "svg": "figures as vectors",
    "png": "figures at 300 dots an inch",
    "html": "figures one can hover over",
    "csv": "every record",
    "parquet": "every record, with its types",
    "json": "every record",
}
_FIRST_RUN = "Make one on the page *Train*, or with `workbench evaluate --help`."


def page() -> None:
    """Draw the page."""
    st.title("Export", anchor=False)
    st.markdown(
        "Records, tables and figures of runs, as a paper needs them. The same as `workbench "
        "export`: equal runs give equal bytes."
    )
    runs = listed_runs(first_run=_FIRST_RUN)
    if not runs:
        return
    chosen = _runs_box(runs)
    tell_unknown("formats", tuple(FORMATS), instead="bundle")
    formats = st.multiselect(
        "Formats", tuple(FORMATS), default=["bundle"], key="formats", bind="query-params",
        help="\n".join(f"- **{name}**: {what}" for name, what in FORMATS.items()),
    )  # fmt: skip
    pressed = st.button(
        "Make the files", type="primary", icon=":material/archive:", key="make",
        disabled=not (chosen and formats),
    )  # fmt: skip
    if not chosen or not formats:
        st.info("Choose at least one run and one format.")
        return
    with told_in_words():
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import export_output  # torch: after the first paint
        export_output.offer(chosen, tuple(formats), make=pressed)


def _runs_box(runs: "list[RunView]") -> tuple[Path, ...]:
    by_name = {run.name: run for run in runs}
    finished = [run.name for run in runs if run.status == "finished"]
    names = lasting_choices(
        "Runs", list(by_name), first=finished[:1], key="runs",
        help_="What each holds stands below. Unfinished runs can be taken as far as they are.",
    )  # fmt: skip
    return tuple(by_name[name].path for name in names)
