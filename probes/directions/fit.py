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

from probes.directions.ccs import ccs
from probes.directions.discriminant import lda, mass_mean
from probes.directions.lat import lat
from probes.directions.logistic import logistic
from probes.directions.mean_difference import mean_difference
from probes.directions.options import DirectionOptions, LayerOptions
from probes.directions.sample import (
    NO_PAIR,
    NO_PAIRS,
    Sample,
    centre,
    check_finite,
    into_frame,
    pair_indices,
)
from workbench.arguments import typed_arguments
from workbench.errors import DataError

VECTORS, MATRICES = 1 << 28, 1 << 24
"""Bytes that resamples fitted together may take, where each holds vectors, or matrices, of its own.

Many share a product well; matrices are best kept in the processor's cache.
"""

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
        matrices: Whether every resample has a matrix of its own.
    """

    name: str
    label: str
    fit: Callable[[Sample, LayerOptions], Tensor]
    needs_pairs: bool = False
    in_frame: bool = True
    matrices: bool = False


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        estimator.name: estimator
        for estimator in (
            Estimator("mean_difference", "Difference of means", mean_difference, in_frame=False),
            Estimator("mass_mean", "Mass-mean", mass_mean, matrices=True),
            Estimator("lda", "LDA (Ledoit-Wolf)", lda, matrices=True),
            Estimator("logistic", "Logistic regression", logistic),
            Estimator("lat", "LAT", lat, needs_pairs=True, in_frame=False),
            Estimator("ccs", "CCS", ccs, needs_pairs=True),
        )
    }
)
"""Estimators by name."""


@typed_arguments
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
        DataError: Unknown estimator, parts of different sizes, weights below 0, pairs missing where
            they are needed, not mutual, or of one class.
        NonFiniteError: A state is NaN or infinite; layer and example are named.
        ConfigError: The options name another number of layers.
    """
    estimator = _known(name)
    _check(states, positive, weights, pair)
    if estimator.needs_pairs and pair is None:
        raise DataError(f"'{name}' is fitted on matched pairs: give 'pair', or another estimator")
    pairs = NO_PAIRS if pair is None else pair_indices(pair, positive)
    directions = states.new_full((len(states), len(weights), states.shape[-1]), torch.nan)
    measurable = _measurable(estimator, positive, weights, pairs)
    if not bool(measurable.any()):
        return directions
    counts = weights[measurable].double()
    for layer, layer_options in enumerate(options.by_layer(len(states))):
        directions[layer, measurable] = _fit_layer(
            estimator, states[layer], positive, counts, pairs, layer_options
        )
    return directions


def _fit_layer(
    estimator: Estimator,
    states: Float[Tensor, "n width"],
    positive: Bool[Tensor, " n"],
    weights: Float[Tensor, "resample n"],
    pairs: Int[Tensor, "pair 2"],
    options: LayerOptions,
) -> Float[Tensor, "resample width"]:
    """Unit directions of all resamples of one layer, block by block."""
    centred = centre(states)
    extent = centred.norm(dim=-1).amax()
    if extent == 0:
        return states.new_full((len(weights), states.shape[1]), torch.nan)
    coordinates, basis = into_frame(centred) if estimator.in_frame else (centred, None)
    sample = Sample(coordinates, positive, weights, pairs, width=states.shape[1])
    block = _block(estimator, sample)
    found = []
    for start in range(0, len(weights), block):
        rows = sample.rows(start, start + block)
        fitted = estimator.fit(rows, options)
        unit = fitted / fitted.norm(dim=-1, keepdim=True)
        differ = rows.mean_differences.norm(dim=-1, keepdim=True) > NO_DIFFERENCE * extent
        unit = torch.where(differ, unit, torch.nan)
        found.append((unit if basis is None else unit @ basis).to(states.dtype))
    return torch.cat(found)


def _block(estimator: Estimator, sample: Sample) -> int:
    """How many resamples to fit together."""
    n, rank = sample.states.shape
    if estimator.matrices:  # weighted states, covariances and a factor, in double precision
        return max(1, MATRICES // (8 * (n * rank + 3 * rank * rank)))
    return max(1, VECTORS // (8 * 64 * (n + rank)))  # some tens of vectors a resample


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
    if pair is not None:
        _check_pairs(pair, positive)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise DataError("weights say how much an example counts: finite numbers from 0")
    check_finite(states)


def _check_pairs(pair: Int[Tensor, " n"], positive: Bool[Tensor, " n"]) -> None:
    paired = (pair != NO_PAIR).nonzero().flatten()
    other = pair[paired]
    if bool(((other < 0) | (other >= len(pair))).any()) or bool((pair[other] != paired).any()):
        raise DataError("'pair' is not mutual: where i points to j, j must point to i; -1 for none")
    if bool((positive[other] == positive[paired]).any()):
        raise DataError("a pair holds two examples of one class; pairs are harmful and harmless")
