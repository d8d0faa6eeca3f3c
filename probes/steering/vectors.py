"""Steering vectors: a value direction, the length of a step along it, and the way to safety.

A direction v (unit, towards harmful) is fitted by any estimator of ``probes.directions`` on the
states of one layer. One step is the distance between the class means along it,

    vector = sign * |v . (mean harmful - mean harmless)| * v

so that a coefficient of 1 carries the mean of one class to that of the other (the difference of
means itself where v is its direction: CAA, arXiv 2312.06681). *sign* says what should raise the
safety margin, so that a positive slope always is the wanted one:

* contrast ``prompt`` (+1): a model that takes the request for more harmful should refuse more
  (arXiv 2406.11717);
* contrast ``response`` (-1): its own reply should look less like a harmful one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.contrasts import Contrast, ContrastSet
from probes.directions import fit_directions
from workbench.errors import DataError

_SIGNS: dict[Contrast, int] = {"prompt": 1, "response": -1}


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """What is added at one layer with a coefficient of 1.

    Attributes:
        layer: After which block.
        estimator: How its direction was fitted.
        contrast: Which classes it tells apart.
        vector: Towards the side that should be safer; NaN where no direction could be fitted.
    """

    layer: int
    estimator: str
    contrast: Contrast
    vector: Float[Tensor, " d_model"]

    @property
    def unit(self) -> Float[Tensor, " d_model"]:
        """Its direction."""
        unit: Tensor = self.vector / self.vector.norm()
        return unit

    @property
    def is_fitted(self) -> bool:
        """Whether there was a direction to fit."""
        return bool(self.vector.isfinite().all())


def fit_vector(train: ContrastSet, layer: int, estimator: str) -> SteeringVector:
    """Fit a steering vector on all examples of a contrast set.

    Raises:
        DataError: The set lacks the layer, its states have no layers, or a class is missing.
    """
    states = _states_of(train, layer)
    unit = _fitted(train, states, train.positive, estimator)
    gap = states[train.positive].mean(dim=0) - states[~train.positive].mean(dim=0)
    step = (unit @ gap).abs() * _SIGNS[train.contrast]
    return SteeringVector(layer, estimator, train.contrast, step * unit)


def permuted_directions(
    train: ContrastSet,
    layer: int,
    estimator: str,
    *,
    n_permutations: int,
    generator: torch.Generator,
) -> Float[Tensor, "resample d_model"]:
    """Unit directions fitted with the classes exchanged in a random half of the groups.

    Exchanging whole groups keeps what is alike within them, and exactly half of them leaves no
    direction of the classes but what sampling gives.

    Raises:
        DataError: See :func:`fit_vector`; or fewer than two groups.
    """
    states = _states_of(train, layer)
    group, n_groups = _numbered(train.group)
    if n_groups < 2:
        raise DataError("labels cannot be permuted within one group: give examples of at least two")
    order = torch.rand((n_permutations, n_groups), generator=generator).argsort(dim=1)
    exchanged = (order < n_groups // 2)[:, group].to(train.positive.device)
    directions = [_fitted(train, states, train.positive ^ flips, estimator) for flips in exchanged]
    return torch.stack(directions)


def random_directions(
    n: int, width: int, *, generator: torch.Generator
) -> Float[Tensor, "n width"]:
    """Unit vectors drawn uniformly from all directions."""
    noise = torch.randn((n, width), generator=generator)
    unit: Tensor = noise / noise.norm(dim=1, keepdim=True)
    return unit


def _numbered(groups: Sequence[str]) -> tuple[Int[Tensor, " n"], int]:
    """Numbers of the groups in order of first appearance, and how many there are."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([numbers[name] for name in groups]), len(numbers)


def _fitted(
    train: ContrastSet,
    states: Float[Tensor, "n width"],
    positive: Bool[Tensor, " n"],
    estimator: str,
) -> Float[Tensor, " width"]:
    one = torch.ones((1, len(train)), device=states.device)
    return fit_directions(estimator, states[None], positive, one, pair=train.pair)[0, 0]


def _states_of(train: ContrastSet, layer: int) -> Float[Tensor, "n width"]:
    if layer not in train.layers:
        there = ", ".join(str(known) for known in train.layers if known is not None)
        raise DataError(
            f"the training states at '{train.site}' do not hold layer {layer}"
            f" ({f'they hold {there}' if there else 'they have no layers'}): collect it"
        )
    if train.positive.all() or not train.positive.any():
        raise DataError(
            "the training states hold one class only: give harmful and harmless examples"
        )
    return train.states[train.layers.index(layer)].float()
