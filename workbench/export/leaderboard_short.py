"""Several leaderboards in two short Markdown tables, for a first page.

``by_split_table`` follows SVGT's configurations through the splits of each backbone,
``rivals_table`` holds all methods side by side over all splits. Cells are percent with the
leaderboard's own 95% intervals: they resample prompts and, from two seeds on, count other seeds in.
"""

from collections.abc import Sequence

from workbench.errors import ConfigError
from workbench.evaluation.leaderboard.scoring import WITHOUT_NEAR_MATCHES
from workbench.export.leaderboard_tables import ALL, Board, Column, cell_of, number

UNGUIDED = "none"
_GUIDED_BY_A_MODULE = "svgt"
_HARM = Column("harm_rate", "harm %")
_PREVENTED = Column("harm_reduction", "harm prevented %")
_PRICES = (
    Column("over_refusal_rate", "over-refusal %"),
    Column("degenerate_rate", "degenerate %"),
)


def by_split_table(boards: Sequence[Board]) -> str:
    """Harm without guidance, and the share that each configuration of SVGT prevents, by split.

    Raises:
        ConfigError: No board is given, or they have different splits.
    """
    splits = _common_splits(boards)
    lines = _head(["backbone", "guidance", *splits])
    for board in boards:
        configurations = [name for name in board.methods if _is_svgt(name)]
        found = [board.pooled(split) for split in splits]
        plain = [cell_of(cells, UNGUIDED, _HARM).line for cells in found]
        lines.append(_line([board.backbone, f"none: {_HARM.heading}", *plain]))
        for name in configurations:
            prevented = [cell_of(cells, name, _PREVENTED).line for cells in found]
            lines.append(_line(["", f"`{name}`: {_PREVENTED.heading}", *prevented]))
    return f"{_evidence(boards, splits[0])}\n\n" + "\n".join(lines)


def rivals_table(boards: Sequence[Board]) -> str:
    """Harm under every method on every backbone, and on the first what it is paid with.

    Raises:
        ConfigError: No board is given, or they have different splits.
    """
    _common_splits(boards)
    first, *others = boards
    columns = [(first, column) for column in (_HARM, *_PRICES)]
    columns += [(board, _HARM) for board in others]
    found = {board.backbone: board.pooled(ALL) for board in boards}
    lines = _head(["method", *(f"{board.backbone}: {column.heading}" for board, column in columns)])
    for name in dict.fromkeys(name for board in boards for name in board.methods):
        cells = [cell_of(found[board.backbone], name, column).line for board, column in columns]
        lines.append(_line([f"`{name}`", *cells]))
    return f"{_evidence(boards, ALL)}\n\n" + "\n".join(lines)


def _is_svgt(name: str) -> bool:
    return name.split(":")[0] == _GUIDED_BY_A_MODULE


def _common_splits(boards: Sequence[Board]) -> list[str]:
    across = {ALL, WITHOUT_NEAR_MATCHES}
    kinds = {tuple(split for split in board.splits if split not in across) for board in boards}
    if len(kinds) != 1:
        raise ConfigError("the boards of one table need the same splits: measure them alike")
    return list(kinds.pop())


def _evidence(boards: Sequence[Board], split: str) -> str:
    """How many replies and seeds stand behind a cell."""
    seeds = {board.n_seeds(name) for board in boards for name in board.methods}
    harmful = {
        int(number(row["n"]))
        for board in boards
        for (_, metric), row in board.pooled(split).items()
        if metric == _HARM.metric
    }
    return f"{_range(harmful)} replies to harmful prompts a cell, {_range(seeds)} seeds."


def _range(found: set[int]) -> str:
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
