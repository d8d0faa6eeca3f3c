"""Choosing the run folder of a probe (light until a folder is read)."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.pages.catalogue import run_roots

if TYPE_CHECKING:
    from workbench.export.probe_runs import ProbeRun

LIVE = "here and now"
FINISHED = "a finished run"


def source_box(live: str) -> bool:
    """Ask where the numbers come from; True for a live analysis.

    Args:
        live: What a live analysis is made of, for the help.
    """
    chosen = st.segmented_control(
        "Numbers from",
        (LIVE, FINISHED),
        default=LIVE,
        required=True,
        key="source",
        bind="query-params",
        help=f"{LIVE}: {live}. {FINISHED}: a folder that `workbench probe` wrote.",
    )
    return chosen != FINISHED


def chosen_run(*probes: str) -> "ProbeRun | None":
    """Ask for a finished run of one of these probes and read it; None where there is none.

    Raises:
        RunError: The run is unfinished or damaged, or there is no such folder.
    """
    roots = run_roots()
    root = st.text_input(
        "Folder with runs",
        value=roots[0],
        key="root",
        bind="query-params",
        help="Searched a few levels deep. Here there are: " + ", ".join(f"`{r}`" for r in roots),
    )
    command = f"workbench probe {probes[0]} --backbone testbed-llama --out runs/{probes[0]}"
    if root == roots[0] and not Path(root).is_dir():
        st.info(f"There are no runs yet. Make one with `{command}`.")
        return None
    with st.spinner("Reading run folders …"):
        from workbench.export.probe_runs import open_probe, run_kind
        from workbench.pages.run_browser import browse

        runs, damaged = browse(Path(root).expanduser())
    for broken in damaged:
        st.warning(f"**{broken.name}** cannot be read: {broken.problem}", icon=":material/warning:")
    kinds = [run_kind(probe) for probe in probes]
    paths = {run.name: run.path for run in runs if run.kind in kinds}
    if not paths:
        st.info(f"No such run in `{root}`. Make one with `{command}`.")
        return None
    names = list(paths)
    if st.session_state.get("run", names[0]) not in names:
        del st.session_state["run"]  # it lies under another root
    return open_probe(paths[st.selectbox("Run", names, key="run", bind="query-params")])
