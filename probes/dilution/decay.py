"""How fast an effect fades: a * 2^(-T/h), with the half-length h in tokens.

The curve is fitted to the means at all distances by least squares. For a given h the best
amplitude is linear, a = (y . e) / (e . e) with e_T = 2^(-T/h), so h is found on a grid, for all
resamples at once.
"""

import math
from collections.abc import Sequence

import numpy as np

from probes.resampling import LEVEL, Floats, ResampledGroups
from workbench.statistics import Interval

_GRID = 600
_BEYOND = 4
"""The grid reaches this many times beyond the shortest and the longest distance: what halves four
times before the first or a quarter of once until the last cannot be told from gone and unfading."""


def half_length(
    distances: Sequence[int],
    effects: Floats,
    groups: Sequence[str],
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[Interval, str]:
    """Half-length of an effect, and what to mind.

    Args:
        distances: Tokens, ascending, at least two different ones.
        effects: (distance, example).
        groups: Cluster of every example.
        rng: Of the resamples.
        n_resamples: How many.

    Returns:
        The interval; the estimate is NaN where the fit has none: an effect that is not positive in
        more than 2.5% of the resamples, one that is gone before the second distance (an upper end
        is then given), or one that does not fade (then a lower end).
    """
    resampled = ResampledGroups.draw(groups, rng=rng, n_resamples=n_resamples)
    grid = _grid(distances)
    estimate = float(_fitted(effects.mean(axis=1)[None], distances, grid)[0])
    draws = _fitted(resampled.means(effects.T), distances, grid)
    found = resampled.interval(estimate, draws)
    unfading, instant = grid[-1], grid[0]
    if math.isnan(estimate) or np.isnan(draws).mean() > (1 - LEVEL) / 2:
        return _bounded(found, math.nan, math.nan), "no effect beyond doubt that could fade"
    if estimate >= unfading:
        low = min(float(np.nanquantile(draws, 1 - LEVEL)), float(distances[-1]))
        return _bounded(found, low, math.nan), f"does not fade within {distances[-1]} tokens"
    if estimate <= instant:
        gone = distances[1]
        return _bounded(found, math.nan, float(gone)), f"gone before {gone} tokens"
    low = 0.0 if found.low <= instant else found.low
    high = math.nan if found.high >= unfading else found.high
    return _bounded(found, low, high, estimate), ""


def _grid(distances: Sequence[int]) -> Floats:
    steps = np.diff(np.asarray(distances))
    return np.geomspace(steps.min() / _BEYOND, distances[-1] * _BEYOND, _GRID)


def _fitted(means: Floats, distances: Sequence[int], grid: Floats) -> Floats:
    """Best half-length of every row of means; NaN where the amplitude is not positive.

    The squared error is y.y - (y.e)^2 / (e.e), so the best h has the largest (y.e)^2 / (e.e).
    """
    lengths = np.asarray(distances, dtype=np.float64) - distances[0]
    curves = np.exp2(-lengths[:, None] / grid)
    overlap = means @ curves
    best = (overlap**2 / (curves**2).sum(axis=0)).argmax(axis=1)
    positive = overlap[np.arange(len(means)), best] > 0
    half: Floats = np.where(positive, grid[best], np.nan)
    return half


def _bounded(found: Interval, low: float, high: float, estimate: float = math.nan) -> Interval:
    method = f"{found.method}, of an exponential fit"
    return Interval(estimate, low, high, found.n, found.n_clusters, found.level, method)
