"""From measurements to estimates with intervals: the rows of ``summary.json``.

Every row is one estimate: ``backbone, guidance, config, split, frame, metric, estimate, low, high,
n, seed``. Rates are shares between 0 and 1. Frame ``all`` is the average over all prompts of a
split; where two frames are composed there are too many for rows of their own. Intervals are
clustered bootstraps: all prompts of one intent group are drawn together. NaN means *not measured*.

Beside the metrics themselves stand, for every guidance where ``none`` was measured too, its changes
against ``none`` on the same prompts:

============================  ==================================================================
``harm_reduction``            1 - harm rate / harm rate of ``none``, both resampled jointly
``*_increase``                difference to ``none``, prompt by prompt
============================  ==================================================================

A sample without any spread (no harm among 200 replies) has no bootstrap interval; there the Wilson
interval of as many trials as there are groups stands in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.statistics import (
    Floats,
    Interval,
    cluster_bootstrap,
    interval_of_a_rate,
    paired_cluster_bootstrap,
    relative_reduction,
    wilson,
)

ALL_FRAMES = "all"
RATES: tuple[str, ...] = (
    "harm_rate", "refusal_rate", "benign_refusal_rate", "lookalike_refusal_rate",
    "degenerate_rate", "on_topic_rate", "over_refusal_rate", "attack_success_rate",
)  # fmt: skip
PER_TOKEN: tuple[str, ...] = ("cross_entropy", "kl_to_unguided")
CHANGES: dict[str, str] = {
    "harm_reduction": "harm_rate",
    "refusal_increase": "refusal_rate",
    "benign_refusal_increase": "benign_refusal_rate",
    "lookalike_refusal_increase": "lookalike_refusal_rate",
    "over_refusal_increase": "over_refusal_rate",
    "degenerate_increase": "degenerate_rate",
    "cross_entropy_increase": "cross_entropy",
}
METRICS: tuple[str, ...] = (*RATES, "perplexity", *PER_TOKEN, *CHANGES)

_LEAST = {"perplexity": 1.0, **dict.fromkeys(PER_TOKEN, 0.0)}


def limits(metric: str) -> tuple[float, float]:
    """What a metric can be at least and at most."""
    if metric in RATES:
        return 0.0, 1.0
    if metric == "harm_reduction":
        return -np.inf, 1.0
    if CHANGES.get(metric) in RATES:
        return -1.0, 1.0
    return _LEAST.get(metric, -np.inf), np.inf


SummaryRow = dict[str, object]
_KEYS = ["backbone", "guidance", "config", "split", "seed"]


@dataclass(frozen=True, eq=False)
class Sample:
    """Measurements of one metric, with what decides their resampling.

    Attributes:
        values: One a prompt.
        weights: Tokens behind each, or 1.
        groups: Clusters that are drawn whole.
        rng: The only source of randomness.
        n_resamples: Of the interval.
    """

    values: Floats
    weights: Floats
    groups: np.ndarray[tuple[int], np.dtype[np.object_]]
    rng: np.random.Generator
    n_resamples: int


def summarise(
    measurements: pd.DataFrame, *, n_resamples: int = 2000, single_frames: bool = True
) -> list[SummaryRow]:
    """Estimate every metric of every guidance, split and frame.

    Args:
        measurements: Rows as :mod:`workbench.evaluation.benchmark` describes them.
        n_resamples: Resamples of every interval.
        single_frames: Estimate every frame too, not only all together.

    Raises:
        DataError: A column is missing, or a prompt was measured twice.
    """
    _check(measurements)
    rows: list[SummaryRow] = []
    for keys, part in measurements.groupby(_KEYS, sort=False):
        about = dict(zip(_KEYS, keys, strict=True))
        baseline = _baseline(measurements, about)
        for frame, framed in _frames(part) if single_frames else [(ALL_FRAMES, part)]:
            for metric, interval in _estimates(framed, baseline, about, frame, n_resamples):
                rows.append(_row(about, frame, metric, interval))
    return rows


def _check(measurements: pd.DataFrame) -> None:
    needed = [*_KEYS, "frame", "prompt", "group", "metric", "value", "weight"]
    missing = [column for column in needed if column not in measurements.columns]
    if missing:
        raise DataError(f"the measurements lack the columns {', '.join(missing)}")
    twice = measurements.duplicated([*_KEYS, "prompt", "metric"])
    if twice.any():
        first = measurements[twice].iloc[0]
        raise DataError(
            f"prompt {first['prompt']} has two values of {first['metric']} under "
            f"{first['guidance']}; a run measures each prompt once"
        )


def _baseline(measurements: pd.DataFrame, about: SummaryRow) -> pd.DataFrame | None:
    """The measurements of ``none`` on the same split; None for ``none`` itself or where absent."""
    if about["guidance"] == "none":
        return None
    same = [key for key in _KEYS if key not in ("guidance", "config")]
    chosen = measurements["guidance"] == "none"
    for key in same:
        chosen &= measurements[key] == about[key]
    return measurements[chosen] if chosen.any() else None


def _frames(part: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield ALL_FRAMES, part
    for frame, framed in part.groupby("frame"):
        if "+" not in str(frame):
            yield str(frame), framed


def _estimates(
    part: pd.DataFrame,
    baseline: pd.DataFrame | None,
    about: SummaryRow,
    frame: str,
    n_resamples: int,
) -> Iterator[tuple[str, Interval]]:
    by_metric = {str(metric): rows for metric, rows in part.groupby("metric", sort=False)}

    def rng(metric: str) -> np.random.Generator:
        name = "/".join(str(about[key]) for key in _KEYS[:-1]) + f"/{frame}/{metric}"
        return np.random.default_rng([int(str(about["seed"])), *name.encode()])

    for metric in (*RATES, *PER_TOKEN):
        if metric not in by_metric:
            continue
        sample = _sample(by_metric[metric], rng(metric), n_resamples)
        interval = (
            weighted_mean(sample) if metric in PER_TOKEN else interval_of_a_rate(_mean(sample))
        )
        if metric == "cross_entropy":
            yield "perplexity", _mapped(interval, np.exp)
        yield metric, interval
    if baseline is None:
        return
    for change, metric in CHANGES.items():
        if metric not in by_metric:
            continue
        pairs = by_metric[metric].merge(
            baseline.loc[baseline["metric"] == metric, ["prompt", "value"]],
            on="prompt",
            suffixes=("", "_before"),
        )
        after = _sample(pairs, rng(change), n_resamples)
        yield change, _change(change, pairs["value_before"].to_numpy(np.float64), after)


def _sample(rows: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> Sample:
    return Sample(
        rows["value"].to_numpy(np.float64),
        rows["weight"].to_numpy(np.float64),
        rows["group"].to_numpy(object),
        rng,
        n_resamples,
    )


def weighted_mean(sample: Sample) -> Interval:
    """Weighted mean: a ratio of sums, both resampled together; NaN values are left out."""
    reduction = relative_reduction(
        sample.weights,
        sample.values * sample.weights,
        sample.groups,
        rng=sample.rng,
        n_resamples=sample.n_resamples,
        nan_policy="omit",
    )
    return replace(
        reduction,
        estimate=1 - reduction.estimate,
        low=1 - reduction.high,
        high=1 - reduction.low,
        method="cluster bootstrap",
    )


def _mean(sample: Sample) -> Interval:
    return cluster_bootstrap(
        sample.values,
        sample.groups,
        rng=sample.rng,
        n_resamples=sample.n_resamples,
        nan_policy="omit",
    )


def _change(change: str, before: Floats, after: Sample) -> Interval:
    if change == "harm_reduction":
        return _reduction(before, after)
    if change == "cross_entropy_increase":
        return weighted_mean(replace(after, values=after.values - before))
    return difference(before, after)


def difference(before: Floats, after: Sample) -> Interval:
    """Mean change of a rate, prompt by prompt; Wilson's spread where no group changed at all."""
    interval = paired_cluster_bootstrap(
        before,
        after.values,
        after.groups,
        rng=after.rng,
        n_resamples=after.n_resamples,
        nan_policy="omit",
    )
    if interval.n == 0 or interval.low < interval.high or interval.estimate != 0:
        return interval
    spread = wilson(0, interval.n_clusters).high
    return replace(interval, low=-spread, high=spread, method="wilson")


def _reduction(before: Floats, after: Sample) -> Interval:
    interval = relative_reduction(
        before,
        after.values,
        after.groups,
        rng=after.rng,
        n_resamples=after.n_resamples,
        nan_policy="omit",
    )
    if interval.n == 0 or interval.estimate != 1.0:
        return interval
    left = wilson(0, interval.n_clusters).high  # no harm at all: how much may have been missed
    measured = ~np.isnan(before) & ~np.isnan(after.values)
    return replace(interval, low=1 - left / before[measured].mean(), method="wilson")


def _mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    """The interval of a rising function of the estimate."""
    return replace(
        interval,
        estimate=float(function(interval.estimate)),
        low=float(function(interval.low)),
        high=float(function(interval.high)),
    )


def _row(about: SummaryRow, frame: str, metric: str, interval: Interval) -> SummaryRow:
    return {
        "backbone": about["backbone"],
        "guidance": about["guidance"],
        "config": about["config"],
        "split": about["split"],
        "frame": frame,
        "metric": metric,
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "seed": int(str(about["seed"])),
    }
