"""What the probes' pages share: figures side by side, tables of records, facts about a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from probes.records import Record
from workbench.export.probe_runs import ProbeRun
from workbench.export.probe_tables import (
    headline,
    narrow_table,
    readable_table,
    records_csv,
    records_latex,
)
from workbench.pages.widgets import (
    counted,
    download,
    figure_block,
    made_text,
    tell_unknown,
    wrapped_table,
)

_LEAST_WIDTH = 620
"""Of a figure, in pixels: ten contexts across can be read, and two stand side by side at 1920."""

_COLUMNS = f"""<style>
[class*="st-key-panels-"] {{ display: grid; gap: 1rem; align-items: stretch;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, {_LEAST_WIDTH}px), 1fr)); }}
[class*="st-key-panels-"] > * {{ min-width: 0; width: 100%; }}
[class*="st-key-panels-"] > :last-child:nth-child(odd) {{ grid-column: 1 / -1; }}
</style>"""


@dataclass(frozen=True)
class Panel:
    """One figure of a page, drawn when it is its turn.

    Attributes:
        key: Its name among the page's elements and files.
        title: Above it.
        how_to_read: Below it; a function of the figure where it depends on what is drawn.
        draw: Asks for what is still open, and draws.
        metrics: Shown where one of these was measured; always, if empty.
    """

    key: str
    title: str
    how_to_read: str | Callable[[go.Figure], str]
    draw: Callable[[], go.Figure]
    metrics: tuple[str, ...] = ()


def show_panels(panels: Sequence[Panel], records: Sequence[Record]) -> None:
    """Draw the figures that these records can fill: across the page, two a row where they fit."""
    measured = {record.metric for record in records if not math.isnan(record.estimate)}
    shown = [panel for panel in panels if not panel.metrics or measured & set(panel.metrics)]
    if not shown:
        return
    st.html(_COLUMNS)
    with st.container(horizontal=True, key=f"panels-{shown[0].key}"):
        for panel in shown:
            with st.container(border=True):
                show_panel(panel)


def show_panel(panel: Panel) -> None:
    """Draw one figure."""
    figure_block(panel.draw, key=panel.key, title=panel.title, how_to_read=panel.how_to_read)


def choice(label: str, names: Mapping[str, str], key: str) -> str:
    """Ask for one of several, the first by default; a single one needs no asking.

    Args:
        label: Above the choices.
        names: Value to what a person reads.
        key: Of the widget, and in the address.
    """
    options = list(names)
    if len(options) > 1:
        tell_unknown(key, list(names.values()), instead=names[options[0]])
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)  # it belonged to other records
    if len(options) == 1:
        return options[0]
    chosen = st.segmented_control(
        label, options, default=options[0], format_func=names.__getitem__, key=key,
        bind="query-params", required=True,
    )  # fmt: skip
    return str(chosen)


def run_facts(run: ProbeRun) -> None:
    """Say in a line what a run is about, and show its settings where asked."""
    seeds = sorted({record.seed for record in run.records})
    backbones = ", ".join(dict.fromkeys(record.backbone for record in run.records))
    st.caption(
        f"{counted(len(run.records), 'record')} of {backbones}, "
        f"seed {', '.join(map(str, seeds))}, made {made_text(run.provenance)}."
    )
    with st.expander("Settings and provenance", icon=":material/tune:"):
        settings, provenance = st.columns(2)
        settings.json(dict(run.config), expanded=1)
        provenance.json(dict(run.provenance), expanded=1)


def record_tables(records: Sequence[Record], *, stem: str) -> None:
    """The headline as a table, and every record as a file."""
    short = headline(records)
    st.subheader("Numbers", anchor=False)
    table, said_once = narrow_table(short or records)
    wrapped_table(table)
    if said_once:
        st.caption(said_once)
    with st.container(horizontal=True):
        download(
            "Table (CSV)", lambda: readable_table(short or records).to_csv(index=False),
            f"{stem}-table.csv", mime="text/csv",
        )  # fmt: skip
        download(
            "Table (LaTeX)",
            lambda: records_latex(
                short or records, caption=f"Records of {stem}.", label=stem
            ),
            f"{stem}.tex", mime="text/x-tex",
            help_="For the package booktabs; the caption states n, seed and interval.",
        )  # fmt: skip
        download(
            "All records (CSV)", lambda: records_csv(records), f"{stem}-records.csv",
            mime="text/csv", help_="Every number with n, interval, ceiling, control and seed.",
        )  # fmt: skip
