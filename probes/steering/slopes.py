"""How reliably a dose moves a quantity, prompt by prompt: slopes and what is said of them.

For prompt i with margin m_i(c) at coefficient c, the slope is that of the least-squares line,

    slope_i = sum_c (c - mean c) m_i(c) / sum_c (c - mean c)^2

(the *steerability* of arXiv 2407.12404). An intervention that works on average may still push many
prompts the wrong way: the share of negative slopes says how many (*anti-steerable* prompts there).

All intervals resample whole groups (clusters) of prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probes.resampling import LEVEL, Floats, ResampledGroups
from workbench.statistics import Interval, cluster_bootstrap, wilson

N_PERMUTATIONS = 1999


def least_squares_slopes(
    coefficients: Sequence[float], margins: Float[Tensor, "dose n"]
) -> Float[Tensor, " n"]:
    """Slope of the least-squares line through every prompt's margins, in float64."""
    doses = torch.tensor(coefficients, dtype=torch.float64, device=margins.device)
    centred = doses - doses.mean()
    return centred @ margins.double() / centred.square().sum()


def clustered_share(
    flags: NDArray[np.bool_], groups: Sequence[str], *, rng: np.random.Generator, n_resamples: int
) -> Interval:
    """Share of prompts for which something is so.

    Where all prompts agree, a resample can show nothing else and the interval would have no width:
    it is then Wilson's, with the number of groups as the number of trials.
    """
    n_groups = len(set(groups))
    if flags.any() and not flags.all():
        return cluster_bootstrap(flags, groups, rng=rng, n_resamples=n_resamples, level=LEVEL)
    bounds = wilson(n_groups * int(flags.any()), n_groups, LEVEL)
    method = "wilson on groups, as all prompts agree"
    return Interval(bounds.estimate, bounds.low, bounds.high, flags.size, n_groups, LEVEL, method)


def spread(
    slopes: Floats, groups: Sequence[str], *, rng: np.random.Generator, n_resamples: int
) -> Interval:
    """Standard deviation of the slopes over prompts."""
    resampled = ResampledGroups.draw(groups, rng=rng, n_resamples=n_resamples)
    variances = resampled.means(slopes**2) - resampled.means(slopes) ** 2
    return resampled.interval(float(slopes.std()), np.sqrt(np.clip(variances, 0.0, None)))


@dataclass(frozen=True)
class ContextShare:
    """How much of the slopes' variance lies between contexts.

    Attributes:
        share: SS_between / SS_total, between 0 and 1.
        null: What contexts that do not matter would give by chance.
        p_value: Of no difference between contexts.
    """

    share: Interval
    null: float
    p_value: float


def context_share(
    slopes: Floats,
    contexts: Sequence[str],
    groups: Sequence[str],
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> ContextShare | None:
    """Share of the slopes' variance that lies between contexts, or None where it has no meaning.

    A share is never negative, so chance alone gives some: null and p-value come from slopes
    permuted within groups, that is from exchanging the contexts of the same request. They need
    groups that stand in several contexts, as in a crossed design.

    Returns:
        None with fewer than two contexts, or slopes that are all equal.
    """
    names, where = np.unique(np.asarray(contexts), return_inverse=True)
    if names.size < 2 or not slopes.std() > 0:
        return None
    member = (where[:, None] == np.arange(names.size)).astype(np.float64)
    resampled = ResampledGroups.draw(groups, rng=rng, n_resamples=n_resamples)
    one = np.ones((1, slopes.size))
    estimate = float(_share_between(one, slopes, member)[0])
    null = _share_between(one, _shuffled_within(slopes, resampled.group, rng), member)
    draws = _share_between(resampled.weights, slopes, member)
    return ContextShare(
        share=resampled.interval(estimate, draws),
        null=float(null.mean()),
        p_value=float((1 + (null >= estimate - 1e-12).sum()) / (1 + null.size)),
    )


def _share_between(weights: Floats, values: Floats, member: Floats) -> Floats:
    """Share of the variance between contexts, for every row of weights or of values."""
    sizes = weights @ member
    sums = (weights * values) @ member
    correction = sums.sum(axis=1) ** 2 / sizes.sum(axis=1)
    total = (weights * values**2).sum(axis=1) - correction
    parts = np.divide(sums**2, sizes, out=np.zeros_like(sums), where=sizes > 0)
    between = parts.sum(axis=1) - correction
    share: Floats = np.divide(between, total, out=np.full(total.shape, np.nan), where=total > 0)
    return share


def _shuffled_within(values: Floats, group: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """Values permuted at random within their groups, (permutation, example)."""
    by_group = np.argsort(group, kind="stable")
    keys = group[by_group] + rng.random((N_PERMUTATIONS, group.size))
    shuffled = np.empty((N_PERMUTATIONS, group.size))
    shuffled[:, by_group] = values[by_group][np.argsort(keys, axis=1)]
    return shuffled
