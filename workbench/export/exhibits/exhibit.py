"""Tables and figures of one run, ready to be written."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from workbench.export.paper_tables import PaperTable

UNFINISHED = "UNFINISHED RUN: what is missing may change these numbers."
"""Before every caption of a run that has not finished."""


@dataclass(frozen=True, eq=False)
class PaperFigure:
    """A figure with its caption.

    Attributes:
        name: Of its file, and of its label.
        title: What it shows, in some words.
        caption: What it shows, how to read it, and what stands behind the numbers.
        figure: What is drawn.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True, eq=False)
class Exhibits:
    """What a paper can show of one run.

    Attributes:
        tables: In the order of a paper.
        figures: In the order of a paper.
    """

    tables: tuple[PaperTable, ...] = ()
    figures: tuple[PaperFigure, ...] = ()

    def unfinished(self) -> "Exhibits":
        """The same, with captions that say that the run has not finished."""
        return Exhibits(
            tuple(replace(t, caption=f"{UNFINISHED} {t.caption}") for t in self.tables),
            tuple(replace(f, caption=f"{UNFINISHED} {f.caption}") for f in self.figures),
        )


def paper_figure(
    name: str,
    title: str,
    figure: go.Figure | None,
    how_to_read: str | Callable[[go.Figure], str],
    evidence: str = "",
) -> Iterable[PaperFigure]:
    """The figure with its caption; nothing where there is no figure, or nothing in it.

    Args:
        name: Of its file.
        title: What it shows.
        figure: What is drawn.
        how_to_read: One or two sentences, or what makes them for this figure.
        evidence: n, seeds, and how intervals were made.
    """
    if figure is not None and any(map(_shows_something, figure.data)):
        reading = how_to_read(figure) if callable(how_to_read) else how_to_read
        caption = " ".join(filter(None, [f"{title}.", reading, evidence]))
        yield PaperFigure(name, title, caption, figure)


def _shows_something(trace: go.Scatter | go.Bar | go.Heatmap) -> bool:
    return trace.x is not None and len(trace.x) > 0


def joined(parts: Sequence[Iterable[PaperFigure]]) -> tuple[PaperFigure, ...]:
    """All figures, one after the other."""
    return tuple(figure for part in parts for figure in part)
