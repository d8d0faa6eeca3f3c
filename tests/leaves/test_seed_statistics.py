"""Means over seeds: by hand, and in simulations with planted differences between seeds."""

import numpy as np
import pytest
from numpy.random import Generator
from scipy import stats

from workbench.statistics import (
    Floats,
    Interval,
    cluster_bootstrap,
    over_seeds,
    over_seeds_p_value,
    permutation_test,
)

N_GROUPS, N_PROMPTS = 50, 4


def given(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, 100, 50, 0.95, "cluster bootstrap")


def test_the_limits_by_hand() -> None:
    """SE^2 of groups 4, of three seeds 1, 2 and 6 (s^2 = 7) 7 / 3."""
    z = stats.norm.ppf(0.975)
    found = over_seeds(given(3.0, 3.0 - 2 * z, 3.0 + z), [1.0, 2.0, 6.0])
    for end, groups, sign in ((found.low, 4.0, -1), (found.high, 1.0, 1)):
        variance = groups + 7 / 3
        df = 2 * (variance / (7 / 3)) ** 2
        assert end == pytest.approx(3.0 + sign * stats.t.ppf(0.975, df) * variance**0.5)
    assert found.method == "cluster bootstrap, over seeds"
    assert (found.estimate, found.n, found.n_clusters) == (3.0, 100, 50)


def test_p_and_interval_agree_on_what_is_significant() -> None:
    for estimate in np.linspace(0.1, 12, 40):
        one = given(estimate, estimate - 2, estimate + 2)
        seeds = [estimate - 1.5, estimate, estimate + 1.5]
        assert (over_seeds(one, seeds).low > 0) == (over_seeds_p_value(one, seeds) < 0.05)
        other = given(-estimate, -estimate - 2, -estimate + 2)
        mirrored = over_seeds_p_value(other, [-seed for seed in seeds])
        assert mirrored == pytest.approx(over_seeds_p_value(one, seeds))


def test_one_seed_and_seeds_that_agree_leave_the_interval() -> None:
    alone = given(0.3, 0.2, 0.5)
    assert over_seeds(alone, [0.3]) == over_seeds(alone, [0.3, np.nan]) == alone
    assert np.isnan(over_seeds_p_value(alone, [0.3]))
    agreed = over_seeds(alone, [0.3, 0.3, 0.3])
    assert (agreed.low, agreed.high) == (pytest.approx(0.2), pytest.approx(0.5))
    assert np.isnan(over_seeds_p_value(given(0.3, 0.3, 0.3), [0.3, 0.3]))


def test_what_is_not_measured_stays_so_and_shares_stay_shares() -> None:
    unknown = over_seeds(given(0.3, np.nan, np.nan), [0.1, 0.5], lower=0.0, upper=1.0)
    assert np.isnan([unknown.low, unknown.high]).all()
    # Two seeds with 53.5 and 6% harm know next to nothing of a third.
    wide = over_seeds(given(0.2975, 0.264, 0.335), [0.535, 0.06], lower=0.0, upper=1.0)
    assert (wide.low, wide.high) == (0.0, 1.0)


def drawn(rng: Generator, n_seeds: int, seed_sd: float) -> Floats:
    """Yes or no by seed, group and prompt: 0.3 on the average, groups differ by 0.1."""
    of_seed = rng.normal(0, seed_sd, (n_seeds, 1, 1))
    of_group = rng.normal(0, 0.1, (1, N_GROUPS, 1))
    shares = np.clip(0.3 + of_seed + of_group, 0, 1)
    return (rng.random((n_seeds, N_GROUPS, N_PROMPTS)) < shares).astype(np.float64)


def intervals(values: Floats, rng: Generator) -> tuple[Interval, Interval]:
    groups = np.broadcast_to(np.arange(N_GROUPS)[None, :, None], values.shape).ravel()
    conditional = cluster_bootstrap(values.ravel(), groups, rng=rng, n_resamples=400)
    return conditional, over_seeds(conditional, values.mean(axis=(1, 2)), lower=0.0, upper=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_seeds", "seed_sd", "least"),
    [(5, 0.0, 0.95), (5, 0.08, 0.93), (3, 0.08, 0.9), (2, 0.08, 0.87)],
)
def test_intervals_cover_what_other_seeds_would_give(
    n_seeds: int, seed_sd: float, least: float, rng: Generator
) -> None:
    truth = 0.3 if seed_sd == 0 else float(np.clip(0.3 + rng.normal(0, 0.128, 10**6), 0, 1).mean())
    hits = np.zeros(2)
    for _ in range(300):
        found = intervals(drawn(rng, n_seeds, seed_sd), rng)
        hits += [one.low <= truth <= one.high for one in found]
    conditional, over = hits / 300
    assert over >= least
    if seed_sd > 0:
        assert conditional < 0.8  # seeds held fixed: what must not be shown as the uncertainty


@pytest.mark.slow
def test_a_difference_of_seeds_alone_is_rejected_rarely(rng: Generator) -> None:
    """Two methods alike on the average, whose trainings differ by 5 points: the null is true."""
    rejected = np.zeros(2)
    groups = np.broadcast_to(np.arange(N_GROUPS)[None, :, None], (5, N_GROUPS, N_PROMPTS)).ravel()
    for _ in range(200):
        one, other = drawn(rng, 5, 0.05), drawn(rng, 5, 0.05)
        exchanged = permutation_test(
            one.ravel(), other.ravel(), rng=rng, paired=True, clusters=groups, n_resamples=399
        ).p_value
        change = cluster_bootstrap((other - one).ravel(), groups, rng=rng, n_resamples=400)
        by_seed = (other - one).mean(axis=(1, 2))
        rejected += [exchanged < 0.05, max(exchanged, over_seeds_p_value(change, by_seed)) < 0.05]
    conditional, over = rejected / 200
    assert over <= 0.05
    assert conditional > 0.15
