"""One run or several on the page Runs.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from workbench import background
from workbench.evaluation.ablations import RUN_KIND as ABLATIONS
from workbench.evaluation.leaderboard.plan import RUN_KIND as BENCHMARK
from workbench.evaluation.training_progress import read_progress
from workbench.evaluation.value_training import RUN_KIND as TRAIN
from workbench.export.exhibits import exhibits_of
from workbench.export.exhibits.kinds import FIT, JUDGE
from workbench.export.probe_runs import PROBES, open_probe, run_kind
from workbench.export.run_comparison import (
    compare,
    comparison_figure,
    comparison_help,
    comparison_table,
    shared_metrics,
    short_headings,
    text_of,
)
from workbench.files import read_parquet
from workbench.pages import anchoring_output, directions_output, train_output
from workbench.pages.benchmark_ablations import show_ablations
from workbench.pages.benchmark_output import show_board
from workbench.pages.catalogue import RUNS
from workbench.pages.exhibits_output import show_exhibits
from workbench.pages.guard import told_in_words
from workbench.pages.run_browser import RunView
from workbench.pages.run_choice import tell_unfinished
from workbench.pages.runs import deletable
from workbench.pages.summary_output import show_summary
from workbench.pages.widgets import counted, figure_block, table_block, tell_no_truth, tell_unknown
from workbench.runs import RunFolder, delete_run

_MOST_ROWS = 5000
_MOST_PLACES = 40
"""More places than these make a figure that nobody reads."""


# ----------------------------------------------------------------------------------------- one run


def show_run(run: RunView) -> None:
    """Show what a run holds, by its kind, and where it came from."""
    st.subheader(run.name, anchor=False)
    with told_in_words():
        _VIEWS.get(run.kind, _whatever)(run)
    _origin(run)
    _delete_box(run)


def _training(run: RunView) -> None:
    tell_unfinished(run)
    train_output.show_curves(read_progress(run.path).curves, stem=run.path.name)
    if run.summary:
        st.markdown("**What each stage's best state reached on validation**")
        stages = pd.DataFrame(RunFolder.open(run.path).read_summary())
        table_block(stages.dropna(axis="columns", how="all"), key=f"{run.path.name}-stages")


def _probe(run: RunView) -> None:
    if run.status != "finished":
        tell_unfinished(run)
        return
    probe = open_probe(run.path)
    (anchoring_output if probe.probe == "anchoring" else directions_output).show_run(probe)


def _evaluation(run: RunView) -> None:
    tell_unfinished(run)
    if run.summary:
        show_summary(run.name, run.summary)
    else:
        st.info("This run has no summary.json: nothing to draw yet.")


def _exhibits(run: RunView) -> None:
    """What a paper shows of such a run, and its records."""
    tell_unfinished(run)
    show_exhibits(run.path.name, exhibits_of(RunFolder.open(run.path)))
    if any(run.path.glob("*.parquet")):
        with st.expander("Records", icon=":material/table:"):
            _tables(run)


def _whatever(run: RunView) -> None:
    """A kind without a view of its own: its summary where it has one, and all its tables."""
    tell_unfinished(run)
    if any(row.metric for row in run.summary):
        show_summary(run.name, run.summary)
    if not _tables(run) and not run.summary:
        st.info("This run holds no tables: its files are listed below.")


def _tables(run: RunView) -> int:
    """Show every Parquet file of a run; gives how many there are."""
    paths = sorted(run.path.glob("*.parquet"))
    for path in paths:
        frame = read_parquet(path)
        st.markdown(f"**{path.name}** · {counted(len(frame), 'row')}")
        table_block(frame, key=f"{run.path.name}-{path.stem}", sent=_MOST_ROWS)
    return len(paths)


_VIEWS: Mapping[str, Callable[[RunView], None]] = {
    "evaluate": _evaluation,
    TRAIN: _training,
    BENCHMARK: show_board,
    ABLATIONS: show_ablations,
    FIT: _exhibits,
    JUDGE: _exhibits,
    **{run_kind(probe): _probe for probe in PROBES},
}


def _origin(run: RunView) -> None:
    """Settings, versions, and the files with their hashes."""
    left, right = st.columns(2)
    with left.expander("Configuration", icon=":material/tune:"):
        st.json(dict(run.config), expanded=2)
    with right.expander("Provenance", icon=":material/history:"):
        st.json(dict(run.provenance), expanded=2)
    with st.expander("Files and their hashes", icon=":material/fingerprint:"):
        record = RunFolder.open(run.path).record
        if not record.files:
            st.write("Hashes are recorded when a run finishes.")
            return
        table_block(
            pd.DataFrame(record.files.items(), columns=["file", "SHA-256"]),
            key=f"{run.path.name}-files",
        )
        if st.button("Check the hashes", icon=":material/verified:", key="verify"):
            with st.spinner("Reading every file …"):
                altered = RunFolder.open(run.path).altered_files()
            if altered:
                st.error(f"Altered since the run finished: {', '.join(altered)}.")
            else:
                st.success("Every file is as it was when the run finished.")


def _delete_box(run: RunView) -> None:
    if not deletable(run) or background.is_working(run.path):
        return
    with st.popover("Delete this run", icon=":material/delete:"):
        st.markdown(f"Delete `{run.path}` with everything in it? This cannot be undone.")
        if st.button("Delete for good", type="primary", key="delete"):
            with told_in_words():
                delete_run(run.path, root=RUNS)
                st.rerun()


# ------------------------------------------------------------------------------------ several runs


def compare_runs(runs: Sequence[RunView]) -> None:
    """Ask for runs of one kind and show a metric of them side by side."""
    with_numbers = [run for run in runs if run.summary]
    kinds = list(dict.fromkeys(run.kind for run in with_numbers))
    kinds = [kind for kind in kinds if sum(run.kind == kind for run in with_numbers) > 1]
    if not kinds:
        st.info("Nothing to compare: it takes two runs of one kind with a summary.")
        return
    left, right = st.columns([1, 3])
    if st.session_state.get("compared_kind", kinds[0]) not in kinds:
        del st.session_state["compared_kind"]  # it was filtered out
    tell_unknown("compared_kind", kinds, instead=kinds[0])
    kind = left.selectbox("Kind", kinds, key="compared_kind", bind="query-params")
    by_name = {run.name: run for run in with_numbers if run.kind == kind}
    if not set(st.session_state.get("compared", ())) <= set(by_name):
        del st.session_state["compared"]  # they are of another kind
    first = list(by_name)[:2]
    tell_unknown("compared", list(by_name), instead=", ".join(first))
    names = right.multiselect(
        "Runs; the first is what the others are compared with", list(by_name),
        default=first, key="compared", bind="query-params",
    )  # fmt: skip
    if len(names) < 2:
        st.info("Choose at least two runs.")
        return
    _side_by_side({name: RunFolder.open(by_name[name].path).read_summary() for name in names})


def _side_by_side(rows: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    metrics = shared_metrics(rows)
    if not metrics:
        st.info("These runs share no metric.")
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    if st.session_state.get("compared_metric", metrics[0]) not in metrics:
        del st.session_state["compared_metric"]  # other runs had it
    shown = {name: text_of(rows, name).name for name in metrics}
    with left:
        tell_unknown("compared_metric", list(shown.values()), instead=shown[metrics[0]])
    metric = left.selectbox(
        "Metric", metrics, key="compared_metric", bind="query-params",
        format_func=shown.__getitem__,
    )  # fmt: skip
    with right:
        tell_no_truth("compared_frames", instead=False)
    frames = right.toggle("Single frames too", key="compared_frames", bind="query-params")
    found = compare(rows, metric, frames=frames)
    if len(found.places) <= _MOST_PLACES:
        figure_block(
            comparison_figure(found), key=f"compared-{metric}", title=found.text.title,
            how_to_read=comparison_help,
        )  # fmt: skip
    else:
        st.caption(f"{len(found.places)} places are too many for a figure: read the table.")
    st.caption(f"Δ: the run minus {found.runs[0]}, the first; point at a heading for its run.")
    table_block(
        comparison_table(found), key=f"compared-{metric}-table", short=short_headings(found)
    )
