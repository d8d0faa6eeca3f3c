"""What would be found if there were nothing to find? The controls of every analysis.

* **Random directions**: AUROC in held-out groups of directions drawn at random, their sign fixed
  on the other half as an estimator's is. Two kinds: ``random`` points anywhere; ``random_matched``
  is a random combination of the centred states, and so has their norm and lies where they vary. (An
  AUROC does not change with the length of a direction, so matching the length alone does nothing.)
* **Permuted labels**: everything is done again with labels permuted, the same permutation in all
  contexts. Where a group holds both classes, labels change places within it; where groups are of
  one class, classes change places between groups. The p-value (1 + #{null ≥ measured}) / (1 + N)
  is exact if labels have nothing to do with states. Raw cosines between contexts stay high under
  permutation as far as contexts share the noise of their prompts, crossed ones do not.
* **Control task** (Hewitt & Liang, 1909.03368): every request gets a random label, the same in all
  contexts. A direction that can be fitted to it in context a and still works in context b, on the
  same requests, memorises requests. Selectivity = accuracy of harm - accuracy of the control task,
  both fitted on all groups of a and tested on all groups of b.
* **Length**: AUROC of the number of tokens alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from probes.contrasts import ContrastSet
from probes.directions import DirectionOptions
from probes.instability.plan import ResamplePlan
from probes.instability.sample import FrameSample, fit_labelled, fit_weighted
from probes.instability.stability import Cosines
from probes.instability.transfer import balanced_accuracy, weighted_auroc

RANDOM_KINDS = ("random", "random_matched")


# ------------------------------------------------------------------------------ random directions


def random_auroc(
    sample: FrameSample, layer: int, kind: str, *, n_directions: int, rng: np.random.Generator
) -> Float[Tensor, " draw"]:
    """Held-out AUROC of random directions, each averaged over halves and splits.

    Args:
        sample: The context.
        layer: Place of the layer in its states.
        kind: One of ``RANDOM_KINDS``.
        n_directions: How many to draw.
        rng: Draws them.
    """
    if sample.reason_at(layer):
        return torch.full((n_directions,), torch.nan)
    states = sample.states[layer]
    directions = torch.from_numpy(rng.normal(size=(n_directions, states.shape[-1]))).float()
    if kind == "random_matched":
        mixture = torch.from_numpy(rng.normal(size=(n_directions, len(states)))).float()
        directions = mixture @ (states - states.mean(dim=0)) / len(states) ** 0.5
    scores = directions @ states.T
    areas = [
        _oriented_auroc(scores, sample.positive, train, test)
        for first, second in sample.halves
        for train, test in ((first, second), (second, first))
    ]
    return torch.stack(areas).mean(dim=0)


def _oriented_auroc(
    scores: Float[Tensor, "draw n"],
    positive: Bool[Tensor, " n"],
    train: Bool[Tensor, " n"],
    test: Bool[Tensor, " n"],
) -> Float[Tensor, " draw"]:
    """AUROC in the test half, the sign of the scores fixed by the class means of the other."""
    gap = scores[:, train & positive].mean(dim=1) - scores[:, train & ~positive].mean(dim=1)
    oriented = scores[:, test] * gap.sign()[:, None]
    harmful = positive[test].float()[None].expand(len(scores), -1)
    return weighted_auroc(oriented, harmful, 1 - harmful)


# -------------------------------------------------------------------------------- permuted labels


@dataclass(frozen=True, eq=False)
class Permutations:
    """Labels of every example under random permutations, the same for all contexts and sites.

    Attributes:
        within: Random keys that reorder the examples of a group: (permutation, group, place).
        between: Group whose class a group of one class takes: (permutation, group).
        group_class: Class of a group of one class; None for groups that hold both.
    """

    within: NDArray[np.float64]
    between: NDArray[np.intp]
    group_class: tuple[bool | None, ...]

    @classmethod
    def draw(
        cls,
        sets: Sequence[ContrastSet],
        plan: ResamplePlan,
        *,
        n_permutations: int,
        rng: np.random.Generator,
    ) -> "Permutations":
        """Draw permutations for the examples of all sets of one contrast."""
        found: list[set[bool]] = [set() for _ in plan.groups]
        largest = 1
        for given in sets:
            members = plan.numbers(given.group).tolist()
            for group, positive in zip(members, given.positive.tolist(), strict=True):
                found[group].add(positive)
            largest = max(largest, *Counter(zip(given.context, members, strict=True)).values())
        pure = np.array([i for i, classes in enumerate(found) if len(classes) == 1], dtype=np.intp)
        between = np.tile(np.arange(len(found)), (n_permutations, 1))
        for row in between:
            row[pure] = rng.permutation(pure)
        return cls(
            within=rng.random((n_permutations, len(found), largest)),
            between=between,
            group_class=tuple(next(iter(c)) if len(c) == 1 else None for c in found),
        )

    def first(self, n: int) -> "Permutations":
        """The first n of them."""
        return Permutations(self.within[:n], self.between[:n], self.group_class)

    def labels(self, sample: FrameSample) -> Bool[Tensor, "task n"]:
        """Labels of one context: the true ones first, then one row a permutation."""
        truth = sample.positive.numpy()
        group = sample.group.numpy()
        rows = np.repeat(truth[None], len(self.within) + 1, axis=0)
        for number in np.unique(group):
            places = np.flatnonzero(group == number)
            if self.group_class[number] is None:
                order = self.within[:, number, : len(places)].argsort(axis=1)
                rows[1:, places] = truth[places][order]
            else:
                donors = self.between[:, number]
                rows[1:, places] = np.array([self.group_class[d] for d in donors])[:, None]
        return torch.from_numpy(rows)


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """The sample (first row) and the same under permuted labels.

    Attributes:
        auroc: Held-out AUROC in every context.
        cosines: Between contexts.
    """

    auroc: Float[Tensor, "task frame"]
    cosines: Cosines


def permutation_null(
    estimator: str,
    samples: Sequence[FrameSample],
    layer: int,
    permutations: Permutations,
    options: Sequence[DirectionOptions],
) -> PermutationNull:
    """Fit and test every permutation in every context of one layer.

    Args:
        estimator: Name of the estimator.
        samples: The contexts; their splits say what is held out.
        layer: Place of the layer in their states.
        permutations: Of the labels.
        options: Settings of the estimators, one a context.
    """
    fulls, halves, areas = [], [], []
    for sample, settings in zip(samples, options, strict=True):
        labels = permutations.labels(sample)
        found = fit_labelled(estimator, sample, layer, labels, settings)
        fulls.append(found.full)
        halves.append(found.halves)
        areas.append(_held_out_auroc(sample, layer, labels, found.halves))
    return PermutationNull(
        torch.stack(areas, dim=1), Cosines.between(torch.stack(fulls), torch.stack(halves))
    )


def _held_out_auroc(
    sample: FrameSample,
    layer: int,
    labels: Bool[Tensor, "task n"],
    halves: Float[Tensor, "task split half width"],
) -> Float[Tensor, " task"]:
    areas = []
    for split, (first, second) in enumerate(sample.halves):
        for half, held_out in enumerate((second, first)):
            members = held_out.nonzero().flatten()
            scores = halves[:, split, half] @ sample.states[layer, members].T
            harmful = labels[:, members].float()
            areas.append(weighted_auroc(scores, harmful, 1 - harmful))
    return torch.stack(areas).mean(dim=0)


def upper_p_value(values: Float[Tensor, "task *statistic"]) -> NDArray[np.float64]:
    """(1 + permutations that reach the sample) / (1 + permutations); NaN where not measured.

    Args:
        values: Of the sample first, then of every permutation.
    """
    given = values.double().numpy()
    # Ties up to rounding count as reached: a permutation that changes nothing is no evidence.
    reached = (given[1:] >= given[0] - 1e-6).sum(axis=0)
    unmeasured = np.isnan(given).any(axis=0)
    return np.where(unmeasured, np.nan, (1 + reached) / len(given))


# ----------------------------------------------------------------------------------- control task


def control_labels(
    plan: ResamplePlan, *, n_tasks: int, rng: np.random.Generator
) -> Bool[Tensor, "task group 2"]:
    """Random labels of the harmless and the harmful requests of every group, half of them true."""
    n_groups = len(plan.groups)
    balanced = np.arange(2 * n_groups) % 2 == 0
    tasks = [rng.permutation(balanced).reshape(n_groups, 2) for _ in range(n_tasks)]
    return torch.from_numpy(np.stack(tasks))


def task_labels(
    sample: FrameSample, control: Bool[Tensor, "task group 2"]
) -> Bool[Tensor, "task n"]:
    """The control labels of every example of a context."""
    return control[:, sample.group, sample.positive.long()]


def selectivity(
    estimator: str,
    samples: Sequence[FrameSample],
    layer: int,
    control: Bool[Tensor, "task group 2"],
    options: Sequence[DirectionOptions],
) -> Float[Tensor, "draw frame"]:
    """Accuracy of harm minus mean accuracy of the control tasks, by context of the fit.

    Averaged over all other contexts as those of the test; NaN without one that can be measured.

    Args:
        estimator: Name of the estimator.
        samples: The contexts.
        layer: Place of the layer in their states.
        control: Random labels of every request.
        options: Settings of the estimators, one a context.
    """
    tasks = [torch.cat([sample.positive[None], task_labels(sample, control)]) for sample in samples]
    columns = []
    for fitted, settings in enumerate(options):
        accuracy = _accuracy_elsewhere(estimator, samples, layer, tasks, fitted, settings)
        columns.append(accuracy[0] - accuracy[1:].mean(dim=0))
    return torch.stack(columns, dim=1)


def _accuracy_elsewhere(
    estimator: str,
    samples: Sequence[FrameSample],
    layer: int,
    tasks: Sequence[Bool[Tensor, "task ..."]],
    fitted: int,
    options: DirectionOptions,
) -> Float[Tensor, "task draw"]:
    """Fit every task in one context, test it in the others; mean over those measured."""
    harmful, harmless = _task_weights(samples[fitted], tasks[fitted])
    found = fit_weighted(estimator, samples[fitted], layer, harmful, harmless, options)
    states = samples[fitted].states[layer]
    threshold = (found * (_mean(states, harmful) + _mean(states, harmless)) / 2).sum(dim=-1)
    tested = [
        place
        for place, other in enumerate(samples)
        if place != fitted and not other.reason_at(layer)
    ]
    shape = (len(tasks[fitted]), samples[fitted].n_draws)
    if not tested:
        return torch.full(shape, torch.nan)
    accuracies = [
        balanced_accuracy(
            found @ samples[place].states[layer].T - threshold[:, None],
            *_task_weights(samples[place], tasks[place]),
        )
        for place in tested
    ]
    return torch.stack(accuracies).mean(dim=0).view(shape)


def _task_weights(
    sample: FrameSample, tasks: Bool[Tensor, "task n"]
) -> tuple[Float[Tensor, "draw n"], Float[Tensor, "draw n"]]:
    """Weights in either class for all tasks and resamples, tasks outermost."""
    weights = sample.weights.expand(len(tasks), -1, -1)
    return (
        (weights * tasks[:, None]).flatten(0, 1),
        (weights * ~tasks[:, None]).flatten(0, 1),
    )


def _mean(
    states: Float[Tensor, "n width"], weights: Float[Tensor, "draw n"]
) -> Float[Tensor, "draw width"]:
    return weights @ states / weights.sum(dim=-1, keepdim=True)
