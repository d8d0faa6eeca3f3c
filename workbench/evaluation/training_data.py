"""What a training reads, wherever it comes from: the protocol that every kind of data follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from workbench.backbone.protocol import Backbone
from workbench.data.assembly import DataReport
from workbench.data.training import ValueData
from workbench.svgt.curriculum.curriculum import MeasureHarm
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.curriculum.state_bank import BATCH_SIZE


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Examples, and what is measured on generated replies while the bridge is trained.

    Attributes:
        train: Examples to learn from.
        validation: Examples on which each stage's best state is chosen.
        report: What became of every row.
        measure: Judges replies under a module; None where nothing can be judged. It never chooses
            the best state: the validation loss does.
        n_measured: Replies behind what it says.
        state_bytes: Memory that the states of stages 1 and 2 take.
    """

    train: ValueData
    validation: ValueData
    report: DataReport
    measure: MeasureHarm | None = None
    n_measured: int = 0
    state_bytes: int = 0


@runtime_checkable
class TrainingData(Protocol):
    """A kind of data that a value module can be trained on."""

    def settings(self) -> Mapping[str, object]:
        """What a run folder keeps of it; a resumed training must say the same."""
        ...

    def says_the_same(self, kept: object) -> bool:
        """Whether an older folder's settings mean this data."""
        ...

    def prepare(
        self, backbone: Backbone, recipe: Recipe, *, seed: int, batch_size: int = BATCH_SIZE
    ) -> PreparedData:
        """Draw or assemble the examples; replies to measure are generated ``batch_size`` at a time.

        Raises:
            DataError: A stage would have no examples or only one class.
        """
        ...
