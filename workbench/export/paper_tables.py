r"""Tables for papers: numbers with intervals and significance marks, printed with booktabs.

A number stands as ``67.0 ± 8.8`` where its interval reaches equally far to both sides, to the last
printed digit, in the whole column; otherwise as ``67.0 [58.5, 76.0]``. Stars mark p-values that are
corrected already: ``*`` below 0.05, ``**`` below 0.01, ``***`` below 0.001.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeAlias

import pandas as pd

from workbench.export.latex import escape

NOTHING = "–"
"""What stands where nothing was measured."""

MARKS: tuple[tuple[float, str], ...] = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
MOST_ROWS = 30
"""Rows of one table; a longer one goes on in the next."""

_LINE = 86
"""Letters of the size ``small`` on a line across both columns."""
_SIZES = ((1.0, "small"), (9 / 8, "footnotesize"), (9 / 7, "scriptsize"))
"""How many times more letters a line has in a smaller size."""
_SHORT = 10
_LONGEST_NAME = 34
_NAME_INCHES = 1.75
_BETWEEN = 2.8
"""Letters that the space between two columns takes."""
_STACK = (
    r"\providecommand{\svgtcell}[2]{\begin{tabular}[t]{@{}r@{}}#1\\[-2pt]{\scriptsize #2}"
    r"\end{tabular}}"
)


@dataclass(frozen=True)
class Cell:
    """One cell: a number as it is printed, the ends of its interval, and its corrected p-value.

    Attributes:
        figure: The number, or any text.
        low, high: Ends of the interval; empty where there is none.
        p_value: After correction; NaN where nothing was tested.
    """

    figure: str = NOTHING
    low: str = ""
    high: str = ""
    p_value: float = math.nan

    @classmethod
    def of(
        cls, value: float, low: float, high: float, form: str, p_value: float = math.nan
    ) -> "Cell":
        """A cell from numbers; NaN was not measured.

        Args:
            value: The estimate, in the unit of the column.
            low: Lower end of its interval.
            high: Upper end.
            form: How numbers are written, for example ``+.1f``.
            p_value: After correction.
        """
        if math.isnan(value):
            return cls()
        if math.isnan(low) or math.isnan(high):
            return cls(_written(value, form), p_value=p_value)
        return cls(_written(value, form), _written(low, form), _written(high, form), p_value)

    @property
    def half_width(self) -> Decimal | None:
        """Half the interval, where it reaches equally far to both sides as printed."""
        if not self.low:
            return None
        value, low, high = (Decimal(text) for text in (self.figure, self.low, self.high))
        return high - value if high - value == value - low else None


Row: TypeAlias = tuple[tuple[str, ...], tuple[Cell, ...]]
"""Names and cells of one row."""


@dataclass(frozen=True)
class PaperTable:
    """A table: columns of names, then columns of numbers.

    Attributes:
        name: Of its file, and of its label.
        caption: What it shows, and what stands behind the numbers.
        names: Headings of the columns of names.
        columns: Headings of the columns of numbers.
        rows: Names and cells of each row.
    """

    name: str
    caption: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def mark(p_value: float) -> str:
    """The stars of a corrected p-value."""
    return next((stars for limit, stars in MARKS if p_value < limit), "")


def marks_text(test: str) -> str:
    """What stars mean, for a caption; ``test`` says which test and how it was corrected."""
    return f"* p < 0.05, ** p < 0.01, *** p < 0.001: {test}."


def parts_of(table: PaperTable, most: int = MOST_ROWS) -> list[PaperTable]:
    """The table in parts that fit on a page."""
    n = math.ceil(len(table.rows) / most)
    if n < 2:
        return [table]
    return [
        replace(
            table,
            name=f"{table.name}-{part + 1}",
            caption=f"{table.caption} Part {part + 1} of {n}.",
            rows=table.rows[part * most : (part + 1) * most],
        )
        for part in range(n)
    ]


def table_frame(table: PaperTable) -> pd.DataFrame:
    """The table as text, a cell with its interval and stars; columns without any name left out."""
    names = [
        (heading, [row[i] for row, _ in table.rows])
        for i, heading in enumerate(table.names)
        if any(row[i] != NOTHING for row, _ in table.rows)
    ]
    numbers = [
        (heading, [_plain(cells[i]) for _, cells in table.rows])
        for i, heading in enumerate(table.columns)
    ]
    return pd.DataFrame(dict([*names, *numbers]))


def table_latex(table: PaperTable) -> str:
    r"""The table in LaTeX, to be read with ``\input``; it needs the package booktabs alone.

    Intervals stand below their numbers where the line has no room beside them. A name that the row
    above has too is not repeated.
    """
    symmetric = tuple(
        _all_symmetric([cells[number] for _, cells in table.rows])
        for number in range(len(table.columns))
    )
    beside = _width(table, symmetric, beside=True) <= _LINE
    width = _width(table, symmetric, beside=beside)
    size = next((name for more, name in _SIZES if width <= more * _LINE), _SIZES[-1][1])
    names = _columns_of_names(table)
    wide = "*" if width > _LINE / 2 else ""
    lines = [
        r"% needs \usepackage{booktabs}",
        *([] if beside else [_STACK]),
        rf"\begin{{table{wide}}}",
        r"  \centering",
        rf"  \{size}",
        *([] if beside else [r"  \setlength{\tabcolsep}{4pt}"]),
        r"  \setlength{\belowcaptionskip}{4pt}",
        rf"  \caption{{{escape(table.caption)}}}",
        rf"  \label{{tab:{_label(table.name)}}}",
        rf"  \begin{{tabular}}{{{''.join(map(_name_column, names))}{'r' * len(table.columns)}}}",
        r"    \toprule",
        _line([*map(escape, table.names), *(_heading(text, beside) for text in table.columns)]),
        r"    \midrule",
        *(
            _line([*map(escape, names), *_cells_latex(cells, symmetric, beside=beside)])
            for names, cells in _without_repeats(table.rows)
        ),
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"\end{{table{wide}}}",
    ]
    return "\n".join(lines) + "\n"


def _heading(text: str, beside: bool) -> str:
    """A heading; on two lines where intervals stand below their numbers too."""
    lines = [text] if beside else _broken(text)
    parts = r" \\ ".join(map(escape, lines))
    return parts if len(lines) == 1 else rf"\shortstack[r]{{{parts}}}"


def _broken(text: str) -> list[str]:
    """A long heading on two lines, as equal as words allow."""
    words = text.split(" ")
    if len(text) <= _SHORT or len(words) == 1:
        return [text]
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return list(min(halves, key=lambda pair: max(map(len, pair))))


def _cells_latex(cells: Sequence[Cell], symmetric: Sequence[bool], *, beside: bool) -> list[str]:
    return [
        cell_latex(cell, plus_minus=even, beside=beside)
        for cell, even in zip(cells, symmetric, strict=True)
    ]


def _without_repeats(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, without the names before the first that differs from the row above."""
    above: tuple[str, ...] = ()
    for names, cells in rows:
        same = next((i for i, name in enumerate(names) if name != dict(enumerate(above)).get(i)), 0)
        yield ("",) * same + names[same:], cells
        above = names


def _width(table: PaperTable, symmetric: Sequence[bool], *, beside: bool) -> float:
    """About how many letters a line of the table has."""
    numbers = [
        [
            *([heading] if beside else _broken(heading)),
            *(_text(row[1][i], symmetric[i], beside) for row in table.rows),
        ]
        for i, heading in enumerate(table.columns)
    ]
    longest = [
        *(min(_LONGEST_NAME, max(map(len, column))) for column in _columns_of_names(table)),
        *(max(map(len, column)) for column in numbers),
    ]
    return sum(longest) + _BETWEEN * len(longest)


def _columns_of_names(table: PaperTable) -> list[list[str]]:
    return [[heading, *(row[0][i] for row in table.rows)] for i, heading in enumerate(table.names)]


def _name_column(names: Sequence[str]) -> str:
    """Names stand left; very long ones are broken into lines."""
    return rf"p{{{_NAME_INCHES}in}}" if max(map(len, names)) > _LONGEST_NAME else "l"


def _text(cell: Cell, plus_minus: bool, beside: bool) -> str:
    """What is about as wide as a cell."""
    if plus_minus or not cell.low:
        return f"{cell.figure} ± {cell.half_width}" if cell.low else cell.figure
    interval = f"[{cell.low}, {cell.high}]"
    return f"{cell.figure} {interval}" if beside else interval[: round(0.8 * len(interval))]


def _plain(cell: Cell) -> str:
    interval = f" [{cell.low}, {cell.high}]" if cell.low else ""
    return f"{cell.figure}{interval}{mark(cell.p_value)}"


def cell_latex(cell: Cell, *, plus_minus: bool, beside: bool = True) -> str:
    r"""One cell in LaTeX.

    Args:
        cell: The cell.
        plus_minus: Write ``± half`` where the interval is symmetric.
        beside: The interval stands on the line of its number; otherwise below it.
    """
    stars = mark(cell.p_value)
    figure = _mathematics(cell.figure, f"^{{{stars}}}" if stars else "")
    if not cell.low:
        return figure
    half = cell.half_width
    if plus_minus and half is not None:
        return f"{figure} $\\pm$ {_mathematics(str(half))}"
    interval = f"$[{cell.low}, {cell.high}]$"
    return f"{figure} {interval}" if beside else rf"\svgtcell{{{figure}}}{{{interval}}}"


def _all_symmetric(cells: Sequence[Cell]) -> bool:
    with_interval = [cell for cell in cells if cell.low]
    return bool(with_interval) and all(cell.half_width is not None for cell in with_interval)


def _mathematics(figure: str, raised: str = "") -> str:
    """A number in mathematics, where a minus is a minus; other texts are escaped."""
    try:
        Decimal(figure)
    except ArithmeticError:
        return escape(figure) + (f"${raised}$" if raised else "")
    return f"${figure}{raised}$"


def _written(value: float, form: str) -> str:
    text = format(value, form)
    return text.replace("-", "+" if "+" in form else "") if float(text) == 0 else text


def _label(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)


def _line(cells: Sequence[str]) -> str:
    # Braces: a cell that starts with "[" would be read as an option of the line before.
    return "    " + " & ".join(f"{{{cell}}}" for cell in cells) + r" \\"
