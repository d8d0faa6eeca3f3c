"""From one number a prompt to records: means, rates, changes and shares, by clustered bootstrap.

Prompts of one intent stand in many contexts, so whole groups are resampled. All intervals of a run
use the same seed, so that quantities of the same prompts are resampled alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probes.records import NOT_MEASURED, Record
from workbench.statistics import (
    cluster_bootstrap,
    paired_cluster_bootstrap,
    permutation_test,
    relative_reduction,
    wilson,
)

Values = NDArray[np.float64]

NO_EFFECT = "not measured: the bridge has no clear effect here that could be shared out"
_MIN_CLUSTERS = 2


def as_values(tensor: Tensor) -> Values:
    """One float64 a prompt."""
    values: Values = tensor.detach().double().cpu().numpy()
    return values


@dataclass(frozen=True, eq=False)
class Estimates:
    """Makes records of one set of prompts.

    Attributes:
        base: A record with everything that they share.
        groups: The cluster of every prompt.
        n_resamples: Resamples of an interval.
    """

    base: Record
    groups: tuple[str, ...]
    n_resamples: int = 2000

    def of_rows(self, index: Sequence[int]) -> "Estimates":
        """The same for some of the prompts."""
        return replace(self, groups=tuple(self.groups[i] for i in index))

    def mean(self, record: Record, values: Values) -> Record:
        """The mean over prompts; NaN among them is left out."""
        return record.measured(
            cluster_bootstrap(
                values,
                self.clusters,
                rng=self.rng(),
                n_resamples=self.n_resamples,
                nan_policy="omit",
            )
        )

    def rate(self, record: Record, outcomes: Values) -> Record:
        """The share of prompts with an outcome; where all agree, Wilson's on the clusters."""
        measured = self.mean(record, outcomes)
        if measured.n < _MIN_CLUSTERS or measured.estimate not in (0.0, 1.0):
            return measured
        interval = wilson(round(measured.estimate * measured.n), measured.n)
        return replace(
            measured, low=interval.low, high=interval.high, ci_method="wilson, by cluster"
        )

    def change(self, record: Record, before: Values, after: Values) -> Record:
        """The mean of after - before, with a paired permutation test of no change."""
        interval = paired_cluster_bootstrap(
            before,
            after,
            self.clusters,
            rng=self.rng(),
            n_resamples=self.n_resamples,
            nan_policy="omit",
        )
        measured = record.measured(interval)
        if interval.n_clusters < _MIN_CLUSTERS:
            return measured
        test = permutation_test(
            before, after, paired=True, clusters=self.clusters, rng=self.rng(), nan_policy="omit"
        )
        return replace(
            measured, p_value=test.p_value, ci_method=f"{measured.ci_method}; {test.method}"
        )

    def lost(self, record: Record, full: Values, treated: Values, reference: Values) -> Record:
        """Share of the effect full - reference that is gone under a treatment.

        1 - mean(treated - reference) / mean(full - reference), over prompts where all three were
        measured; 1: nothing is left, 0: nothing is lost. Not measured where the interval of the
        effect holds 0, for then there is nothing to divide by.
        """
        effect, left = full - reference, treated - reference
        both = np.isfinite(effect) & np.isfinite(left)
        effect = np.where(both, effect, np.nan)
        if not self.is_clear(effect):
            unclear = NO_EFFECT if both.any() else ""
            reason = "; ".join(filter(None, (unclear, record.note))) or NOT_MEASURED
            return replace(record, note=reason, n=self._count(both))
        return record.measured(
            relative_reduction(
                effect,
                left,
                self.clusters,
                rng=self.rng(),
                n_resamples=self.n_resamples,
                nan_policy="omit",
            )
        )

    def kept(self, record: Record, full: Values, treated: Values, reference: Values) -> Record:
        """Share of the effect that is there under a treatment: 1 - lost."""
        lost = self.lost(record, full, treated, reference)
        return replace(lost, estimate=1 - lost.estimate, low=1 - lost.high, high=1 - lost.low)

    def is_clear(self, effect: Values) -> bool:
        """Whether the interval of the mean lies off zero."""
        interval = cluster_bootstrap(
            effect, self.clusters, rng=self.rng(), n_resamples=self.n_resamples, nan_policy="omit"
        )
        return bool(interval.low > 0 or interval.high < 0)

    @property
    def clusters(self) -> NDArray[Any]:
        """The cluster of every prompt, as an array."""
        return np.array(self.groups)

    def rng(self) -> np.random.Generator:
        """The generator that every interval starts from."""
        return np.random.default_rng(self.base.seed)

    def _count(self, measured: NDArray[np.bool_]) -> int:
        return len({group for group, kept in zip(self.groups, measured, strict=True) if kept})
