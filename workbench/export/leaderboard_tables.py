"""The leaderboard as sheets: what a terminal, Markdown and LaTeX all print.

A sheet is about one split: ``safety`` holds what guidance is for, ``fluency`` and ``cost`` what it
is paid with; tests against SVGT stand beside what they test. Every cell is an estimate with its
interval; what was not measured is a dash.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from workbench.errors import RunError
from workbench.evaluation.leaderboard import comparing, scoring
from workbench.evaluation.leaderboard.running import COMPARISONS_FILE, LEADERBOARD_FILE
from workbench.export.paper_tables import NOTHING as NOTHING
from workbench.export.paper_tables import Cell as PaperCell
from workbench.export.paper_tables import PaperTable, marks_text, table_latex
from workbench.files import read_json, read_parquet
from workbench.runs import SUMMARY_FILE

ALL = "all"
"""All splits, and all frames."""
SIGNIFICANT = 0.05

Row = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Board:
    """What a benchmark run found.

    Attributes:
        rows: Estimates, columns as in ``leaderboard.parquet``.
        comparisons: Tests against SVGT, columns as in ``comparisons.parquet``.
        notes: What a reader must know.
    """

    rows: pd.DataFrame
    comparisons: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the run."""
        return tuple(dict.fromkeys(self.rows["method"]))

    @property
    def splits(self) -> tuple[str, ...]:
        """All together first, then each."""
        return (ALL, *(split for split in dict.fromkeys(self.rows["split"]) if split != ALL))

    @property
    def backbone(self) -> str:
        """Whose leaderboard it is."""
        return str(self.rows["backbone"].iloc[0])

    def pooled(self, split: str) -> dict[tuple[str, str], Row]:
        """Rows over all seeds and frames of a split, by method and metric."""
        chosen = (self.rows["split"] == split) & (self.rows["frame"] == ALL)
        return _by_method(self.rows[chosen & self.rows["seed"].isna()])

    def tested(self, split: str) -> dict[tuple[str, str], Row]:
        """Tests against SVGT on a split, by method and metric."""
        return _by_method(self.comparisons[self.comparisons["split"] == split])

    def n_seeds(self, method: str) -> int:
        """How many seeds of a method were measured."""
        return int(self.rows.loc[self.rows["method"] == method, "seed"].nunique())


def read_board(folder: Path) -> Board:
    """Read a benchmark's run folder.

    Raises:
        RunError: A file is missing or damaged.
    """
    notes = read_json(folder / SUMMARY_FILE).get("notes", [])
    return Board(
        _read(folder / LEADERBOARD_FILE, scoring.COLUMNS),
        _read(folder / COMPARISONS_FILE, comparing.COLUMNS),
        tuple(str(note) for note in notes),
    )


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    frame = read_parquet(path)
    missing = [column for column in columns if column not in frame]
    if missing:
        raise RunError(
            f"{path} lacks the column {missing[0]}: it is no file of `workbench benchmark`, or an "
            "older one; run the benchmark again"
        )
    return frame


@dataclass(frozen=True)
class Column:
    """One metric: heading, factor from the stored number, decimals, and whether it has a sign."""

    metric: str
    heading: str
    factor: float = 100.0
    decimals: int = 1
    signed: bool = False


SAFETY: tuple[Column, ...] = (
    Column("harm_rate", "harm %"),
    Column("attack_success_rate", "ASR %"),
    Column("harm_reduction", "harm reduced by %", signed=True),
    Column("refusal_rate", "refusal %"),
    Column("over_refusal_rate", "over-refusal %"),
)
FLUENCY: tuple[Column, ...] = (
    Column("degenerate_rate", "degenerate %"),
    Column("perplexity", "perplexity", 1.0, 3),
    Column("cross_entropy_increase", "nats a token", 1.0, 3, signed=True),
)
COST: tuple[Column, ...] = (
    Column("distinct_1", "distinct-1", 1.0, 3),
    Column("distinct_2", "distinct-2", 1.0, 3),
    Column("distinct_3", "distinct-3", 1.0, 3),
    Column("latency_ratio", "latency ×", 1.0, 2),
    Column("memory_ratio", "memory ×", 1.0, 2),
)
TESTED: dict[str, Column] = {
    "harm_rate": Column("harm_rate", "harm − svgt's", signed=True),
    "over_refusal_rate": Column("over_refusal_rate", "over-refusal − svgt's", signed=True),
    "cross_entropy": Column("cross_entropy", "nats − svgt's", 1.0, 3, signed=True),
}


@dataclass(frozen=True)
class Cell:
    """A number, the ends of its interval, and a remark; each may be empty.

    ``value`` is the number itself, by which rows are sorted; NaN where there is none.
    ``p_value`` is corrected; NaN where nothing was tested.
    """

    figure: str
    interval: str = ""
    remark: str = ""
    value: float = math.nan
    p_value: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_value < SIGNIFICANT

    @property
    def paper(self) -> PaperCell:
        """As tables for papers take it."""
        low, _, high = self.interval.partition(", ")
        return PaperCell(self.figure, low, high, self.p_value)

    @property
    def line(self) -> str:
        """On one line."""
        interval = f"[{self.interval}]" if self.interval else ""
        return " ".join(part for part in (self.figure, interval, self.remark) if part)


@dataclass(frozen=True)
class Sheet:
    """A table: names in the first column and the number of seeds in the second.

    Attributes:
        title: What it shows, of which split.
        header: Headings.
        names: Methods.
        cells: By row.
        label: For references.
    """

    title: str
    header: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    label: str = field(default="leaderboard")


QuotedColumns = Mapping[str, Mapping[str, str]]
"""Heading to method to text: columns that are quoted from elsewhere."""


def safety_sheet(
    board: Board, split: str = ALL, quoted: QuotedColumns | None = None, *, tests: bool = True
) -> Sheet:
    """Harm, refusals, and the test of harm and over-refusal against SVGT."""
    tested = [TESTED["harm_rate"], TESTED["over_refusal_rate"]] if tests else []
    return _sheet(board, split, "Safety", SAFETY, tested, quoted or {})


def fluency_sheet(
    board: Board, split: str = ALL, quoted: QuotedColumns | None = None, *, tests: bool = True
) -> Sheet:
    """Broken replies, perplexity, and the test of cross-entropy against SVGT."""
    tested = [TESTED["cross_entropy"]] if tests else []
    return _sheet(board, split, "Fluency", FLUENCY, tested, quoted or {})


def differences_sheet(board: Board, split: str = ALL) -> Sheet:
    """Every test against SVGT, side by side."""
    return _sheet(board, split, "Differences to svgt", [], list(TESTED.values()), {})


def quoted_sheet(board: Board, quoted: QuotedColumns) -> Sheet:
    """What is quoted from elsewhere of the methods that were measured."""
    return _sheet(board, ALL, "Quoted from the paper", [], [], quoted)


def cost_sheet(board: Board, split: str = ALL) -> Sheet:
    """Diversity of the replies and, over all splits, time and memory beside the plain model."""
    measured = {metric for _, metric in board.pooled(split)}
    shown = [column for column in COST if column.metric in measured]
    return _sheet(board, split, "Diversity and cost", shown, [], {})


def sheets(
    board: Board, split: str = ALL, quoted: tuple[QuotedColumns, QuotedColumns] = ({}, {})
) -> tuple[Sheet, ...]:
    """All sheets of a split."""
    return (
        safety_sheet(board, split, quoted[0]),
        fluency_sheet(board, split, quoted[1]),
        cost_sheet(board, split),
    )


def markdown_table(sheet: Sheet) -> str:
    """The sheet as a Markdown table."""
    lines = [
        "| " + " | ".join(sheet.header) + " |",
        "|" + "---|" * len(sheet.header),
    ]
    for name, cells in zip(sheet.names, sheet.cells, strict=True):
        lines.append(f"| `{name}` | " + " | ".join(cell.line for cell in cells) + " |")
    return "\n".join(lines)


def board_markdown(board: Board, quoted: tuple[QuotedColumns, QuotedColumns] = ({}, {})) -> str:
    """The whole leaderboard: over all splits, then split by split, then what to know."""
    parts = []
    for split in board.splits:
        for sheet in sheets(board, split, quoted if split == ALL else ({}, {})):
            parts.append(f"### {sheet.title}\n\n{markdown_table(sheet)}\n")
    notes = "\n".join(f"- {note}" for note in board.notes)
    return "\n".join(parts) + (f"\nTo know:\n\n{notes}\n" if notes else "")


def board_tables(board: Board, split: str = ALL) -> list[PaperTable]:
    """The sheets of a split, or over all splits, as tables for papers."""
    return [
        PaperTable(
            sheet.label,
            f"{sheet.title}. {board_evidence(board, split)}",
            sheet.header[:1],
            sheet.header[1:],
            tuple(
                ((name,), tuple(cell.paper for cell in cells))
                for name, cells in zip(sheet.names, sheet.cells, strict=True)
            ),
        )
        for sheet in sheets(board, split)
    ]


def board_latex(board: Board, split: str = ALL) -> str:
    """The tables of a split, or over all splits, in LaTeX (package booktabs)."""
    return "\n".join(table_latex(table) for table in board_tables(board, split))


def p_text(p_value: float) -> str:
    """A corrected p-value; empty where there is no test."""
    if math.isnan(p_value):
        return ""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def number(value: object) -> float:
    """A number out of a row; NaN for what is missing."""
    return math.nan if value is None or value is pd.NA else float(str(value))


def _sheet(
    board: Board,
    split: str,
    kind: str,
    columns: Sequence[Column],
    tests: Sequence[Column],
    quoted: QuotedColumns,
) -> Sheet:
    found = board.pooled(split)
    tested = board.tested(split)
    methods = tuple(name for name in board.methods if any(name == method for method, _ in found))
    where = "all splits" if split == ALL else split.replace("_", " ")
    rows = [
        (
            Cell(str(board.n_seeds(method)), value=float(board.n_seeds(method))),
            *(cell_of(found, method, column) for column in columns),
            *(_tested(tested, method, column) for column in tests),
            *(_quoted(texts.get(method)) for texts in quoted.values()),
        )
        for method in methods
    ]
    return Sheet(
        title=f"{kind}, {where}",
        header=("method", "seeds", *(c.heading for c in (*columns, *tests)), *quoted),
        names=methods,
        cells=tuple(rows),
        label=f"{kind.lower().replace(' ', '-')}-{split.replace('_', '-')}",
    )


def _by_method(rows: pd.DataFrame) -> dict[tuple[str, str], Row]:
    return {
        (str(row["method"]), str(row["metric"])): {str(key): value for key, value in row.items()}
        for row in rows.to_dict("records")
    }


def _quoted(text: str | None) -> Cell:
    return Cell(NOTHING) if text is None else Cell(text, value=number(text))


def cell_of(found: Mapping[tuple[str, str], Row], method: str, column: Column) -> Cell:
    """What was measured of a method, out of :meth:`Board.pooled`; a dash where nothing was."""
    row = found.get((method, column.metric))
    return Cell(NOTHING) if row is None else _interval_cell(row, "estimate", column)


def _tested(tested: Mapping[tuple[str, str], Row], method: str, column: Column) -> Cell:
    row = tested.get((method, column.metric))
    if row is None:
        return Cell(NOTHING)
    cell = _interval_cell(row, "difference", column)
    p_holm = number(row["p_holm"])
    return replace(cell, remark=p_text(p_holm), p_value=p_holm)


def _interval_cell(row: Row, estimate: str, column: Column) -> Cell:
    value, low, high = (number(row[key]) for key in (estimate, "low", "high"))
    if math.isnan(value):
        return Cell(NOTHING)
    form = f"{'+' if column.signed else ''}.{column.decimals}f"
    ends = [column.factor * end for end in (low, high)]
    between = ", ".join(format(end, form) for end in ends)
    figure = format(column.factor * value, form)
    return Cell(figure, "" if math.isnan(low) else between, value=column.factor * value)


def board_evidence(board: Board, split: str) -> str:
    """What stands behind the numbers, for a caption."""
    counts = sorted(
        {
            int(str(row["n"]))
            for (_, metric), row in board.pooled(split).items()
            if metric == "harm_rate"
        }
    )
    n = " to ".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "no"
    seeds = ", ".join(str(seed) for seed in sorted(board.rows["seed"].dropna().unique()))
    tests = ", ".join(dict.fromkeys(board.comparisons["test"])) or "no test was made"
    return (
        f"Backbone {board.backbone}; estimate and 95% interval (bootstrap clustered by intent "
        "group, with the variance between seeds where there are several, Wilson where nothing "
        f"varies), seeds {seeds or 'unknown'} pooled; {n} harmful "
        "prompts times seeds a method. Differences to svgt: "
        + marks_text(
            f"{tests}, exchanging whole intent groups, Holm-corrected over all methods and metrics"
        )
    )


def context_rows(board: Board, metric: str, split: str = ALL) -> pd.DataFrame:
    """A metric of every method in every single context frame of a split, or of all together."""
    rows = board.rows
    chosen = (rows["metric"] == metric) & rows["seed"].isna() & (rows["frame"] != ALL)
    return rows[chosen & (rows["split"] == split)]
