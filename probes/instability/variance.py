"""How much of what varies lies on the direction, and in how many dimensions do states vary?

Everything is measured on other groups than those the direction was fitted on, so that a direction
cannot look large by fitting its own noise.

* Variance share: variance of held-out states along the direction over their total variance. A
  random direction gets 1/width on average.
* Signal share: between-class variance along the direction over the total variance,
  ``p (1 - p) (difference of class means of the scores)² / tr Σ``, with p the share of harmful
  examples; the part of the squared difference that sampling noise adds is taken away, so that
  states without harm get 0 on average (and sometimes less).
* Effective dimension: the participation ratio ``(tr Σ)² / tr Σ²``, 1 where all variance lies on
  one line and the width where it is the same in all directions. With n examples the plain ratio
  stays below n whatever the truth; with the two halves' covariances in
  ``tr Σ₁ tr Σ₂ / tr(Σ₁Σ₂)`` numerator and denominator are unbiased.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.instability.sample import FrameSample


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of the total variance that lie along a direction.

    Attributes:
        variance: All variance along it.
        signal: Between-class variance along it.
    """

    variance: Float[Tensor, " draw"]
    signal: Float[Tensor, " draw"]


def shares(
    sample: FrameSample, layer: int, halves: Float[Tensor, "draw split half width"]
) -> Shares:
    """Shares of one context and layer, averaged over halves and splits.

    Args:
        sample: The context.
        layer: Place of the layer in its states.
        halves: Directions fitted on the halves.
    """
    variances, signals = [], []
    for split, (first, second) in enumerate(sample.halves):
        for half, held_out in enumerate((second, first)):
            members = held_out.nonzero().flatten()
            states = sample.states[layer, members]
            weights = sample.weights[: len(halves), members]
            scores = halves[:, split, half] @ states.T
            total = _total_variance(states, weights)
            variances.append(_variance(scores, weights) / total)
            signals.append(_signal(scores, weights, sample.positive[members]) / total)
    return Shares(torch.stack(variances).mean(dim=0), torch.stack(signals).mean(dim=0))


def effective_dimension(sample: FrameSample, layer: int) -> Float[Tensor, " draw"]:
    """Participation ratio of the states of one context and layer, from crossed halves.

    With K the inner products of the states and w₁, w₂ the weights in the halves, scaled to sum to
    1, ``tr(Σ₁Σ₂) = w₁'K²w₂ - Σ w₁(K w₂)² - Σ w₂(K w₁)² + (w₁'K w₂)²`` (squares elementwise), so no
    covariance is ever formed.
    """
    if sample.reason_at(layer):
        return torch.full((sample.n_draws,), torch.nan)
    states = sample.states[layer].double()
    states = states - states.mean(dim=0)
    products = states @ states.T
    weights = sample.weights.double()[:, None, None] * sample.halves
    first, second = (weights / weights.sum(dim=-1, keepdim=True)).unbind(dim=2)
    seen_first, seen_second = first @ products, second @ products
    squares = ((first @ products.square()) * second).sum(dim=-1)
    squares -= (first * seen_second.square()).sum(dim=-1)
    squares -= (second * seen_first.square()).sum(dim=-1)
    squares += (seen_first * second).sum(dim=-1).square()
    lengths = products.diagonal()
    traces = [
        half @ lengths - (seen * half).sum(dim=-1)
        for half, seen in ((first, seen_first), (second, seen_second))
    ]
    return (traces[0] * traces[1]).mean(dim=1) / squares.mean(dim=1)


def _total_variance(
    states: Float[Tensor, "n width"], weights: Float[Tensor, "draw n"]
) -> Float[Tensor, " draw"]:
    """Trace of the covariance; states are centred first, for the sake of precision."""
    centred = states - states.mean(dim=0)
    share = weights / weights.sum(dim=-1, keepdim=True)
    return share @ centred.square().sum(dim=-1) - (share @ centred).square().sum(dim=-1)


def _variance(
    scores: Float[Tensor, "draw n"], weights: Float[Tensor, "draw n"]
) -> Float[Tensor, " draw"]:
    share = weights / weights.sum(dim=-1, keepdim=True)
    mean = (share * scores).sum(dim=-1, keepdim=True)
    return (share * (scores - mean).square()).sum(dim=-1)


def _signal(
    scores: Float[Tensor, "draw n"], weights: Float[Tensor, "draw n"], positive: Bool[Tensor, " n"]
) -> Float[Tensor, " draw"]:
    """Squared difference of the class means, less what noise adds to it, times p (1 - p)."""
    means, noise, sizes = [], torch.zeros(len(scores)), []
    for members in (positive, ~positive):
        size = weights[:, members].sum(dim=-1)
        share = weights[:, members] / size[:, None]
        mean = (share * scores[:, members]).sum(dim=-1)
        gaps = (scores[:, members] - mean[:, None]).square()
        free = 1 - share.square().sum(dim=-1)  # 1 - 1/n, had all examples one weight
        noise = noise + (share.square() * gaps).sum(dim=-1) / free
        means.append(mean)
        sizes.append(size)
    harmful = sizes[0] / (sizes[0] + sizes[1])
    return harmful * (1 - harmful) * ((means[0] - means[1]).square() - noise)
