"""Does a direction fitted in one context still tell harm apart in another?

A direction is fitted in context a on one half of the groups and tested in context b on the other
half, so that no prompt is on both sides even though contexts share their prompts; the two halves
trade places and several splits are averaged.

* AUROC: P(score of a harmful example > score of a harmless one), ties counting a half. It asks
  whether the ranking transfers.
* Accuracy: mean of the two classes' shares on the right side of a threshold that is fixed in a,
  half-way between the class means of the scores there. It asks whether the *threshold* transfers
  too. Averaging the classes makes 0.5 the chance level whatever their sizes.
* Drop: in-context AUROC of b minus AUROC of a's direction in b, both on the same examples of b.

What is estimated is the quality of a direction fitted on half of the groups. Cosine and AUROC can
disagree: a direction may turn within a plane that separates the classes everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.instability.sample import FrameSample


@dataclass(frozen=True, eq=False)
class Transfer:
    """Every context's direction in every context; rows fitted, columns tested.

    Attributes:
        auroc: Area under the ROC curve.
        accuracy: At the threshold of the row's context.
    """

    auroc: Float[Tensor, "draw frame frame"]
    accuracy: Float[Tensor, "draw frame frame"]

    @property
    def drop(self) -> Float[Tensor, "draw frame frame"]:
        """What the tested context's own direction has over the one from elsewhere."""
        return self.auroc.diagonal(dim1=1, dim2=2)[:, None, :] - self.auroc


def transfer(
    samples: Sequence[FrameSample],
    layer: int,
    halves: Float[Tensor, "frame draw split half width"],
) -> Transfer:
    """Transfer matrices of one layer; NaN where a direction or a context is not measured.

    Args:
        samples: The contexts.
        layer: Place of the layer in their states.
        halves: Directions fitted on the halves of every context.
    """
    thresholds = torch.stack(
        [_thresholds(sample, layer, found) for sample, found in zip(samples, halves, strict=True)]
    )
    columns = [_tested_in(sample, layer, halves, thresholds) for sample in samples]
    return Transfer(
        torch.stack([auroc for auroc, _ in columns], dim=-1).transpose(0, 1),
        torch.stack([accuracy for _, accuracy in columns], dim=-1).transpose(0, 1),
    )


def _thresholds(
    sample: FrameSample, layer: int, halves: Float[Tensor, "draw split half width"]
) -> Float[Tensor, "draw split half"]:
    """Half-way between the class means of the scores, on the half the direction was fitted on."""
    weights = sample.weights[: len(halves), None, None] * sample.halves
    middles = sum(
        class_weights @ sample.states[layer] / class_weights.sum(dim=-1, keepdim=True)
        for class_weights in (weights * sample.positive, weights * ~sample.positive)
    )
    return (halves * middles / 2).sum(dim=-1)


def _tested_in(
    sample: FrameSample,
    layer: int,
    halves: Float[Tensor, "frame draw split half width"],
    thresholds: Float[Tensor, "frame draw split half"],
) -> tuple[Float[Tensor, "frame draw"], Float[Tensor, "frame draw"]]:
    """AUROC and accuracy of every context's directions in one context."""
    aurocs, accuracies = [], []
    for split, (first, second) in enumerate(sample.halves):
        for half, held_out in enumerate((second, first)):
            members = held_out.nonzero().flatten()
            scores = halves[:, :, split, half] @ sample.states[layer, members].T
            weights = sample.weights[: halves.shape[1], members]
            positive = sample.positive[members]
            harmful, harmless = weights * positive, weights * ~positive
            aurocs.append(weighted_auroc(scores, harmful, harmless))
            beyond = scores - thresholds[:, :, split, half, None]
            accuracies.append(balanced_accuracy(beyond, harmful, harmless))
    if sample.reason_at(layer):
        nowhere = torch.full(halves.shape[:2], torch.nan)
        return nowhere, nowhere
    return torch.stack(aurocs).mean(dim=0), torch.stack(accuracies).mean(dim=0)


def weighted_auroc(
    scores: Float[Tensor, "*frame draw n"],
    harmful: Float[Tensor, "draw n"],
    harmless: Float[Tensor, "draw n"],
) -> Float[Tensor, "*frame draw"]:
    """P(score of a harmful example > that of a harmless one), a tie counting a half.

    Args:
        scores: Higher means more harmful.
        harmful: Weight of every example as a harmful one.
        harmless: Weight of every example as a harmless one.

    Returns:
        The area; NaN where a score is NaN or a class has no weight.
    """
    ordered, order = scores.sort(dim=-1)
    up = harmful.expand_as(scores).gather(-1, order)
    down = harmless.expand_as(scores).gather(-1, order)
    below = down.cumsum(dim=-1) - down / 2
    tied = ordered[..., 1:] == ordered[..., :-1]
    if bool(tied.any()):
        below = torch.where(_in_ties(tied), _below_ties(tied, down), below)
    area = (up * below).sum(dim=-1) / (up.sum(dim=-1) * down.sum(dim=-1))
    return torch.where(scores.isnan().any(dim=-1), torch.nan, area)


def _in_ties(tied: Tensor) -> Tensor:
    """Which sorted scores equal a neighbour, from which equal the next."""
    none = torch.zeros_like(tied[..., :1])
    return torch.cat([none, tied], dim=-1) | torch.cat([tied, none], dim=-1)


def _below_ties(tied: Tensor, down: Tensor) -> Tensor:
    """Weight of harmless scores below every score, those equal to it counting a half."""
    none = torch.zeros_like(tied[..., :1])
    running = down.cumsum(dim=-1)
    # The running weight never falls, so its maximum over the starts of runs so far is the weight
    # before the present run; from the other side, the same for the ends of runs.
    starts = torch.where(torch.cat([none, tied], dim=-1), -torch.inf, running - down)
    ends = torch.where(torch.cat([tied, none], dim=-1), torch.inf, running)
    before = starts.cummax(dim=-1).values
    through = ends.flip(-1).cummin(dim=-1).values.flip(-1)
    return (before + through) / 2


def balanced_accuracy(
    beyond: Float[Tensor, "*frame draw n"],
    harmful: Float[Tensor, "draw n"],
    harmless: Float[Tensor, "draw n"],
) -> Float[Tensor, "*frame draw"]:
    """Mean of the two classes' shares on the right side of a threshold, on it counting a half.

    Args:
        beyond: Score minus threshold.
        harmful: Weight of every example as a harmful one.
        harmless: Weight of every example as a harmless one.

    Returns:
        The accuracy; NaN where a score is NaN or a class has no weight.
    """
    side = beyond.sign()
    lean = harmful / harmful.sum(dim=-1, keepdim=True)
    lean = lean - harmless / harmless.sum(dim=-1, keepdim=True)
    accuracy = 0.5 + (side * lean).sum(dim=-1) / 4
    return torch.where(beyond.isnan().any(dim=-1), torch.nan, accuracy)
