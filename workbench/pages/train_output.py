"""The Train page's work: start, watch, stop, resume.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

import math
from pathlib import Path

import pandas as pd
import streamlit as st

from workbench import background
from workbench.errors import ConfigError
from workbench.evaluation.training_jobs import (
    JobState,
    TrainingOrder,
    job_state,
    resume_training,
    start_training,
)
from workbench.evaluation.training_progress import (
    StageStanding,
    TrainingProgress,
    read_progress,
)
from workbench.evaluation.value_training import RUN_KIND
from workbench.export.training_figures import (
    LOSS_HELP,
    SHARE_HELP,
    STAGE_NAMES,
    loss_figure,
    share_figure,
    stages_in,
)
from workbench.pages.catalogue import FOLDER, RUNS
from workbench.pages.guard import told_in_words
from workbench.pages.hardware import chosen_hardware
from workbench.pages.run_browser import browse
from workbench.pages.train import TrainingForm
from workbench.pages.widgets import figure_block, lasting_choice, table_block
from workbench.runs import OUTPUT_FILE

_EVERY = "2s"
_AT_WORK: tuple[JobState, ...] = ("starting", "running")
_WATCHED = "watch"


def start(form: TrainingForm, seed: int) -> None:
    """Start what the form asks for and watch it.

    Raises:
        ConfigError: The form lacks something, or the name is no plain one.
        RunError: The folder is taken.
    """
    where = chosen_hardware()
    order = TrainingOrder(
        form.backbone, form.config, seed, form.size, form.data, where.device, where.dtype
    )
    name = form.name.strip() or _free_name(order)
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"'{name}' is no plain name: give one word, for example mine-1")
    start_training(order, RUNS / name)
    st.session_state[_WATCHED] = name


def _free_name(order: TrainingOrder) -> str:
    """A name from the settings that no folder has."""
    stem = f"{Path(order.backbone).name}-{Path(order.config).stem}-seed{order.seed}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(name for name in names if job_state(RUNS / name) in ("absent", "failed"))


def watch() -> None:
    """Ask for one of the trainings and show it; redrawn by itself while it works."""
    names = _trainings()
    if not names:
        st.info("No training yet: choose the settings in the sidebar and start one.")
        return
    name = lasting_choice("Training", names, first=names[0], key=_WATCHED)
    folder = RUNS / name
    working = job_state(folder) in _AT_WORK
    st.fragment(_show, run_every=_EVERY if working else None)(folder, working)


def _trainings() -> list[str]:
    """Names of trainings below ``runs``, the newest first; what has only just begun included."""
    known = [run for run in browse(RUNS)[0] if run.kind == RUN_KIND] if RUNS.is_dir() else []
    names = [run.name for run in known]
    begun = [path.parent.name for path in RUNS.glob(f"*/{OUTPUT_FILE}")]
    states = {name: job_state(RUNS / name) for name in begun if name not in names}
    asked = st.session_state.get(_WATCHED, st.query_params.get(_WATCHED))
    fresh = [n for n, s in states.items() if s == "starting" or (s == "failed" and n == asked)]
    return [*fresh, *names]


def _show(folder: Path, was_working: bool) -> None:
    with told_in_words():
        state = job_state(folder)
        if was_working and state not in _AT_WORK:
            st.rerun()  # the whole page, which then looks no more
        _controls(folder, state)
        progress = read_progress(folder)
        if state in _AT_WORK:
            _bars(progress, state)
        _curves(folder, progress)


def _controls(folder: Path, state: JobState) -> None:
    """Say where the training stands, and what can be done about it."""
    from workbench.pages.navigation import page_link  # which imports this page

    match state:
        case "starting":
            st.info("Starting: the process loads the model.", icon=":material/hourglass_top:")
        case "running":
            _stop_button(folder)
        case "finished":
            st.success(
                f"Finished. Use it as guidance `svgt:{folder}`, in the Playground too.",
                icon=":material/check_circle:",
            )
            page_link(
                "playground", label="Open it in the Playground",
                query={"guidance": FOLDER, "own": f"svgt:{folder}"},
            )  # fmt: skip
        case "stopped" | "failed":
            _explain(folder, state)


def _stop_button(folder: Path) -> None:
    if not background.is_working(folder):
        st.info("Runs in a process that was not started here: stop it where it was started.")
        return
    if st.button("Stop", icon=":material/stop:", key="stop", help="It can be resumed later."):
        with st.spinner("Stopping …"):
            background.stop(folder)
        st.rerun()


def _explain(folder: Path, state: JobState) -> None:
    said = background.last_words(folder)
    if state == "failed":
        lines = said.splitlines()
        told = [line for line in lines if line.startswith("error:")] or lines[-1:]
        st.error(told[-1] if told else "The process ended without a word.", icon=":material/error:")
    elif said.endswith(background.STOPPED):
        st.warning("Stopped. Nothing up to the last validation is lost.", icon=":material/pause:")
    else:
        st.warning(
            "Interrupted: its process is gone. Nothing up to the last validation is lost.",
            icon=":material/pause_circle:",
        )
    if said:
        with st.expander("What it printed last", icon=":material/terminal:"):
            st.code(said, language=None)
    if (folder / "run.json").is_file() and st.button(
        "Resume", icon=":material/play_arrow:", key="resume",
        help="Ends with the same weights as a training that was never stopped.",
    ):  # fmt: skip
        with told_in_words():
            resume_training(folder)
            st.rerun()


def _bars(progress: TrainingProgress, state: JobState) -> None:
    """One bar a stage."""
    begun = {standing.stage: standing for standing in progress.standings}
    for column, (stage, name) in zip(st.columns(3), STAGE_NAMES.items(), strict=True):
        standing = begun.get(stage)
        share = 0.0 if standing is None else standing.step / standing.n_steps
        column.progress(share, text=f"{name} · {_bar_text(standing)}")
    if state == "running" and not begun:
        st.caption("Reading the model's states of every example; steps begin after that.")


def _bar_text(standing: StageStanding | None) -> str:
    if standing is None:
        return "waits"
    steps = f"{standing.step} of {standing.n_steps} steps"
    if math.isnan(standing.seconds_left) or standing.step == standing.n_steps:
        return steps
    return f"{steps}, about {duration(standing.seconds_left)} left"


def duration(seconds: float) -> str:
    """A duration in words, to two figures at most."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _curves(folder: Path, progress: TrainingProgress) -> None:
    curves = progress.curves
    show_curves(curves, stem=folder.name)


def show_curves(curves: pd.DataFrame, *, stem: str) -> None:
    """Losses and validation of every stage that has begun, the latest first, and their table."""
    for stage in reversed(stages_in(curves)):
        left, right = st.columns(2, gap="large")
        with left:
            figure_block(
                loss_figure(curves, stage), key=f"{stem}-{stage}-loss",
                title=f"{STAGE_NAMES[stage]}, losses", how_to_read=LOSS_HELP,
            )  # fmt: skip
        with right:
            figure_block(
                share_figure(curves, stage), key=f"{stem}-{stage}-validation",
                title=f"{STAGE_NAMES[stage]}, validation", how_to_read=SHARE_HELP,
            )  # fmt: skip
    if not curves.empty:
        with st.expander("All numbers", icon=":material/table:"):
            table_block(curves, key=f"{stem}-curves")
