"""What several commands share: consoles, progress bars and quiet loading."""

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
from transformers.utils import logging as transformers_logging

from workbench.backbone import TransformerLensBackbone, load_backbone

_WIDTH = 100


def load_quietly(backbone: str) -> TransformerLensBackbone:
    """Load a backbone without the library's own progress bar, which spoils standard error."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return load_backbone(backbone)


def output() -> Console:
    """Standard output, 100 columns wide where nobody looks on."""
    width = None if sys.stdout.isatty() else _WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error, so that standard output holds results only."""
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else _WIDTH)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        yield progress
