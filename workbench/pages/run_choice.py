"""Choosing a run folder (light until folders are read): where to look, and which one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.pages.catalogue import FOLDER, run_roots
from workbench.pages.widgets import lasting_choice, tell_unknown

if TYPE_CHECKING:
    from workbench.pages.run_browser import RunView


def chosen_folder(*, wanted: "Callable[[RunView], bool]", first_run: str) -> "RunView | None":
    """Ask where runs lie and for one of them; the newest finished one with results by default.

    Args:
        wanted: Which runs may be chosen.
        first_run: What to tell where there is none: how to make one.

    Returns:
        The run; None where there is none, which is then told.

    Raises:
        RunError: There is no such folder.
    """
    runs = listed_runs(wanted=wanted, first_run=first_run)
    return run_box(runs) if runs else None


def listed_runs(
    *, first_run: str, wanted: "Callable[[RunView], bool]" = lambda run: True
) -> "list[RunView]":
    """Ask where runs lie, and tell of damaged ones; the first folder with finished runs by default.

    Args:
        first_run: What to tell where there is none: how to make one.
        wanted: Which runs are meant.

    Raises:
        RunError: There is no such folder.
    """
    with st.spinner("Reading run folders …"):
        from workbench.pages.run_browser import browse  # reads tensors too: after the first paint

        roots = run_roots()
        found = {root: browse(Path(root)) for root in roots if Path(root).is_dir()}
        runs_of = {root: [run for run in runs if wanted(run)] for root, (runs, _) in found.items()}
        holding = sorted(
            filter(runs_of.get, runs_of), key=lambda root: not _finished(runs_of[root])
        )
    root = _root_box(roots, first=holding[0] if holding else roots[0])
    if root in roots and not found:
        st.info(f"There are no runs yet. {first_run}")
        return []
    runs, damaged = found[root] if root in found else browse(Path(root).expanduser())
    for broken in damaged:
        st.warning(f"**{broken.name}** cannot be read: {broken.problem}", icon=":material/warning:")
    runs = [run for run in runs if wanted(run)]
    if not runs:
        elsewhere = " and ".join(f"`{other}`" for other in holding if other != root)
        some = f"Some are in {elsewhere}: choose above. " if elsewhere else ""
        st.info(f"No such run in `{root}`. {some}{first_run}")
    return runs


def _root_box(roots: Sequence[str], *, first: str) -> str:
    options = (*roots, FOLDER)
    tell_unknown("root", options, instead=first)
    chosen = st.selectbox(
        "Folder with runs", options, index=list(roots).index(first), key="root",
        bind="query-params", help="Searched a few levels deep.",
    )  # fmt: skip
    if chosen != FOLDER:
        return chosen
    return st.text_input("Path of the folder", value=first, key="root_folder", bind="query-params")


def run_box(runs: "Sequence[RunView]") -> "RunView":
    """Ask for one of some runs; the newest finished one with a summary by default."""
    names = [run.name for run in runs]
    finished = [run for run in runs if run.status == "finished"]
    telling = [run for run in finished if run.summary]
    first = [*telling, *finished, *runs][0].name
    return runs[names.index(lasting_choice("Run", names, first=first, key="run"))]


def _finished(runs: "Sequence[RunView]") -> list[str]:
    """Names of those that are finished, the newest first."""
    return [run.name for run in runs if run.status == "finished"]


def tell_unfinished(run: "RunView") -> None:
    """Say of a run that is not finished whether more will come by itself."""
    if run.status == "running":
        st.info("This run is still being made: more will follow.", icon=":material/hourglass_top:")
    elif run.status == "failed":
        # As code: an error's words may hold what Markdown would read as marks.
        st.error("This run failed, and what it wrote before is kept.", icon=":material/error:")
        st.code(run.failure, language=None, wrap_lines=True)
        st.markdown(f"Mend what it names, then go on with {_how_to_go_on(run)}")
    elif run.status == "interrupted":
        st.warning(
            "This run was interrupted: nobody is working on it. Go on with " + _how_to_go_on(run),
            icon=":material/pause_circle:",
        )


def _how_to_go_on(run: "RunView") -> str:
    return "`--resume`" + (f": `{run.resume_command}`" if run.resume_command else ".")
