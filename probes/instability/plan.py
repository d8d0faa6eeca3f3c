"""One plan of resamples and halves, shared by every site, layer, context and estimator.

Groups (all examples of one request, in all contexts) are what was sampled, so they are drawn and
split whole, jointly over contexts: the plan says how much every resample weighs every *group*, and
every set of states looks its examples up. Differences between sites are therefore paired.

**Halves.** ``n_halves`` random halvings of the groups, balanced over the classes. They are fixed: a
resample reweighs groups inside the same halves, so that the draw of the halves adds no noise to a
comparison of resamples, and a group never stands in both halves.

**Resamples.** Drawing groups with replacement, the plain bootstrap, fails here. A reliability or a
corrected cosine is a function of products over *pairs* of groups; a resample repeats groups, which
doubles the noise of every direction and makes the denominators touch zero, and where directions do
not turn (the interesting null) the variance of the bootstrap is at least three times too large:
its 95% intervals covered 100% in simulations. So every resample r instead gives half of the groups
the weight 1 + t and the other half 1 - t, balanced over the classes, and is used together with its
mirror image (Fay's balanced half-samples, Judkins 1990, J. Off. Stat. 6:223). With T0 the
statistic of the sample, T+ and T- of a resample and its mirror image,

    L_r = (T+ - T-) / 2t            its linear part: sum_g e_g f_g over group influences f_g
    Q_r = (T+ + T- - 2 T0) / 2t²    its quadratic part: what pairs of groups add
    var(T0) = mean(L²) - var(Q), but at least mean(L²) / 2

Resampling variances of the linear kind count the variance from pairs of groups twice (Efron &
Stein 1981, Ann. Stat. 9:586); Q measures it, and taking it away once leaves the right amount. The
bounds follow: where pairs are all there is, half of mean(L²) remains, where there are none, all.
Intervals are T0 ± t-quantile times the root of that variance. Its degrees of freedom are the number
of resamples, but no more than the groups less one for each class: few groups leave few.

**Test.** L_r is also what the difference between two sites would become, to first order, if in half
of the groups the two sites changed their names: the contribution f_g of such a group changes its
sign. :meth:`Spread.sign_flip_p_value` compares the measured difference D to these. What changes its
sign is f_g with its share D/n of the difference, which f_g, a deviation, lacks: L is lengthened by
√(1 + D²/(n mean(L²))), without which few groups reject too often. Contexts are chosen, not drawn,
so what is exchanged are groups, never pairs of contexts, which share directions and would count
each prompt many times over.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probes.contrasts import ContrastSet
from workbench.errors import DataError

LEVEL = 0.95
_CLASSES = 2
TILT = 0.5
"""t: how far a resample moves a group's weight away from 1."""

METHOD = "cluster bootstrap, mirrored half-samples, second-order corrected"
TEST = "sign flips of group contributions"
_MOST_UNMEASURED = 0.05
"""Share of resamples that may be unmeasured before an interval is."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResamplePlan:
    """How every resample weighs every group, and how every split halves the groups.

    Attributes:
        groups: Names of the groups, sorted.
        signs: +1 where a resample gives more weight, -1 where less.
        first: True where a group stands in the first half of a split.
    """

    groups: tuple[str, ...]
    signs: Float[Tensor, "resample group"]
    first: Bool[Tensor, "split group"]

    @classmethod
    def draw(
        cls,
        sets: Sequence[ContrastSet],
        *,
        n_resamples: int,
        n_halves: int,
        rng: np.random.Generator,
    ) -> "ResamplePlan":
        """A plan over all groups that stand in any of the sets.

        Raises:
            DataError: There are fewer than four groups: halves of them cannot be compared.
        """
        strata = _strata(sets)
        groups = tuple(sorted(group for members in strata for group in members))
        if len(groups) < 4:
            raise DataError(
                f"{len(groups)} groups of examples found, at least 4 are needed to compare halves: "
                "collect more prompts, or give unrelated prompts different groups"
            )
        number = {group: i for i, group in enumerate(groups)}
        members = [np.array([number[group] for group in stratum]) for stratum in strata]
        signs = _balanced_signs(members, n_resamples, len(groups), rng)
        first = _balanced_signs(members, n_halves, len(groups), rng) > 0
        return cls(groups, torch.from_numpy(signs).float(), torch.from_numpy(first))

    @property
    def n_resamples(self) -> int:
        """Resamples, each counted once though it is used with its mirror image."""
        return len(self.signs)

    @property
    def n_halves(self) -> int:
        """Random halvings."""
        return len(self.first)

    def shortened(self, n_resamples: int, n_halves: int) -> "ResamplePlan":
        """The first resamples and splits, for what costs more."""
        return replace(self, signs=self.signs[:n_resamples], first=self.first[:n_halves])

    def numbers(self, groups: Sequence[str]) -> Int[Tensor, " n"]:
        """Every example's group as a number."""
        number = {group: i for i, group in enumerate(self.groups)}
        return torch.tensor([number[group] for group in groups], dtype=torch.long)

    def weights(self, numbers: Int[Tensor, " n"]) -> Float[Tensor, "draw n"]:
        """Weight of every example in the sample (row 0), the resamples, and their mirror images.

        Args:
            numbers: Number of every example's group.
        """
        signs = self.signs[:, numbers]
        return torch.cat([torch.ones_like(signs[:1]), 1 + TILT * signs, 1 - TILT * signs])

    def halves(self, numbers: Int[Tensor, " n"]) -> Bool[Tensor, "split half n"]:
        """Which examples each half of each split holds.

        Args:
            numbers: Number of every example's group.
        """
        first = self.first[:, numbers]
        return torch.stack([first, ~first], dim=1)

    def draws(self, n_resamples: int) -> Int[Tensor, " row"]:
        """Rows of the weights that a plan shortened to so many resamples has."""
        kept = torch.arange(1, n_resamples + 1)
        return torch.cat([torch.zeros(1, dtype=torch.long), kept, kept + self.n_resamples])


@dataclass(frozen=True, eq=False)
class Spread:
    """A statistic of the sample and how its resamples scatter; any number of statistics at once.

    Attributes:
        estimate: Of the sample.
        linear: Linear part of every resample.
        error: Standard error; NaN where too many resamples are unmeasured.
    """

    estimate: Floats
    linear: Floats
    error: Floats

    @classmethod
    def of(cls, values: Float[Tensor, "draw *statistic"]) -> "Spread":
        """From a statistic of the sample and of every resample, in the order of the weights."""
        found = values.detach().double().numpy()
        draws = np.where(np.isfinite(found), found, np.nan)  # a ratio to nothing is not measured
        sample, (plus, minus) = draws[0], np.split(draws[1:], 2)
        linear = (plus - minus) / (2 * TILT)
        quadratic = (plus + minus - 2 * sample) / (2 * TILT**2)
        missing = np.isnan(linear).mean(axis=0) > _MOST_UNMEASURED
        first = _nan_mean(linear**2)
        second = _nan_mean((quadratic - _nan_mean(quadratic)) ** 2)
        variance = np.clip(first - second, first / 2, first)
        kept = np.divide(variance, first, out=np.ones_like(first), where=first > 0)
        error = np.where(missing, np.nan, np.sqrt(variance))
        return cls(np.asarray(sample), linear * np.sqrt(kept), np.asarray(error))

    def bounds(
        self, lowest: float = -np.inf, highest: float = np.inf, *, n_groups: int
    ) -> tuple[Floats, Floats]:
        """Ends of the interval, cut at what the quantity cannot exceed."""
        reach = self._quantile((1 + LEVEL) / 2, n_groups) * self.error
        return (
            np.asarray(np.clip(self.estimate - reach, lowest, highest)),
            np.asarray(np.clip(self.estimate + reach, lowest, highest)),
        )

    def share_bounds(self, *, n_groups: int) -> tuple[Floats, Floats]:
        """Ends of the interval of a share or an AUROC, made on the logit scale.

        NaN at 0 and 1: resamples of a sample without errors have none either, which says nothing
        about the errors there would be in another sample.
        """
        inside = (self.estimate > 0) & (self.estimate < 1)
        share = np.where(inside, self.estimate, np.nan)
        centre = np.log(share / (1 - share))
        reach = self._quantile((1 + LEVEL) / 2, n_groups) * self.error / (share * (1 - share))
        ends = (1 / (1 + np.exp(reach - centre)), 1 / (1 + np.exp(-reach - centre)))
        return np.asarray(ends[0]), np.asarray(ends[1])

    def lower_bound(self, *, n_groups: int) -> Floats:
        """What the quantity exceeds with 95% confidence."""
        return np.asarray(self.estimate - self._quantile(LEVEL, n_groups) * self.error)

    def sign_flip_p_value(self, *, n_groups: int) -> Floats:
        """Two-sided, of no difference; see the head of this module."""
        scatter = n_groups * (self.linear**2).mean(axis=0)
        share = np.divide(
            self.estimate**2, scatter, out=np.zeros_like(scatter), where=np.asarray(scatter) > 0
        )
        flipped = np.abs(self.linear) * np.sqrt(1 + share)
        extreme = flipped >= np.abs(self.estimate) * (1 - 1e-12)
        p_value = (1 + extreme.sum(axis=0)) / (1 + self._n_resamples)
        return np.asarray(np.where(np.isnan(self.error + self.estimate), np.nan, p_value))

    @property
    def _n_resamples(self) -> int:
        return len(self.linear)

    def _quantile(self, probability: float, n_groups: int) -> float:
        freedom = max(1, min(self._n_resamples, n_groups - _CLASSES))
        return float(stats.t.ppf(probability, freedom))


def _nan_mean(values: Floats) -> Floats:
    """Mean over resamples that were measured; NaN without any."""
    measured = ~np.isnan(values)
    total = np.where(measured, values, 0.0).sum(axis=0)
    count = measured.sum(axis=0)
    return np.asarray(
        np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    )


def _strata(sets: Sequence[ContrastSet]) -> list[list[str]]:
    """Groups that hold the same classes in the same contexts."""
    holds: dict[str, set[tuple[str, str, bool]]] = defaultdict(set)
    for given in sets:
        for group, context, positive in zip(
            given.group, given.context, given.positive.tolist(), strict=True
        ):
            holds[group].add((given.contrast, context, positive))
    strata: dict[frozenset[tuple[str, str, bool]], list[str]] = defaultdict(list)
    for group in sorted(holds):
        strata[frozenset(holds[group])].append(group)
    return [strata[key] for key in sorted(strata, key=sorted)]


def _balanced_signs(
    strata: Sequence[NDArray[np.intp]], n_rows: int, n_groups: int, rng: np.random.Generator
) -> Floats:
    """Random rows of +1 and -1, in equal numbers within every stratum up to one group."""
    signs = np.empty((n_rows, n_groups))
    alternating = np.where(np.arange(n_groups) % 2 == 0, 1.0, -1.0)
    for row in signs:
        order = np.concatenate([rng.permutation(stratum) for stratum in strata])
        row[order] = alternating * rng.choice((-1.0, 1.0))
    return signs
