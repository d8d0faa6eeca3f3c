"""L2-penalised logistic regression, ``min_θ,b Σ_i w_i log(1 + exp(-y_i (x_i·θ + b))) + |θ|²/(2C)``.

What scikit-learn's LogisticRegression(C) minimises, for all resamples at once (see ``newton``).

C is chosen once per layer by cross-validation over whole groups, not for each resample: a
resample repeats examples, which would stand on both sides of a fold.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.directions.newton import fit_logistic, logistic_loss
from probes.directions.options import LayerOptions
from probes.directions.sample import Sample, centre, check_finite, into_frame, spread
from workbench.arguments import Count, Seed, typed_arguments

GRID = (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)
"""Candidates for C, as multiples of ``default_c``."""


def logistic(sample: Sample, options: LayerOptions) -> Float[Tensor, "resample rank"]:
    """θ of every resample; NaN where the search did not end."""
    c = default_c(sample.states, sample.weights)
    if options.c is not None:
        c = torch.full_like(c, options.c)
    found = fit_logistic(sample.states, signs(sample.positive), sample.weights, c)
    return found.slope.masked_fill(~found.converged[:, None], torch.nan)


def signs(positive: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Classes as 1 and -1."""
    return torch.where(positive, 1.0, -1.0).double()


def default_c(
    states: Float[Tensor, "n rank"], weights: Float[Tensor, "resample n"]
) -> Float[Tensor, " resample"]:
    """1 / mean squared distance of a resample's states to their mean; 1 where they are all one."""
    distance = spread(states, weights)
    return torch.where(distance > 0, 1 / distance, 1.0)


@typed_arguments
def choose_c(
    states: Float[Tensor, "layer n width"],
    positive: Bool[Tensor, " n"],
    group: Sequence[str],
    *,
    grid: Sequence[float] = GRID,
    n_folds: Count = 5,
    seed: Seed = 0,
) -> tuple[float, ...]:
    """Choose C for every layer: least logistic loss on groups left out.

    Groups are dealt to the folds at random, whole. All folds and candidates are fitted at once.

    Args:
        states: States of the examples.
        positive: True where harmful.
        group: What an example must not be separated from.
        grid: Candidates, as multiples of ``default_c`` of the layer.
        n_folds: Folds; fewer where there are fewer groups.
        seed: Deals the groups.

    Returns:
        C of every layer, for :class:`DirectionOptions`; the smallest of equally good ones. Where
        no fold leaves both classes to fit on, ``default_c``.

    Raises:
        NonFiniteError: A state is NaN or infinite.
    """
    check_finite(states)
    folds = group_folds(group, n_folds, seed)
    train = torch.stack([folds != fold for fold in range(int(folds.max()) + 1)])
    both = (train & positive).any(dim=1) & (train & ~positive).any(dim=1) & ~train.all(dim=1)
    return tuple(_choose(layer, positive, train[both], sorted(grid)) for layer in states)


def group_folds(group: Sequence[str], n_folds: int, seed: int) -> Int[Tensor, " n"]:
    """Number of every example's fold; groups are dealt at random, as evenly as they divide."""
    names, member = np.unique(np.asarray(group), return_inverse=True)
    fold = np.arange(names.size) % n_folds
    return torch.from_numpy(np.random.default_rng(seed).permutation(fold)[member])


def _choose(
    states: Float[Tensor, "n width"],
    positive: Bool[Tensor, " n"],
    train: Bool[Tensor, "resample n"],
    grid: Sequence[float],
) -> float:
    coordinates, _ = into_frame(centre(states))
    unit = default_c(coordinates, torch.ones_like(coordinates[None, :, 0]))
    if not len(train) or not bool(coordinates.any()):
        return float(unit)
    weights = train.double().repeat(len(grid), 1)
    candidates = torch.tensor(grid).double() * unit
    y = signs(positive)
    found = fit_logistic(coordinates, y, weights, candidates.repeat_interleave(len(train)))
    scores = found.slope @ coordinates.T + found.intercept[:, None]
    left_out = logistic_loss(scores, y, 1 - weights).view(len(grid), -1).sum(dim=1)
    return float(candidates[left_out.argmin()])
