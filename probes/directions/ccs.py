"""Contrast-consistent search (Burns et al., 2212.03827): a direction found without labels.

A probe σ(x·θ) should call the two members of a pair opposite, and be sure of it:

    L = mean_i [ (p_i + q_i - 1)² + min(p_i, q_i)² ] + ½ λ s |θ|²

with p, q its answers to the members, x centred, and s the variance per dimension. Labels choose the
sign alone, of the starts and of the result: towards the mean difference of the pairs.

It differs from the paper in three points:

* Burns et al. remove the mean of each kind of member ("... yes", "... no"), which says nothing
  about truth there. Here the two kinds are harmless and harmful: their means differ by what is
  looked for. The common mean is removed instead, and the threshold lies there.
* Many minima are nearly as low as the lowest. The search starts from the largest principal axes of
  the paired differences instead of random points: the starts turn with the states.
* As in the paper it is Adam for a fixed number of steps, with steps that shrink to nothing and one
  second moment for all coordinates: it turns with the states, too. No choice on the way depends on
  a threshold, so in double precision a repeated sample gives the same direction. (In single
  precision one in ten ends in another minimum; so it does when the examples hardly change.)
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot

from probes.directions.lat import main_axes, towards_harmful
from probes.directions.options import LayerOptions
from probes.directions.sample import Sample, spread

DECAY = 0.1
STARTS = 3
STEPS = 200
RATE = 0.1
"""First length of a step, for each coordinate, where states have a standard deviation of 1."""

MOMENTUM, MEMORY = 0.9, 0.99


def ccs(sample: Sample, _: LayerOptions) -> Float[Tensor, "resample rank"]:
    """θ with the lowest loss of every resample."""
    weights = sample.pair_weights
    members = weights.repeat(1, 2)
    states = sample.states[sample.pairs.T.flatten()]
    deviation = (spread(states, members) / sample.width).sqrt()[:, None]
    axes = main_axes(sample, min(STARTS, len(sample.pairs)))
    starts = [_start(towards_harmful(axis, sample), sample) * deviation for axis in axes]
    loss = ConsistencyLoss(
        states,
        (members / members.sum(dim=-1, keepdim=True)).repeat(len(axes), 1),
        deviation.repeat(len(axes), 1),
    )
    found = _descend(loss, torch.cat(starts), sample.width)
    values = torch.nan_to_num(loss.value(found), nan=torch.inf).view(len(axes), -1)
    slopes = found.view(len(axes), len(weights), -1) / deviation
    return towards_harmful(slopes[values.argmin(dim=0), torch.arange(len(weights))], sample)


class ConsistencyLoss:
    """Inconsistency and doubt of every resample, over slopes θ' = θ √s.

    Args:
        states: The first members of all pairs, then the second ones.
        share: How much each state counts; 1 in all.
        deviation: √s.
    """

    def __init__(
        self,
        states: Float[Tensor, "n rank"],
        share: Float[Tensor, "resample n"],
        deviation: Float[Tensor, "resample 1"],
    ) -> None:
        self.states = states
        self.share = share
        self.deviation = deviation

    def answers(self, slope: Float[Tensor, "resample rank"]) -> Float[Tensor, "resample n"]:
        """Answers p to all pairs, then q."""
        scores = (slope / self.deviation) @ self.states.T
        return torch.sigmoid(scores - vecdot(self.share, scores)[:, None])

    def value(self, slope: Float[Tensor, "resample rank"]) -> Float[Tensor, " resample"]:
        """L."""
        p, q = self.answers(slope).chunk(2, dim=-1)
        losses = (p + q - 1).square() + torch.minimum(p, q).square()
        share = 2 * self.share[:, : losses.shape[1]]
        return (share * losses).sum(dim=-1) + 0.5 * DECAY * slope.square().sum(dim=-1)

    def gradient(self, slope: Float[Tensor, "resample rank"]) -> Float[Tensor, "resample rank"]:
        """dL/dθ'."""
        answers = self.answers(slope)
        p, q = answers.chunk(2, dim=-1)
        rest = (p + q - 1).repeat(1, 2)
        rest += torch.cat([p * (p <= q), q * (q < p)], dim=-1)
        by_score = 4 * self.share * rest * answers * (1 - answers)
        by_score -= self.share * by_score.sum(dim=-1, keepdim=True)
        return by_score @ self.states / self.deviation + DECAY * slope


def _start(axis: Float[Tensor, "resample rank"], sample: Sample) -> Float[Tensor, "resample rank"]:
    """θ along an axis, so long that the scores of a pair are 2 apart in the root mean square."""
    weights = sample.pair_weights
    apart = (axis @ sample.differences.T).square()
    half = ((weights * apart).sum(dim=-1) / weights.sum(dim=-1)).sqrt() / 2
    return axis / half[:, None]


def _descend(
    loss: ConsistencyLoss, slope: Float[Tensor, "resample rank"], width: int
) -> Float[Tensor, "resample rank"]:
    """Adam with one second moment for all ``width`` coordinates."""
    momentum, power = torch.zeros_like(slope), torch.zeros_like(slope[:, :1])
    for step in range(1, STEPS + 1):
        gradient = loss.gradient(slope)
        square = vecdot(gradient, gradient)[:, None] / width
        momentum = torch.lerp(gradient, momentum, MOMENTUM)
        power = torch.lerp(square, power, MEMORY)
        size = (power / (1 - MEMORY**step)).sqrt() * (1 - MOMENTUM**step)
        rate = RATE * (1 - step / STEPS)
        slope = slope - rate * momentum / size.clamp(min=torch.finfo(size.dtype).tiny)
    return slope
