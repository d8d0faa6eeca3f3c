"""Ablations on the Benchmark page: one question at a time, as table, differences and curve.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from collections.abc import Sequence

import streamlit as st

from workbench.evaluation.ablations import (
    ALL_SEEDS,
    CATALOGUE,
    RECORDS_FILE,
    AblationRecord,
    records_frame,
)
from workbench.export.ablation_figures import (
    CURVE_HELP,
    DIFFERENCE_HELP,
    curve_figure,
    difference_figure,
)
from workbench.export.ablation_tables import (
    COLUMNS,
    VALIDATION,
    Column,
    comparisons_in,
    latex,
    read_records,
    selected,
    table_rows,
)
from workbench.export.summaries import metric_text
from workbench.pages.benchmark_output import sortable_table
from workbench.pages.probe_output import Panel, choice, show_panels
from workbench.pages.run_browser import RunView
from workbench.pages.run_choice import tell_unfinished
from workbench.pages.widgets import counted, download, tell_unknown

_TABLE_HELP = (
    "Test splits; shares in percent, Δ in points against the reference on the same prompts with "
    "the same random numbers (cross-entropy in nats a token), [95% interval]. **\\***: p < 0.05 "
    "after Holm. ←: of the highest utility on the validation splits, which the files hold too. "
    "Point at a heading for its meaning, click it to sort."
)


def show_ablations(run: RunView) -> None:
    """Show what an ablation run has measured so far."""
    tell_unfinished(run)
    path = run.path / RECORDS_FILE
    if run.status != "finished" and not path.is_file():
        st.info("Nothing is measured yet: records are written after every ablation.")
        return
    records = read_records(path)
    found = comparisons_in(records)
    if not found:
        st.info("This run measured nothing: it holds no records.")
        return
    ablations = list(dict.fromkeys(ablation for ablation, _, _ in found))
    ablation = _ablation_box(ablations)
    pairs = {f"{b}/{r}": (r, b) for a, r, b in found if a == ablation}
    several = len({backbone for _, backbone in pairs.values()}) > 1
    names = {key: f"{r} on {b}" if several else r for key, (r, b) in pairs.items()}
    reference, backbone = pairs[choice("Starting from", names, "reference")]
    _show(records, ablation, reference, backbone)


def _ablation_box(ablations: Sequence[str]) -> str:
    """Ask for an ablation, and say what it asks."""
    tell_unknown("ablation", ablations, instead=ablations[0])
    if st.session_state.get("ablation", ablations[0]) not in ablations:
        del st.session_state["ablation"]  # it belonged to another run
    chosen = str(st.selectbox("Ablation", ablations, key="ablation", bind="query-params"))
    if chosen in CATALOGUE:
        st.markdown(f"**{CATALOGUE[chosen].question}**")
    return chosen


def _show(records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str) -> None:
    stem = f"ablation-{ablation}-{reference}-{backbone}".replace("/", "-")
    own = [
        r
        for r in records
        if (r.ablation, r.reference, r.backbone) == (ablation, reference, backbone)
    ]
    _table(own, ablation, reference, backbone, stem)
    panels = [
        Panel(
            f"{stem}-differences", f"Change against {reference}", DIFFERENCE_HELP,
            lambda: difference_figure(own, ablation, reference, backbone),
        )
    ]  # fmt: skip
    curve = curve_figure(own, ablation, reference, backbone)
    if curve is not None:
        panels.append(Panel(f"{stem}-curve", f"Along {ablation}", CURVE_HELP, lambda: curve))
    show_panels(panels, ())


def _meaning(column: Column, reference: str) -> str:
    """What a short heading stands for."""
    text = metric_text(column.metric).title
    return f"{text}: the variant's minus that of {reference}" if column.difference else text


def _table(
    own: Sequence[AblationRecord], ablation: str, reference: str, backbone: str, stem: str
) -> None:
    rows = table_rows(own, ablation, reference, backbone)
    found = selected(own, ablation, reference, backbone).values()
    n = max((r.n for r in found if (r.split, r.metric) == ("test", "harm_rate")), default=0)
    seeds = len({r.seed for r in own if r.seed != ALL_SEEDS})
    known = f"{counted(seeds, 'seed')}, " if seeds else ""
    st.caption(f"Every variant: {backbone}, {known}n = {n} harmful prompts times seeds.")
    columns = [
        (column.heading, [row.values[i] for row in rows], [row.cells[i] for row in rows])
        for i, column in enumerate(COLUMNS)
        if column.split != VALIDATION  # its arrow stands at the variant
    ]
    help_ = {column.heading: _meaning(column, reference) for column in COLUMNS}
    names = ("variant", [row.text for row in rows])
    sortable_table(names, columns, key=f"{stem}-table", help_=help_)
    st.caption(f"How to read this: {_TABLE_HELP}")
    with st.container(horizontal=True):
        download(
            "Records (CSV)", lambda: records_frame(own).to_csv(index=False), f"{stem}.csv",
            mime="text/csv", help_="Every split, metric and seed, with difference, p and Holm's p.",
        )  # fmt: skip
        download(
            "Table (LaTeX)", lambda: latex(own, ablation, reference, backbone), f"{stem}.tex",
            mime="text/x-tex", help_="For the package booktabs.",
        )  # fmt: skip
