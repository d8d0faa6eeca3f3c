"""What the instability analysis is to do."""

from dataclasses import dataclass, field

from probes.contrasts import MIN_PER_CLASS
from probes.directions import ESTIMATORS
from workbench.arguments import require_field_types
from workbench.errors import ConfigError

CHEAP = "mean_difference"
"""The estimator that costs one matrix product for all resamples."""


@dataclass(frozen=True)
class Effort:
    """How many resamples and splits a part of the analysis takes.

    Attributes:
        resamples: Resamples of the groups, each used with its mirror image.
        splits: Random halvings of the groups.

    Raises:
        ConfigError: Fewer than 10 resamples, which carry no interval, no split, or another type.
    """

    resamples: int
    splits: int

    def __post_init__(self) -> None:
        require_field_types(self)
        if self.resamples < 10:
            raise ConfigError(f"resamples = {self.resamples}: an interval needs at least 10")
        if self.splits < 1:
            raise ConfigError(f"splits = {self.splits}: at least 1 is needed")


@dataclass(frozen=True)
class InstabilityConfig:
    """Settings of :func:`run_instability`.

    Attributes:
        estimators: Which directions are fitted.
        contexts: Which contexts are analysed; all that the sets have if None.
        cheap: Effort for the difference of means.
        costly: Effort for the other estimators.
        transfer: Effort for transfer and shares of variance, at most that of the estimator.
        controls: Effort for selectivity and, its splits, for permuted labels.
        angles: Effort for principal angles.
        subspace: Dimensions of the subspaces compared.
        floor: Split-half cosine that a direction must exceed with 95% confidence before its
            cosines are corrected.
        min_per_class: Fewest examples of a class for a direction.
        permutations: Label permutations for the difference of means.
        costly_permutations: For the other estimators; the smallest p-value is 1 / (1 + this).
        random_directions: Directions drawn at random.
        control_tasks: Random labellings of the requests.

    Raises:
        ConfigError: An unknown or repeated estimator, no context, a number out of range, or another
            type.
    """

    estimators: tuple[str, ...] = ("mean_difference", "logistic", "lda")
    contexts: tuple[str, ...] | None = None
    cheap: Effort = field(default_factory=lambda: Effort(200, 4))
    costly: Effort = field(default_factory=lambda: Effort(30, 3))
    transfer: Effort = field(default_factory=lambda: Effort(30, 2))
    controls: Effort = field(default_factory=lambda: Effort(10, 1))
    angles: Effort = field(default_factory=lambda: Effort(10, 1))
    subspace: int = 3
    floor: float = 0.1
    min_per_class: int = MIN_PER_CLASS
    permutations: int = 199
    costly_permutations: int = 39
    random_directions: int = 200
    control_tasks: int = 3

    def __post_init__(self) -> None:
        require_field_types(self)
        unknown = [name for name in self.estimators if name not in ESTIMATORS]
        if unknown or not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ConfigError(
                f"estimators = {', '.join(self.estimators) or 'none'}: name each of "
                f"{', '.join(ESTIMATORS)} at most once, and at least one"
            )
        if self.contexts == ():
            raise ConfigError("contexts is empty: name at least one, or None for all there are")
        if not 0 <= self.floor < 1:
            raise ConfigError(f"floor = {self.floor}: choose a cosine from 0 to below 1")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least {least} needed")

    def effort(self, estimator: str) -> Effort:
        """Resamples and splits of one estimator."""
        return self.cheap if estimator == CHEAP else self.costly

    def n_permutations(self, estimator: str) -> int:
        """Label permutations of one estimator."""
        return self.permutations if estimator == CHEAP else self.costly_permutations


_LEAST = {
    "subspace": 1,
    "min_per_class": 4,
    "permutations": 19,
    "costly_permutations": 19,
    "random_directions": 20,
    "control_tasks": 1,
}
