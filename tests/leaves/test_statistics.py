"""Every estimate against a reference implementation or a planted truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from workbench.errors import NonFiniteError
from workbench.statistics import (
    Interval,
    auroc,
    cluster_bootstrap,
    holm,
    mcnemar,
    paired_cluster_bootstrap,
    permutation_test,
    relative_reduction,
    wilson,
)

Generator = np.random.Generator


def planted(
    rng: Generator, clusters: int, per_cluster: int, *, between: float, within: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values around 0 with a shared part per cluster, and the cluster labels."""
    shared = np.repeat(rng.normal(0, between, clusters), per_cluster)
    labels = np.repeat(np.arange(clusters), per_cluster)
    return shared + rng.normal(0, within, clusters * per_cluster), labels


# ----------------------------------------------------------------------- agreement with libraries


def test_singleton_clusters_agree_with_scipy_bootstrap(rng: Generator) -> None:
    values = rng.gamma(2.0, size=150)
    ours = cluster_bootstrap(values, np.arange(150), rng=rng, n_resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    standard_error = values.std() / math.sqrt(150)
    assert ours.estimate == pytest.approx(values.mean())
    # Two bootstraps of 20,000 resamples differ by Monte-Carlo noise: about 2% of a standard error.
    assert ours.low == pytest.approx(theirs.low, abs=0.08 * standard_error)
    assert ours.high == pytest.approx(theirs.high, abs=0.08 * standard_error)


def test_equal_clusters_agree_with_scipy_bootstrap_of_cluster_means(rng: Generator) -> None:
    values, labels = planted(rng, 60, 5, between=1, within=1)
    means = values.reshape(60, 5).mean(axis=1)
    ours = cluster_bootstrap(values, labels, rng=rng, n_resamples=20_000)
    theirs = stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    standard_error = means.std() / math.sqrt(60)
    assert ours.n == 300
    assert ours.n_clusters == 60
    assert ours.low == pytest.approx(theirs.low, abs=0.08 * standard_error)
    assert ours.high == pytest.approx(theirs.high, abs=0.08 * standard_error)


def test_vectorised_mean_agrees_with_the_loop_over_resamples(rng: Generator) -> None:
    sizes = rng.integers(1, 9, size=40)
    labels = np.repeat(np.arange(40), sizes)
    values = rng.normal(size=40)[labels] + rng.normal(size=labels.size)
    fast = cluster_bootstrap(values, labels, rng=np.random.default_rng(1), n_resamples=8000)
    loop = cluster_bootstrap(
        values, labels, rng=np.random.default_rng(1), n_resamples=8000, statistic=np.mean
    )
    # Same seed, same draws: the two paths see the same resamples.
    assert loop.estimate == pytest.approx(fast.estimate)
    assert loop.low == pytest.approx(fast.low, abs=1e-12)
    assert loop.high == pytest.approx(fast.high, abs=1e-12)


def test_memory_blocks_do_not_change_the_draws(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, labels = planted(rng, 30, 3, between=1, within=1)
    whole = cluster_bootstrap(values, labels, rng=np.random.default_rng(3), n_resamples=500)
    monkeypatch.setattr("workbench.statistics._BLOCK", 30 * 7)
    blocks = cluster_bootstrap(values, labels, rng=np.random.default_rng(3), n_resamples=500)
    # The draws are the same; a matrix product of another size may round another way.
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_auroc_agrees_with_scikit_learn_with_ties(rng: Generator) -> None:
    scores = rng.integers(0, 12, size=400).astype(float)
    labels = rng.random(400) < 0.2 + 0.05 * scores
    measured = auroc(scores, labels, rng=rng, n_resamples=50)
    assert measured.estimate == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_interval_agrees_with_resampling_scikit_learn(rng: Generator) -> None:
    labels = np.repeat([0, 1], 60)
    scores = rng.normal(size=120) + labels
    groups = np.tile(np.arange(30), 4)
    seed = np.random.default_rng(5)
    draws = []
    for _ in range(400):
        drawn = np.concatenate([np.flatnonzero(groups == g) for g in seed.integers(30, size=30)])
        draws.append(roc_auc_score(labels[drawn], scores[drawn]))
    ours = auroc(scores, labels, clusters=groups, rng=np.random.default_rng(5), n_resamples=400)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_wilson_agrees_with_statsmodels() -> None:
    ours = wilson(3, 40, level=0.9)
    assert (ours.low, ours.high) == pytest.approx(
        proportion_confint(3, 40, alpha=0.1, method="wilson")
    )
    # Brown, Cai and DasGupta (2001): no successes of n leave z^2 / (n + z^2).
    z = stats.norm.ppf(0.975)
    assert wilson(0, 50).high == pytest.approx(z**2 / (50 + z**2))


def test_mcnemar_is_the_exact_binomial_test_of_few_discordant_pairs() -> None:
    a = np.array([1] * 9 + [0] * 2 + [1] * 20)
    b = np.array([0] * 9 + [1] * 2 + [1] * 20)
    result = mcnemar(a, b)
    assert result.p_value == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert result.statistic == pytest.approx((2 - 9) / 31)
    assert result.method == "exact mcnemar"


def test_mcnemar_uses_chi_square_with_many_discordant_pairs() -> None:
    a = np.array([1] * 60 + [0] * 30)
    result = mcnemar(a, 1 - a)
    # Continuity-corrected: (|60 - 30| - 1)^2 / 90.
    assert result.p_value == pytest.approx(stats.chi2.sf(29**2 / 90, 1))


def test_holm_by_hand_and_nan_is_not_counted() -> None:
    adjusted = holm([0.01, math.nan, 0.04, 0.03])
    assert adjusted == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)


def test_holm_agrees_with_statsmodels(rng: Generator) -> None:
    p_values = rng.random(30) ** 4
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_permutation_test_is_exact_where_few_permutations_exist(rng: Generator) -> None:
    # 3 against 3 without overlap: 2 of 20 splits are as extreme.
    separated = permutation_test([0.0, 1.0, 2.0], [10.0, 11.0, 12.0], rng=rng)
    assert separated.statistic == pytest.approx(10)
    assert separated.p_value == pytest.approx(0.1)
    # Five pairs that all rise: 2 of 32 sign patterns are as extreme.
    risen = permutation_test([1, 2, 3, 4, 5], [2, 4, 6, 8, 10], rng=rng, paired=True)
    assert risen.p_value == pytest.approx(2 / 32)
    # The same five pairs in two clusters: 2 of 4.
    clustered = permutation_test(
        [1, 2, 3, 4, 5], [2, 4, 6, 8, 10], rng=rng, paired=True, clusters=[0, 0, 0, 1, 1]
    )
    assert clustered.statistic == pytest.approx(3.0)
    assert clustered.p_value == pytest.approx(0.5)


# ----------------------------------------------------------------------------------- planted truth


def coverage(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def test_cluster_bootstrap_covers_at_its_nominal_rate_and_the_naive_one_does_not(
    rng: Generator,
) -> None:
    clustered, naive = [], []
    for _ in range(300):
        values, labels = planted(rng, 60, 6, between=1, within=1)
        clustered.append(cluster_bootstrap(values, labels, rng=rng, n_resamples=400))
        naive.append(cluster_bootstrap(values, np.arange(360), rng=rng, n_resamples=400))
    # Binomial standard deviation of 300 worlds at 95%: 1.3 points.
    assert 0.91 <= coverage(clustered, 0.0) <= 0.985
    assert coverage(naive, 0.0) < 0.75  # ignoring the clusters claims what is not known


def test_paired_bootstrap_covers_a_planted_difference(rng: Generator) -> None:
    intervals = []
    for _ in range(200):
        a, labels = planted(rng, 50, 4, between=2, within=0.5)
        effect, _ = planted(rng, 50, 4, between=0.3, within=0.5)
        intervals.append(
            paired_cluster_bootstrap(a, a + 0.7 + effect, labels, rng=rng, n_resamples=400)
        )
    assert 0.90 <= coverage(intervals, 0.7) <= 0.99


def test_relative_reduction_covers_a_planted_reduction(rng: Generator) -> None:
    intervals = []
    for _ in range(200):
        risk = np.repeat(rng.uniform(0.2, 0.8, size=80), 4)
        labels = np.repeat(np.arange(80), 4)
        baseline = rng.random(320) < risk
        treated = rng.random(320) < 0.2 * risk
        intervals.append(relative_reduction(baseline, treated, labels, rng=rng, n_resamples=400))
    assert 0.90 <= coverage(intervals, 0.8) <= 0.99


def test_relative_reduction_by_hand(rng: Generator) -> None:
    interval = relative_reduction([1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], rng=rng)
    assert interval.estimate == pytest.approx(0.75)
    assert (interval.low, interval.high) == pytest.approx((0.5, 1.0))


def test_null_scores_have_an_auroc_of_a_half(rng: Generator) -> None:
    intervals = [
        auroc(rng.normal(size=120), rng.random(120) < 0.4, rng=rng, n_resamples=200)
        for _ in range(200)
    ]
    assert np.mean([interval.estimate for interval in intervals]) == pytest.approx(0.5, abs=0.01)
    assert 0.90 <= coverage(intervals, 0.5) <= 0.99


def test_permutation_p_values_are_uniform_under_the_null(rng: Generator) -> None:
    p_values = [
        permutation_test(rng.normal(size=20), rng.normal(size=20), rng=rng, n_resamples=199).p_value
        for _ in range(200)
    ]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) + 1e-9 <= 0.10
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.07)


# --------------------------------------------------------------------------- what is not measured


def test_nan_raises_unless_the_caller_leaves_it_out(rng: Generator) -> None:
    values, labels = [1.0, math.nan, 3.0, 5.0], [0, 0, 1, 2]
    with pytest.raises(NonFiniteError, match="1 of 4 values are NaN"):
        cluster_bootstrap(values, labels, rng=rng)
    kept = cluster_bootstrap(values, labels, rng=rng, nan_policy="omit")
    assert (kept.estimate, kept.n, kept.n_clusters) == (3.0, 3, 3)
    pairs = paired_cluster_bootstrap(
        values, [2.0, 2.0, 4.0, 6.0], labels, rng=rng, nan_policy="omit"
    )
    assert (pairs.estimate, pairs.n) == (1.0, 3)


def test_infinity_is_never_left_out(rng: Generator) -> None:
    with pytest.raises(NonFiniteError, match="infinite"):
        cluster_bootstrap([1.0, math.inf], [0, 1], rng=rng, nan_policy="omit")


def test_what_the_data_cannot_carry_is_nan(rng: Generator) -> None:
    nothing = cluster_bootstrap([], [], rng=rng)
    assert nothing.n == 0
    assert math.isnan(nothing.estimate)
    assert math.isnan(nothing.low)
    one_cluster = cluster_bootstrap([1.0, 2.0], ["a", "a"], rng=rng)
    assert one_cluster.estimate == 1.5
    assert math.isnan(one_cluster.low)
    assert math.isnan(one_cluster.high)
    assert math.isnan(auroc([0.1, 0.2], [1, 1], rng=rng).estimate)
    assert math.isnan(relative_reduction([0, 0], [0, 1], [0, 1], rng=rng).estimate)
    assert math.isnan(wilson(0, 0).estimate)
    assert math.isnan(mcnemar([], []).p_value)


def test_relative_reduction_without_baseline_in_many_resamples_has_no_lower_end(
    rng: Generator,
) -> None:
    baseline = [1] + [0] * 19
    interval = relative_reduction(baseline, [0] * 20, np.arange(20), rng=rng)
    assert interval.estimate == 1.0
    assert math.isnan(interval.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: cluster_bootstrap([1.0, 2.0], [0], rng=rng), "one label per value"),
        (lambda rng: cluster_bootstrap([[1.0]], [0], rng=rng), "shape"),
        (lambda rng: cluster_bootstrap([1.0], [0], rng=rng, n_resamples=0), "n_resamples"),
        (lambda rng: cluster_bootstrap([1.0], [0], rng=rng, level=95.0), "level"),
        (lambda rng: paired_cluster_bootstrap([1.0], [1.0, 2.0], [0], rng=rng), "lengths differ"),
        (lambda rng: auroc([0.1, 0.2], [0, 2], rng=rng), "labels must be 0 or 1"),
        (lambda rng: wilson(5, 4), "successes"),
        (lambda rng: mcnemar([0, 1], [0, 3]), "0 or 1"),
        (lambda rng: holm([0.5, 1.5]), "between 0 and 1"),
        (lambda rng: permutation_test([1, 2], [1, 2], rng=rng, clusters=[0, 1]), "paired=True"),
        (lambda rng: permutation_test([1], [2], rng=rng, paired=True), "at least two"),
    ],
)
def test_misuse_is_named(call, message: str, rng: Generator) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=message):
        call(rng)


# -------------------------------------------------------------------------------------- properties

finite = st.floats(-1e3, 1e3, allow_nan=False)
rows = st.lists(st.tuples(finite, st.integers(0, 6)), min_size=1, max_size=40)


@given(rows, st.integers(0, 2**32 - 1))
def test_interval_is_ordered_reproducible_and_inside_the_data(
    data: list[tuple[float, int]], seed: int
) -> None:
    values, labels = (np.array(column) for column in zip(*data, strict=True))
    first, second = (
        cluster_bootstrap(values, labels, rng=np.random.default_rng(seed), n_resamples=100)
        for _ in range(2)
    )
    assert first.estimate == pytest.approx(values.mean(), abs=1e-9)
    if first.n_clusters == 1:
        assert math.isnan(first.low)
        assert math.isnan(first.high)
    else:
        assert first == second
        assert values.min() - 1e-9 <= first.low <= first.high <= values.max() + 1e-9


@given(rows, finite, st.integers(0, 2**32 - 1))
def test_interval_moves_with_the_data(
    data: list[tuple[float, int]], shift: float, seed: int
) -> None:
    values, labels = (np.array(column) for column in zip(*data, strict=True))
    still = cluster_bootstrap(values, labels, rng=np.random.default_rng(seed), n_resamples=100)
    moved = cluster_bootstrap(
        values + shift, labels, rng=np.random.default_rng(seed), n_resamples=100
    )
    assert moved.estimate == pytest.approx(still.estimate + shift, abs=1e-8)
    assert moved.low == pytest.approx(still.low + shift, abs=1e-8, nan_ok=True)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_of_negated_scores_is_the_complement(data: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*data, strict=True))
    up = auroc(scores, labels, rng=np.random.default_rng(0), n_resamples=20)
    down = auroc(-scores, labels, rng=np.random.default_rng(0), n_resamples=20)
    assert up.estimate == pytest.approx(1 - down.estimate, nan_ok=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= -1e-12).all()


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_contains_the_proportion_and_stays_in_range(successes: int, extra: int) -> None:
    interval = wilson(successes, successes + extra)
    assert 0 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate <= interval.high <= 1
