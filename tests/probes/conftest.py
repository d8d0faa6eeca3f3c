"""Synthetic states with a planted direction in every context: what the analyses must give back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from probes.contrasts import ContrastSet


@dataclass(frozen=True)
class Plant:
    """States in which harm moves every context along a direction of its own.

    ``state = ±signal/2 · v_context + √shared · noise(prompt) + √(1 - shared) · noise(example)``

    with noise of variance 1 in every dimension. All directions lie in one plane, at `angles`.
    Prompts come in matched pairs, harmful and harmless, which are one group, or each its own.
    """

    n_pairs: int = 50
    width: int = 16
    signal: float = 3.0
    angles: Sequence[float] = (0.0, 0.0, 0.0)
    shared: float = 0.6
    n_layers: int = 1
    paired_groups: bool = True

    @property
    def contexts(self) -> tuple[str, ...]:
        return tuple(f"c{i}" for i in range(len(self.angles)))

    def cosine(self, a: int, b: int) -> float:
        return float(np.cos(self.angles[a] - self.angles[b]))

    @property
    def index(self) -> float:
        """The instability index of the truth."""
        n = len(self.angles)
        return 1 - float(np.mean([self.cosine(a, b) for a in range(n) for b in range(a)]))

    def directions(self, rng: np.random.Generator) -> np.ndarray:
        plane = np.linalg.qr(rng.normal(size=(self.width, 2)))[0]
        turns = np.stack([np.cos(self.angles), np.sin(self.angles)], axis=1)
        return turns @ plane.T

    def states(self, rng: np.random.Generator, directions: np.ndarray | None = None) -> np.ndarray:
        """(context, example, width); harmful and harmless examples of a pair stand together."""
        directions = self.directions(rng) if directions is None else directions
        n, n_contexts = 2 * self.n_pairs, len(self.angles)
        side = np.where(np.arange(n) % 2 == 0, 0.5, -0.5)[:, None]
        prompt = rng.normal(size=(n, self.width))
        own = rng.normal(size=(n_contexts, n, self.width))
        noise = np.sqrt(self.shared) * prompt + np.sqrt(1 - self.shared) * own
        return self.signal * side * directions[:, None] + noise

    def draw(self, rng: np.random.Generator, site: str = "prompt_last") -> "ContrastSet":
        """A contrast set; every layer has its own noise and plane."""
        layers = [self.states(rng) for _ in range(self.n_layers)]
        numbers = tuple(range(self.n_layers)) if site == "prompt_last" else (None,)
        return as_set(np.stack(layers), self.contexts, self.paired_groups, site, numbers)


def as_set(
    states: np.ndarray,
    contexts: Sequence[str],
    paired_groups: bool = True,
    site: str = "prompt_last",
    layers: tuple[int | None, ...] = (0,),
) -> "ContrastSet":
    """States (layer, context, example, width) with every other example harmful as a set."""
    from probes.contrasts import ContrastSet

    n_layers, n_contexts, n, width = states.shape
    rows = torch.arange(n_contexts * n)
    group = [f"g{i // 2 if paired_groups else i:04d}" for i in range(n)]
    return ContrastSet(
        states=torch.tensor(states.reshape(n_layers, -1, width), dtype=torch.float32),
        layers=layers,
        positive=rows % 2 == 0,
        context=tuple(name for name in contexts for _ in range(n)),
        group=tuple(group * n_contexts),
        pair=rows + 1 - 2 * (rows % 2),
        site=site,
        contrast="prompt",
        lengths=torch.full((n_contexts * n,), 10),
    )


@pytest.fixture(scope="session")
def planted() -> type[Plant]:
    """States with a known truth."""
    return Plant
