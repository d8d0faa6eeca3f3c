"""AUROC and accuracy agree with scikit-learn; planted turns cost what theory says they cost."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from probes.contrasts import ContrastSet
from probes.directions import DirectionOptions
from probes.instability.plan import ResamplePlan
from probes.instability.sample import fit_frame, frame_samples
from probes.instability.transfer import Transfer, balanced_accuracy, transfer, weighted_auroc

if TYPE_CHECKING:
    from conftest import Plant


def matrices(
    given: ContrastSet,
    rng: np.random.Generator,
    estimator: str = "mean_difference",
    halves: int = 4,
) -> Transfer:
    plan = ResamplePlan.draw([given], n_resamples=10, n_halves=halves, rng=rng)
    samples = frame_samples(given, plan, min_per_class=8)
    fits = [fit_frame(estimator, sample, 0, DirectionOptions()) for sample in samples]
    return transfer(samples, 0, torch.stack([fit.halves for fit in fits]))


@pytest.mark.parametrize("values", [5, 1000], ids=["many ties", "few ties"])
def test_weighted_auroc_agrees_with_scikit_learn(values: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, values, size=(3, 4, 60)).astype(np.float32)
    positive = rng.random(60) < 0.4
    weights = rng.integers(0, 4, size=(4, 60)).astype(np.float32)
    found = weighted_auroc(
        torch.tensor(scores), torch.tensor(weights * positive), torch.tensor(weights * ~positive)
    )
    for context in range(3):
        for draw in range(4):
            reference = roc_auc_score(positive, scores[context, draw], sample_weight=weights[draw])
            assert float(found[context, draw]) == pytest.approx(reference, abs=1e-6)


def test_balanced_accuracy_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    beyond = rng.normal(size=(3, 50)).astype(np.float32)
    positive = rng.random(50) < 0.3
    weights = rng.integers(1, 4, size=(3, 50)).astype(np.float32)
    found = balanced_accuracy(
        torch.tensor(beyond), torch.tensor(weights * positive), torch.tensor(weights * ~positive)
    )
    for draw in range(3):
        reference = balanced_accuracy_score(positive, beyond[draw] > 0, sample_weight=weights[draw])
        assert float(found[draw]) == pytest.approx(reference, abs=1e-6)


def test_constant_scores_are_at_chance_and_missing_ones_are_missing() -> None:
    ones, half = torch.ones(1, 6), torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    assert weighted_auroc(ones, half, 1 - half).tolist() == [0.5]
    assert balanced_accuracy(0 * ones, half, 1 - half).tolist() == [0.5]
    assert bool(weighted_auroc(ones, ones, 0 * ones).isnan())
    assert bool(weighted_auroc(torch.nan * ones, half, 1 - half).isnan())
    assert bool(balanced_accuracy(torch.nan * ones, half, 1 - half).isnan())


def test_a_turn_costs_what_the_normal_distribution_says(planted: "type[Plant]") -> None:
    """AUROC Φ(signal cos / √2), and accuracy Φ(signal cos / 2) at the middle of the classes."""
    plant = planted(n_pairs=1500, width=6, signal=2.0, angles=(0.0, np.pi / 3, np.pi))
    found = matrices(plant.draw(np.random.default_rng(2)), np.random.default_rng(2), halves=2)
    for a in range(3):
        for b in range(3):
            along = 2.0 * plant.cosine(a, b)
            # Standard errors are at most 0.5 / sqrt(1500) = 0.013.
            auroc, accuracy = stats.norm.cdf(along / np.sqrt(2)), stats.norm.cdf(along / 2)
            assert float(found.auroc[0, a, b]) == pytest.approx(auroc, abs=0.03)
            assert float(found.accuracy[0, a, b]) == pytest.approx(accuracy, abs=0.03)
    assert float(found.drop[0, 0, 2]) == pytest.approx(2 * stats.norm.cdf(2**0.5) - 1, abs=0.04)
    assert float(found.drop[0, 1, 1]) == 0


def test_a_shift_between_contexts_spoils_the_threshold_but_not_the_ranking(
    planted: "type[Plant]",
) -> None:
    rng = np.random.default_rng(3)
    plant = planted(n_pairs=100, width=6, signal=4.0, angles=(0.0, 0.0))
    directions = plant.directions(rng)
    states = plant.states(rng, directions)
    states[1] += 10 * directions[0]
    given = replace(plant.draw(rng), states=torch.tensor(states.reshape(1, -1, 6)).float())
    found = matrices(given, rng)
    assert float(found.auroc[0, 0, 1]) > 0.97
    assert float(found.accuracy[0, 0, 1]) == pytest.approx(0.5, abs=0.01)
    assert float(found.accuracy[0, 1, 1]) > 0.94


@pytest.mark.parametrize("estimator", ["mean_difference", "lda"])
def test_memorised_noise_does_not_transfer_to_the_same_prompts(
    planted: "type[Plant]", estimator: str
) -> None:
    """More dimensions than examples and the same noise in all contexts: a perfect, useless fit."""
    plant = planted(n_pairs=20, width=80, signal=0.0, angles=(0.0, 0.0), shared=1.0)
    rng = np.random.default_rng(4)
    found = [matrices(plant.draw(rng), rng, estimator).auroc[0].mean() for _ in range(40)]
    assert float(torch.stack(found).mean()) == pytest.approx(0.5, abs=0.03)


def test_contexts_are_in_rows_fitted_and_columns_tested(planted: "type[Plant]") -> None:
    """A context without harm can be tested in, but nothing comes of fitting there."""
    rng = np.random.default_rng(5)
    plant = planted(n_pairs=100, width=8, signal=4.0, angles=(0.0, 0.0))
    states = plant.states(rng)
    states[1, :, :] = rng.normal(size=states[1].shape)
    states[1, 0::2, 0] += 0.5
    given = replace(plant.draw(rng), states=torch.tensor(states.reshape(1, -1, 8)).float())
    found = matrices(given, rng)
    assert float(found.auroc[0, 0, 0]) > 0.98
    assert float(found.auroc[0, 0, 1]) < 0.7


def test_ignored_examples_change_nothing(planted: "type[Plant]") -> None:
    """A half is tested with the examples outside it at weight zero or left out: all the same."""
    scores = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(3, 20)
    weights[:, 10:] = 0
    positive = torch.arange(20) % 2 == 0
    whole = weighted_auroc(scores, weights * positive, weights * ~positive)
    part = weighted_auroc(
        scores[..., :10], weights[:, :10] * positive[:10], weights[:, :10] * ~positive[:10]
    )
    torch.testing.assert_close(whole, part)
