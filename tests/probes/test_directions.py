"""Every estimator equals its reference on the sample written out, and obeys the laws it should."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]

NAMES = ("mean_difference", "mass_mean", "lda", "logistic", "lat", "ccs")
C = 0.02
WIDE, TALL = (60, 150), (120, 24)
SHAPES = pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
EVERY = pytest.mark.parametrize("name", NAMES)

# Angles between two ways to the same answer: rounding, or where a search stops.
CLOSE = dict.fromkeys(NAMES, 1e-8) | {"logistic": 1e-5, "ccs": 1e-6}


class Data:
    """Pairs (harmful, harmless) of one group each, in 3 layers, with bootstrap weights."""

    def __init__(self, shape: tuple[int, int] = TALL, *, shift: float = 2.0, seed: int = 0) -> None:
        n, width = shape
        rng = np.random.default_rng(seed)
        scales = np.linspace(3.0, 0.3, width)
        self.positive = np.arange(n) % 2 == 0
        self.pair = np.arange(n) ^ 1
        shared = np.repeat(rng.normal(size=(3, n // 2, width)), 2, axis=1)
        planted = rng.normal(size=(3, 1, width))
        planted *= shift * scales / np.linalg.norm(planted, axis=-1, keepdims=True)
        self.states = (shared + rng.normal(size=(3, n, width))) * scales
        self.states += 5 * rng.normal(size=(3, 1, width)) + planted * self.positive[:, None]
        drawn = rng.multinomial(n // 2, np.full(n // 2, 2 / n), size=4)
        self.weights = np.vstack([np.ones(n, dtype=int), np.repeat(drawn, 2, axis=1)])

    def fit(self, name: str, c: float | None = None, **changes: NDArray[np.generic]) -> Floats:
        from probes.directions import DirectionOptions, fit_directions

        use = {**vars(self), **changes}
        return fit_directions(
            name,
            torch.tensor(use["states"]),
            torch.tensor(use["positive"]),
            torch.tensor(use["weights"]),
            pair=torch.tensor(use["pair"]),
            options=DirectionOptions(c=c),
        ).numpy()

    def written_out(self, resample: int) -> dict[str, NDArray[np.generic]]:
        """The sample with every pair as often as the resample holds it, and weights of one."""
        counts = self.weights[resample][::2]
        index = np.repeat(2 * np.arange(len(counts)), counts)
        index = np.stack([index, index + 1], axis=1).ravel()
        return {
            "states": self.states[:, index],
            "positive": self.positive[index],
            "pair": np.arange(len(index)) ^ 1,
            "weights": np.ones((1, len(index)), dtype=int),
        }


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def angle(one: Floats, other: Floats) -> float:
    """Largest angle between rows, also where it is too small for its cosine; NaN if one is."""
    return float(np.linalg.norm(one - other, axis=-1).max())


def reference_mean_difference(x: Floats, y: NDArray[np.bool_]) -> Floats:
    return x[y].mean(axis=0) - x[~y].mean(axis=0)


def reference_mass_mean(x: Floats, y: NDArray[np.bool_]) -> Floats:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, y).coef_[0]


def reference_lda(x: Floats, y: NDArray[np.bool_]) -> Floats:
    model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf())
    return model.fit(x, y).coef_[0]


def reference_logistic(x: Floats, y: NDArray[np.bool_], c: float = C) -> Floats:
    centred = x - x.mean(axis=0)  # moves the intercept alone, and spares the solver
    return LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(centred, y).coef_[0]


def reference_lat(x: Floats, y: NDArray[np.bool_]) -> Floats:
    differences = x[y] - x[~y]
    axis = np.linalg.svd(differences)[2][0]
    return axis * np.sign(axis @ differences.mean(axis=0))


REFERENCES: dict[str, Callable[[Floats, NDArray[np.bool_]], Floats]] = {
    "mean_difference": reference_mean_difference,
    "mass_mean": reference_mass_mean,
    "lda": reference_lda,
    "logistic": reference_logistic,
    "lat": reference_lat,
}


@SHAPES
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_reference_on_the_sample_written_out(name: str, shape: tuple[int, int]) -> None:
    data = Data(shape)
    found = data.fit(name, c=C)
    for resample in range(len(data.weights)):
        sample = data.written_out(resample)
        for layer in range(3):
            expected = unit(REFERENCES[name](sample["states"][layer], sample["positive"]))
            assert angle(found[layer, resample], expected) < CLOSE[name]


@SHAPES
@EVERY
def test_a_weight_counts_repetitions(name: str, shape: tuple[int, int]) -> None:
    data = Data(shape)
    found = data.fit(name)
    for resample in range(len(data.weights)):
        [alone] = data.fit(name, **data.written_out(resample)).transpose(1, 0, 2)
        assert angle(found[:, resample], alone) < CLOSE[name]


@EVERY
def test_a_weight_of_zero_leaves_out(name: str) -> None:
    data = Data()
    half = np.repeat(np.arange(60) < 30, 2)
    inside = {"positive": data.positive[half], "pair": data.pair[half]}
    alone = data.fit(name, states=data.states[:, half], weights=np.ones((1, 60)), **inside)
    spoilt = np.where(half[:, None], data.states, 1e3 * data.states)
    assert angle(data.fit(name, states=spoilt, weights=half[None].astype(int)), alone) < CLOSE[name]


@EVERY
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), wide=st.booleans())
def test_turns_with_the_states(name: str, seed: int, wide: bool) -> None:
    """All estimators are equivariant, which is why they may be fitted in the row space."""
    n, width = (20, 32) if wide else (60, 12)
    data = Data((n, width), seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    turned = data.fit(name, states=data.states @ rotation, weights=np.ones((1, n)))
    found = data.fit(name, weights=np.ones((1, n)))
    assert angle(turned, found @ rotation) < 10 * CLOSE[name]


@EVERY
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_neither_scale_nor_shift_matter(name: str, scale: float) -> None:
    data = Data()
    moved = data.fit(name, states=scale * (data.states + 10.0))
    assert angle(moved, data.fit(name)) < CLOSE[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ccs"])
def test_exchanged_classes_turn_the_direction_round(name: str) -> None:
    """Not CCS: its doubt min(p, q)² is another one when all answers are turned round."""
    data = Data()
    assert angle(data.fit(name, positive=~data.positive), -data.fit(name)) < CLOSE[name]


@EVERY
def test_single_precision_is_nearly_as_good(name: str) -> None:
    data = Data(WIDE)
    found = data.fit(name, states=data.states.astype(np.float32))
    assert found.dtype == np.float32
    assert angle(found, data.fit(name)) < max(1e-5, CLOSE[name])


@EVERY
def test_blocks_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from probes.directions import fit

    data = Data()
    together = data.fit(name)
    monkeypatch.setattr(fit, "VECTORS", 1)
    monkeypatch.setattr(fit, "MATRICES", 1)
    assert angle(data.fit(name), together) < CLOSE[name]


@pytest.mark.parametrize("name", ["mean_difference", "mass_mean", "lat", "ccs"])
def test_only_the_ratio_of_weights_matters(name: str) -> None:
    """Not to LDA and logistic regression, whose shrinkage and penalty weaken with the sample."""
    data = Data()
    assert angle(data.fit(name, weights=data.weights / 3), data.fit(name)) < CLOSE[name]


# ------------------------------------------------------------------------------ known answers


@EVERY
def test_a_planted_direction_is_found_in_even_noise(name: str) -> None:
    rng = np.random.default_rng(3)
    n, width = 4000, 16
    positive, planted = np.arange(n) % 2 == 0, unit(rng.normal(size=width))
    states = rng.normal(size=(1, n, width)) + 4 * positive[:, None] * planted
    data = Data()
    [[found]] = data.fit(
        name,
        states=states,
        positive=positive,
        pair=np.arange(n) ^ 1,
        weights=np.ones((1, n)),
    )
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found @ planted > 0.99


@pytest.mark.parametrize("name", ["mass_mean", "lda", "logistic"])
def test_uneven_noise_is_turned_away_from(name: str) -> None:
    """Fisher's direction is Σ⁻¹ Δμ; the difference of means keeps the noise that it points into."""
    rng = np.random.default_rng(4)
    n, deviations = 20_000, np.array([3.0, 1.0, 1.0])
    positive = np.arange(n) % 2 == 0
    difference = np.array([1.0, 1.0, 0.0])
    states = rng.normal(size=(1, n, 3)) * deviations + positive[:, None] * difference
    fisher = unit(difference / deviations**2)
    options = {"positive": positive, "pair": np.arange(n) ^ 1, "weights": np.ones((1, n))}
    data = Data()
    [[found]] = data.fit(name, c=1.0, states=states, **options)
    # The fixed shrinkage of 0.1 adds 0.1 tr(Σ)/3 = 0.37 to each variance: 7° off.
    assert found @ fisher > (0.99 if name == "mass_mean" else 0.999)
    [[means]] = data.fit("mean_difference", states=states, **options)
    assert means @ unit(difference) > 0.999


@pytest.mark.slow
@EVERY
def test_without_a_difference_directions_go_everywhere(name: str) -> None:
    """Cosines to a fixed vector: mean 0 and mean square 1/d, over 200 independent null samples."""
    n_samples, n, width = 200, 40, 12
    states = np.random.default_rng(5).normal(size=(n_samples, n, width))
    positive = np.arange(n) % 2 == 0
    fixed = unit(np.ones(width))
    found = Data().fit(
        name,
        states=states,
        positive=positive,
        pair=np.arange(n) ^ 1,
        weights=np.ones((1, n)),
    )
    cosines = found[:, 0] @ fixed
    assert abs(cosines.mean()) < 4 / np.sqrt(n_samples * width)
    # The square of one cosine has mean 1/d and a standard deviation of about √2/d.
    assert np.mean(cosines**2) * width == pytest.approx(1, abs=4 * np.sqrt(2 / n_samples))


def test_lat_ignores_examples_without_a_pair() -> None:
    data = Data()
    unpaired = np.arange(120) >= 80
    pair = np.where(unpaired, -1, data.pair)
    alone = data.fit(
        "lat",
        states=data.states[:, ~unpaired],
        positive=data.positive[~unpaired],
        pair=data.pair[~unpaired],
        weights=np.ones((1, 80)),
    )
    found = data.fit("lat", pair=pair, weights=np.ones((1, 120)))
    assert angle(found, alone) < 1e-8


def test_a_pair_is_held_as_often_as_its_rarer_member() -> None:
    data = Data()
    rng = np.random.default_rng(6)
    weights = rng.integers(0, 4, size=(3, 120))
    whole = np.repeat(weights.reshape(3, 60, 2).min(axis=2), 2, axis=1)
    assert angle(data.fit("lat", weights=weights), data.fit("lat", weights=whole)) < 1e-12


# ------------------------------------------------------------------------------ not measured


@EVERY
def test_a_resample_without_two_examples_of_a_class_is_not_measured(name: str) -> None:
    data = Data()
    harmful = data.positive.astype(int)
    one_twice = (1 - harmful) + 2 * (np.arange(120) == 0)  # repetition brings nothing new
    two_pairs = (np.arange(120) < 4).astype(int)
    weights = np.stack([harmful, 1 - harmful, one_twice, 0 * harmful, 1 + 0 * harmful, two_pairs])
    measured = np.isfinite(data.fit(name, weights=weights)).all(axis=-1)
    # Ledoit and Wolf see no noise in two points, and the covariance stays singular.
    few = name != "lda"
    np.testing.assert_array_equal(measured, [[False, False, False, False, True, few]] * 3)


@EVERY
def test_no_difference_is_not_measured(name: str) -> None:
    """A layer that is constant, also far from 0; and one whose class means are the same."""
    data = Data()
    constant = np.full_like(data.states[0], 1 / 3) * 1e5
    same = np.repeat(data.states[0, ::2], 2, axis=0)
    states = np.stack([constant, same, data.states[2]])
    found = data.fit(name, states=states)
    assert np.isnan(found[:2]).all()
    assert angle(found[2], data.fit(name)[2]) < 1e-12


def test_a_singular_covariance_is_not_measured() -> None:
    from probes.directions import DirectionOptions, fit_directions

    data = Data(WIDE)
    given = (torch.tensor(data.states), torch.tensor(data.positive), torch.tensor(data.weights))
    for shrinkage, measured in ((0.0, False), (1e-3, True)):
        options = DirectionOptions(shrinkage=shrinkage)
        found = fit_directions("mass_mean", *given, options=options)
        assert bool(found.isfinite().all()) is measured
        assert bool(found.isnan().all()) is not measured


# ------------------------------------------------------------------------------ mistakes


def test_states_that_are_not_finite_are_named() -> None:
    from workbench.errors import NonFiniteError

    data = Data()
    states = data.states.copy()
    states[1, 7, 3] = np.nan
    with pytest.raises(NonFiniteError, match="example 7 in layer 1"):
        data.fit("lda", states=states)


def test_mistakes_are_named() -> None:
    from probes.directions import DirectionOptions, fit_directions
    from workbench.errors import ConfigError, DataError

    data = Data()
    states, positive = torch.tensor(data.states), torch.tensor(data.positive)
    weights = torch.tensor(data.weights)
    with pytest.raises(DataError, match="unknown estimator 'pca'; choose one of mean_difference"):
        fit_directions("pca", states, positive, weights)
    for name in ("lat", "ccs"):
        with pytest.raises(DataError, match=f"'{name}' is fitted on matched pairs"):
            fit_directions(name, states, positive, weights)
    for wrong in (weights - 1, weights * torch.nan, weights * torch.inf):
        with pytest.raises(DataError, match="finite numbers from 0"):
            fit_directions("lda", states, positive, wrong)
    with pytest.raises(DataError, match="not mutual"):
        data.fit("lat", pair=np.roll(data.pair, 1))
    with pytest.raises(DataError, match="two examples of one class"):
        data.fit("lat", positive=np.ones(120, dtype=bool))
    with pytest.raises(ConfigError, match="c has 2 entries for 3 layers"):
        fit_directions("lda", states, positive, weights, options=DirectionOptions(c=(1.0, 1.0)))
    with pytest.raises(ConfigError, match="shrinkage"):
        DirectionOptions(shrinkage=1.5)
    for c in (0.0, np.inf, (1.0, -1.0)):
        with pytest.raises(ConfigError, match="above 0"):
            DirectionOptions(c=c)  # type: ignore[arg-type]


def test_the_registry_says_what_needs_pairs() -> None:
    from probes.directions import ESTIMATORS

    assert tuple(ESTIMATORS) == NAMES
    assert {name for name, each in ESTIMATORS.items() if each.needs_pairs} == {"lat", "ccs"}
