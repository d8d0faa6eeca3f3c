"""Shares, rates and changes have their known answers, and refuse to divide by nothing."""

import numpy as np
import pytest


def estimates(groups: list[str], n_resamples: int = 1000, seed: int = 3) -> object:
    from probes.anchoring.estimates import Estimates
    from probes.records import Record

    return Estimates(
        Record("anchoring", "b", "m", float("nan"), seed=seed), tuple(groups), n_resamples
    )


@pytest.fixture
def planted() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """An effect of about 2 of which 70% are lost, 30 groups of three."""
    rng = np.random.default_rng(1)
    groups = [f"g{i // 3}" for i in range(90)]
    reference = rng.normal(size=90)
    effect = 2 + 0.5 * np.repeat(rng.normal(size=30), 3)
    full = reference + effect
    treated = reference + 0.3 * effect + 0.05 * rng.normal(size=90)
    return groups, full, treated, reference


def test_the_planted_share_is_found(planted: tuple[list[str], np.ndarray, ...]) -> None:
    groups, full, treated, reference = planted
    made = estimates(groups)
    lost = made.lost(made.base, full, treated, reference)
    assert lost.low < 0.7 < lost.high
    assert lost.estimate == pytest.approx(0.7, abs=0.02)
    assert lost.n == 30
    kept = made.kept(made.base, full, treated, reference)
    assert kept.estimate == pytest.approx(1 - lost.estimate)
    assert (kept.low, kept.high) == pytest.approx((1 - lost.high, 1 - lost.low))
    assert made.lost(made.base, full, full, reference).estimate == 0
    assert made.lost(made.base, full, reference, reference).estimate == 1


def test_no_share_of_an_unclear_effect(planted: tuple[list[str], np.ndarray, ...]) -> None:
    from probes.anchoring.estimates import NO_EFFECT

    groups, _, treated, reference = planted
    made = estimates(groups)
    noise = np.random.default_rng(5).normal(size=90)
    noise -= noise.mean()
    lost = made.lost(made.base, reference + noise, treated, reference)
    assert np.isnan(lost.estimate)
    assert np.isnan(lost.low)
    assert lost.note == NO_EFFECT
    assert lost.n == 30


def test_prompts_without_a_donor_leave_both_sides(
    planted: tuple[list[str], np.ndarray, ...],
) -> None:
    """The share is over the prompts where the treatment was made, in numerator and denominator."""
    groups, full, treated, reference = planted
    made = estimates(groups)
    partly = np.where(np.arange(90) < 45, treated, np.nan)
    lost = made.lost(made.base, full, partly, reference)
    half = made.of_rows(range(45))
    expected = half.lost(made.base, full[:45], treated[:45], reference[:45])
    assert lost.estimate == pytest.approx(expected.estimate)
    assert lost.n == 15
    nothing = made.lost(made.base, full, np.full(90, np.nan), reference)
    assert np.isnan(nothing.estimate)
    assert nothing.n == 0


def test_a_change_is_tested_by_permuting_whole_groups() -> None:
    rng = np.random.default_rng(2)
    groups = [f"g{i // 4}" for i in range(80)]
    before = rng.normal(size=80)
    made = estimates(groups)
    moved = made.change(made.base, before, before + 0.5 + 0.1 * rng.normal(size=80))
    assert moved.estimate == pytest.approx(0.5, abs=0.05)
    assert moved.low > 0
    assert moved.p_value < 0.001
    assert "permutation" in moved.ci_method
    # All four members of a group share one draw: 20 independent numbers, not 80.
    shared = np.repeat(rng.normal(size=20), 4)
    null = made.change(made.base, before, before + shared - shared.mean())
    assert null.p_value > 0.5


def test_a_rate_without_spread_still_has_an_interval() -> None:
    groups = [f"g{i // 3}" for i in range(60)]
    made = estimates(groups)
    none = made.rate(made.base, np.zeros(60))
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(0.161, abs=0.001)  # Wilson, 0 of 20 groups
    assert "wilson" in none.ci_method
    mixed = made.rate(made.base, (np.arange(60) % 2).astype(float))
    assert mixed.estimate == 0.5
    assert "bootstrap" in mixed.ci_method
    unjudged = made.rate(made.base, np.full(60, np.nan))
    assert np.isnan(unjudged.estimate)
    assert unjudged.n == 0


def test_the_interval_of_a_share_covers_the_truth() -> None:
    """Percentile intervals of 40 groups are a little narrow: about 93% instead of 95%."""
    rng = np.random.default_rng(7)
    groups = [f"g{i // 2}" for i in range(80)]
    covered = 0
    for repetition in range(200):
        effect = 1 + 0.6 * np.repeat(rng.normal(size=40), 2)
        left = 0.4 * effect + 0.3 * np.repeat(rng.normal(size=40), 2)
        made = estimates(groups, 400, seed=repetition)
        lost = made.lost(made.base, effect, left, np.zeros(80))
        covered += lost.low <= 0.6 <= lost.high
    assert 0.90 <= covered / 200 <= 0.98
