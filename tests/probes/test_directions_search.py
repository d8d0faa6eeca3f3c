"""The searches behind logistic, LAT and CCS reach what exact methods reach."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor


def angle(one: Tensor, other: Tensor) -> float:
    """Largest angle between rows of length 1, up to sign."""
    return float(torch.minimum((one - other).norm(dim=-1), (one + other).norm(dim=-1)).max())


# ------------------------------------------------------------------------------ logistic


def separable(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes with a gap between them, and one direction a thousand times as large as the rest."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(60, 90))
    states[:, 0] *= 1000
    positive = np.arange(60) % 2 == 0
    states[:, 1] = np.where(positive, 1.0, -1.0) * (1 + rng.random(60))
    return torch.tensor(states), torch.tensor(positive)


@pytest.mark.parametrize("c", [1e-6, 1.0, 1e6])
def test_perfectly_separable_classes_have_a_direction(c: float) -> None:
    """Also with hardly any penalty, and one state dimension that dwarfs the others.

    At C = 1e6 scikit-learn's Newton solver is the reference to 1e-4: both stop a little short.
    """
    from probes.directions import DirectionOptions, fit_directions

    states, positive = separable()
    weights = torch.ones((1, 60))
    options = DirectionOptions(c=c)
    [[found]] = fit_directions("logistic", states[None], positive, weights, options=options)
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=10_000)
    expected = model.fit(states - states.mean(dim=0), positive).coef_[0]
    assert angle(found, torch.tensor(expected / np.linalg.norm(expected))) < 1e-4


def test_the_optimum_has_no_slope_left() -> None:
    """Gradient by automatic differentiation at the solution, intercept included."""
    from probes.directions.newton import fit_logistic, logistic_loss

    states, positive = separable()
    states[:, 1] /= 5
    signs = torch.where(positive, 1.0, -1.0).double()
    rng = np.random.default_rng(1)
    weights = torch.tensor(rng.multinomial(60, np.full(60, 1 / 60), size=5)).double()
    c = torch.tensor([1e-5, 1e-3, 1e-1, 1e1, 1e3]).double()
    found = fit_logistic(states, signs, weights, c)
    assert bool(found.converged.all())
    slope = found.slope.clone().requires_grad_()
    intercept = found.intercept.clone().requires_grad_()
    loss = logistic_loss(slope @ states.T + intercept[:, None], signs, weights)
    (loss + slope.square().sum(dim=1) / (2 * c)).sum().backward()
    at_zero = (weights[:, :, None] * states).abs().sum(dim=1)  # what could stand there
    assert slope.grad is not None
    assert intercept.grad is not None
    assert float((slope.grad.abs() / at_zero).max()) < 1e-6
    assert float((intercept.grad.abs() / weights.sum(dim=1)).max()) < 1e-6


def test_c_is_the_one_with_the_least_loss_on_groups_left_out() -> None:
    """The same folds and candidates, fitted one by one by scikit-learn."""
    from probes.directions import choose_c
    from probes.directions.logistic import GRID, group_folds

    rng = np.random.default_rng(2)
    n, width = 80, 30
    positive = np.arange(n) % 2 == 0
    states = rng.normal(size=(3, n, width))
    states[..., 0] += np.array([0.0, 0.7, 3.0])[:, None] * positive
    groups = [f"g{i // 4}" for i in range(n)]
    folds = group_folds(groups, 5, seed=7).numpy()
    assert all(len({int(folds[i]) for i in range(n) if groups[i] == name}) == 1 for name in groups)
    assert sorted(np.bincount(folds)) == [16] * 5
    expected = []
    for layer in states:
        unit = 1 / np.mean(((layer - layer.mean(axis=0)) ** 2).sum(axis=1))
        losses = []
        for candidate in GRID:
            loss = 0.0
            for fold in range(5):
                model = LogisticRegression(C=candidate * unit, tol=1e-8, max_iter=10_000)
                model.fit(layer[folds != fold], positive[folds != fold])
                scores = model.decision_function(layer[folds == fold])
                signs = np.where(positive[folds == fold], 1, -1)
                loss += np.logaddexp(0, -signs * scores).sum()
            losses.append(loss)
        expected.append(GRID[int(np.argmin(losses))] * unit)
    found = choose_c(torch.tensor(states), torch.tensor(positive), groups, seed=7)
    assert found == pytest.approx(expected)
    assert 5 * found[0] < found[2]  # the clearer the classes, the less penalty


def test_choosing_c_needs_both_classes_outside_a_fold() -> None:
    from probes.directions import choose_c

    states = torch.randn((2, 6, 3), generator=torch.Generator().manual_seed(0))
    states[1] = 1.0
    positive = torch.tensor([True, True, True, False, False, False])
    [one_group, constant] = choose_c(states, positive, ["a"] * 6)
    centred = states[0] - states[0].mean(dim=0)
    assert one_group == pytest.approx(float(1 / centred.square().sum(dim=1).mean()))
    assert constant == 1.0
    assert choose_c(states, positive, ["a"] * 3 + ["b"] * 3) == pytest.approx((one_group, 1.0))


# ------------------------------------------------------------------------------ eigenvectors


@pytest.mark.parametrize("n", [12, 60, 300])
@pytest.mark.parametrize("decay", [0.0, 0.02, 1.0], ids=["flat", "slow", "fast"])
def test_leading_eigenvectors_are_those_of_the_whole_matrix(n: int, decay: float) -> None:
    """Whether they come out of the Krylov space or, too close together, of the exact way out."""
    from probes.directions.leading import leading_eigenvectors

    rng = np.random.default_rng(3)
    width = 50
    rows = torch.tensor(rng.normal(size=(n, width)) * np.exp(-decay * np.arange(width)))
    weights = torch.tensor(rng.multinomial(n, np.full(n, 1 / n), size=6)).double()
    found = leading_eigenvectors(rows @ rows.T, weights, 3)
    for vectors, counts in zip(found, weights, strict=True):
        repeated = rows * counts.sqrt()[:, None]
        expected = torch.linalg.svd(repeated)[0][:, :3].T
        assert angle(vectors, expected) < 1e-6


def test_two_equal_eigenvalues_give_a_vector_of_their_plane() -> None:
    from probes.directions.leading import leading_eigenvectors

    values = torch.cat([torch.tensor([4.0, 4.0]), torch.linspace(2, 0, 98)]).double()
    turn = torch.linalg.qr(torch.randn((100, 100), generator=torch.Generator().manual_seed(1)))[0]
    gram = turn.double() @ values.diag() @ turn.double().T
    [[vector]] = leading_eigenvectors(gram, torch.ones((1, 100)).double(), 1)
    assert float((gram @ vector - 4 * vector).norm()) < 1e-5


# ------------------------------------------------------------------------------ CCS


def pairs_of_states(seed: int, shift: float) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(2, 80, 10))
    states = np.repeat(shared, 2, axis=0)[:80] + own
    states[::2, 0] += shift
    return torch.tensor(states), torch.arange(80) % 2 == 0


def ccs_loss(slope: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """The loss as the module's first lines give it, by plain NumPy."""
    both = np.concatenate([one, other])
    mean = both.mean(axis=0)
    p, q = (1 / (1 + np.exp(-(members - mean) @ slope)) for members in (one, other))
    variance = ((both - mean) ** 2).sum(axis=1).mean() / one.shape[1]
    decay = 0.1 * variance * (slope**2).sum() / 2
    return float(np.mean((p + q - 1) ** 2 + np.minimum(p, q) ** 2) + decay)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_ccs_ends_in_a_minimum_of_its_loss(shift: float) -> None:
    """SciPy, started at the length that suits the direction best, finds hardly anything lower."""
    from probes.directions import fit_directions

    for seed in range(5):
        states, positive = pairs_of_states(seed, shift)
        pair = torch.arange(80) ^ 1
        [[found]] = fit_directions("ccs", states[None], positive, torch.ones((1, 80)), pair=pair)
        parts = (states[positive].numpy(), states[~positive].numpy())
        lengths = np.geomspace(0.01, 100, 2000)
        direction = found.numpy()
        # The loss is another one for the probe that answers the other way round.
        values = [ccs_loss(k * direction, *parts) for k in np.concatenate([lengths, -lengths])]
        best = np.concatenate([lengths, -lengths])[int(np.argmin(values))] * direction
        polished = minimize(ccs_loss, best, args=parts, method="BFGS", options={"gtol": 1e-8})
        assert polished.fun > min(values) - 1e-4
        end = polished.x / np.linalg.norm(polished.x)
        assert abs(end @ direction) > 0.9995
        assert polished.fun < 0.25  # what answering one half to everything costs


def test_ccs_is_lower_than_its_starts_and_finds_the_classes() -> None:
    from probes.directions import fit_directions

    states, positive = pairs_of_states(9, 5.0)
    pair = torch.arange(80) ^ 1
    [[found]] = fit_directions("ccs", states[None], positive, torch.ones((1, 80)), pair=pair)
    assert float(found[0]) > 0.95
    scores = states @ found
    assert float(scores[positive].mean() - scores[~positive].mean()) > 0
