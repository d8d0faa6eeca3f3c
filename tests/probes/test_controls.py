"""Controls are silent where there is nothing, and speak up where there is."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from probes.contrasts import ContrastSet
from probes.directions import DirectionOptions, fit_directions
from probes.instability.controls import (
    RANDOM_KINDS,
    Permutations,
    control_labels,
    permutation_null,
    random_auroc,
    selectivity,
    task_labels,
    upper_p_value,
)
from probes.instability.plan import ResamplePlan, Spread
from probes.instability.sample import FrameSample, doubled, fit_labelled, frame_samples

if TYPE_CHECKING:
    from conftest import Plant

PLAIN = DirectionOptions()


def planned(
    given: ContrastSet, rng: np.random.Generator, splits: int = 2
) -> tuple[ResamplePlan, tuple[FrameSample, ...]]:
    plan = ResamplePlan.draw([given], n_resamples=10, n_halves=splits, rng=rng)
    return plan, frame_samples(given, plan, min_per_class=8)


# ------------------------------------------------------------------------------ other labellings


@pytest.mark.parametrize("estimator", ["mean_difference", "mass_mean", "lda", "logistic", "lat"])
def test_other_labels_through_weights_equal_other_labels(
    planted: "type[Plant]", estimator: str
) -> None:
    """One fit of every example in both classes, weighted, against one fit a labelling."""
    rng = np.random.default_rng(0)
    (_, (sample, *_)) = planned(planted(n_pairs=20, width=6).draw(rng), rng)
    flipped = torch.from_numpy(rng.random(20) < 0.5).repeat_interleave(2)
    labels = torch.stack([sample.positive, sample.positive ^ flipped])
    found = fit_labelled(estimator, sample, 0, labels, PLAIN).full
    for place, positive in enumerate(labels):
        expected = fit_directions(
            estimator, sample.states, positive, torch.ones(1, 40), pair=sample.pair, options=PLAIN
        )
        assert float(found[place] @ expected[0, 0]) == pytest.approx(1.0, abs=2e-3)


def test_copies_are_matched_across_the_classes(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(1)
    (_, (sample, *_)) = planned(planted(n_pairs=10, width=4).draw(rng), rng)
    twice = doubled(sample, torch.ones(1, 20), torch.ones(1, 20))
    assert torch.equal(twice.pair[twice.pair], torch.arange(40))
    assert bool((twice.positive != twice.positive[twice.pair]).all())
    assert torch.equal(twice.group, twice.group[twice.pair])


# ------------------------------------------------------------------------------ random directions


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_random_directions_are_at_chance_without_harm(planted: "type[Plant]", kind: str) -> None:
    rng = np.random.default_rng(2)
    plant = planted(n_pairs=50, width=24, signal=0.0, angles=(0.0,))
    means = []
    for _ in range(20):
        _, (sample,) = planned(plant.draw(rng), rng)
        means.append(float(random_auroc(sample, 0, kind, n_directions=50, rng=rng).mean()))
    assert np.mean(means) == pytest.approx(0.5, abs=2.5 * np.std(means) / np.sqrt(20))


def test_random_directions_see_what_is_everywhere(planted: "type[Plant]") -> None:
    """In two dimensions a strong harm direction is never far from a random one."""
    rng = np.random.default_rng(3)
    _, (wide,) = planned(planted(n_pairs=50, width=96, signal=4.0, angles=(0.0,)).draw(rng), rng)
    _, (flat,) = planned(planted(n_pairs=50, width=2, signal=4.0, angles=(0.0,)).draw(rng), rng)
    areas = [
        float(random_auroc(s, 0, "random", n_directions=200, rng=rng).mean()) for s in (wide, flat)
    ]
    assert 0.5 < areas[0] < 0.65
    assert areas[1] > 0.85


def test_matched_directions_lie_where_states_vary(planted: "type[Plant]") -> None:
    """Harm on the axis of largest variance: a random mixture of states finds it every time."""
    rng = np.random.default_rng(4)
    given = planted(n_pairs=50, width=40, signal=0.0, angles=(0.0,)).draw(rng)
    states = given.states.clone()
    states[..., 0] += 8 * given.positive
    _, (sample,) = planned(replace(given, states=states), rng)
    areas = {k: random_auroc(sample, 0, k, n_directions=100, rng=rng).mean() for k in RANDOM_KINDS}
    assert float(areas["random_matched"]) > float(areas["random"]) + 0.1


# -------------------------------------------------------------------------------- permuted labels


def test_permutations_keep_the_design(planted: "type[Plant]") -> None:
    """Pairs in one group change places within it, in all contexts alike."""
    rng = np.random.default_rng(5)
    given = planted(n_pairs=15, width=4).draw(rng)
    plan, samples = planned(given, rng)
    drawn = Permutations.draw([given], plan, n_permutations=40, rng=rng)
    labels = [drawn.labels(sample) for sample in samples]
    assert torch.equal(labels[0][0], samples[0].positive)
    assert torch.equal(labels[0], labels[1])
    assert bool((labels[0][:, 0::2] != labels[0][:, 1::2]).all())
    swapped = (labels[0][1:] != labels[0][0]).float().mean()
    assert float(swapped) == pytest.approx(0.5, abs=0.08)


def test_groups_of_one_class_change_classes_with_each_other(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(6)
    given = planted(n_pairs=15, width=4, paired_groups=False).draw(rng)
    plan, samples = planned(given, rng)
    drawn = Permutations.draw([given], plan, n_permutations=40, rng=rng)
    labels = [drawn.labels(sample) for sample in samples]
    assert torch.equal(labels[0], labels[2])
    assert bool((labels[0].sum(dim=1) == 15).all())
    assert len({tuple(row.tolist()) for row in labels[0]}) == 41
    assert drawn.first(7).labels(samples[0]).tolist() == labels[0][:8].tolist()


def test_planted_harm_beats_all_permutations(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(7)
    given = planted(n_pairs=40, width=16, signal=2.0, angles=(0.0, 0.3)).draw(rng)
    plan, samples = planned(given, rng)
    drawn = Permutations.draw([given], plan, n_permutations=99, rng=rng)
    null = permutation_null("mean_difference", samples, 0, drawn, [PLAIN, PLAIN])
    assert upper_p_value(null.auroc).tolist() == [0.01, 0.01]
    assert float(null.auroc[1:].mean()) == pytest.approx(0.5, abs=0.05)
    assert upper_p_value(null.cosines.crossed)[0, 1] == 0.01


def test_permuted_raw_cosines_show_the_noise_that_contexts_share(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(8)
    given = planted(n_pairs=40, width=16, shared=0.8, angles=(0.0, 1.0)).draw(rng)
    plan, samples = planned(given, rng)
    drawn = Permutations.draw([given], plan, n_permutations=99, rng=rng)
    null = permutation_null("mean_difference", samples, 0, drawn, [PLAIN, PLAIN]).cosines
    assert float(null.raw[1:, 0, 1].mean()) > 0.5
    assert float(null.crossed[1:, 0, 1].mean()) == pytest.approx(0.0, abs=0.05)


def test_p_values_by_hand() -> None:
    values = torch.tensor([[2.0, 2.0, 0.0], [1.0, 2.0, 3.0], [1.5, 3.0, torch.nan]])
    p_values = upper_p_value(values)
    assert p_values[:2].tolist() == pytest.approx([1 / 3, 1.0])
    assert np.isnan(p_values[2])


@pytest.mark.slow
@pytest.mark.parametrize("paired_groups", [True, False], ids=["mixed groups", "groups of a class"])
def test_permutation_p_values_are_uniform_without_harm(
    planted: "type[Plant]", paired_groups: bool
) -> None:
    rng = np.random.default_rng(9)
    plant = planted(n_pairs=16, width=8, signal=0.0, angles=(0.0, 0.0), paired_groups=paired_groups)
    of_auroc, of_cosine = [], []
    for _ in range(250):
        given = plant.draw(rng)
        plan, samples = planned(given, rng, splits=1)
        drawn = Permutations.draw([given], plan, n_permutations=99, rng=rng)
        null = permutation_null("mean_difference", samples, 0, drawn, [PLAIN, PLAIN])
        of_auroc.append(float(upper_p_value(null.auroc)[0]))
        of_cosine.append(float(upper_p_value(null.cosines.crossed)[0, 1]))
    for p_values in (of_auroc, of_cosine):
        # p-values are multiples of 1/100: spread over the step below, they are continuous.
        assert stats.kstest(np.array(p_values) - rng.random(250) / 100, "uniform").pvalue > 0.01


# ----------------------------------------------------------------------------------- control task


def test_control_labels_are_fixed_for_a_request_and_say_nothing_of_harm(
    planted: "type[Plant]",
) -> None:
    rng = np.random.default_rng(10)
    plan, samples = planned(planted(n_pairs=50, width=4).draw(rng), rng)
    control = control_labels(plan, n_tasks=20, rng=rng)
    labels = [task_labels(sample, control) for sample in samples]
    assert torch.equal(labels[0], labels[1])
    assert bool((labels[0].sum(dim=1) == 50).all())
    agreement = (labels[0] == samples[0].positive).float().mean()
    assert float(agreement) == pytest.approx(0.5, abs=0.05)


def mean_selectivity(plant: "Plant", estimator: str, seed: int, repetitions: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repetitions):
        plan, samples = planned(plant.draw(rng), rng, splits=1)
        control = control_labels(plan, n_tasks=4, rng=rng)
        values = selectivity(estimator, samples, 0, control, [PLAIN] * len(samples))
        found.append(float(values[0].mean()))
    return np.array(found)


@pytest.mark.parametrize("estimator", ["mean_difference", "lda"])
def test_without_harm_there_is_no_selectivity_even_where_all_can_be_memorised(
    planted: "type[Plant]", estimator: str
) -> None:
    plant = planted(n_pairs=20, width=60, signal=0.0, shared=0.9, angles=(0.0, 0.0))
    found = mean_selectivity(plant, estimator, 11, 25)
    assert abs(found.mean()) < 2.5 * found.std() / 5


def test_a_harm_direction_is_selective_where_requests_cannot_be_memorised(
    planted: "type[Plant]",
) -> None:
    few = planted(n_pairs=200, width=4, signal=5.0, shared=0.5, angles=(0.0, 0.0))
    many = planted(n_pairs=20, width=200, signal=5.0, shared=1.0, angles=(0.0, 0.0))
    found = [float(mean_selectivity(p, "mean_difference", 12, 3).mean()) for p in (few, many)]
    assert found[0] > 0.4
    assert found[1] < 0.1  # the same noise in both contexts: every labelling is memorised


def test_selectivity_has_resamples_and_needs_another_context(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(13)
    plan, samples = planned(planted(n_pairs=30, width=8, angles=(0.0, 0.2)).draw(rng), rng)
    control = control_labels(plan, n_tasks=2, rng=rng)
    both = selectivity("mean_difference", samples, 0, control, [PLAIN, PLAIN])
    assert tuple(both.shape) == (21, 2)
    assert bool((Spread.of(both).error > 0).all())
    alone = selectivity("mean_difference", samples[:1], 0, control, [PLAIN])
    assert bool(alone.isnan().all())
