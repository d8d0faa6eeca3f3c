"""Estimates with intervals: NumPy in, small records out, the random generator passed in.

Examples are rarely independent: the same prompt stands in many context frames, the same intent in
many wordings. Everything here therefore takes ``clusters``, one label per value, and resamples
whole clusters. With weights w_rg (how often resample r drew cluster g), cluster sums S_g and sizes
C_g, the resampled mean is ``sum_g w_rg S_g / sum_g w_rg C_g``: one matrix product for all
resamples, no loop.

NaN means *not measured*. It never turns into a number silently: a NaN among the values raises
unless the caller says ``nan_policy="omit"``, and an estimate or interval that the data cannot
carry (no values, one cluster, one class) is NaN.

Bootstrap intervals are percentile intervals. A sample without any spread (0 harmful of 200) has
one of width zero, which says nothing about the risk left; :func:`wilson` on the number of
clusters does (:func:`interval_of_a_rate`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as _statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from workbench.errors import NonFiniteError

NanPolicy: TypeAlias = Literal["raise", "omit"]
Floats: TypeAlias = NDArray[np.float64]

_BLOCK = 4_000_000
"""Entries of a weight matrix that are held at a time (32 MB)."""

_EXACT_BELOW = 25
"""Discordant pairs under which McNemar's test is exact: its chi-square needs more."""


@dataclass(frozen=True)
class Interval:
    """An estimate and how sure one can be of it; NaN stands for *not measured*.

    Attributes:
        estimate: the statistic on the data itself.
        low: lower end of the interval.
        high: upper end of the interval.
        n: values that entered.
        n_clusters: independent groups they fall into.
        level: nominal coverage, 0.95 for example.
        method: how the interval was made.
    """

    estimate: float
    low: float
    high: float
    n: int
    n_clusters: int
    level: float
    method: str


@dataclass(frozen=True)
class Significance:
    """The outcome of a test of no difference.

    Attributes:
        statistic: the observed difference (b - a).
        p_value: two-sided.
        n: values or pairs that entered.
        method: the test.
    """

    statistic: float
    p_value: float
    n: int
    method: str


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator,
    statistic: Callable[[Floats], float] | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    nan_policy: NanPolicy = "raise",
) -> Interval:
    """Percentile interval of a statistic, resampling whole clusters.

    Args:
        values: one number per example, shape ``(n,)``; booleans count as 0 and 1.
        clusters: one label per example, shape ``(n,)``.
        rng: the only source of randomness.
        statistic: of the resampled values; the mean if left out, which is computed for all
            resamples at once, while any other is called once a resample.
        n_resamples: resamples of the clusters.
        level: nominal coverage.
        nan_policy: "omit" leaves unmeasured values out, "raise" refuses them.

    Raises:
        NonFiniteError: a value is infinite, or NaN under ``nan_policy="raise"``.
        ValueError: lengths differ, or a parameter is out of range.
    """
    _check(n_resamples, level)
    (sample,), groups = _prepare([values], clusters, nan_policy)
    if statistic is None:
        draws = _resampled_means(sample, groups, rng, n_resamples)
        estimate = _mean(sample)
    else:
        members = [np.flatnonzero(groups.index == group) for group in range(groups.count)]
        draws = np.array(
            [
                statistic(sample[np.concatenate([members[group] for group in drawn])])
                for drawn in _drawn_clusters(groups.count, rng, n_resamples)
            ]
        )
        estimate = float(statistic(sample)) if sample.size else np.nan
    return _percentile(estimate, draws, sample.size, groups, level)


def paired_cluster_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    nan_policy: NanPolicy = "raise",
) -> Interval:
    """Interval of mean(b - a) over pairs, resampling whole clusters of pairs.

    Under ``nan_policy="omit"`` a pair with one unmeasured side is left out whole. Arguments and
    errors as in :func:`cluster_bootstrap`.
    """
    _check(n_resamples, level)
    (before, after), groups = _prepare([a, b], clusters, nan_policy)
    difference = after - before
    draws = _resampled_means(difference, groups, rng, n_resamples)
    return _percentile(_mean(difference), draws, difference.size, groups, level)


def relative_reduction(
    baseline: ArrayLike,
    treated: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    nan_policy: NanPolicy = "raise",
) -> Interval:
    """Interval of 1 - mean(treated) / mean(baseline) over pairs, both resampled jointly.

    1 means nothing is left, 0 no change, below 0 an increase. A baseline mean of zero leaves the
    estimate NaN; a resample with one counts as the worst case, and an end of the interval that
    such resamples reach is NaN. Arguments and errors as in :func:`cluster_bootstrap`.
    """
    _check(n_resamples, level)
    (before, after), groups = _prepare([baseline, treated], clusters, nan_policy)
    before_sums, after_sums = groups.sums(before), groups.sums(after)
    blocks = [
        1.0 - _ratio(weights @ after_sums, weights @ before_sums, undefined=np.inf)
        for weights in _cluster_weights(groups.count, rng, n_resamples)
    ]
    estimate = 1.0 - _ratio(after.sum(), before.sum(), undefined=np.nan)[0]
    return _percentile(float(estimate), _joined(blocks), before.size, groups, level)


def independent_difference(first: Interval, second: Interval) -> Interval:
    """The difference ``second - first`` of two independent estimates, from their intervals alone.

    Each limit recovers the variance that an estimate has near that limit (MOVER; Zou and Donner,
    Statistics in Medicine 27, 2008)::

        low  = d - sqrt((e2 - l2)^2 + (u1 - e1)^2)
        high = d + sqrt((u2 - e2)^2 + (e1 - l1)^2)

    Estimates on the same prompts are not independent, and correlate positively as a rule: for them
    the interval is wider than need be.

    Raises:
        ValueError: the two have different levels.
    """
    if first.level != second.level:
        raise ValueError(f"intervals of {first.level} and {second.level} do not combine")
    d = second.estimate - first.estimate
    below = np.hypot(second.estimate - second.low, first.high - first.estimate)
    above = np.hypot(second.high - second.estimate, first.estimate - first.low)
    return Interval(
        d, float(d - below), float(d + above), min(first.n, second.n),
        min(first.n_clusters, second.n_clusters), first.level, "independent difference, MOVER",
    )  # fmt: skip


def over_seeds(
    given: Interval, seeds: ArrayLike, *, lower: float = -np.inf, upper: float = np.inf
) -> Interval:
    """Interval of a mean over random seeds, from the interval that takes these seeds as given.

    Resampling groups with all their seeds says what other groups would give, not what another
    training would. With the half-width h of that interval, z = 1.96 at 95%, and the estimates m_s
    of S seeds on the same groups, whose variance is s^2, either limit becomes ::

        estimate -+ t_df SE,   SE^2 = (h / z)^2 + s^2 / S,   df = (S - 1) (SE^2 / (s^2 / S))^2

    the degrees of freedom after Satterthwaite (Biometrics Bulletin 2, 1946), groups counting as
    many. The noise of single replies enters both terms, so that the interval covers more than it
    says where seeds make no difference.

    Args:
        given: Interval of the mean over these seeds.
        seeds: The estimate of each; NaN is left out.
        lower: Least that the estimate can be.
        upper: Most that it can be.

    Returns:
        The interval as given where fewer than two seeds were measured.
    """
    measured, spread = _seed_variance(seeds)
    if measured < 2:
        return given
    below, above = (
        _student(side, spread, measured, given.level)
        for side in (given.estimate - given.low, given.high - given.estimate)
    )
    return replace(
        given,
        low=float(np.maximum(lower, given.estimate - below)),
        high=float(np.minimum(upper, given.estimate + above)),
        method=f"{given.method}, over seeds",
    )


def over_seeds_p_value(given: Interval, seeds: ArrayLike) -> float:
    """Two-sided p of a mean over random seeds being zero; see :func:`over_seeds`.

    NaN where fewer than two seeds were measured, or nothing varies.
    """
    measured, spread = _seed_variance(seeds)
    towards_zero = given.estimate - given.low if given.estimate > 0 else given.high - given.estimate
    variance = _given_variance(towards_zero, given.level) + spread
    if measured < 2 or not variance > 0:
        return np.nan
    df = _satterthwaite(variance, spread, measured)
    return float(2 * stats.t.sf(abs(given.estimate) / np.sqrt(variance), df))


def _seed_variance(seeds: ArrayLike) -> tuple[int, float]:
    """How many seeds were measured, and the variance of their mean."""
    measured = _flat(seeds)
    measured = measured[~np.isnan(measured)]
    return measured.size, float(measured.var(ddof=1) / measured.size) if measured.size > 1 else 0.0


def _given_variance(half_width: float, level: float) -> float:
    return float(half_width / stats.norm.ppf((1 + level) / 2)) ** 2


def _satterthwaite(variance: float, of_seeds: float, n_seeds: int) -> float:
    return float((n_seeds - 1) * (variance / of_seeds) ** 2) if of_seeds > 0 else np.inf


def _student(half_width: float, of_seeds: float, n_seeds: int, level: float) -> float:
    variance = _given_variance(half_width, level) + of_seeds
    df = _satterthwaite(variance, of_seeds, n_seeds)
    return float(stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance))


def auroc(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    nan_policy: NanPolicy = "raise",
) -> Interval:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties a half.

    Args:
        scores: higher means more likely positive, shape ``(n,)``.
        labels: true or 1 for a positive, false or 0 for a negative, shape ``(n,)``.
        rng: the only source of randomness.
        clusters: one label per example; every example its own cluster if left out.
        n_resamples: resamples of the clusters; those that draw one class only are left out.
        level: nominal coverage.
        nan_policy: what to do with a NaN score.

    Raises:
        NonFiniteError: see :func:`cluster_bootstrap`.
        ValueError: a label is neither 0 nor 1, lengths differ, or a parameter is out of range.
    """
    _check(n_resamples, level)
    if clusters is None:
        clusters = np.arange(np.size(np.asarray(scores)))
    (sample, truth), groups = _prepare([scores, labels], clusters, nan_policy)
    if not np.isin(truth, (0.0, 1.0)).all():
        raise ValueError("labels must be 0 or 1")
    order = np.argsort(sample, kind="stable")
    truth, index = truth[order], groups.index[order]
    starts = np.flatnonzero(np.diff(sample[order], prepend=np.nan) != 0)
    estimate = _weighted_auroc(np.ones((1, truth.size)), truth, starts)[0]
    blocks = [
        _weighted_auroc(weights[:, index], truth, starts)
        for weights in _cluster_weights(groups.count, rng, n_resamples, width=truth.size)
    ]
    draws = _joined(blocks)
    draws = draws[np.isfinite(draws)]
    return _percentile(float(estimate), draws, truth.size, groups, level)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion of independent trials; no trials, no measurement.

    Raises:
        ValueError: not ``0 <= successes <= n``, or ``level`` out of range.
    """
    _check(1, level)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n = {n}, got {successes}")
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0, 0, level, "wilson")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, float(low), float(high), n, n, level, "wilson")


def interval_of_a_rate(rate: Interval, n_trials: int | None = None) -> Interval:
    """A rate's interval, which is Wilson's where nothing varies: no event at all, or nothing else.

    Args:
        rate: the mean of zeros and ones, with its bootstrap interval.
        n_trials: independent trials behind it; its clusters if left out.
    """
    if rate.n == 0 or rate.estimate not in (0.0, 1.0):
        return rate
    trials = rate.n_clusters if n_trials is None else n_trials
    bounds = wilson(round(rate.estimate * trials), trials, rate.level)
    return replace(rate, low=bounds.low, high=bounds.high, method=bounds.method)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator,
    paired: bool = False,
    clusters: ArrayLike | None = None,
    n_resamples: int = 9999,
    nan_policy: NanPolicy = "raise",
) -> Significance:
    """Two-sided permutation test of equal means; exact where few permutations exist.

    Unpaired, values trade places between ``a`` and ``b``; paired, the two sides of a pair do,
    and with ``clusters`` those of all pairs of a cluster together.

    Raises:
        NonFiniteError: see :func:`cluster_bootstrap`.
        ValueError: ``clusters`` without ``paired``, lengths differ, or fewer than 2 units.
    """
    _check(n_resamples, 0.95)
    if clusters is not None and not paired:
        raise ValueError("clusters need paired=True")
    if paired:
        labels = np.arange(np.size(np.asarray(a))) if clusters is None else clusters
        (before, after), groups = _prepare([a, b], labels, nan_policy)
        n, sides = before.size, (groups.sums(before), groups.sums(after))
        divisors = (n, n)
    else:
        before, after = _clean([_flat(a)], nan_policy)[0], _clean([_flat(b)], nan_policy)[0]
        n, sides = before.size + after.size, (before, after)
        divisors = (before.size, after.size)
    if min(side.size for side in sides) < (2 if paired else 1) or n < 2:
        raise ValueError("a permutation test needs at least two pairs or two values")

    def difference_of_means(x: Floats, y: Floats, axis: int = -1) -> Any:  # noqa: ANN401 - scipy's
        return y.sum(axis=axis) / divisors[1] - x.sum(axis=axis) / divisors[0]

    result = stats.permutation_test(
        sides,
        difference_of_means,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=n_resamples,
        rng=rng,
    )
    method = "paired permutation" if paired else "permutation"
    return Significance(float(result.statistic), float(result.pvalue), n, method)


def mcnemar(a: ArrayLike, b: ArrayLike) -> Significance:
    """McNemar's test of equal rates on paired yes/no outcomes; exact below 25 discordant pairs.

    Raises:
        NonFiniteError: an outcome is NaN.
        ValueError: lengths differ, or an outcome is neither 0 nor 1.
    """
    before, after = _clean(_same_length([_flat(a), _flat(b)]), "raise")
    if not np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        raise ValueError("outcomes must be 0 or 1")
    if before.size == 0:
        return Significance(np.nan, np.nan, 0, "mcnemar")
    only_before = int(((before == 1) & (after == 0)).sum())
    only_after = int(((before == 0) & (after == 1)).sum())
    exact = only_before + only_after < _EXACT_BELOW
    table = [[0, only_before], [only_after, 0]]  # concordant pairs carry no information
    result = _statsmodels_mcnemar(table, exact=exact)
    method = "exact mcnemar" if exact else "mcnemar"
    difference = (only_after - only_before) / before.size
    return Significance(difference, float(result.pvalue), before.size, method)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment for testing many hypotheses; NaN stays NaN and is not counted.

    The k-th smallest of m p-values is multiplied by m - k + 1, made monotone and capped at 1.

    Raises:
        ValueError: a p-value lies outside [0, 1].
    """
    given = _flat(p_values)
    measured = ~np.isnan(given)
    if ((given[measured] < 0) | (given[measured] > 1)).any():
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(given)[: measured.sum()]  # NaN sorts last
    steps = np.arange(order.size, 0, -1)
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * steps), 1.0)
    return adjusted


@dataclass(frozen=True)
class _Groups:
    """Cluster membership as numbers 0 .. count - 1."""

    index: NDArray[np.intp]
    count: int

    def sums(self, values: Floats) -> Floats:
        sums = np.bincount(self.index, weights=values, minlength=self.count)
        return sums.astype(np.float64)  # no values give whole-number sums


def _prepare(
    columns: list[ArrayLike], clusters: ArrayLike, nan_policy: NanPolicy
) -> tuple[list[Floats], _Groups]:
    """The rows that count, as float columns, and the cluster each belongs to."""
    labels = np.asarray(clusters)
    values = _same_length([_flat(column) for column in columns])
    if labels.ndim != 1 or labels.size != values[0].size:
        raise ValueError(
            f"clusters need one label per value: {labels.shape} for {values[0].size} values"
        )
    kept = _measured(values, nan_policy)
    unique, index = np.unique(labels[kept], return_inverse=True)
    return [column[kept] for column in values], _Groups(index, unique.size)


def _clean(columns: list[Floats], nan_policy: NanPolicy) -> list[Floats]:
    kept = _measured(columns, nan_policy)
    return [column[kept] for column in columns]


def _measured(columns: list[Floats], nan_policy: NanPolicy) -> NDArray[np.bool_]:
    """Which rows are measured in every column; raises on what the caller did not allow."""
    if any(np.isinf(column).any() for column in columns):
        raise NonFiniteError("a value is infinite; statistics need measured numbers")
    missing = np.logical_or.reduce([np.isnan(column) for column in columns])
    if nan_policy == "raise" and missing.any():
        raise NonFiniteError(
            f"{int(missing.sum())} of {missing.size} values are NaN (not measured); "
            'say nan_policy="omit" to leave them out'
        )
    kept: NDArray[np.bool_] = ~missing
    return kept


def _flat(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one number per example, got the shape {array.shape}")
    return array


def _same_length(columns: list[Floats]) -> list[Floats]:
    if len({column.size for column in columns}) > 1:
        raise ValueError(f"lengths differ: {[column.size for column in columns]}")
    return columns


def _check(n_resamples: int, level: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def _drawn_clusters(
    count: int, rng: np.random.Generator, n_resamples: int
) -> Iterator[NDArray[np.intp]]:
    for _ in range(n_resamples if count else 0):
        yield rng.integers(count, size=count)


def _cluster_weights(
    count: int, rng: np.random.Generator, n_resamples: int, *, width: int | None = None
) -> Iterator[Floats]:
    """Multinomial cluster weights, ``(resamples, count)``, in blocks that fit into memory.

    Every row counts ``count`` draws with replacement; the blocks only bound the memory and do not
    change the numbers drawn.
    """
    if count == 0:
        return
    rows = max(1, _BLOCK // max(count, width or 0))
    for start in range(0, n_resamples, rows):
        size = min(rows, n_resamples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield weights.astype(np.float64)


def _resampled_means(
    values: Floats, groups: _Groups, rng: np.random.Generator, n_resamples: int
) -> Floats:
    sums, sizes = groups.sums(values), groups.sums(np.ones_like(values))
    blocks = [
        (weights @ sums) / (weights @ sizes)
        for weights in _cluster_weights(groups.count, rng, n_resamples)
    ]
    return _joined(blocks)


def _weighted_auroc(weights: Floats, truth: Floats, starts: NDArray[np.intp]) -> Floats:
    """AUROC of every row of weights; columns in ascending score, ``starts`` where it changes."""
    if truth.size == 0:
        return np.full(len(weights), np.nan)
    positive = np.add.reduceat(weights * truth, starts, axis=1)
    negative = np.add.reduceat(weights * (1 - truth), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * below).sum(axis=1), pairs, undefined=np.nan)


def _ratio(numerator: ArrayLike, denominator: ArrayLike, *, undefined: float) -> Floats:
    top, bottom = np.atleast_1d(numerator), np.atleast_1d(denominator)
    ratio: Floats = np.divide(top, bottom, out=np.full(top.shape, undefined), where=bottom != 0)
    return ratio


def _percentile(estimate: float, draws: Floats, n: int, groups: _Groups, level: float) -> Interval:
    low = high = np.nan
    if groups.count > 1 and draws.size and np.isfinite(estimate):
        with np.errstate(invalid="ignore"):  # between an infinity and a number lies NaN
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        low, high = (end if np.isfinite(end) else np.nan for end in (low, high))
    method = "cluster bootstrap, percentile"
    return Interval(estimate, float(low), float(high), n, groups.count, level, method)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else np.nan


def _joined(blocks: list[Floats]) -> Floats:
    return np.concatenate(blocks) if blocks else np.empty(0)
