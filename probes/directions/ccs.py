"""Contrast-consistent search (Burns et al., 2212.03827): a direction found without labels.

A probe σ(x·θ + b) should call the two members of a pair opposite, and be sure of it:

    L = mean_i [ (p_i + q_i - 1)² + min(p_i, q_i)² ] + ½ λ s |θ|²

with p, q its answers to the members and s the variance per dimension. The authors stop early and
decay the weights a little; λ makes the minimum one that does not depend on when one stops. Labels
only choose the sign at the end, towards the mean difference of the pairs.

Burns et al. remove the mean of each kind of member ("... yes", "... no"), which says nothing about
truth there. Here the two kinds are harmless and harmful: their means differ by what is looked for,
and the common mean is removed instead, by the intercept.

The loss has many minima. The search starts from the largest principal axes of the paired
differences, which turn with the states and do not depend on chance, and keeps the lowest minimum.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.directions.lat import main_axes, towards_harmful
from probes.directions.newton import Local, Loss, minimise
from probes.directions.options import LayerOptions
from probes.directions.sample import Sample, spread

DECAY = 0.1
STARTS = 3
TOLERANCE = 1e-3
"""Angle to the minimum; the minima of two resamples are far wider apart."""


@dataclass(frozen=True, eq=False)
class ConsistencyLoss(Loss):
    """Inconsistency and doubt, summed over pairs; the scores hold all p, then all q.

    Attributes:
        weights: How often each resample holds each pair.
    """

    weights: Float[Tensor, "resample pair"]

    def rows(self, index: Int[Tensor, " row"]) -> "ConsistencyLoss":
        """The loss of some resamples."""
        return ConsistencyLoss(self.weights[index])

    def value(self, scores: Float[Tensor, "resample n"]) -> Float[Tensor, " resample"]:
        """Σ_i w_i [(p + q - 1)² + min(p, q)²]."""
        p, q = torch.sigmoid(scores).chunk(2, dim=-1)
        losses = (p + q - 1).square() + torch.minimum(p, q).square()
        return (self.weights * losses).sum(dim=-1)

    def around(self, scores: Float[Tensor, "resample n"]) -> Local:
        """Slope, and the curvature that is left where both residuals are straight lines."""
        answers = torch.sigmoid(scores)
        p, q = answers.chunk(2, dim=-1)
        slopes = answers * (1 - answers)
        smaller = torch.cat([p <= q, q < p], dim=-1)
        double = 2 * self.weights.repeat(1, 2)
        residual = (p + q - 1).repeat(1, 2) + torch.where(smaller, answers, 0.0)
        first, second = slopes.chunk(2, dim=-1)
        return Local(
            double * residual * slopes,
            double * slopes.square() * (1 + smaller.double()),
            2 * self.weights * first * second,
        )


def ccs(sample: Sample, _: LayerOptions) -> Float[Tensor, "resample rank"]:
    """θ of the lowest minimum of every resample."""
    weights = sample.pair_weights
    states = sample.states[sample.pairs.T.flatten()]
    variance = spread(states, weights.repeat(1, 2)) / sample.width
    penalty = DECAY * weights.sum(dim=-1) * variance
    axes = main_axes(sample, min(STARTS, len(sample.pairs)))
    starts = [_start(towards_harmful(axis, sample), states, weights) for axis in axes]
    found = minimise(
        states,
        ConsistencyLoss(weights.repeat(len(starts), 1)),
        penalty.repeat(len(starts)),
        torch.cat([slope for slope, _ in starts]),
        torch.cat([intercept for _, intercept in starts]),
        tolerance=TOLERANCE,
    )
    values = torch.where(found.value.isnan(), torch.inf, found.value)
    lowest = values.view(len(starts), -1).argmin(dim=0)
    slopes = found.slope.view(len(starts), len(weights), -1)
    return towards_harmful(slopes[lowest, torch.arange(len(weights))], sample)


def _start(
    axis: Float[Tensor, "resample rank"],
    states: Float[Tensor, "n rank"],
    weights: Float[Tensor, "resample pair"],
) -> tuple[Float[Tensor, "resample rank"], Float[Tensor, " resample"]]:
    """Slope and intercept along an axis: scores with mean 0, those of a pair about 2 apart."""
    share = weights / weights.sum(dim=-1, keepdim=True)
    along = axis @ states.T
    one, other = along.chunk(2, dim=-1)
    half = ((share * (one - other).square()).sum(dim=-1)).sqrt() / 2
    middle = (share * (one + other)).sum(dim=-1) / 2
    return axis / half[:, None], -middle / half
