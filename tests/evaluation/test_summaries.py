"""Summary rows against numbers computed by hand from planted measurements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.evaluation import METRICS, summarise
from workbench.statistics import wilson


def measured(
    metric: str,
    values: Sequence[float],
    *,
    guidance: str = "none",
    config: str = "",
    frames: Sequence[str] = ("direct",),
    weights: Sequence[float] | None = None,
    groups: int | None = None,
    split: str = "heldout_intents",
) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {
            "backbone": "tiny",
            "guidance": guidance,
            "config": config,
            "split": split,
            "seed": 0,
            "frame": [frames[i % len(frames)] for i in range(n)],
            "kind": "harmful",
            "prompt": [f"{split}/{i}" for i in range(n)],
            "group": [f"group {i % (groups or n)}" for i in range(n)],
            "metric": metric,
            "value": list(values),
            "weight": list(weights or [1.0] * n),
        }
    )


def row(rows: Sequence[dict[str, object]], metric: str, **wanted: str) -> dict[str, Any]:
    keys = {"frame": "all", "metric": metric, **wanted}
    found = [r for r in rows if all(r[key] == value for key, value in keys.items())]
    assert len(found) == 1, (keys, len(found))
    return found[0]


def test_rates_are_averages_with_intervals_around_them() -> None:
    values = [1.0] * 30 + [0.0] * 70
    rows = summarise(measured("harm_rate", values))
    found = row(rows, "harm_rate")
    assert found["estimate"] == pytest.approx(0.3)
    assert found["n"] == 100
    # normal approximation: 0.3 +- 1.96 sqrt(0.21 / 100)
    assert found["low"] == pytest.approx(0.3 - 0.0898, abs=0.02)
    assert found["high"] == pytest.approx(0.3 + 0.0898, abs=0.02)


def test_intervals_widen_when_prompts_share_an_intent() -> None:
    values = [float(i % 10 < 5) for i in range(200)]
    alone = row(summarise(measured("harm_rate", values)), "harm_rate")
    clustered = row(summarise(measured("harm_rate", values, groups=10)), "harm_rate")
    assert alone["estimate"] == clustered["estimate"]
    widths = [r["high"] - r["low"] for r in (alone, clustered)]
    assert widths[1] > 3 * widths[0]


def test_frames_have_rows_of_their_own_but_compositions_have_not() -> None:
    values = [1.0, 0.0, 1.0, 0.0]
    frames = ("direct", "polite")
    rows = summarise(measured("harm_rate", values, frames=frames))
    assert row(rows, "harm_rate", frame="direct")["estimate"] == 1
    assert row(rows, "harm_rate", frame="polite")["estimate"] == 0
    assert row(rows, "harm_rate")["estimate"] == 0.5
    composed = summarise(measured("harm_rate", values, frames=("prefix+polite", "polite+prefix")))
    assert [r["frame"] for r in composed] == ["all"]


def test_unscored_is_left_out_and_nothing_scored_stays_unmeasured() -> None:
    nan = math.nan
    rows = summarise(measured("on_topic_rate", [1.0, nan, 0.0, nan]))
    assert row(rows, "on_topic_rate")["estimate"] == 0.5
    assert row(rows, "on_topic_rate")["n"] == 2
    rows = summarise(measured("on_topic_rate", [nan, nan]))
    found = row(rows, "on_topic_rate")
    assert all(math.isnan(found[key]) for key in ("estimate", "low", "high"))
    assert found["n"] == 0
    rows = summarise(measured("cross_entropy", [nan, nan]))
    assert math.isnan(row(rows, "perplexity")["estimate"])


def test_cross_entropy_weighs_replies_by_their_tokens() -> None:
    rows = summarise(measured("cross_entropy", [1.0, 3.0], weights=[30, 10]))
    assert row(rows, "cross_entropy")["estimate"] == pytest.approx(1.5)
    perplexity = row(rows, "perplexity")
    assert perplexity["estimate"] == pytest.approx(math.exp(1.5))
    assert perplexity["low"] == pytest.approx(math.exp(1.0))
    assert perplexity["high"] == pytest.approx(math.exp(3.0))


def test_a_rate_without_spread_gets_a_wilson_interval_of_its_groups() -> None:
    rows = summarise(measured("harm_rate", [0.0] * 60, groups=20))
    found, expected = row(rows, "harm_rate"), wilson(0, 20)
    assert (found["estimate"], found["low"], found["high"]) == (
        0.0,
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )
    assert row(summarise(measured("harm_rate", [1.0] * 60)), "harm_rate")["low"] < 1


def both(
    metric: str, before: Sequence[float], after: Sequence[float], **more: object
) -> pd.DataFrame:
    return pd.concat(
        [
            measured(metric, before, **more),  # type: ignore[arg-type]
            measured(metric, after, guidance="svgt", config="planted", **more),  # type: ignore[arg-type]
        ]
    )


def test_harm_reduction_by_hand() -> None:
    frame = both("harm_rate", [1.0] * 80 + [0.0] * 20, [1.0] * 4 + [0.0] * 96)
    found = row(summarise(frame), "harm_reduction", guidance="svgt")
    assert found["estimate"] == pytest.approx(0.95)
    assert 0.88 < found["low"] < 0.95 < found["high"] < 1.0


def test_no_harm_left_is_still_uncertain() -> None:
    frame = both("harm_rate", [1.0] * 50, [0.0] * 50)
    found = row(summarise(frame), "harm_reduction")
    assert (found["estimate"], found["high"]) == (1.0, 1.0)
    assert found["low"] == pytest.approx(1 - wilson(0, 50).high)


def test_no_harm_to_begin_with_is_not_a_reduction() -> None:
    found = row(summarise(both("harm_rate", [0.0] * 9, [0.0] * 9)), "harm_reduction")
    assert math.isnan(found["estimate"])


def test_increases_are_paired_by_prompt() -> None:
    before = [0.0, 1.0] * 50
    after = [1.0, 1.0] * 5 + [0.0, 1.0] * 45
    frame = both("benign_refusal_rate", before, after)
    shuffled = frame.sample(frac=1.0, random_state=0)
    found = row(summarise(shuffled), "benign_refusal_increase")
    assert found["estimate"] == pytest.approx(0.05)
    # unpaired, the interval would be as wide as that of the two rates: about +- 0.14
    assert found["low"] >= 0
    assert found["high"] < 0.11


def test_cross_entropy_increase_weighs_tokens() -> None:
    frame = both("cross_entropy", [1.0, 1.0], [1.1, 1.5], weights=[30, 10])
    assert row(summarise(frame), "cross_entropy_increase")["estimate"] == pytest.approx(0.2)


def test_equal_measurements_differ_by_exactly_zero() -> None:
    values = list(np.random.default_rng(0).random(50).round())
    for metric, change in [
        ("harm_rate", "harm_reduction"),
        ("benign_refusal_rate", "benign_refusal_increase"),
        ("lookalike_refusal_rate", "lookalike_refusal_increase"),
        ("degenerate_rate", "degenerate_increase"),
        ("cross_entropy", "cross_entropy_increase"),
    ]:
        found = row(summarise(both(metric, values, values)), change)
        assert found["estimate"] == 0.0
        assert found["low"] <= 0.0 <= found["high"]
        assert change in METRICS


def test_changes_need_none_beside_them() -> None:
    alone = measured("harm_rate", [0.0, 1.0], guidance="svgt", config="a")
    assert {r["metric"] for r in summarise(alone)} == {"harm_rate"}
    elsewhere = measured("harm_rate", [0.0, 1.0], split="unseen_frames")
    assert "harm_reduction" not in {r["metric"] for r in summarise(pd.concat([alone, elsewhere]))}


def test_the_same_measurements_give_the_same_rows_in_any_company() -> None:
    frame = measured("harm_rate", [float(i % 3 == 0) for i in range(60)])
    other = measured("harm_rate", [0.0, 1.0, 1.0], split="unseen_frames")
    together = summarise(pd.concat([other, frame]))
    assert row(summarise(frame), "harm_rate") == row(together, "harm_rate", split="heldout_intents")


def test_damaged_measurements_are_named() -> None:
    frame = measured("harm_rate", [0.0, 1.0])
    with pytest.raises(DataError, match="lack the columns group, weight"):
        summarise(frame.drop(columns=["group", "weight"]))
    with pytest.raises(DataError, match="two values of harm_rate"):
        summarise(pd.concat([frame, frame]))
