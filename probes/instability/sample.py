"""The states of one site, context by context, and the directions of all their resamples."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.contrasts import NO_PAIR, ContrastSet
from probes.directions import ESTIMATORS, DirectionOptions, fit_directions
from probes.instability.plan import ResamplePlan
from workbench.errors import ConfigError

SAME = 1e-6
"""States that differ less than this, next to their size, differ by rounding only."""


@dataclass(frozen=True, eq=False)
class FrameSample:
    """One context of one site, with the plan's weights looked up for its examples.

    Attributes:
        name: The context.
        states: Of its examples.
        layers: Which layers they are.
        positive: True where harmful.
        pair: Index of every example's counterpart, -1 for none.
        group: Number of every example's group.
        weights: Of the sample, its resamples, and their mirror images.
        halves: Which examples each half of each split holds.
        reason: Why no direction can be fitted here; empty where one can.
    """

    name: str
    states: Float[Tensor, "layer n width"]
    layers: tuple[int | None, ...]
    positive: Bool[Tensor, " n"]
    pair: Int[Tensor, " n"]
    group: Int[Tensor, " n"]
    weights: Float[Tensor, "draw n"]
    halves: Bool[Tensor, "split half n"]
    reason: str

    @property
    def n_groups(self) -> int:
        """Groups its examples belong to."""
        return len(set(self.group.tolist()))

    @property
    def n_draws(self) -> int:
        """The sample and all its resamples."""
        return len(self.weights)

    @property
    def width(self) -> int:
        """Dimensions of a state."""
        return self.states.shape[-1]

    def under(self, plan: ResamplePlan) -> "FrameSample":
        """The same context with the resamples and splits of another plan over the same groups."""
        return replace(self, weights=plan.weights(self.group), halves=plan.halves(self.group))

    def reason_at(self, layer: int) -> str:
        """Why no direction can be fitted in one layer (its place in ``states``); or empty."""
        states = self.states[layer]
        if not self.reason and bool(
            ((states - states[0]).abs().amax() <= SAME * states.abs().amax()).item()
        ):
            return "the states are the same for every example"
        return self.reason


def frame_samples(
    given: ContrastSet, plan: ResamplePlan, *, min_per_class: int
) -> tuple[FrameSample, ...]:
    """Every context of a set, in order of first appearance."""
    return tuple(
        _frame_sample(given.in_context(name), name, plan, min_per_class) for name in given.contexts
    )


def _frame_sample(
    here: ContrastSet, name: str, plan: ResamplePlan, min_per_class: int
) -> FrameSample:
    group = plan.numbers(here.group)
    return FrameSample(
        name=name,
        states=here.states.float(),
        layers=here.layers,
        positive=here.positive,
        pair=here.pair,
        group=group,
        weights=plan.weights(group),
        halves=plan.halves(group),
        reason=_too_few(here.positive, min_per_class),
    )


def _too_few(positive: Bool[Tensor, " n"], least: int) -> str:
    harmful = int(positive.sum())
    counts = {"harmful": harmful, "harmless": len(positive) - harmful}
    few = [f"{count} {name}" for name, count in counts.items() if count < least]
    return f"{' and '.join(few)} examples, {least} of each class needed" if few else ""


@dataclass(frozen=True, eq=False)
class FrameDirections:
    """Directions of one context in one layer; NaN where one could not be fitted.

    Attributes:
        full: Fitted on all examples.
        halves: Fitted on either half of every split.
    """

    full: Float[Tensor, "draw width"]
    halves: Float[Tensor, "draw split half width"]


def fit_frame(
    estimator: str, sample: FrameSample, layer: int, options: DirectionOptions
) -> FrameDirections:
    """Directions of all resamples and halves of one context in one layer.

    Args:
        estimator: Name of the estimator.
        sample: The context.
        layer: Place of the layer in its states.
        options: Settings of the estimators.
    """
    if sample.reason_at(layer) or lacks_pairs(estimator, sample):
        return _unmeasured(sample)
    states = sample.states[layer : layer + 1]
    return FrameDirections(
        full=fit_directions(
            estimator, states, sample.positive, sample.weights, pair=sample.pair, options=options
        )[0],
        halves=_fit_halves(estimator, sample, states, sample.weights, options),
    )


def lacks_pairs(estimator: str, sample: FrameSample) -> bool:
    """Whether an estimator needs matched pairs and the context has none."""
    if estimator not in ESTIMATORS:
        raise ConfigError(f"unknown estimator '{estimator}'; choose from {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator].needs_pairs and not bool((sample.pair != NO_PAIR).any())


def fit_labelled(
    estimator: str,
    sample: FrameSample,
    layer: int,
    labels: Bool[Tensor, "task n"],
    options: DirectionOptions,
) -> FrameDirections:
    """Directions of the sample and its halves under other labels, one draw a labelling.

    Args:
        estimator: Name of the estimator.
        sample: The context.
        layer: Place of the layer in its states.
        labels: True where an example counts as harmful.
        options: Settings of the estimators.
    """
    if sample.reason_at(layer) or lacks_pairs(estimator, sample):
        return _unmeasured(sample, n_draws=len(labels))
    twice = doubled(sample, labels.float(), 1 - labels.float())
    states = twice.states[layer : layer + 1]
    return FrameDirections(
        full=fit_directions(
            estimator, states, twice.positive, twice.weights, pair=twice.pair, options=options
        )[0],
        halves=_fit_halves(estimator, twice, states, twice.weights, options),
    )


def fit_weighted(
    estimator: str,
    sample: FrameSample,
    layer: int,
    harmful: Float[Tensor, "draw n"],
    harmless: Float[Tensor, "draw n"],
    options: DirectionOptions,
) -> Float[Tensor, "draw width"]:
    """Directions of a sample in which every example has a weight in either class.

    Args:
        estimator: Name of the estimator.
        sample: The context.
        layer: Place of the layer in its states.
        harmful: Weight of every example as a harmful one.
        harmless: Weight of every example as a harmless one.
        options: Settings of the estimators.
    """
    if sample.reason_at(layer) or lacks_pairs(estimator, sample):
        return torch.full((len(harmful), sample.width), torch.nan)
    twice = doubled(sample, harmful, harmless)
    states = twice.states[layer : layer + 1]
    return fit_directions(
        estimator, states, twice.positive, twice.weights, pair=twice.pair, options=options
    )[0]


def doubled(
    sample: FrameSample, harmful: Float[Tensor, "draw n"], harmless: Float[Tensor, "draw n"]
) -> FrameSample:
    """Every example twice, once in each class, so that weights can say which class it is in.

    One fit then serves all labellings. The harmful copy of an example is matched with the harmless
    copy of its counterpart.
    """
    n = len(sample.positive)
    return replace(
        sample,
        states=sample.states.repeat(1, 2, 1),
        positive=torch.arange(2 * n) < n,
        pair=torch.cat(
            [torch.where(sample.pair == NO_PAIR, NO_PAIR, sample.pair + n), sample.pair]
        ),
        group=sample.group.repeat(2),
        weights=torch.cat([harmful, harmless], dim=1).to(sample.weights.dtype),
        halves=sample.halves.repeat(1, 1, 2),
    )


def _fit_halves(
    estimator: str,
    sample: FrameSample,
    states: Float[Tensor, "1 n width"],
    weights: Float[Tensor, "draw n"],
    options: DirectionOptions,
) -> Float[Tensor, "draw split half width"]:
    """Fitted on the examples of each half alone, which costs half of weighing the others zero."""
    n_splits, n_halves, _ = sample.halves.shape
    found = torch.empty(len(weights), n_splits, n_halves, states.shape[-1])
    for split in range(n_splits):
        for half in range(n_halves):
            members = sample.halves[split, half].nonzero().flatten()
            found[:, split, half] = fit_directions(
                estimator,
                states[:, members],
                sample.positive[members],
                weights[:, members],
                pair=_pairs_within(sample.pair, members),
                options=options,
            )[0]
    return found


def _pairs_within(pair: Int[Tensor, " n"], members: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Each member's counterpart among the members, -1 where it is not one of them."""
    place = torch.full((len(pair) + 1,), NO_PAIR, dtype=torch.long)
    place[members] = torch.arange(len(members))
    return place[pair[members]]  # -1 reads the last place, which stays -1


def _unmeasured(sample: FrameSample, n_draws: int | None = None) -> FrameDirections:
    rows = sample.n_draws if n_draws is None else n_draws
    n_splits, n_halves, _ = sample.halves.shape
    return FrameDirections(
        full=torch.full((rows, sample.width), torch.nan),
        halves=torch.full((rows, n_splits, n_halves, sample.width), torch.nan),
    )
