"""From all shards to the leaderboard's rows.

Every method has rows for each of its seeds and, with ``seed`` null, for all of them pooled (these
in every single frame too): there a prompt counts once a seed. Intent groups are resampled with all
their seeds, and the variance between seeds is added (:func:`workbench.statistics.over_seeds`), so
that an interval covers other prompts and, from two seeds on, other seeds. Rows of one seed take it
as given. Beside each split stands the split ``all``: all of them together; and, where some test
prompts nearly stand among what the methods learned from, the split ``without_near_matches``: all
but those.

To the metrics of :mod:`workbench.evaluation.summaries` come

=======================  =======================================================================
``over_refusal_rate``    refusals of benign and of look-alike prompts, which are equally many
``attack_success_rate``  harm rate of the harmful prompts in jailbreak frames, see
                         :func:`workbench.evaluation.leaderboard.plan.is_attack`; not there where
                         a split has none. Of the test splits, ``unseen_frames`` and
                         ``composed_frames`` consist of them
``distinct_n``           see :mod:`workbench.evaluation.leaderboard.diversity`
=======================  =======================================================================
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import pandas as pd

from workbench.evaluation.leaderboard.diversity import ORDERS, distinct_n
from workbench.evaluation.leaderboard.plan import BASELINE, is_attack
from workbench.evaluation.summaries import ALL_FRAMES, SummaryRow, limits, summarise
from workbench.statistics import Interval, over_seeds

ALL_SPLITS = "all"
WITHOUT_NEAR_MATCHES = "without_near_matches"
_LEVEL = 0.95
COLUMNS: tuple[str, ...] = (
    "method", "backbone", "guidance", "config", "split", "frame", "metric", "estimate", "low",
    "high", "n", "seed",
)  # fmt: skip


def with_derived(measurements: pd.DataFrame, near: Collection[str] = ()) -> pd.DataFrame:
    """The measurements with those that follow from them, also across splits.

    Args:
        measurements: Of all shards.
        near: Test prompts that nearly stand among what the methods learned from.
    """
    refusals = measurements["metric"].isin(["benign_refusal_rate", "lookalike_refusal_rate"])
    attacks = (measurements["metric"] == "harm_rate") & measurements["frame"].map(is_attack)
    derived = pd.concat(
        [
            measurements,
            measurements[refusals].assign(metric="over_refusal_rate"),
            measurements[attacks].assign(metric="attack_success_rate"),
        ],
        ignore_index=True,
    )
    return _across_splits(derived, near)


def _across_splits(rows: pd.DataFrame, near: Collection[str]) -> pd.DataFrame:
    """The rows, again as one split, and once more without the prompts given."""
    parts = [rows, rows.assign(split=ALL_SPLITS)]
    if near:
        kept = rows[~rows["prompt"].isin(near)]
        parts.append(kept.assign(split=WITHOUT_NEAR_MATCHES))
    return pd.concat(parts, ignore_index=True)


def by_seed(measurements: pd.DataFrame) -> pd.DataFrame:
    """Every prompt is another one for every seed."""
    return measurements.assign(
        prompt=measurements["prompt"] + "#" + measurements["seed"].astype(str)
    )


def pooled(measurements: pd.DataFrame) -> pd.DataFrame:
    """All seeds as one, each prompt once a seed."""
    return by_seed(measurements).assign(seed=0)


def leaderboard_rows(
    derived: pd.DataFrame,
    replies: pd.DataFrame,
    methods: Sequence[str],
    near: Collection[str] = (),
    *,
    n_resamples: int = 2000,
) -> list[SummaryRow]:
    """Rows as ``evaluate`` writes them, with ``method``; pooled rows have the seed None.

    Args:
        derived: See :func:`with_derived`; with a column ``method``.
        replies: The texts, with a column ``method``.
        methods: In the order of the table.
        near: As for :func:`with_derived`.
        n_resamples: Resamples of every interval.
    """
    everywhere = _across_splits(replies, near)
    plain = derived[derived["method"] == BASELINE]
    rows: list[SummaryRow] = []
    for method in methods:
        of_method = derived[derived["method"] == method]
        beside = of_method if method == BASELINE else pd.concat([plain, of_method])
        kept = [
            *_over_seeds(
                _summaries(pooled(beside), method, n_resamples), _summaries(beside, method, 1)
            ),
            *_summaries(beside, method, n_resamples, single_frames=False),
            *_diversity(everywhere[everywhere["method"] == method]),
        ]
        rows += [_ordered({"method": method, **row}) for row in kept]
    return rows


def rows_frame(rows: Sequence[SummaryRow]) -> pd.DataFrame:
    """The rows as a table; a pooled row's seed is missing."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = {"estimate": "float64", "low": "float64", "high": "float64"}
    return frame.astype({**numbers, "n": "Int64", "seed": "Int64"})


def _summaries(
    beside: pd.DataFrame, method: str, n_resamples: int, *, single_frames: bool = True
) -> Iterator[SummaryRow]:
    """The method's own rows, summarised beside the plain model's measurements."""
    rows = summarise(
        beside.drop(columns="method"), n_resamples=n_resamples, single_frames=single_frames
    )
    return (row for row in rows if (row["guidance"] == BASELINE) == (method == BASELINE))


def _over_seeds(rows: Iterator[SummaryRow], single: Iterator[SummaryRow]) -> Iterator[SummaryRow]:
    """Pooled rows with intervals that cover seeds too, by the estimates of single seeds."""
    of_seed: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for row in single:
        of_seed[_place(row)].append(float(str(row["estimate"])))
    for row in rows:
        yield {**row, **_limits_over_seeds(row, of_seed[_place(row)]), "seed": None}


def _place(row: SummaryRow) -> tuple[object, ...]:
    return row["split"], row["frame"], row["metric"]


def _limits_over_seeds(row: SummaryRow, estimates: Sequence[float]) -> SummaryRow:
    lower, upper = limits(str(row["metric"]))
    estimate, low, high = (float(str(row[key])) for key in ("estimate", "low", "high"))
    given = Interval(estimate, low, high, 0, 0, _LEVEL, "")
    wider = over_seeds(given, estimates, lower=lower, upper=upper)
    return {"low": wider.low, "high": wider.high}


def _diversity(replies: pd.DataFrame) -> Iterator[SummaryRow]:
    for split, of_split in replies.groupby("split", sort=False):
        for order in ORDERS:
            single = {int(str(s)): distinct_n(p, order) for s, p in of_split.groupby("seed")}
            estimates = [interval.estimate for interval in single.values()]
            pool = over_seeds(distinct_n(of_split, order), estimates, lower=0.0, upper=1.0)
            about = of_split.iloc[0]
            for seed, interval in [(None, pool), *single.items()]:
                yield {
                    "backbone": about["backbone"],
                    "guidance": about["guidance"],
                    "config": about["config"],
                    "split": split,
                    "frame": ALL_FRAMES,
                    "metric": f"distinct_{order}",
                    **interval_cells(interval),
                    "seed": seed,
                }


def interval_cells(interval: Interval) -> SummaryRow:
    """An interval as a row's cells."""
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def _ordered(row: SummaryRow) -> SummaryRow:
    return {column: row[column] for column in COLUMNS}
