"""The tables of all commands: what does not fit the width stands in a further table.

Columns of words wrap, but for those that ask not to (``no_wrap``); columns of numbers, which are
right-justified, are never cut. The words before the first number are the labels of the rows, and
every further table repeats them.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table

_EDGE, _GAP = 1, 2  # before the first column; after every column
_WORDS = 15  # a column of words is not made narrower than this


def new_table(title: str = "", *columns: str | Column) -> Table:
    """An empty table in the style of all commands."""
    return Table(
        *columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def print_table(console: Console, table: Table) -> None:
    """Print a table, in several where the console is too narrow for it.

    A window that is too narrow for the labels and one number is left to break the lines itself.
    """
    usual = console.width
    for number, kept in enumerate(_parts(console, table)):
        part = _part(table, kept, f"{table.title} (continued)" if number else f"{table.title}")
        console.width = max(usual, _needed(console, part.columns))
        console.print(part)
        console.width = usual


def _parts(console: Console, table: Table) -> list[list[int]]:
    """Which columns stand together, the labels in each."""
    is_number = [column.justify == "right" for column in table.columns]
    n_labels = is_number.index(True) if True in is_number else len(is_number)
    labels, rest = list(range(n_labels)), list(range(n_labels, len(is_number)))
    parts = [labels]
    for index in rest:
        wider = [*parts[-1], index]
        fits = _needed(console, [table.columns[i] for i in wider]) <= console.width
        if fits or parts[-1] == labels:
            parts[-1] = wider
        else:
            parts.append([*labels, index])
    return parts


def _needed(console: Console, columns: Sequence[Column]) -> int:
    """The narrowest that columns can stand side by side without a number cut."""
    return _EDGE + sum(_narrowest(console, column) + _GAP for column in columns)


def _narrowest(console: Console, column: Column) -> int:
    unlimited = console.options.update(width=10_000)
    texts = (column.header, *column.cells)
    natural = max(console.measure(text, options=unlimited).maximum for text in texts)
    whole = column.justify == "right" or column.no_wrap
    return natural if whole else min(natural, _WORDS)


def _part(table: Table, kept: Sequence[int], title: str) -> Table:
    columns = [table.columns[index] for index in kept]
    part = new_table(title, *(column.copy() for column in columns))
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part
