"""Resamples of a plan give the right standard error, also where pairs of groups make it."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from probes.instability.plan import ResamplePlan, Spread
from workbench.errors import DataError

if TYPE_CHECKING:
    from conftest import Plant


def plan_for(
    planted: "type[Plant]", n_pairs: int, *, seed: int = 0, resamples: int = 200, **more: object
) -> ResamplePlan:
    rng = np.random.default_rng(seed)
    given = planted(n_pairs=n_pairs, width=2, **more).draw(rng)  # type: ignore[arg-type]
    return ResamplePlan.draw([given], n_resamples=resamples, n_halves=6, rng=rng)


def every_group(plan: ResamplePlan) -> torch.Tensor:
    return torch.arange(len(plan.groups))


def test_halves_are_disjoint_complete_and_balanced_over_the_classes(planted: "type[Plant]") -> None:
    plan = plan_for(planted, 25, paired_groups=False)
    halves = plan.halves(every_group(plan))
    assert bool((halves.sum(dim=1) == 1).all())
    harmful = torch.tensor([int(name[1:]) % 2 == 0 for name in plan.groups])
    for half in halves.flatten(0, 1):
        assert abs(int((half & harmful).sum()) - int((half & ~harmful).sum())) <= 1
        assert 24 <= int(half.sum()) <= 26
    assert len({tuple(half.tolist()) for half in halves[:, 0]}) == 6


def test_mirror_images_tilt_the_other_way_and_the_sample_is_not_tilted(
    planted: "type[Plant]",
) -> None:
    plan = plan_for(planted, 20)
    weights = plan.weights(every_group(plan))
    sample, plus, minus = weights[0], *weights[1:].chunk(2)
    assert bool((sample == 1).all())
    assert torch.equal(plus + minus, torch.full_like(plus, 2.0))
    assert set(plus.unique().tolist()) == {0.5, 1.5}
    assert torch.equal(plus.sum(dim=1), torch.full((200,), 20.0))


def test_examples_of_a_group_share_their_weight_in_all_contexts(planted: "type[Plant]") -> None:
    plan = plan_for(planted, 10)
    numbers = plan.numbers(["g0003", "g0001", "g0003"])
    weights = plan.weights(numbers)
    assert torch.equal(weights[:, 0], weights[:, 2])
    assert not torch.equal(weights[:, 0], weights[:, 1])


def test_a_shortened_plan_is_the_first_part_of_the_whole(planted: "type[Plant]") -> None:
    plan = plan_for(planted, 10)
    short, everyone = plan.shortened(7, 2), every_group(plan)
    assert torch.equal(short.weights(everyone), plan.weights(everyone)[plan.draws(7)])
    assert torch.equal(short.halves(everyone), plan.halves(everyone)[:2])


def test_the_error_of_a_mean_is_the_textbook_one(planted: "type[Plant]") -> None:
    plan = plan_for(planted, 60, resamples=4000)
    values = torch.from_numpy(np.random.default_rng(1).gamma(2.0, size=60))
    weights = plan.weights(every_group(plan)).double()
    spread = Spread.of(weights @ values / weights.sum(dim=1))
    assert spread.estimate == pytest.approx(float(values.mean()))
    # 4,000 resamples know a standard error to 1 / sqrt(8000) = 1.1%; four times that.
    assert float(spread.error) == pytest.approx(stats.sem(values.numpy()), rel=0.045)
    for n_groups, quantile in ((10_000, 1.960), (60, 2.002), (8, 2.447)):  # t of groups less two
        low, high = spread.bounds(n_groups=n_groups)
        assert float(high - low) == pytest.approx(2 * quantile * float(spread.error), rel=1e-3)


def test_the_error_is_right_where_only_pairs_of_groups_matter(planted: "type[Plant]") -> None:
    """Sum over pairs of x_g·x_h of pure noise: linear parts alone would double its variance."""
    plan = plan_for(planted, 60, resamples=300)
    weights = plan.weights(every_group(plan)).double()
    rng = np.random.default_rng(2)
    estimates, ours, linear_only = [], [], []
    for _ in range(150):
        noise = torch.from_numpy(rng.normal(size=(60, 20)))
        total = (weights @ noise).square().sum(dim=1) - weights.square() @ noise.square().sum(dim=1)
        spread = Spread.of(total)
        plus, minus = total[1:].chunk(2)
        estimates.append(float(spread.estimate))
        ours.append(float(spread.error) ** 2)
        linear_only.append(float((plus - minus).square().mean()))
    truth = float(np.var(estimates))
    # 150 repetitions know a variance to sqrt(2 / 150) = 12%; twice that.
    assert np.mean(ours) == pytest.approx(truth, rel=0.25)
    assert np.mean(linear_only) > 1.6 * truth


def test_an_interval_needs_its_resamples() -> None:
    values = torch.linspace(0.9, 1.1, 41)
    values[5] = torch.nan
    assert np.isfinite(Spread.of(values).error)  # 1 of 20 is missing
    values[6:9] = torch.nan
    spread = Spread.of(values)
    assert np.isnan(spread.error)
    assert np.isnan(spread.bounds(n_groups=60)).all()
    assert np.isnan(spread.sign_flip_p_value(n_groups=60))


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_nothing_is_not_measured() -> None:
    values = torch.ones(41, 2)
    values[:, 0] = torch.inf
    spread = Spread.of(values)
    assert np.isnan(spread.estimate[0])
    assert np.isnan(spread.bounds(n_groups=20)[0][0])
    assert spread.estimate[1] == 1


def test_intervals_of_shares_stay_inside_and_end_where_there_is_no_error() -> None:
    rng = np.random.default_rng(0)
    draws = torch.from_numpy(0.97 + 0.02 * rng.normal(size=(41, 1)))
    low, high = Spread.of(draws).share_bounds(n_groups=40)
    assert 0 < low[0] < draws[0, 0] < high[0] < 1
    low, high = Spread.of(torch.ones(41, 1)).share_bounds(n_groups=40)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize("n_groups", [10, 40])
def test_sign_flips_find_a_difference_and_are_silent_without_one(
    planted: "type[Plant]", n_groups: int
) -> None:
    plan = plan_for(planted, n_groups, resamples=199)
    weights = plan.weights(every_group(plan)).double()
    rng = np.random.default_rng(3)

    def p_value(shift: float) -> float:
        values = torch.from_numpy(rng.normal(shift, size=n_groups))
        spread = Spread.of(weights @ values / weights.sum(dim=1))
        return float(spread.sign_flip_p_value(n_groups=n_groups))

    assert p_value(5.0) == 1 / 200
    silent = np.array([p_value(0.0) for _ in range(800)])
    assert stats.kstest(silent, "uniform").pvalue > 0.01
    # 800 repetitions know a level of 5% to 0.8 points; without the share of the difference in
    # what is flipped it would be 8% with 10 groups.
    assert (silent <= 0.05).mean() < 0.07


@pytest.mark.parametrize(("n_groups", "size"), [(10, 0.10), (20, 0.08), (40, 0.07)])
def test_sign_flips_reject_too_often_where_contributions_are_skewed(
    planted: "type[Plant]", n_groups: int, size: float
) -> None:
    """What docs/statistics.md warns of: flipped signs suppose contributions symmetric about 0."""
    plan = plan_for(planted, n_groups, resamples=199)
    weights = plan.weights(every_group(plan)).double()
    rng = np.random.default_rng(4)
    found = []
    for _ in range(800):
        values = torch.from_numpy(rng.exponential(size=n_groups) - 1)
        spread = Spread.of(weights @ values / weights.sum(dim=1))
        found.append(float(spread.sign_flip_p_value(n_groups=n_groups)))
    # 800 repetitions know a size of 10% to 1.1 points; twice that.
    assert (np.array(found) <= 0.05).mean() == pytest.approx(size, abs=0.022)


def test_too_few_groups_are_refused(planted: "type[Plant]") -> None:
    with pytest.raises(DataError, match="3 groups"):
        plan_for(planted, 3)
