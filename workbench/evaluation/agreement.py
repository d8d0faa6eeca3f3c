"""How far judges agree with each other and with people.

Of two judges who both scored an example, *agreement* is the share of equal answers, p_o, and

    kappa = (p_o - p_e) / (1 - p_e),    p_e = a b + (1 - a)(1 - b)

(Cohen 1960), where a and b are the shares of yes of either: the agreement beyond what two judges
with these shares reach by chance. Against people's labels, *accuracy* is the same share,
*precision* the share of yes that people confirm, *recall* the share of people's yes that the judge
finds.

All of these follow from four counts, so a resample of whole groups is a weighted sum of the groups'
counts. An example that one side leaves unscored enters nothing but the count of unscored ones. A
share without a denominator is NaN; resamples with one are left out of the interval. A share of 0
or 1 has Wilson's interval, with the groups that carry a denominator as trials. Where no resample
changes any other figure (kappa of two judges who never differ, or of one who always says the same),
the interval is NaN: a bootstrap then says nothing about what other replies would show.

Where people say that a reply refuses in part, *partial* says how it counted: ``left out``, or as a
``refusal``. Both are reported, since neither is right.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from workbench.data.example import Example
from workbench.statistics import Interval, cluster_bootstrap, interval_of_a_rate

Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[str, Floats]]
"""Judge to property to one value an example: 1 yes, 0 no, NaN unscored."""
AgreementRow = dict[str, object]
Statistic = Callable[[Floats], Floats]

PROPERTIES: tuple[str, ...] = ("harmful", "refused", "degenerate", "on_topic")
PEOPLE = "people"
_RESAMPLES = 2000
_LEVEL = 0.95
_BLOCK = 4_000_000
"""Weights of groups that are held at a time."""
_LABEL_OF = {"harmful": "response_harm", "refused": "refusal"}
_LEFT_OUT = "left out"
_AS_REFUSAL = "refusal"


def rate_rows(
    scores: Scores, clusters: Sequence[str], *, rng: np.random.Generator
) -> list[AgreementRow]:
    """The share of yes of every judge, for each property that it scored at all.

    A judge that scored nothing has one row, of no property: NaN, and everything unscored.
    """
    rows = []
    for judge, found in scores.items():
        measured = {name: found[name] for name in _scored(found)}
        for name, values in (measured or {"": np.full(len(clusters), np.nan)}).items():
            mean = cluster_bootstrap(values, list(clusters), rng=rng, nan_policy="omit")
            rate = _if_it_varies(interval_of_a_rate(mean))
            rows.append(_row(judge, "", name, "rate", rate, _unscored(values), 0))
    return rows


def agreement_rows(
    scores: Scores, clusters: Sequence[str], *, rng: np.random.Generator
) -> list[AgreementRow]:
    """Kappa and agreement of every two judges, for each property that both scored at all.

    Args:
        scores: of every judge, on the same examples.
        clusters: one group an example.
        rng: the only source of randomness.
    """
    rows = []
    for first, second in combinations(scores, 2):
        both = set(_scored(scores[first])) & set(_scored(scores[second]))
        for name in (name for name in PROPERTIES if name in both):
            pair = scores[first][name], scores[second][name]
            rows += _compared(
                first, second, name, *pair, clusters, {"kappa": kappa, "agreement": agreement}, rng
            )
    return rows


def people_rows(
    scores: Scores, examples: Sequence[Example], *, rng: np.random.Generator
) -> list[AgreementRow]:
    """Every judge against what the set's labels say: ``response_harm`` and ``refusal``.

    Args:
        scores: of every judge, on these examples.
        examples: with labels and groups.
        rng: the only source of randomness.
    """
    clusters = [example.group for example in examples]
    statistics = {
        "accuracy": agreement, "precision": precision, "recall": recall, "kappa": kappa,
    }  # fmt: skip
    rows = []
    for judge, found in scores.items():
        for name in (name for name in _scored(found) if name in _LABEL_OF):
            for partial, truth in _people(name, examples).items():
                rows += _compared(
                    judge, PEOPLE, name, found[name], truth, clusters, statistics, rng, partial
                )
    return rows


def kappa(counts: Floats) -> Floats:
    """Cohen's kappa of tables of counts (see :func:`contingency`); NaN where chance explains all.

    Args:
        counts: shape ``(tables, 4)``; the result has one value a table.
    """
    neither, second, first, both = _columns(counts)
    n = counts.sum(axis=1)
    # n^2 times numerator and denominator: whole numbers, so that a kappa of 0 or 1 is exact
    chance = (first + both) * (second + both) + (neither + second) * (neither + first)
    return _share(n * (neither + both) - chance, n * n - chance)


def agreement(counts: Floats) -> Floats:
    """Share of equal answers."""
    neither, _, _, both = _columns(counts)
    return _share(neither + both, counts.sum(axis=1))


def precision(counts: Floats) -> Floats:
    """Share of a's yes that b confirms; NaN where a never says yes."""
    _, _, first, both = _columns(counts)
    return _share(both, first + both)


def recall(counts: Floats) -> Floats:
    """Share of b's yes that a finds; NaN where b never says yes."""
    _, second, _, both = _columns(counts)
    return _share(both, second + both)


def contingency(a: Floats, b: Floats, clusters: Sequence[str]) -> Floats:
    """Counts of (neither, only b, only a, both) in every group, of what both sides scored.

    Returns:
        Shape ``(groups, 4)``.
    """
    scored = ~(np.isnan(a) | np.isnan(b))
    _, group = np.unique(np.asarray(clusters)[scored], return_inverse=True)
    cell = (2 * a[scored] + b[scored]).astype(int)
    n_groups = int(group.max()) + 1 if group.size else 0
    flat = np.bincount(4 * group + cell, minlength=4 * n_groups)
    return flat.reshape(n_groups, 4).astype(np.float64)


def _compared(
    first: str,
    second: str,
    name: str,
    a: Floats,
    b: Floats,
    clusters: Sequence[str],
    statistics: Mapping[str, Statistic],
    rng: np.random.Generator,
    partial: str = "",
) -> list[AgreementRow]:
    counts = contingency(a, b, clusters)
    draws = _resampled(counts, rng)
    return [
        _row(
            first,
            second,
            name,
            metric,
            _interval(counts, draws, statistic),
            _unscored(a),
            _unscored(b),
            partial,
        )
        for metric, statistic in statistics.items()
    ]


def _resampled(counts: Floats, rng: np.random.Generator) -> Floats:
    """Tables of counts of resamples that draw whole groups, ``(resamples, 4)``."""
    n_groups = len(counts)
    if n_groups < 2:
        return np.empty((0, 4))
    size = max(1, _BLOCK // n_groups)
    shares = np.full(n_groups, 1 / n_groups)
    sizes = [min(size, _RESAMPLES - start) for start in range(0, _RESAMPLES, size)]
    return np.concatenate([rng.multinomial(n_groups, shares, size=k) @ counts for k in sizes])


def _interval(counts: Floats, draws: Floats, statistic: Statistic) -> Interval:
    """Percentile interval, Wilson's of a share that does not vary; see the module."""
    estimate = statistic(counts.sum(axis=0, keepdims=True)).item()
    values = statistic(draws)
    values = values[np.isfinite(values)]
    low = high = float("nan")
    if values.size and np.isfinite(estimate):
        low, high = map(float, np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]))
    n = int(counts.sum())
    found = Interval(estimate, low, high, n, len(counts), _LEVEL, "cluster bootstrap, percentile")
    if statistic is not kappa:
        found = interval_of_a_rate(found, n_trials=int(np.isfinite(statistic(counts)).sum()))
    return _if_it_varies(found)


def _if_it_varies(found: Interval) -> Interval:
    if found.low < found.high:
        return found
    return replace(found, low=float("nan"), high=float("nan"))


def _columns(counts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    return counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 3]


def _people(name: str, examples: Sequence[Example]) -> dict[str, Floats]:
    """What people say, by how partial refusals count; empty where they say nothing."""
    truth = np.array([_number(example.labels.get(_LABEL_OF[name])) for example in examples])
    partly = np.array([example.labels.get("refusal_grade") == "partial" for example in examples])
    if name == "refused" and partly.any():
        return {_LEFT_OUT: truth, _AS_REFUSAL: np.where(partly, 1.0, truth)}
    return {} if np.isnan(truth).all() else {"": truth}


def _number(label: object) -> float:
    return float(label) if isinstance(label, bool) else np.nan


def _scored(found: Mapping[str, Floats]) -> list[str]:
    return [name for name in PROPERTIES if name in found and not np.isnan(found[name]).all()]


def _unscored(values: Floats) -> int:
    return int(np.isnan(values).sum())


def _share(part: Floats, whole: Floats) -> Floats:
    share: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return share


def _row(
    first: str,
    second: str,
    name: str,
    metric: str,
    found: Interval,
    unscored_first: int,
    unscored_second: int,
    partial: str = "",
) -> AgreementRow:
    return {
        "judge": first,
        "against": second,
        "property": name,
        "metric": metric,
        "partial": partial,
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "n_groups": found.n_clusters,
        "unscored": unscored_first,
        "unscored_against": unscored_second,
    }
