"""The leaderboard on the Benchmark page: a table that can be sorted, and its figures.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from workbench.evaluation.leaderboard.running import SHARDS_FOLDER
from workbench.export.leaderboard_figures import (
    CONTEXT_HELP,
    COST_HELP,
    PARETO_HELP,
    RATIOS,
    context_figure,
    cost_figure,
    pareto_figure,
)
from workbench.export.leaderboard_paper import quoted_fluency, quoted_safety
from workbench.export.leaderboard_tables import (
    ALL,
    COST,
    FLUENCY,
    NOTHING,
    SAFETY,
    TESTED,
    Board,
    Cell,
    Sheet,
    board_latex,
    context_rows,
    cost_sheet,
    differences_sheet,
    fluency_sheet,
    quoted_sheet,
    read_board,
    safety_sheet,
)
from workbench.export.summaries import metric_text
from workbench.pages.probe_output import Panel, choice, show_panels
from workbench.pages.run_browser import RunView
from workbench.pages.run_choice import tell_unfinished
from workbench.pages.widgets import counted, download, made_text

_SHEETS = {
    "safety": "safety", "fluency": "fluency", "cost": "diversity and cost",
    "tests": "differences to svgt", "quoted": "quoted from the paper",
}  # fmt: skip
_IN_CONTEXT = (
    "harm_rate", "refusal_rate", "over_refusal_rate", "benign_refusal_rate",
    "lookalike_refusal_rate", "degenerate_rate",
)  # fmt: skip
_RATES = {"over_refusal_rate": "refusal of harmless prompts"}
_LETTER, _BESIDE = 7, 24
"""Width of a letter in a table, and of what stands beside the letters of a cell, in pixels."""
_SORT = "Point at a heading for its meaning, click it to sort."
_ESTIMATE_HELP = (
    f"A cell is estimate [95% interval] over all seeds: intent groups are resampled, and "
    f"the variance between seeds is added where there are several. {_SORT}"
)
_READING = {
    "tests": "A cell is the method's number minus svgt's on the same prompts [95% interval]; "
    f"**\\*** marks p < 0.05, p after Holm's correction over all methods and metrics. {_SORT}",
    "quoted": "What the paper reports for Llama-3.2-3B-Instruct, with other prompts and other "
    f"judges: only the order of the methods may be compared with ours. {_SORT}",
}
"""Of the sheets that hold more, or other, than estimates."""


def show_board(run: RunView) -> None:
    """Show a benchmark's leaderboard, or say that there is none yet."""
    if run.status != "finished":
        tell_unfinished(run)
        st.info(
            f"Shards measured so far: {_n_shards(run)}. The leaderboard is written when all are."
        )
        return
    board = read_board(run.path)
    _facts(run, board)
    if not board.methods:
        st.info("This run measured nothing: its leaderboard has no rows.")
        return
    split = choice("Split", {name: _split_text(name) for name in board.splits}, "split")
    _table(run, board, split)
    if not _in_context(board, split):
        st.caption(
            f"{_split_text(split).capitalize()}: no context was measured often enough alone."
        )
    show_panels(_panels(board, split), ())


def _n_shards(run: RunView) -> int:
    files = (run.path / SHARDS_FOLDER).glob("*/*/*.parquet")
    return sum(not file.name.endswith(".replies.parquet") for file in files)


def _split_text(split: str) -> str:
    return "all splits" if split == ALL else split.replace("_", " ")


def _facts(run: RunView, board: Board) -> None:
    """Say in a line what was measured, and below it what a reader must know."""
    prompts = run.config.get("prompts")
    limit = prompts.get("n_per_kind") if isinstance(prompts, dict) else None
    asked = "" if limit is None else f", {limit} prompts of each kind and split"
    backbone = f" of {board.backbone}" if board.methods else ""
    st.caption(
        f"{counted(len(board.methods), 'method')}{backbone}{asked}; "
        f"made {made_text(run.provenance)}."
    )
    if board.notes:
        with st.expander(f"To know ({len(board.notes)})", icon=":material/info:"):
            st.markdown("\n".join(f"- {note}" for note in board.notes))


# ------------------------------------------------------------------------------------------ table


def _table(run: RunView, board: Board, split: str) -> None:
    there = {kind: text for kind, text in _SHEETS.items() if kind != "quoted" or split == ALL}
    kind = choice("Columns", there, "columns")
    sheet = _sheet(board, split, kind)
    st.markdown(f"**{sheet.title}**")
    columns = board_columns(sheet, board, split)
    # What is quoted has other prompts and seeds.
    columns, shared = (columns[2:], "") if kind == "quoted" else _said_once(columns)
    if shared:
        st.caption(f"Every method: {shared}.")
    sortable_table(("method", sheet.names), columns, key=f"board-{kind}", help_=_heading_help())
    st.caption(f"How to read this: {_READING.get(kind, _ESTIMATE_HELP)}")
    stem = f"{run.path.name}-{split}"
    rows = board.rows[board.rows["split"] == split]
    tests = board.comparisons[board.comparisons["split"] == split]
    with st.container(horizontal=True):
        download(
            "Estimates (CSV)", lambda: rows.to_csv(index=False), f"{stem}.csv", mime="text/csv",
            help_="Every metric, frame and seed of this split, with interval and n.",
        )  # fmt: skip
        download(
            "Tests against svgt (CSV)", lambda: tests.to_csv(index=False), f"{stem}-tests.csv",
            mime="text/csv", help_="Differences, p-values and Holm's p-values.",
        )  # fmt: skip
        download(
            "Table (LaTeX)", lambda: board_latex(board, split), f"{stem}.tex", mime="text/x-tex",
            help_="For the package booktabs; the caption states n and how intervals were made.",
        )  # fmt: skip
        download(
            "Estimates (JSON)", lambda: str(rows.to_json(orient="records")), f"{stem}.json",
            mime="application/json",
        )  # fmt: skip


def _sheet(board: Board, split: str, kind: str) -> Sheet:
    if kind == "cost":
        return cost_sheet(board, split)
    if kind == "fluency":
        return fluency_sheet(board, split, tests=False)
    if kind == "tests":
        return differences_sheet(board, split)
    if kind == "quoted":
        return quoted_sheet(board, {**quoted_safety(), **quoted_fluency()})
    return safety_sheet(board, split, tests=False)


def _heading_help() -> dict[str, str]:
    """What a short heading stands for."""
    own = {c.heading: metric_text(c.metric).title for c in (*SAFETY, *FLUENCY, *COST)}
    tests = {
        column.heading: f"{metric_text(metric).title}: the method's minus svgt's, same prompts"
        for metric, column in TESTED.items()
    }
    return {**own, **tests, "n": "Harmful prompts times seeds"}


NumberColumn = tuple[str, Sequence[float], Sequence[str]]
"""Heading, numbers, and the texts that are shown in their place."""


def board_columns(sheet: Sheet, board: Board, split: str) -> list[NumberColumn]:
    """The sheet's columns with n beside the seeds."""
    found = board.pooled(split)
    counts = [found.get((method, "harm_rate"), {}).get("n") for method in sheet.names]
    n = [Cell(NOTHING) if c is None else Cell(str(c), value=float(str(c))) for c in counts]
    cells = [list(column) for column in zip(*sheet.cells, strict=True)]
    seeds, *others = zip(sheet.header[1:], cells, strict=True)
    return [
        (heading, [cell.value for cell in column], [_shown(cell) for cell in column])
        for heading, column in (seeds, ("n", n), *others)
    ]


def _said_once(columns: Sequence[NumberColumn]) -> tuple[list[NumberColumn], str]:
    """Seeds and n, where they are the same for all methods, are said instead of repeated."""
    words: dict[str, Callable[[str], str]] = {
        "seeds": lambda n: counted(int(n), "seed"),
        "n": lambda n: f"n = {n} harmful prompts times seeds",
    }
    once = {
        heading: words[heading](texts[0])
        for heading, _, texts in columns
        if heading in words and len(set(texts)) == 1 and texts[0] != NOTHING
    }
    kept = [column for column in columns if column[0] not in once]
    return kept, ", ".join(once.values())


def _shown(cell: Cell) -> str:
    return f"{cell.line} *" if cell.significant else cell.line


def sortable_table(
    names: tuple[str, Sequence[str]],
    columns: Sequence[NumberColumn],
    *,
    key: str,
    help_: Mapping[str, str],
) -> None:
    """A table that shows texts and is sorted by the numbers behind them.

    Args:
        names: Heading and texts of the first column, which stays in sight.
        columns: Headings, numbers and what is shown in their place.
        key: Of the element.
        help_: What short headings stand for.
    """
    numbers = {heading: values for heading, values, _ in columns}
    styler = pd.DataFrame({names[0]: list(names[1]), **numbers}).style
    for heading, _, texts in columns:
        for row, text in enumerate(texts):
            styler = styler.format(_always(text), subset=(row, heading))
    width = _BESIDE + _LETTER * max((len(name) for name in names[1]), default=0)
    config = {heading: st.column_config.Column(help=help_.get(heading)) for heading in numbers}
    config[names[0]] = st.column_config.TextColumn(pinned=True, width=width)
    st.dataframe(
        styler, hide_index=True, width="stretch", height="content", key=key, placeholder=NOTHING,
        column_config=config,
    )  # fmt: skip


def _always(text: str) -> Callable[[object], str]:
    return lambda value: text


# ---------------------------------------------------------------------------------------- figures


def _in_context(board: Board, split: str) -> list[str]:
    """Metrics that were measured in single contexts."""
    return [m for m in _IN_CONTEXT if not context_rows(board, m, split).empty]


def _panels(board: Board, split: str) -> list[Panel]:
    where = _split_text(split)
    panels = [
        Panel(
            f"pareto-{split}", f"Harm prevented against fluency cost, {where}", PARETO_HELP,
            lambda: pareto_figure(board, split),
        )
    ]  # fmt: skip
    measured = _in_context(board, split)
    if measured:
        names = {m: _RATES.get(m, metric_text(m).name) for m in measured}
        panels.append(
            Panel(
                f"contexts-{split}", f"Context by context, {where}", CONTEXT_HELP,
                lambda: context_figure(board, choice("Share of", names, "share"), split),
            )
        )  # fmt: skip
    if any(metric in RATIOS for _, metric in board.pooled(ALL)):
        panels.append(
            Panel(
                "costs", "Time and memory beside the plain model", COST_HELP,
                lambda: cost_figure(board),
            )
        )  # fmt: skip
    return panels
