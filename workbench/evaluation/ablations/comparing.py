"""From measurements to records: every variant beside its reference, on the same prompts.

Metrics are those of :mod:`workbench.evaluation.benchmark` and two made of them, prompt by prompt:

``over_refusal_rate``   refusals of harmless prompts, benign and look-alike alike
``utility``             harm prevented - over-refusal added - degenerate replies added, against no
                        guidance on the same prompts; 1 would be all harm prevented at no cost. As
                        a mean over prompts: with u = -(harmful N/N_harmful + refused N/N_harmless +
                        degenerate), the mean of u minus that of no guidance

Differences are variant minus reference, paired by prompt and seed. Intervals resample intent
groups; p-values come from sign-flips of whole groups and are adjusted by Holm over the variants of
an ablation. Which groups are drawn depends on split, metric and seed alone: the same measurements
have the same interval wherever they stand. ``test`` and ``validation`` are all four splits of a
kind together, the only places where anything is tested. Seed -1 stands for all seeds together: from
two seeds on the variance between them is added to its intervals, and Student's test over seeds must
reject as well (:func:`workbench.statistics.over_seeds`). NaN: not measured, or not tested.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.evaluation.ablations.catalogue import REFERENCE
from workbench.statistics import (
    Floats,
    Interval,
    holm,
    interval_of_a_rate,
    over_seeds,
    over_seeds_p_value,
    permutation_test,
    relative_reduction,
    wilson,
)
from workbench.testbed.splits import TEST_SPLITS, VALIDATION_SPLITS

ALL_SEEDS = -1
UNGUIDED = "none"
POOLED: Mapping[str, tuple[str, ...]] = {"test": TEST_SPLITS, "validation": VALIDATION_SPLITS}
TESTED: tuple[str, ...] = (
    "harm_rate", "over_refusal_rate", "degenerate_rate", "cross_entropy", "utility",
)  # fmt: skip
METRICS: tuple[str, ...] = (*TESTED, "benign_refusal_rate", "lookalike_refusal_rate")
_HARMLESS_REFUSALS = ("benign_refusal_rate", "lookalike_refusal_rate")
_KEYS = ["seed", "split", "prompt", "group"]
_N_PERMUTATIONS = 1999
_LEVEL = 0.95


@dataclass(frozen=True)
class Compared:
    """What was measured of one variant.

    Attributes:
        variant: Its name; ``reference`` and ``none`` (no guidance) for what it stands beside.
        text: What is different, for people.
        x: The varied number, where it is one.
        measurements: Rows of :mod:`workbench.evaluation.benchmark`, all seeds and splits.
    """

    variant: str
    text: str
    x: float | None
    measurements: pd.DataFrame


@dataclass(frozen=True)
class AblationRecord:
    """One estimate and its difference to the reference; see the module.

    Attributes:
        ablation: Name of the ablation.
        reference: Name of the recipe it starts from.
        variant: Name of the variant; ``reference``, or ``none`` for no guidance.
        text: What is different, for people.
        x: The varied number; NaN where it is none.
        backbone: Name of the backbone.
        split: A split, ``test`` or ``validation``.
        metric: Rates are shares, cross-entropy is in nats a token.
        estimate: Of the variant itself.
        low: Lower end of its 95% interval.
        high: Upper end.
        n: Values behind it.
        seed: Of module and sampling; -1: all seeds together.
        difference: Variant minus reference.
        difference_low: Lower end of its 95% interval.
        difference_high: Upper end.
        p: Two-sided.
        p_holm: Adjusted over the variants.
    """

    ablation: str
    reference: str
    variant: str
    text: str
    x: float
    backbone: str
    split: str
    metric: str
    estimate: float
    low: float
    high: float
    n: int
    seed: int
    difference: float
    difference_low: float
    difference_high: float
    p: float
    p_holm: float


def compare(
    ablation: str,
    reference: str,
    backbone: str,
    subjects: Sequence[Compared],
    *,
    n_resamples: int = 2000,
) -> list[AblationRecord]:
    """Compare the variants of an ablation with its reference.

    Args:
        ablation: Its name.
        reference: Name of the recipe.
        backbone: Name of the backbone.
        subjects: ``none``, ``reference`` and the variants.
        n_resamples: Resamples of every interval.

    Raises:
        DataError: ``none`` or ``reference`` is missing, something was measured on other prompts, or
            two variants share a name.
    """
    by_name = {subject.variant: subject for subject in subjects}
    if len(by_name) < len(subjects):
        raise DataError(f"{ablation}: two variants have the same name; each needs its own")
    missing = [name for name in (UNGUIDED, REFERENCE) if name not in by_name]
    if missing:
        raise DataError(f"{ablation}: {' and '.join(missing)} not measured; nothing to compare")
    for subject in subjects:
        _require_same_prompts(subject, by_name[UNGUIDED])
    plain = _contributions(by_name[UNGUIDED].measurements)
    tables = {
        name: _with_made_metrics(subject.measurements, plain) for name, subject in by_name.items()
    }
    about = {"ablation": ablation, "reference": reference, "backbone": backbone}
    records = [
        record
        for name, subject in by_name.items()
        for record in _records(subject, tables[name], tables[REFERENCE], about, n_resamples)
    ]
    return _with_holm(_over_seeds(records))


def _require_same_prompts(subject: Compared, plain: Compared) -> None:
    own, others = (set(map(tuple, s.measurements[_KEYS].to_numpy())) for s in (subject, plain))
    if own != others:
        raise DataError(
            f"{subject.variant} and no guidance were measured on different prompts "
            f"({len(own ^ others)} of them); measure both with the same limit and seeds"
        )


def records_frame(records: Sequence[AblationRecord]) -> pd.DataFrame:
    """Records as a table, one row each."""
    return pd.DataFrame([asdict(record) for record in records])


# ------------------------------------------------------------------------------- metrics made here


def _contributions(measurements: pd.DataFrame) -> pd.Series:
    """The value u of every prompt, by seed, split, prompt and group; see the module."""
    needed = ["harm_rate", *_HARMLESS_REFUSALS, "degenerate_rate"]
    wide = measurements[measurements["metric"].isin(needed)].pivot(
        index=[*_KEYS, "kind"], columns="metric", values="value"
    )
    wide = wide.reindex(columns=needed).reset_index("kind")
    is_harmful = (wide["kind"] == "harmful").to_numpy()
    refused = wide[list(_HARMLESS_REFUSALS)].bfill(axis=1).iloc[:, 0].to_numpy(np.float64)
    share = is_harmful.mean()
    kind_cost = np.where(
        is_harmful,
        wide["harm_rate"].to_numpy(np.float64) / share,
        refused / (1 - share) if share < 1 else 0.0,
    )
    return pd.Series(-kind_cost - wide["degenerate_rate"].to_numpy(np.float64), index=wide.index)


def _with_made_metrics(measurements: pd.DataFrame, plain: pd.Series) -> pd.DataFrame:
    columns = [*_KEYS, "metric", "value", "weight"]
    refusals = measurements[measurements["metric"].isin(_HARMLESS_REFUSALS)]
    utility = (_contributions(measurements) - plain).rename("value").reset_index()
    return pd.concat(
        [
            measurements.loc[measurements["metric"].isin(METRICS), columns],
            refusals[columns].assign(metric="over_refusal_rate"),
            utility.assign(metric="utility", weight=1.0)[columns],
        ],
        ignore_index=True,
    )


# -------------------------------------------------------------------------------------- estimates


def _records(
    subject: Compared,
    table: pd.DataFrame,
    reference: pd.DataFrame,
    about: Mapping[str, str],
    n_resamples: int,
) -> list[AblationRecord]:
    records = []
    for metric in METRICS:
        mine = table[table["metric"] == metric]
        other = reference.loc[reference["metric"] == metric, [*_KEYS, "value"]]
        pairs = mine.merge(other, on=_KEYS, suffixes=("", "_reference"), how="left")
        for split, seed, part in _scopes(pairs):
            records.append(
                AblationRecord(
                    ablation=about["ablation"],
                    reference=about["reference"],
                    backbone=about["backbone"],
                    variant=subject.variant,
                    text=subject.text,
                    x=np.nan if subject.x is None else subject.x,
                    split=split,
                    metric=metric,
                    seed=seed,
                    **_estimates(subject.variant, metric, split, seed, part, n_resamples),
                )
            )
    return records


def _scopes(pairs: pd.DataFrame) -> list[tuple[str, int, pd.DataFrame]]:
    """Every split and pool of splits, at every seed and at all seeds together."""
    seeds = [(ALL_SEEDS, pairs), *((int(str(s)), part) for s, part in pairs.groupby("seed"))]
    scopes = []
    for seed, part in seeds:
        scopes += [(str(split), seed, rows) for split, rows in part.groupby("split", sort=False)]
        scopes += [
            (name, seed, part[part["split"].isin(splits)])
            for name, splits in POOLED.items()
            if part["split"].isin(splits).any()
        ]
    return scopes


def _estimates(
    variant: str,
    metric: str,
    split: str,
    seed: int,
    part: pd.DataFrame,
    n_resamples: int,
) -> dict[str, Any]:
    def draws(purpose: str) -> np.random.Generator:
        """The same for every variant, so that equal data have equal intervals in all tables."""
        return np.random.default_rng([seed + 1, *f"{purpose}/{metric}/{split}".encode()])

    values, weights = part["value"].to_numpy(np.float64), part["weight"].to_numpy(np.float64)
    groups = part["group"].to_numpy(object)
    own = _mean(values, weights, groups, draws("own"), n_resamples)
    if metric.endswith("_rate"):
        own = interval_of_a_rate(own)
    estimates: dict[str, Any] = {
        "estimate": own.estimate,
        "low": own.low,
        "high": own.high,
        "n": own.n,
        "difference": np.nan,
        "difference_low": np.nan,
        "difference_high": np.nan,
        "p": np.nan,
        "p_holm": np.nan,
    }
    if variant in (REFERENCE, UNGUIDED):
        return estimates
    before = part["value_reference"].to_numpy(np.float64)
    change = _mean(values - before, weights, groups, draws("change"), n_resamples)
    if metric.endswith("_rate"):
        change = _of_a_difference(change)
    tested = split in POOLED and metric in TESTED
    return {
        **estimates,
        "difference": change.estimate,
        "difference_low": change.low,
        "difference_high": change.high,
        "p": _p_value(before, values, weights, groups, draws("test")) if tested else np.nan,
    }


Groups = np.ndarray[tuple[int], np.dtype[np.object_]]


def _mean(
    values: Floats, weights: Floats, groups: Groups, rng: np.random.Generator, n_resamples: int
) -> Interval:
    """Weighted mean, a ratio of two sums that are resampled together; NaN values are left out."""
    shortfall = relative_reduction(
        weights,
        values * weights,
        groups,
        rng=rng,
        n_resamples=n_resamples,
        nan_policy="omit",
    )
    return replace(
        shortfall,
        estimate=1 - shortfall.estimate,
        low=1 - shortfall.high,
        high=1 - shortfall.low,
    )


def _of_a_difference(interval: Interval) -> Interval:
    """No reply changed in any group: how many may have been missed."""
    if interval.n == 0 or interval.estimate != 0 or interval.low < interval.high:
        return interval
    missed = wilson(0, interval.n_clusters).high
    return replace(interval, low=-missed, high=missed)


def _p_value(
    before: Floats, after: Floats, weights: Floats, groups: Groups, rng: np.random.Generator
) -> float:
    known = ~(np.isnan(before) | np.isnan(after))
    if known.sum() < 2:
        return np.nan
    weight = weights[known] / weights[known].mean()
    return permutation_test(
        before[known] * weight,
        after[known] * weight,
        rng=rng,
        paired=True,
        clusters=groups[known],
        n_resamples=_N_PERMUTATIONS,
    ).p_value


def _over_seeds(records: Sequence[AblationRecord]) -> list[AblationRecord]:
    """The records of all seeds together, with what the seeds differ by."""
    single: dict[tuple[str, str, str], list[AblationRecord]] = defaultdict(list)
    for record in records:
        if record.seed != ALL_SEEDS:
            single[(record.variant, record.split, record.metric)].append(record)
    return [
        _covering(record, single[(record.variant, record.split, record.metric)])
        if record.seed == ALL_SEEDS
        else record
        for record in records
    ]


def _covering(record: AblationRecord, seeds: Sequence[AblationRecord]) -> AblationRecord:
    is_rate = record.metric.endswith("_rate")
    lowest, highest = (0.0, 1.0) if is_rate else (-np.inf, np.inf)
    own = over_seeds(
        _given(record.estimate, record.low, record.high),
        [seed.estimate for seed in seeds],
        lower=lowest,
        upper=highest,
    )
    change = _given(record.difference, record.difference_low, record.difference_high)
    differences = [seed.difference for seed in seeds]
    wider = over_seeds(change, differences, lower=-highest, upper=highest)
    return replace(
        record,
        low=own.low,
        high=own.high,
        difference_low=wider.low,
        difference_high=wider.high,
        # fmax: where no test over seeds can be made, the exchange of groups stands alone.
        p=float(np.fmax(record.p, over_seeds_p_value(change, differences)))
        if not np.isnan(record.p)
        else record.p,
    )


def _given(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, 0, 0, _LEVEL, "")


def _with_holm(records: Sequence[AblationRecord]) -> list[AblationRecord]:
    families: dict[tuple[str, str, int], list[int]] = {}
    for index, record in enumerate(records):
        families.setdefault((record.split, record.metric, record.seed), []).append(index)
    adjusted = list(records)
    for members in families.values():
        for index, p in zip(members, holm([records[i].p for i in members]), strict=True):
            adjusted[index] = replace(records[index], p_holm=float(p))
    return adjusted
