"""What several commands share: consoles and progress bars."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_UNLIMITED = 10_000


def output() -> Console:
    """Standard output, as wide as its window or COLUMNS; a file without COLUMNS is not limited."""
    return Console(file=sys.stdout, width=_width(sys.stdout.isatty()), highlight=False)


def error_console() -> Console:
    """Standard error, as wide as standard output would be."""
    return Console(file=sys.stderr, width=_width(sys.stderr.isatty()))


def _width(is_terminal: bool) -> int | None:
    """Columns; None: the window's."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    return None if is_terminal else _UNLIMITED


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error, so that standard output holds results only."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=error_console(),
    ) as progress:
        yield progress
