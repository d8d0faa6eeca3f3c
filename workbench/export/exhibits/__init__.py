"""What a paper can show of a run: its tables and figures, with captions, for every kind of run."""

from workbench.export.exhibits.exhibit import Exhibits, PaperFigure
from workbench.export.exhibits.kinds import KINDS, exhibits_of

__all__ = ["KINDS", "Exhibits", "PaperFigure", "exhibits_of"]
