"""All estimators behind one call, for all layers and resamples at once.

A layer is brought into its frame once; all its resamples are then fitted together, in blocks that
keep the memory bounded. What an estimator returns is scaled to length 1 here, and what cannot be
measured becomes NaN here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from probes.directions.discriminant import lda, mass_mean
from probes.directions.mean_difference import mean_difference
from probes.directions.options import DirectionOptions
from probes.directions.sample import NO_PAIR, Sample, centre, into_frame, pair_indices
from workbench.errors import DataError, NonFiniteError

BLOCK_BYTES = 1 << 28
"""Memory that the resamples fitted together may take."""

NO_DIFFERENCE = 1e-12
"""A difference of means this small next to the spread of the layer is rounding error."""

DEFAULTS = DirectionOptions()


@dataclass(frozen=True)
class Estimator:
    """One way to find a direction.

    Attributes:
        name: What it is called in records and on the command line.
        label: What a person reads.
        fit: From a sample to directions of any length, towards harmful.
        needs_pairs: Whether it reads matched pairs; examples without one do not enter then.
        in_frame: Whether it gains from the frame; a direction that costs as much to turn back as
            to fit does not.
    """

    name: str
    label: str
    fit: Callable[[Sample, DirectionOptions], Tensor]
    needs_pairs: bool = False
    in_frame: bool = True


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        estimator.name: estimator
        for estimator in (
            Estimator("mean_difference", "Difference of means", mean_difference, in_frame=False),
            Estimator("mass_mean", "Mass-mean", mass_mean),
            Estimator("lda", "LDA (Ledoit-Wolf)", lda),
        )
    }
)
"""Estimators by name."""


def fit_directions(
    name: str,
    states: Float[Tensor, "layer n width"],
    positive: Bool[Tensor, " n"],
    weights: Num[Tensor, "resample n"],
    *,
    pair: Int[Tensor, " n"] | None = None,
    options: DirectionOptions = DEFAULTS,
) -> Float[Tensor, "layer resample width"]:
    """Fit one direction for every layer and every resample of the examples.

    A weight says how much an example counts in a resample: 1 everywhere for the sample itself, 0
    and 1 for a half, draws with replacement for a bootstrap, fractions where a resample tilts the
    sample. With whole weights the direction equals the one fitted on the examples written out that
    often.

    Args:
        name: Which estimator; one of ``ESTIMATORS``.
        states: States of the examples.
        positive: True where harmful.
        weights: Finite numbers from 0.
        pair: Index of each example's counterpart of the other class, -1 for none; read by the
            estimators that need pairs.
        options: Settings of the estimators.

    Returns:
        Vectors of length 1 that point towards harmful, in the precision of the states. NaN, for
        *not measured*: a resample has fewer than two different examples of a class (or, where
        pairs are needed, fewer than two different pairs), the class means do not differ, or the
        estimator has no solution.

    Raises:
        DataError: Unknown estimator, parts of different sizes, weights below 0, or
            pairs missing where they are needed.
        NonFiniteError: A state is NaN or infinite; layer and example are named.
        ConfigError: The options name another number of layers.
    """
    estimator = _known(name)
    _check(states, positive, weights, pair)
    if estimator.needs_pairs and pair is None:
        raise DataError(f"'{name}' is fitted on matched pairs: give 'pair', or another estimator")
    pairs = pair_indices(torch.full_like(positive, NO_PAIR, dtype=torch.long), positive)
    if pair is not None:
        pairs = pair_indices(pair, positive)
    directions = states.new_full((len(states), len(weights), states.shape[-1]), torch.nan)
    measurable = _measurable(estimator, positive, weights, pairs)
    if not bool(measurable.any()):
        return directions
    counts = weights[measurable].double()
    for layer, layer_states in enumerate(states):
        directions[layer, measurable] = _fit_layer(
            estimator,
            layer_states,
            positive,
            counts,
            pairs,
            options.for_layer(layer, len(states)),
        )
    return directions


def _fit_layer(
    estimator: Estimator,
    states: Float[Tensor, "n width"],
    positive: Bool[Tensor, " n"],
    weights: Float[Tensor, "resample n"],
    pairs: Int[Tensor, "pair 2"],
    options: DirectionOptions,
) -> Float[Tensor, "resample width"]:
    """Unit directions of all resamples of one layer, block by block."""
    centred = centre(states)
    coordinates, basis = into_frame(centred) if estimator.in_frame else (centred, None)
    sample = Sample(coordinates, positive, weights, pairs, width=states.shape[1])
    spread = centred.square().sum(dim=-1).amax().sqrt()
    block = max(1, BLOCK_BYTES // _bytes_a_resample(sample))
    found = []
    for start in range(0, len(weights), block):
        rows = sample.rows(start, start + block)
        fitted = estimator.fit(rows, options)
        unit = fitted / fitted.norm(dim=-1, keepdim=True)
        differ = rows.mean_differences().norm(dim=-1, keepdim=True) > NO_DIFFERENCE * spread
        unit = torch.where(differ, unit, torch.nan)
        found.append((unit if basis is None else unit @ basis).to(states.dtype))
    return torch.cat(found)


def _bytes_a_resample(sample: Sample) -> int:
    """Double precision: the weighted states, three matrices of their width, the direction."""
    n, rank = sample.states.shape
    return 8 * (n * rank + 3 * rank * rank + sample.width)


def _measurable(
    estimator: Estimator,
    positive: Bool[Tensor, " n"],
    weights: Num[Tensor, "resample n"],
    pairs: Int[Tensor, "pair 2"],
) -> Bool[Tensor, " resample"]:
    """Which resamples hold at least two different examples of each class, or two pairs."""
    held = weights > 0
    if estimator.needs_pairs:
        return held[:, pairs].all(dim=-1).sum(dim=-1) >= 2
    return (held[:, positive].sum(dim=-1) >= 2) & (held[:, ~positive].sum(dim=-1) >= 2)


def _known(name: str) -> Estimator:
    if name not in ESTIMATORS:
        raise DataError(f"unknown estimator '{name}'; choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def _check(
    states: Float[Tensor, "layer n width"],
    positive: Bool[Tensor, " n"],
    weights: Num[Tensor, "resample n"],
    pair: Int[Tensor, " n"] | None,
) -> None:
    n = states.shape[1]
    given = {"positive": len(positive), "weights": weights.shape[1]}
    if pair is not None:
        given["pair"] = len(pair)
    for name, size in given.items():
        if size != n:
            raise DataError(f"'{name}' has {size} entries for {n} examples")
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise DataError("weights say how much an example counts: finite numbers from 0")
    bad = (~states.isfinite().all(dim=-1)).nonzero()
    if len(bad):
        layer, example = bad[0].tolist()
        raise NonFiniteError(
            f"the state of example {example} in layer {layer} (of those given) is NaN or infinite; "
            f"{len(bad)} states are: leave these examples out or collect them again"
        )
