"""Planted turns between contexts come back, and noise is never taken for a turn."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from probes.contrasts import ContrastSet
from probes.directions import DirectionOptions
from probes.instability.plan import ResamplePlan, Spread
from probes.instability.reliability import spearman_brown
from probes.instability.sample import fit_frame, frame_samples
from probes.instability.stability import Cosines, Instability, index_difference, pair_places

if TYPE_CHECKING:
    from conftest import Plant


def cosines_of(
    given: ContrastSet, plan: ResamplePlan, estimator: str = "mean_difference"
) -> Cosines:
    samples = frame_samples(given, plan, min_per_class=8)
    fits = [fit_frame(estimator, sample, 0, DirectionOptions()) for sample in samples]
    return Cosines.between(
        torch.stack([fit.full for fit in fits]), torch.stack([fit.halves for fit in fits])
    )


def plan_of(
    given: ContrastSet, rng: np.random.Generator, resamples: int = 60, halves: int = 6
) -> ResamplePlan:
    return ResamplePlan.draw([given], n_resamples=resamples, n_halves=halves, rng=rng)


def instability_of(given: ContrastSet, plan: ResamplePlan, floor: float = 0.1) -> Instability:
    return Instability.of(
        given.contexts, cosines_of(given, plan), floor=floor, n_groups=len(plan.groups)
    )


def inside(spread: Spread, truth: float) -> bool:
    low, high = spread.bounds(n_groups=60)
    return bool(low <= truth <= high)


@pytest.mark.parametrize("estimator", ["mean_difference", "lda"])
@pytest.mark.parametrize(
    "angles", [(0.0, 0.4, 0.8), (0.0, 1.0, 2.0), (0.0, np.pi / 2, np.pi)], ids=str
)
def test_a_planted_angle_comes_back(
    planted: "type[Plant]", angles: tuple[float, ...], estimator: str
) -> None:
    plant = planted(n_pairs=100, width=24, signal=3.0, angles=angles)
    rng = np.random.default_rng(7)
    given = plant.draw(rng)
    corrected = cosines_of(given, plan_of(given, rng, 40, 4), estimator).corrected()
    spread = Spread.of(corrected)
    low, high = spread.bounds(n_groups=60)
    for a, b in zip(*pair_places(3), strict=True):
        # Three pairs of six plants: 99.9% intervals would be 1.7 times as wide.
        reach = 1.7 * (high[a, b] - low[a, b]) / 2
        assert abs(spread.estimate[a, b] - plant.cosine(a, b)) < reach
        assert reach < 0.3


def test_without_a_turn_the_index_is_zero_although_raw_cosines_are_below_one(
    planted: "type[Plant]",
) -> None:
    plant = planted(n_pairs=60, width=32, signal=2.0, shared=0.0)
    rng = np.random.default_rng(3)
    given = plant.draw(rng)
    plan = plan_of(given, rng)
    assert inside(Spread.of(instability_of(given, plan).index()), 0.0)
    raw = Spread.of(cosines_of(given, plan).raw)
    assert float(raw.bounds(n_groups=60)[1][0, 1]) < 0.95


def test_a_turn_is_told_from_no_turn(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(4)
    turning = planted(n_pairs=60, width=32, signal=3.0, angles=(0.0, 0.5, 1.0)).draw(rng)
    index = Spread.of(instability_of(turning, plan_of(turning, rng)).index())
    assert float(index.bounds(n_groups=60)[0]) > 0.05


def test_noise_of_shared_prompts_fools_full_samples_but_not_crossed_halves(
    planted: "type[Plant]",
) -> None:
    """Orthogonal directions look alike when the same prompts are noisy in the same way."""
    plant = planted(n_pairs=40, width=32, signal=3.0, angles=(0.0, np.pi / 2), shared=0.9)
    rng = np.random.default_rng(5)
    naive, ours = [], []
    for _ in range(60):
        given = plant.draw(rng)
        cosines = cosines_of(given, plan_of(given, rng, resamples=10, halves=6))
        whole = spearman_brown(cosines.half_reliability[0])
        naive.append(float(cosines.raw[0, 0, 1] / whole.prod().sqrt()))
        ours.append(float(cosines.corrected()[0, 0, 1]))
    assert stats.ttest_1samp(ours, 0.0).pvalue > 0.01
    assert np.mean(naive) > 0.1
    assert stats.ttest_1samp(naive, 0.0).pvalue < 1e-6


def test_cosines_agree_with_a_loop_over_pairs_splits_and_halves(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(6)
    given = planted(n_pairs=20, width=8, angles=(0.0, 0.5, 1.0)).draw(rng)
    plan = plan_of(given, rng, resamples=3, halves=2)
    cosines = cosines_of(given, plan)
    by_context = [given.in_context(name) for name in given.contexts]

    def direction(context: int, draw: int, split: int | None, half: int) -> np.ndarray:
        here = by_context[context]
        numbers = plan.numbers(here.group)
        weights = plan.weights(numbers)[draw].numpy()
        if split is not None:
            weights = weights * plan.halves(numbers)[split, half].numpy()
        states, positive = here.states[0].numpy(), here.positive.numpy()
        means = [np.average(states[c], axis=0, weights=weights[c]) for c in (positive, ~positive)]
        gap = means[0] - means[1]
        return gap / np.linalg.norm(gap)

    for draw in (0, 2, 5):
        for a in range(3):
            for b in range(3):
                raw = direction(a, draw, None, 0) @ direction(b, draw, None, 0)
                assert float(cosines.raw[draw, a, b]) == pytest.approx(raw, abs=1e-5)
                crossed = np.mean(
                    [
                        direction(a, draw, split, half) @ direction(b, draw, split, 1 - half)
                        for split in range(2)
                        for half in range(2)
                    ]
                )
                assert float(cosines.crossed[draw, a, b]) == pytest.approx(crossed, abs=1e-5)


def test_turning_shifting_and_scaling_all_states_changes_nothing(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(8)
    given = planted(n_pairs=40, width=12, angles=(0.0, 0.7)).draw(rng)
    plan = plan_of(given, rng, resamples=10)
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(12, 12)))[0]).float()
    moved = replace(given, states=5.0 * given.states @ turn + 3.0)
    torch.testing.assert_close(
        instability_of(given, plan).index(), instability_of(moved, plan).index(),
        atol=1e-4, rtol=0,
    )  # fmt: skip


def test_directions_too_noisy_to_correct_are_left_out(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(9)
    plant = planted(n_pairs=40, width=24, signal=3.0, angles=(0.0, 0.0, 0.0))
    states = plant.states(rng)
    states[2] = rng.normal(size=states[2].shape)  # no harm in the third context
    noisy = replace(plant.draw(rng), states=torch.tensor(states.reshape(1, -1, 24)).float())
    instability = instability_of(noisy, plan_of(noisy, rng))
    assert instability.pairs == [("c0", "c1"), ("c0", "c2"), ("c1", "c2")]
    assert instability.measured.tolist() == [True, False, False]
    assert inside(Spread.of(instability.index()), 0.0)


# -------------------------------------------------------------------------------------- comparisons


def test_the_difference_of_sites_is_planted_and_its_test_sees_it(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(10)
    turning = planted(n_pairs=60, width=24, angles=(0.0, 0.5, 1.0))
    steady = planted(n_pairs=60, width=16, angles=(0.0, 0.1, 0.2))
    residual, value = turning.draw(rng), steady.draw(rng, "z:value")
    plan = ResamplePlan.draw([residual, value], n_resamples=99, n_halves=4, rng=rng)
    difference, n_pairs = index_difference(
        instability_of(residual, plan), instability_of(value, plan)
    )
    spread = Spread.of(difference)
    assert n_pairs == 3
    assert inside(spread, turning.index - steady.index)
    assert spread.sign_flip_p_value(n_groups=60) == 1 / 100


def test_the_same_site_twice_differs_by_nothing(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(11)
    given = planted(n_pairs=30, angles=(0.0, 0.5)).draw(rng)
    one = instability_of(given, plan_of(given, rng))
    spread = Spread.of(index_difference(one, one)[0])
    assert spread.estimate == spread.error == 0
    assert spread.sign_flip_p_value(n_groups=30) == 1


def test_pairing_by_prompts_makes_differences_sharper(planted: "type[Plant]") -> None:
    """A site that repeats another's noise is compared to it almost without error."""
    rng = np.random.default_rng(12)
    given = planted(n_pairs=60, width=16, angles=(0.0, 0.5, 1.0)).draw(rng)
    jitter = 0.1 * torch.from_numpy(rng.normal(size=tuple(given.states.shape))).float()
    alike = replace(given, states=given.states + jitter)
    plan = plan_of(given, rng)
    one, two = instability_of(given, plan), instability_of(alike, plan)
    paired = float(Spread.of(index_difference(one, two)[0]).error)
    alone = float(Spread.of(one.index()).error)
    assert paired < alone / 4


def test_only_pairs_that_both_sites_measure_are_compared(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(13)
    given = planted(n_pairs=30, angles=(0.0, 0.5, 1.0)).draw(rng)
    one = instability_of(given, plan_of(given, rng))
    two = replace(one, measured=torch.tensor([True, False, True]))
    _, n_pairs = index_difference(one, two)
    assert n_pairs == 2
    nothing, none = index_difference(one, replace(one, measured=torch.zeros(3, dtype=torch.bool)))
    assert none == 0
    assert bool(nothing.isnan().all())
