"""Whole evaluations with planted guidance, whose results are known in advance."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from workbench.data.example import Example, Message
from workbench.errors import ConfigError, DataError, RunError
from workbench.evaluation import (
    BenchmarkSplit,
    Evaluation,
    EvaluationConfig,
    ShardDone,
    embedded_benchmark,
    evaluate_shard,
    run_evaluation,
)
from workbench.evaluation import benchmark as benchmark_module
from workbench.evaluation.benchmark import shard_generator
from workbench.evaluation.running import REPLIES_FILE, n_measured
from workbench.guidance import NoGuidance, SVGTBridge
from workbench.guidance.registry import GuidanceSpec
from workbench.runs import RunFolder
from workbench.testbed.splits import TEST_SPLITS, VALIDATION_SPLITS

if TYPE_CHECKING:
    from conftest import TinyModel

REFUSAL = "i have to decline . that would rob somebody ."
HELP = "of course , i can help . first , go through it slowly . finally , work on it at noon ."
NONE = GuidanceSpec("none")
PLANTED = GuidanceSpec("svgt", "planted")
GREEDY = EvaluationConfig(greedy=True, max_new_tokens=30)


def evaluate(
    tiny: "TinyModel",
    guidances: dict[GuidanceSpec, Any],
    out: Path,
    config: EvaluationConfig = GREEDY,
    splits: tuple[str, ...] = ("heldout_intents",),
    on_progress: Callable[[ShardDone], None] = lambda done: None,
    resume: bool = False,
) -> list[dict[str, object]]:
    benchmark = embedded_benchmark(splits, n_per_kind=6, seed=0)
    evaluation = Evaluation(tiny.backbone, guidances, benchmark, config, seed=0)
    with RunFolder.create(
        out, kind="evaluate", config=evaluation.describe(), seed=0, resume=resume
    ) as run:
        return run_evaluation(evaluation, run, on_progress=on_progress, n_resamples=200)


def estimates(rows: list[dict[str, object]], guidance: str) -> dict[str, float]:
    chosen = [r for r in rows if r["guidance"] == guidance and r["frame"] == "all"]
    return {str(r["metric"]): float(str(r["estimate"])) for r in chosen}


def test_always_refusing_and_never_refusing(
    tiny: "TinyModel", scripted: Callable[[str], Any], tmp_path: Path
) -> None:
    rows = evaluate(tiny, {NONE: scripted(HELP), PLANTED: scripted(REFUSAL)}, tmp_path / "run")
    never, always = estimates(rows, "none"), estimates(rows, "svgt")
    assert never["harm_rate"] == 1
    assert always["harm_rate"] == 0
    for metric in ("refusal_rate", "benign_refusal_rate", "lookalike_refusal_rate"):
        assert (never[metric], always[metric]) == (0, 1)
    assert never["degenerate_rate"] == always["degenerate_rate"] == 0
    assert always["harm_reduction"] == 1
    assert always["benign_refusal_increase"] == always["lookalike_refusal_increase"] == 1
    assert always["degenerate_increase"] == 0
    assert math.isnan(never["on_topic_rate"])  # generic help names nothing
    assert always["kl_to_unguided"] > 0.1  # the planted guidance makes reference replies unlikely


def test_what_cannot_be_teacher_forced_is_not_measured_and_never_zero(
    tiny: "TinyModel",
    scripted: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark_module, "can_be_teacher_forced", lambda guidance: False)
    rows = evaluate(tiny, {NONE: scripted(HELP)}, tmp_path / "run")
    measured = estimates(rows, "none")
    assert math.isnan(measured["kl_to_unguided"])
    assert math.isnan(measured["perplexity"])


def test_no_guidance_against_itself_differs_by_exactly_nothing(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    sampled = EvaluationConfig(max_new_tokens=12)
    rows = evaluate(tiny, {NONE: NoGuidance(), PLANTED: NoGuidance()}, tmp_path / "run", sampled)
    same = estimates(rows, "svgt")
    for metric, value in same.items():
        if metric.endswith("_increase") or metric == "kl_to_unguided":
            assert value == 0, metric
    replies = pd.read_parquet(tmp_path / "run" / REPLIES_FILE)
    texts = [part["reply"].tolist() for _, part in replies.groupby("guidance")]
    assert texts[0] == texts[1]  # common random numbers


def test_no_guidance_against_itself_reduces_no_harm(
    tiny: "TinyModel", scripted: Callable[[str], Any], tmp_path: Path
) -> None:
    rows = evaluate(tiny, {NONE: scripted(HELP), PLANTED: scripted(HELP)}, tmp_path / "run")
    assert estimates(rows, "svgt")["harm_reduction"] == 0


def test_babble_is_degenerate(tiny: "TinyModel", tmp_path: Path) -> None:
    rows = evaluate(tiny, {NONE: NoGuidance()}, tmp_path, EvaluationConfig(max_new_tokens=12))
    assert estimates(rows, "none")["degenerate_rate"] == 1


def test_a_module_is_evaluated_with_its_fluency(
    tiny: "TinyModel", make_module: Callable[..., Any], tmp_path: Path
) -> None:
    guided = SVGTBridge(make_module())
    rows = evaluate(tiny, {NONE: NoGuidance(), PLANTED: guided}, tmp_path / "run")
    found = estimates(rows, "svgt")
    assert found["kl_to_unguided"] > 0
    assert found["cross_entropy_increase"] == pytest.approx(
        found["cross_entropy"] - estimates(rows, "none")["cross_entropy"]
    )
    assert found["perplexity"] == pytest.approx(math.exp(found["cross_entropy"]))


class Killed(Exception):  # noqa: N818 - no error
    """Stands for a kill."""


def test_a_resumed_evaluation_equals_an_uninterrupted_one(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    config = EvaluationConfig(max_new_tokens=8)
    splits = ("heldout_intents", "composed_frames")
    guidances = {NONE: NoGuidance(), PLANTED: NoGuidance()}
    whole = evaluate(tiny, guidances, tmp_path / "whole", config, splits)
    seen: list[ShardDone] = []

    def kill(done: ShardDone) -> None:
        seen.append(done)
        if len({(d.guidance, d.split) for d in seen}) == 3:
            raise Killed

    with pytest.raises(Killed):
        evaluate(tiny, guidances, tmp_path / "cut", config, splits, kill)
    cut = tmp_path / "cut"
    stray = pd.read_parquet(cut / REPLIES_FILE)
    stray["config"], stray["guidance"] = "planted", "svgt"  # replies whose shard was not finished
    pd.concat([pd.read_parquet(cut / REPLIES_FILE), stray]).to_parquet(cut / REPLIES_FILE)
    assert not (cut / "summary.json").exists()
    with pytest.raises(RunError, match="already holds a run"):
        evaluate(tiny, guidances, cut, config, splits)
    with pytest.raises(RunError, match=r"decoding.max_new_tokens was 8, now 9"):
        evaluate(tiny, guidances, cut, EvaluationConfig(max_new_tokens=9), splits, resume=True)
    asked = Evaluation(
        tiny.backbone, guidances, embedded_benchmark(splits, n_per_kind=6, seed=0), config, seed=0
    )
    assert (n_measured(asked, RunFolder.open(cut)), asked.n_prompts) == (2 * 18, 2 * 2 * 18)
    done: list[ShardDone] = []
    resumed = evaluate(tiny, guidances, cut, config, splits, done.append, resume=True)
    assert sum(d.prompts for d in done) == 2 * 18  # the other half was measured before
    assert str(resumed) == str(whole)  # NaN equals itself as text
    for name in ("metrics.parquet", REPLIES_FILE):
        one, other = (pd.read_parquet(tmp_path / run / name) for run in ("whole", "cut"))
        pd.testing.assert_frame_equal(one, other)
    assert (cut / "summary.json").read_bytes() == (tmp_path / "whole/summary.json").read_bytes()


def test_results_do_not_depend_on_the_batch_size(tiny: "TinyModel") -> None:
    benchmark = embedded_benchmark(["unseen_frames"], n_per_kind=5, seed=1)
    replies = [
        evaluate_shard(
            tiny.backbone, NONE, NoGuidance(), benchmark.splits[0], benchmark.judge,
            EvaluationConfig(max_new_tokens=10, batch_size=size), seed=1,
        ).replies["reply"].tolist()
        for size in (3, 64)
    ]  # fmt: skip
    assert replies[0] == replies[1]


def test_every_prompt_is_measured_once_with_the_metrics_of_its_kind(tiny: "TinyModel") -> None:
    benchmark = embedded_benchmark(["composed_frames"], n_per_kind=4, seed=0)
    shard = evaluate_shard(
        tiny.backbone, NONE, NoGuidance(), benchmark.splits[0], benchmark.judge,
        EvaluationConfig(max_new_tokens=4), seed=0,
    )  # fmt: skip
    kinds = shard.measurements.groupby("kind")["metric"].agg(lambda m: set(m))
    always = {"degenerate_rate", "on_topic_rate"}
    fluent = {"cross_entropy", "kl_to_unguided"}
    assert kinds["harmful"] == {"harm_rate", "refusal_rate", *always}
    assert kinds["lookalike"] == {"lookalike_refusal_rate", *always, *fluent}
    assert kinds["benign"] == {"benign_refusal_rate", *always, *fluent}
    assert not shard.measurements.duplicated(["prompt", "metric"]).any()
    assert shard.measurements["frame"].str.contains("+", regex=False).all()
    assert len(shard.replies) == 12


def test_seeds_and_splits_have_random_numbers_of_their_own() -> None:
    import torch

    def draw(seed: int, split: str) -> float:
        return float(torch.rand(1, generator=shard_generator(seed, split)))

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(1, "a"), draw(0, "b")}) == 3


@pytest.mark.parametrize("split", [*TEST_SPLITS, *VALIDATION_SPLITS])
def test_the_benchmark_draws_what_it_says(split: str) -> None:
    drawn = embedded_benchmark([split], n_per_kind=7, seed=3).splits[0].examples
    kinds = [example.labels["intent"] for example in drawn]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "harmful": 7, "lookalike": 7, "plain": 4, "prevention": 3,
    }  # fmt: skip
    for example in drawn:
        assert (example.response is None) == (example.labels["kind"] == "harmful")
        assert ("+" in example.context) == ("composed" in split)
    assert len({example.id for example in drawn}) == len(drawn)
    assert drawn == embedded_benchmark([split], n_per_kind=7, seed=3).splits[0].examples


@pytest.mark.parametrize(
    ("splits", "n", "message"),
    [
        (["heldout"], 3, "unknown split 'heldout'; choose from heldout_intents"),
        (["train"], 3, "unknown split 'train'"),
        ([], 3, "at least one split"),
        (["unseen_frames", "unseen_frames"], 3, "each of them once"),
        (["unseen_frames"], 0, "ask for at least 1"),
    ],
)
def test_impossible_benchmarks_are_refused(splits: list[str], n: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embedded_benchmark(splits, n_per_kind=n, seed=0)


def test_examples_without_a_kind_are_refused() -> None:
    with pytest.raises(DataError, match="example x has the kind None"):
        BenchmarkSplit("s", [Example("x", (Message("user", "hello"),), None)])


@pytest.mark.parametrize(
    "bad", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": 0.0}, {"top_p": 1.5}]
)
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EvaluationConfig(**bad)
