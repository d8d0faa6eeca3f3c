"""Summary rows as tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from workbench.cli._layout import new_table

Row = Mapping[str, object]


@dataclass(frozen=True)
class _Column:
    """One metric of a table: its heading, what its numbers are multiplied by, and decimals."""

    metric: str
    heading: str
    factor: float = 100.0
    decimals: int = 1
    signed: bool = False


_RATES = (
    _Column("harm_rate", "harm"),
    _Column("refusal_rate", "harmful\nrefused"),
    _Column("benign_refusal_rate", "benign\nrefused"),
    _Column("lookalike_refusal_rate", "look-alike\nrefused"),
    _Column("degenerate_rate", "degenerate"),
    _Column("on_topic_rate", "on topic"),
)
_CHANGES = (
    _Column("harm_reduction", "harm\nreduced by", signed=True),
    _Column("refusal_increase", "harmful\nrefused", signed=True),
    _Column("benign_refusal_increase", "benign\nrefused", signed=True),
    _Column("lookalike_refusal_increase", "look-alike\nrefused", signed=True),
)
_COSTS = (
    _Column("degenerate_increase", "degenerate", signed=True),
    _Column("cross_entropy_increase", "nats\na token", factor=1.0, decimals=4, signed=True),
)
_FLUENCY = (
    _Column("perplexity", "perplexity", factor=1.0, decimals=3),
    _Column("cross_entropy", "nats\na token", factor=1.0, decimals=4),
    _Column("kl_to_unguided", "KL to unguided\nnats a token", factor=1.0, decimals=4),
)
_TABLES: Mapping[str, Sequence[_Column]] = {
    "Replies, % with 95% interval": _RATES,
    "Harmless reference replies": _FLUENCY,
    "Change of harm and refusals against no guidance on the same prompts, % and points": _CHANGES,
    "Change of quality against no guidance on the same prompts, points and nats": _COSTS,
}


def result_tables(rows: Sequence[Row]) -> list[Table]:
    """The averages over frames: rates, fluency, and changes against no guidance.

    A column in which nothing was measured is left out, and so is a table without columns.
    """
    averages = [row for row in rows if row["frame"] == "all"]
    measured = {row["metric"] for row in averages if not math.isnan(_number(row, "estimate"))}
    tables = []
    for title, columns in _TABLES.items():
        found = [column for column in columns if column.metric in measured]
        if found:
            tables.append(_table(averages, title, found))
    return tables


def _table(rows: Sequence[Row], title: str, columns: Sequence[_Column]) -> Table:
    table = new_table(title)
    table.add_column("split / guidance", max_width=30, overflow="fold")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    named = {column.metric for column in columns}
    found = {(row["split"], _name(row), row["metric"]): row for row in rows}
    shown = dict.fromkeys((row["split"], _name(row)) for row in rows if row["metric"] in named)
    for split in dict.fromkeys(split for split, _ in shown):
        table.add_row(f"[bold]{escape(str(split))}[/bold]")
        for _, guidance in (key for key in shown if key[0] == split):
            cells = [_cell(found.get((split, guidance, c.metric)), c) for c in columns]
            table.add_row(f"  {escape(guidance)}", *cells)
    return table


def _name(row: Row) -> str:
    return f"{row['guidance']}:{row['config']}" if row["config"] else str(row["guidance"])


def _cell(row: Row | None, column: _Column) -> str:
    """Estimate above its interval; a dash for what was not measured."""
    estimate, low, high = (_number(row, key) for key in ("estimate", "low", "high"))
    if math.isnan(estimate):
        return "–"
    sign = "+" if column.signed else ""
    figure = f"{_rounded(estimate, column):{sign}.{column.decimals}f}"
    between = " to " if column.signed else "–"
    ends = between.join(f"{_rounded(end, column):.{column.decimals}f}" for end in (low, high))
    return f"{figure}\n[dim]{ends}[/dim]"


def _rounded(value: float, column: _Column) -> float:
    """As shown; what rounds to nothing has no sign."""
    return round(column.factor * value, column.decimals) + 0.0


def _number(row: Row | None, key: str) -> float:
    value = None if row is None else row[key]
    return math.nan if value is None else float(str(value))
