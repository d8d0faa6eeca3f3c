"""Runs side by side: what is lined up, and the differences with their intervals."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from workbench.errors import RunError
from workbench.export.run_comparison import (
    compare,
    comparison_figure,
    comparison_help,
    comparison_table,
    shared_metrics,
    short_headings,
)
from workbench.export.training_figures import training_text
from workbench.statistics import Interval, independent_difference


def row(split: str, estimate: float | None, **more: object) -> Mapping[str, object]:
    known = math.nan if estimate is None else estimate
    about = {
        "backbone": "testbed-llama", "guidance": "svgt", "config": "workbench", "frame": "all",
        "metric": "harm_rate", "low": known - 0.03, "high": known + 0.04, "n": 50, "seed": 0,
    }  # fmt: skip
    return {**about, "split": split, "estimate": estimate, **more}


RUNS = {
    "first": [row("words", 0.5), row("frames", 0.2), row("frames", 0.9, frame="fiction")],
    "second": [
        row("words", 0.4, backbone="testbed-gpt2", seed=7),
        row("frames", None, backbone="testbed-gpt2", seed=7),
        row("words", 1.0, backbone="testbed-gpt2", seed=7, metric="other"),
    ],
}


def test_what_differs_between_runs_keeps_no_place_apart() -> None:
    found = compare(RUNS, "harm_rate", frames=False)
    assert found.places == ("words", "frames")
    table = comparison_table(found)
    assert table["first"].tolist() == ["50.0 [47.0, 54.0]", "20.0 [17.0, 24.0]"]
    assert table["second"].tolist() == ["40.0 [37.0, 44.0]", "–"]
    reach = 100 * math.hypot(0.03, 0.04)
    expected = f"-10.0 [{-10 - reach:+.1f}, {-10 + reach:+.1f}]"
    assert table["second − first"].tolist() == [expected, "–"]
    assert [len(trace.x) for trace in comparison_figure(found).data] == [2, 1]
    assert compare(RUNS, "harm_rate", frames=True).places[-1] == "frames, fiction"
    assert shared_metrics(RUNS) == ["harm_rate"]


@pytest.mark.parametrize(
    ("runs", "short"),
    [
        (("board/llama", "board/gpt2"), ["llama", "gpt2", "Δ gpt2"]),
        (("board/a/x", "board/b/x", "c"), ["board/a/x", "board/b/x", "c", "Δ board/b/x", "Δ c"]),
        (("board/a", "board/ab"), ["a", "ab", "Δ ab"]),
    ],
)
def test_narrow_headings_leave_out_the_folders_that_runs_share(
    runs: tuple[str, ...], short: list[str]
) -> None:
    found = compare({run: [row("words", 0.5)] for run in runs}, "harm_rate", frames=False)
    headings = short_headings(found)
    assert list(headings.values()) == short
    assert list(headings) == list(comparison_table(found))[1:]


def test_a_training_speaks_of_its_validation_set_and_promises_no_bars() -> None:
    def trained(accuracy: float) -> list[Mapping[str, object]]:
        return [{"stage": "conditional", "metric": "accuracy", "estimate": accuracy, "n": 9}]

    found = compare({"a": trained(0.75), "b": trained(0.5)}, "accuracy", frames=False)
    assert found.text.title == "accuracy on the validation set (%, higher is better)"
    assert comparison_table(found)["b − a"].tolist() == ["-25.0"]
    assert "bar" not in comparison_help(comparison_figure(found))
    measured = compare(RUNS, "harm_rate", frames=False)
    assert "its bar the 95% interval" in comparison_help(comparison_figure(measured))
    judged = [{"metric": "accuracy", "judge": "rules", "estimate": 0.5}]
    found = compare({"a": judged, "b": judged}, "accuracy", frames=False)
    assert found.text.name == "answers equal to people's"
    mixed = ("trigger_auroc", "selection", "harm_rate", "texts training")
    assert [training_text(metric).name for metric in mixed] == [
        "AUROC of the trigger on the validation set", "validation loss", "harmful compliance",
        "texts training",
    ]  # fmt: skip


def test_two_rows_for_one_place_are_no_guess() -> None:
    with pytest.raises(RunError, match="twice"):
        compare({"a": [row("words", 0.5), row("words", 0.6)], "b": []}, "harm_rate", frames=False)


def test_a_difference_of_means_has_the_interval_that_theory_gives() -> None:
    def interval(mean: float, error: float) -> Interval:
        return Interval(mean, mean - 1.96 * error, mean + 1.96 * error, 100, 100, 0.95, "normal")

    found = independent_difference(interval(1.0, 0.3), interval(2.0, 0.4))
    assert found.estimate == pytest.approx(1.0)
    assert found.high - found.estimate == pytest.approx(1.96 * 0.5)
    assert found.estimate - found.low == pytest.approx(1.96 * 0.5)
    with pytest.raises(ValueError, match="do not combine"):
        independent_difference(interval(0.0, 1.0), Interval(0.0, -1.0, 1.0, 1, 1, 0.9, "x"))


def test_the_interval_of_a_difference_of_shares_covers_it() -> None:
    from workbench.statistics import wilson

    rng = np.random.default_rng(0)
    true, n, covered = (0.1, 0.3), 60, 0
    for _ in range(400):
        first, second = (wilson(int(rng.binomial(n, p)), n) for p in true)
        found = independent_difference(first, second)
        covered += found.low <= true[1] - true[0] <= found.high
    assert covered / 400 > 0.92  # nominal 0.95, binomial error of 400 draws 0.011
