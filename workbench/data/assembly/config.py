"""How rows of sources become training and validation data."""

from dataclasses import dataclass

from workbench.errors import ConfigError


@dataclass(frozen=True)
class AssemblyConfig:
    """What is taken, and how it is split.

    Attributes:
        validation_share: Share of the groups on which each stage's best state is chosen.
        max_per_source: Most rows of one source; whole groups are drawn. None: all.
        balance: Most examples of the larger class for one of the smaller, in the training prompts
            and in the training pairs; validation keeps the proportions of the data. None: as is.
        drop_overlaps: Leave out what an evaluation set holds too, and training prompts that nearly
            equal one of validation; otherwise both are only reported.
    """

    validation_share: float = 0.1
    max_per_source: int | None = None
    balance: float | None = None
    drop_overlaps: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.validation_share < 1.0:
            raise ConfigError(
                f"validation_share = {self.validation_share}: give a share between 0 and 1"
            )
        if self.max_per_source is not None and self.max_per_source < 1:
            raise ConfigError("max_per_source must be at least 1")
        if self.balance is not None and self.balance < 1.0:
            raise ConfigError(
                f"balance = {self.balance}: the larger class cannot be held below the smaller one; "
                "give 1 (equal) or more"
            )
