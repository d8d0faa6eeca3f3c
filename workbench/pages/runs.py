"""Runs (light): every run of every kind; look into one, compare some, delete one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from workbench.pages.guard import told_in_words
from workbench.pages.run_choice import listed_runs, run_box
from workbench.pages.widgets import made_text, table_block, tell_unknown

if TYPE_CHECKING:
    from workbench.pages.run_browser import RunView

LOOK = "look into one"
COMPARE = "compare"
_ALL_KINDS, _ANY_STATUS = "all kinds", "any status"
_STATUSES = ("finished", "running", "failed", "interrupted")
_MOST_ROWS = 7
_FIRST_RUN = (
    "Make one, for example with `workbench evaluate --backbone testbed-llama --guidance none,svgt "
    "--out runs/first --limit 40`, or on the page *Train*."
)


def page() -> None:
    """Draw the page."""
    st.title("Runs", anchor=False)
    st.markdown(
        "Everything that commands and the page *Train* wrote, whatever its kind: its tables and "
        "figures, where it came from, and runs of one kind side by side."
    )
    runs = listed_runs(first_run=_FIRST_RUN)
    if not runs:
        return
    chosen = _filtered(runs)
    _overview(chosen)
    if not chosen:
        st.info("No run passes the filters.")
        return
    tell_unknown("view", (LOOK, COMPARE), instead=LOOK)
    view = st.segmented_control(
        "View", (LOOK, COMPARE), default=LOOK, required=True, key="view", bind="query-params"
    )
    with told_in_words():
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import runs_output  # torch: after the first paint
        if view == COMPARE:
            runs_output.compare_runs(chosen)
        else:
            runs_output.show_run(run_box(chosen))


def _filtered(runs: "Sequence[RunView]") -> "list[RunView]":
    kinds = sorted({run.kind for run in runs})
    text, kind, status = st.columns([2, 2, 2])
    words = text.text_input(
        "Name or setting contains", key="find", bind="query-params", placeholder="testbed-gpt2"
    ).strip()
    with kind:
        tell_unknown("kind", kinds, instead=_ALL_KINDS)
    with status:
        tell_unknown("status", _STATUSES, instead=_ANY_STATUS)
    if not set(st.session_state.get("kind", ())) <= set(kinds):
        del st.session_state["kind"]  # it belonged to another folder
    wanted = kind.multiselect(
        "Kinds", kinds, key="kind", bind="query-params", placeholder=_ALL_KINDS
    )
    states = status.multiselect(
        "Status", _STATUSES, key="status", bind="query-params", placeholder=_ANY_STATUS
    )
    return [
        run
        for run in runs
        if (not wanted or run.kind in wanted)
        and (not states or run.status in states)
        and (not words or words.lower() in f"{run.name} {dict(run.config)}".lower())
    ]


def _overview(runs: "Sequence[RunView]") -> None:
    table_block(
        pd.DataFrame(
            [
                {
                    "run": run.name, "kind": run.kind, "status": run.status, "seed": run.seed,
                    "backbone": _backbone_name(run.config.get("backbone", "")),
                    "started": made_text(run.provenance),
                }
                for run in runs
            ],
            columns=["run", "kind", "status", "seed", "backbone", "started"],
        ),
        key="runs", most_rows=_MOST_ROWS,
    )  # fmt: skip


def _backbone_name(backbone: object) -> str:
    """A backbone's name; some commands record it together with its hash."""
    return str(backbone.get("name", "") if isinstance(backbone, Mapping) else backbone)


def deletable(run: "RunView") -> bool:
    """Whether the app may delete it: it lies in ``runs``, and nobody is at work on it."""
    from workbench.pages.catalogue import RUNS

    return RUNS.resolve() in Path(run.path).resolve().parents and run.status != "running"
