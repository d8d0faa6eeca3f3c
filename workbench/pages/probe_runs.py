"""Choosing the run folder of a probe (light until a folder is read)."""

from typing import TYPE_CHECKING

import streamlit as st

from workbench.pages.catalogue import BACKBONES
from workbench.pages.run_choice import listed_runs, run_box, tell_unfinished
from workbench.pages.widgets import tell_unknown

if TYPE_CHECKING:
    from workbench.export.probe_runs import ProbeRun
    from workbench.pages.run_browser import RunView

LIVE = "here and now"
FINISHED = "a finished run"


def source_box(live: str) -> bool:
    """Ask where the numbers come from; True for a live analysis.

    Args:
        live: What a live analysis is made of, for the help.
    """
    tell_unknown("source", (LIVE, FINISHED), instead=LIVE)
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
        RunError: The run is damaged, or there is no such folder.
    """
    command = f"workbench probe {probes[0]} --backbone testbed-llama --out runs/{probes[0]}"

    def is_probe(run: "RunView") -> bool:
        from workbench.export.probe_runs import run_kind  # after the first paint

        return run.kind in map(run_kind, probes)

    def rank(run: "RunView") -> int:
        """Runs of the first probe, and of the default backbone, before others."""
        from workbench.export.probe_runs import run_kind

        backbone = run.config.get("backbone")
        name = backbone.get("name") if isinstance(backbone, dict) else None
        return 2 * (run.kind != run_kind(probes[0])) + (name != BACKBONES[0])

    runs = listed_runs(wanted=is_probe, first_run=f"Make one with `{command}`.")
    if not runs:
        return None
    run = run_box(sorted(runs, key=rank))
    if run.status != "finished":
        tell_unfinished(run)
        return None
    from workbench.export.probe_runs import open_probe

    return open_probe(run.path)
