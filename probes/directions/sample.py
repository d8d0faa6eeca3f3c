"""What an estimator sees: the states of one layer in a small frame, and counts of each example.

All estimators commute with rotations of the states and ignore shifts. So the states are shifted to
their mean and, where there are fewer examples than dimensions, written in an orthonormal basis of
the space they span: n coordinates stand for ``width`` of them, and the direction found is turned
back at the end. Nothing is lost, as a direction outside that space tells no two examples apart.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import NonFiniteError

NO_PAIR = -1
NO_PAIRS = torch.empty((0, 2), dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Sample:
    """One layer of a contrast, and some resamples of its examples.

    Attributes:
        states: Centred states in the frame of the layer.
        positive: True where harmful.
        weights: How often each resample holds each example.
        pairs: Indices (harmful, harmless) of every matched pair; empty where none are given.
        width: Dimensions of the states before they were put into the frame.
    """

    states: Float[Tensor, "n rank"]
    positive: Bool[Tensor, " n"]
    weights: Float[Tensor, "resample n"]
    pairs: Int[Tensor, "pair 2"]
    width: int

    @property
    def class_weights(self) -> tuple[Float[Tensor, "resample n"], Float[Tensor, "resample n"]]:
        """The weights of harmless and of harmful examples, zero elsewhere."""
        return self.weights * ~self.positive, self.weights * self.positive

    @property
    def pair_weights(self) -> Float[Tensor, "resample pair"]:
        """How many whole pairs a resample holds: the smaller of the members' counts.

        Members of one group have one count, and it is this one. A product would be wrong: a pair
        drawn twice has members of weight 2 and is two pairs, not four.
        """
        return self.weights[:, self.pairs].amin(dim=-1)

    @property
    def differences(self) -> Float[Tensor, "pair rank"]:
        """Harmful minus harmless state of every pair."""
        return self.states[self.pairs[:, 0]] - self.states[self.pairs[:, 1]]

    @cached_property
    def mean_differences(self) -> Float[Tensor, "resample rank"]:
        """Mean of the harmful minus mean of the harmless states."""
        harmless, harmful = (given / given.sum(-1, keepdim=True) for given in self.class_weights)
        return (harmful - harmless) @ self.states

    def rows(self, start: int, stop: int) -> "Sample":
        """Some of the resamples."""
        weights = self.weights[start:stop]
        return Sample(self.states, self.positive, weights, self.pairs, self.width)


def spread(
    states: Float[Tensor, "n rank"], weights: Float[Tensor, "resample n"]
) -> Float[Tensor, " resample"]:
    """Mean squared distance of the states that a resample holds to their mean."""
    share = weights / weights.sum(dim=-1, keepdim=True)
    return share @ states.square().sum(dim=-1) - (share @ states).square().sum(dim=-1)


def centre(states: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """States minus their mean, in double precision.

    The first state is subtracted before: a layer that is constant becomes exactly zero, not the
    rounding error of its mean.
    """
    shifted = states.double() - states[0].double()
    return shifted - shifted.mean(dim=0)


def into_frame(
    centred: Float[Tensor, "n width"],
) -> tuple[Float[Tensor, "n rank"], Float[Tensor, "rank width"] | None]:
    """Coordinates in an orthonormal basis of the row space, by QR, and the basis.

    Where there are at least as many examples as dimensions the states stay as they are (None).
    """
    n, width = centred.shape
    if n >= width:
        return centred, None
    basis, coordinates = torch.linalg.qr(centred.T)
    return coordinates.T.contiguous(), basis.T


def pair_indices(pair: Int[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Int[Tensor, "pair 2"]:
    """Every pair once, as (harmful, harmless), from each example's counterpart."""
    harmful = ((pair != NO_PAIR) & positive).nonzero().flatten()
    return torch.stack([harmful, pair[harmful]], dim=1)


def check_finite(states: Float[Tensor, "layer n width"]) -> None:
    """Refuse states that were not measured.

    Raises:
        NonFiniteError: A state is NaN or infinite; layer and example are named.
    """
    bad = (~states.isfinite().all(dim=-1)).nonzero()
    if len(bad):
        layer, example = bad[0].tolist()
        raise NonFiniteError(
            f"the state of example {example} in layer {layer} (of those given) is NaN or infinite; "
            f"{len(bad)} states are: leave these examples out or collect them again"
        )
