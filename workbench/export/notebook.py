"""What a notebook shows of records: printed figures and tables that a web page can display.

A plotly figure in a notebook is megabytes of script that hosts of code refuse to run. A printed one
is an image of some kilobytes, and a table is Markdown; both are there without running anything.
"""

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import ExportError
from workbench.export.exhibits.exhibit import Exhibits
from workbench.export.paper_tables import Cell, PaperTable, mark
from workbench.export.printing import DOUBLE, png_bytes, print_figure

_SCREEN_DOTS = 130
"""Dots an inch at which a page lays an image out: letters of print read like its own text."""
_DOTS = 195
"""Dots an inch of the image itself, for sharp letters on a dense screen."""


class Words:
    """A text in Markdown.

    Attributes:
        text: What it says.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


class Picture:
    """A figure as an image, drawn as for print.

    Attributes:
        figure: What is drawn.
        width: In inches of print.
    """

    def __init__(self, figure: go.Figure, width: float = DOUBLE) -> None:
        self.figure = figure
        self.width = width

    def __repr__(self) -> str:
        return f"Picture of {len(self.figure.data)} series"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The image, and how large a page shows it."""
        drawn = print_figure(self.figure, self.width)
        width, height = (round(_SCREEN_DOTS * float(inches)) for inches in drawn.get_size_inches())
        return png_bytes(drawn, _DOTS), {"width": width, "height": height}


def shown(exhibits: Exhibits, *names: str) -> list[Picture | Words]:
    """Exhibits by name, each with its caption below it: ``display(*shown(exhibits, "index"))``.

    Raises:
        ExportError: No figure or table of that name; the message says which there are.
    """
    figures = {figure.name: figure for figure in exhibits.figures}
    tables = {table.name: table for table in exhibits.tables}
    found: list[Picture | Words] = []
    for name in names:
        if name in figures:
            found += [Picture(figures[name].figure), _caption(figures[name].caption)]
        elif name in tables:
            found += [_paper_table(tables[name]), _caption(tables[name].caption)]
        else:
            there = ", ".join([*figures, *tables]) or "none"
            raise ExportError(f"no exhibit '{name}' in this run; there are {there}")
    return found


def table(frame: pd.DataFrame, digits: int = 2) -> Words:
    """A table without its index: texts to the left, numbers to the right and rounded.

    Args:
        frame: What stands there; a missing value becomes a dash.
        digits: Behind the point of numbers that are not whole.
    """
    to_the_right = [frame[name].dtype.kind in "iuf" for name in frame]
    rows = [[_text(value, digits) for value in row] for row in frame.itertuples(index=False)]
    return _markdown([str(name) for name in frame], to_the_right, rows)


def _paper_table(found: PaperTable) -> Words:
    rows = [[*names, *(_cell(cell) for cell in cells)] for names, cells in found.rows]
    to_the_right = [False] * len(found.names) + [True] * len(found.columns)
    return _markdown([*found.names, *found.columns], to_the_right, rows)


def _markdown(
    headings: Iterable[str], to_the_right: Iterable[bool], rows: Iterable[Iterable[str]]
) -> Words:
    rule = ["---:" if right else ":---" for right in to_the_right]
    lines = [map(_escaped, headings), rule, *(map(_escaped, row) for row in rows)]
    return Words("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _caption(text: str) -> Words:
    return Words(_escaped(text))


def _cell(cell: Cell) -> str:
    interval = f" [{cell.low},\u00a0{cell.high}]" if cell.low else ""
    return f"{cell.figure}{interval}{mark(cell.p_value)}"


def _text(value: object, digits: int) -> str:
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """As it stands: no bar ends a cell, no star or underscore sets a style."""
    for sign in "\\|*_<$":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
