"""Every method against SVGT: paired differences, clustered intervals, tests corrected by Holm.

Two methods are compared prompt by prompt and seed by seed, wherever both were measured. The
interval resamples intent groups and adds the variance between seeds
(:func:`workbench.statistics.over_seeds`). The test exchanges the two methods in whole intent groups
(a paired permutation test, which for groups is a test of random signs), which takes the seeds as
given; from two seeds on Student's test over seeds must reject as well: the larger p-value of the
two counts. Rates are differences in shares; cross-entropy is weighted by tokens. The p-values of
one split, over all methods and metrics, are one family for Holm's correction.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from workbench.evaluation.leaderboard.plan import REFERENCE
from workbench.evaluation.leaderboard.scoring import by_seed
from workbench.evaluation.summaries import PER_TOKEN, Sample, difference, weighted_mean
from workbench.statistics import (
    Floats,
    Interval,
    Significance,
    holm,
    over_seeds,
    over_seeds_p_value,
    permutation_test,
)

COMPARED: tuple[str, ...] = ("harm_rate", "over_refusal_rate", "cross_entropy")
COLUMNS: tuple[str, ...] = (
    "backbone", "method", "reference", "split", "metric", "difference", "low", "high", "n",
    "n_groups", "n_seeds", "p_value", "p_holm", "test",
)  # fmt: skip


def compare(
    derived: pd.DataFrame,
    methods: Sequence[str],
    *,
    reference: str = REFERENCE,
    n_resamples: int = 2000,
    n_permutations: int = 9999,
) -> pd.DataFrame:
    """Test every method against the reference, on every split.

    Args:
        derived: See :func:`workbench.evaluation.leaderboard.scoring.with_derived`.
        methods: In the order of the table; without the reference there is nothing to compare.
        reference: Whom to compare with.
        n_resamples: Of the intervals.
        n_permutations: Of the tests.

    Returns:
        One row a method, split and metric; ``difference`` is method minus reference. A test that
        cannot be made (one group, or nothing measured) has the p-value NaN.
    """
    if reference not in methods:
        return pd.DataFrame(columns=list(COLUMNS))
    seeds = by_seed(derived[derived["metric"].isin(COMPARED)])
    rows = [
        _compared(one, other, method, reference, n_resamples, n_permutations)
        for (_, _), part in seeds.groupby(["split", "metric"], sort=False)
        for one in [part[part["method"] == reference]]
        for method in methods
        if method != reference
        for other in [part[part["method"] == method]]
        if len(one) and len(other)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    corrected = table.groupby("split")["p_value"].transform(lambda values: holm(values))
    return table.assign(p_holm=corrected.astype("float64"))[list(COLUMNS)]


def _compared(
    reference_rows: pd.DataFrame,
    method_rows: pd.DataFrame,
    method: str,
    reference: str,
    n_resamples: int,
    n_permutations: int,
) -> dict[str, object]:
    about = method_rows.iloc[0]
    split, metric = str(about["split"]), str(about["metric"])
    rng = np.random.default_rng([*f"{about['backbone']}/{method}/{split}/{metric}".encode()])
    pairs = method_rows.merge(
        reference_rows[["prompt", "value"]], on="prompt", suffixes=("", "_before")
    ).dropna(subset=["value", "value_before"])
    before = pairs["value_before"].to_numpy(np.float64)
    after = Sample(
        pairs["value"].to_numpy(np.float64),
        pairs["weight"].to_numpy(np.float64),
        pairs["group"].to_numpy(object),
        rng,
        n_resamples,
    )
    given = _interval(metric, before, after)
    seeds = _seed_differences(pairs)
    bound = np.inf if metric in PER_TOKEN else 1.0
    interval = over_seeds(given, seeds, lower=-bound, upper=bound)
    test = _also_over_seeds(_test(before, after, n_permutations), given, seeds)
    return {
        "backbone": about["backbone"],
        "method": method,
        "reference": reference,
        "split": split,
        "metric": metric,
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "n_groups": interval.n_clusters,
        "n_seeds": len(seeds),
        "p_value": test.p_value,
        "test": test.method,
    }


def _seed_differences(pairs: pd.DataFrame) -> list[float]:
    return [
        float(np.average(part["value"] - part["value_before"], weights=part["weight"]))
        for _, part in pairs.groupby("seed")
    ]


def _also_over_seeds(
    exchanged: Significance, given: Interval, seeds: Sequence[float]
) -> Significance:
    p = over_seeds_p_value(given, seeds)
    if np.isnan(p) or np.isnan(exchanged.p_value):
        return exchanged
    return replace(
        exchanged,
        p_value=max(p, exchanged.p_value),
        method=f"{exchanged.method}, and t over seeds",
    )


def _interval(metric: str, before: Floats, after: Sample) -> Interval:
    if metric not in PER_TOKEN:
        return difference(before, after)
    changes = Sample(
        after.values - before, after.weights, after.groups, after.rng, after.n_resamples
    )
    return weighted_mean(changes)


def _test(before: Floats, after: Sample, n_permutations: int) -> Significance:
    """Values times their share of the weights have the weighted mean as their mean."""
    if len(set(after.groups)) < 2:
        return Significance(np.nan, np.nan, len(before), "one group: no test")
    share = after.weights / after.weights.mean()
    return permutation_test(
        before * share,
        after.values * share,
        rng=after.rng,
        paired=True,
        clusters=after.groups,
        n_resamples=n_permutations,
    )
