"""Whole groups drawn with replacement, as weights: one matrix product for all resamples.

For statistics that ``workbench.statistics`` does not have in closed form; means, rates and AUROC
are better taken from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.statistics import Interval

Floats = NDArray[np.float64]

LEVEL = 0.95
METHOD = "cluster bootstrap, percentile"


@dataclass(frozen=True, eq=False)
class ResampledGroups:
    """How often every resample of the groups holds every example.

    Attributes:
        weights: (resample, example).
        group: Number of every example's group.
    """

    weights: Floats
    group: NDArray[np.intp]

    @classmethod
    def draw(
        cls, groups: Sequence[str], *, rng: np.random.Generator, n_resamples: int
    ) -> "ResampledGroups":
        """As many groups as there are, with replacement, ``n_resamples`` times."""
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        drawn = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=n_resamples)
        return cls(drawn.astype(np.float64)[:, group], group)

    @property
    def n_groups(self) -> int:
        """Groups there are."""
        return int(self.group.max()) + 1

    def means(self, values: Floats) -> Floats:
        """Mean of every column of ``values`` (example, ...) in every resample."""
        sizes = self.weights.sum(axis=1)
        means: Floats = ((self.weights @ values).T / sizes).T
        return means

    def interval(self, estimate: float, draws: Floats) -> Interval:
        """Percentile interval of an estimate; NaN ends with one group or no finite draw."""
        finite = draws[np.isfinite(draws)]
        low = high = np.nan
        if self.n_groups > 1 and finite.size:
            low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(
            estimate, float(low), float(high), self.group.size, self.n_groups, LEVEL, METHOD
        )
