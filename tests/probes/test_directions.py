"""Every estimator against its reference on repeated samples, and the laws all of them obey."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

Floats = NDArray[np.float64]


class Data:
    """Pairs of states (harmful, harmless) of 3 layers, with bootstrap weights of groups."""

    def __init__(self, *, n: int = 60, width: int = 24, shift: float = 1.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        scales = np.linspace(3.0, 0.3, width)
        self.positive = np.arange(n) % 2 == 0
        self.pair = np.arange(n) ^ 1
        shared = np.repeat(rng.normal(size=(3, n // 2, width)), 2, axis=1)
        own = rng.normal(size=(3, n, width))
        self.planted = rng.normal(size=(3, width))
        self.planted /= np.linalg.norm(self.planted, axis=1, keepdims=True)
        self.states = (shared + own) * scales + rng.normal(size=(3, 1, width))
        self.states += shift * self.positive[None, :, None] * self.planted[:, None]
        drawn = rng.multinomial(n // 2, np.full(n // 2, 2 / n), size=4)
        self.weights = np.vstack([np.ones(n, dtype=int), np.repeat(drawn, 2, axis=1)])

    def fit(self, name: str, **changes: object) -> Floats:
        from probes.directions import fit_directions

        given: dict[str, object] = {
            "states": torch.tensor(self.states),
            "positive": torch.tensor(self.positive),
            "weights": torch.tensor(self.weights),
            "pair": torch.tensor(self.pair),
        }
        found = fit_directions(name, **{**given, **changes})  # type: ignore[arg-type]
        return found.numpy()

    def repeated(self, layer: int, resample: int) -> tuple[Floats, NDArray[np.bool_]]:
        index = np.repeat(np.arange(len(self.positive)), self.weights[resample])
        return self.states[layer, index], self.positive[index]


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def reference_lda(x: Floats, y: NDArray[np.bool_]) -> Floats:
    model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf())
    return unit(model.fit(x, y).coef_[0])


def reference_mass_mean(x: Floats, y: NDArray[np.bool_]) -> Floats:
    return unit(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(x, y).coef_[0])


def reference_mean_difference(x: Floats, y: NDArray[np.bool_]) -> Floats:
    return unit(x[y].mean(axis=0) - x[~y].mean(axis=0))


REFERENCES = {
    "mean_difference": reference_mean_difference,
    "mass_mean": reference_mass_mean,
    "lda": reference_lda,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", [(60, 24), (60, 150)], ids=["tall", "wide"])
def test_equals_the_reference_on_the_repeated_sample(name: str, shape: tuple[int, int]) -> None:
    """In double precision, to 1e-8: both solve the same well-conditioned equations."""
    data = Data(n=shape[0], width=shape[1])
    found = data.fit(name)
    for layer in range(3):
        for resample in range(len(data.weights)):
            expected = REFERENCES[name](*data.repeated(layer, resample))
            np.testing.assert_allclose(found[layer, resample], expected, atol=1e-8)
