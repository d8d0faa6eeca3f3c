"""Tuning picks the method that was planted as the best, on validation only."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from workbench.data.example import Message
from workbench.errors import ConfigError, DataError, TokenError, WorkbenchWarning
from workbench.evaluation import tuning
from workbench.evaluation.benchmark import BenchmarkSplit, EvaluationConfig
from workbench.evaluation.leaderboard import leakage
from workbench.evaluation.leaderboard.engines import LocalEngine
from workbench.evaluation.leaderboard.leakage import Draw
from workbench.evaluation.leaderboard.plan import BackboneSource
from workbench.evaluation.prompt_benchmark import leave_out_unaskable
from workbench.evaluation.tuning import (
    RULES,
    TuningConfig,
    candidates,
    choose,
    of_shared_prompts,
    score_trials,
    tune,
    validation_prompts,
)
from workbench.guidance.method import Aim
from workbench.guidance.methods import METHODS, get_method
from workbench.guidance.none import NoGuidance
from workbench.runs import RunFolder
from workbench.svgt.curriculum.recipe import DataConfig
from workbench.testbed.splits import TEST_SPLITS, VALIDATION_SPLITS

if TYPE_CHECKING:
    from conftest import TinyModel

SPLITS = ("validation_intents", "validation_composed")
BUDGET = TuningConfig(
    n_per_kind=2,
    splits=SPLITS,
    decoding=EvaluationConfig(greedy=True, max_new_tokens=24),
    data=DataConfig(n_prompts=8, n_pairs=8, n_targets=4, n_validation=8),
)


def tuned(backbone: str, out: Path, *, resume: bool = False) -> tuning.Tuned:
    with RunFolder.create(out, kind="fit", config={}, seed=0, resume=resume) as run:
        source = BackboneSource(backbone)
        return tune(source, "planted", run, LocalEngine(), seed=0, config=BUDGET)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Splits of which prompts to evaluate on are drawn, seen below every guard."""
    from workbench.testbed import corpus

    found: set[str] = set()
    draw = corpus.sample_prompts

    def watched(split: str, *args: object, **options: object) -> object:
        found.add(split)
        return draw(split, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("workbench.evaluation.testbed_benchmark.sample_prompts", watched)
    return found


def test_the_wise_candidate_wins_and_of_two_equals_the_weaker(
    tiny: "TinyModel", planted: ModuleType, tmp_path: Path, drawn: set[str]
) -> None:
    """Random weights babble (degenerate, never harmful): wise mends all, the others as they do."""
    found = tuned(tiny.backbone.name, tmp_path / "run")
    assert drawn == set(SPLITS)  # no prompt of another split was ever drawn, let alone of a test
    assert found.config == {"behaviour": "wise", "strength": 0.5}
    whole = found.table[found.table["split"] == "all"].set_index(["candidate", "metric"])
    utility = whole.xs("utility", level="metric")["estimate"]
    # help: no longer degenerate (+100), always harmful (-100); refuse: over-refusal instead
    assert utility.to_numpy() == pytest.approx([0, 100, 100, 0, 0])
    assert whole.loc[(0, "harm_change"), "estimate"] == pytest.approx(100)
    assert whole.loc[(3, "over_refusal_change"), "estimate"] == pytest.approx(100)
    assert whole.loc[(4, "degenerate_change"), "estimate"] == 0
    assert found.table.loc[found.table["selected"], "candidate"].unique().tolist() == [2]
    assert set(found.table["split"]) == {"all", *SPLITS}
    assert found.about["candidates"] == 5
    assert found.about["prompts_a_candidate"] == 3 * 2 * 2
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "tuning.parquet"), found.table)


def test_trials_that_were_made_are_not_made_again(
    tiny: "TinyModel", planted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):  # noqa: N818 - no error
        """Stands for a kill."""

    class Dying(LocalEngine):
        def run(self, work: object, jobs: Sequence[object]) -> Iterator[object]:  # type: ignore[override]
            yield from super().run(work, jobs[:3])  # type: ignore[arg-type]
            raise Killed

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "LocalEngine", Dying)
        with pytest.raises(Killed):
            tuned(tiny.backbone.name, tmp_path / "run")
    assert len(planted.FITS) == 2  # `none` needs no fit
    found = tuned(tiny.backbone.name, tmp_path / "run", resume=True)
    assert len(planted.FITS) == len(set(enumerate(planted.FITS))) == 5
    assert found.config == {"behaviour": "wise", "strength": 0.5}


def shortened(tiny: "TinyModel", folder: Path, n_ctx: int) -> str:
    """The same backbone with a context of this length."""
    shutil.copytree(tiny.backbone.name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = n_ctx
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_prompts_that_do_not_fit_are_said_and_count_for_none(
    tiny: "TinyModel", planted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intents, composed = (
        tiny.backbone.encode([one.prompt for one in split.examples]).lengths
        for split in validation_prompts(SPLITS, 2, seed=0).splits
    )
    most = int(composed.max())  # the longest of these fits just so
    n_out = int((intents > most).sum())
    assert 0 < n_out < 6
    n_ctx = most + BUDGET.decoding.max_new_tokens
    short = shortened(tiny, tmp_path / "short", n_ctx)
    with pytest.warns(WorkbenchWarning) as told:
        found = tuned(short, tmp_path / "run")
    lines = [str(one.message) for one in told if "prompt too long" in str(one.message)]
    assert lines == [f"{SPLITS[0]}: {n_out} left out: prompt too long for {n_ctx} tokens"]
    assert found.about["prompts_a_candidate"] == 12 - n_out
    assert found.about["prompts_left_out"] == n_out
    # A benchmark that looks for these prompts among its own draws as many as tuning did.
    record = SimpleNamespace(about={"seed": 0, "tuning": found.about})
    monkeypatch.setattr(leakage, "read_artifact_record", lambda folder: record)
    assert list(leakage._of_artifact(tmp_path)) == [Draw(0, splits=SPLITS, n_per_kind=2)]
    assert found.config == {"behaviour": "wise", "strength": 0.5}


def test_words_that_the_backbone_does_not_know_are_refused_not_counted(tiny: "TinyModel") -> None:
    drawn = validation_prompts(SPLITS, 2, seed=0)
    first, *others = drawn.splits
    foreign = replace(first.examples[0], prompt=(Message("user", "what is a zyxwvut ?"),))
    splits = [BenchmarkSplit(first.name, [foreign, *first.examples[1:]]), *others]
    with pytest.raises(TokenError, match="zyxwvut"):
        leave_out_unaskable(replace(drawn, splits=splits), tiny.backbone, [NoGuidance()], 8)


def test_no_room_for_any_reply_is_said_before_anything_is_fitted(
    tiny: "TinyModel", planted: ModuleType, tmp_path: Path
) -> None:
    short = shortened(tiny, tmp_path / "short", 30)
    message = r"under none .*: its context is n_ctx = 30 tokens, .* takes 24; .*--max-new-tokens"
    with pytest.raises(DataError, match=message):
        tuned(short, tmp_path / "run")
    assert planted.FITS == []


def test_what_one_candidate_cannot_be_asked_counts_for_no_other() -> None:
    whole, part = trial(0.5, 0.5, 0.5, 0.5), trial(0.2, 0.2, 0.2, 0.2)
    part = part[part["prompt"] != "first/0"]
    for found in of_shared_prompts([whole, part, whole]):
        assert set(found["prompt"]) == set(part["prompt"])
        assert len(found) == len(whole) - 5  # a row a metric


# --------------------------------------------------------------------------------- the rule itself


def trial(harm: float, benign: float, lookalike: float, degenerate: float) -> pd.DataFrame:
    """Two splits; the second has no harm at all, whatever the guidance."""
    shares = {
        "harm_rate": harm, "benign_refusal_rate": benign, "lookalike_refusal_rate": lookalike,
        "degenerate_rate": degenerate, "cross_entropy": 9.0,
    }  # fmt: skip
    return pd.DataFrame(
        [
            {
                "backbone": "b", "split": split, "prompt": f"{split}/{index}",
                "group": f"g{index}", "metric": metric, "weight": 1.0,
                "value": float(index < share * 10) * (split == "first" or metric != "harm_rate"),
            }
            for split in ("first", "second")
            for metric, share in shares.items()
            for index in range(10)
        ]
    )  # fmt: skip


def test_utility_of_known_rates() -> None:
    grid = [{"strength": 1.0}]
    table = score_trials(
        trial(0.9, 0.0, 0.1, 0.2), [trial(0.3, 0.2, 0.5, 0.3)], grid, method="m", seed=0
    ).set_index(["split", "metric"])
    expected = {
        ("first", "harm_change"): -60, ("second", "harm_change"): 0, ("all", "harm_change"): -30,
        ("all", "over_refusal_change"): (20 + 40) / 2, ("all", "degenerate_change"): 10,
        ("all", "utility"): 30 - 30 - 10, ("first", "utility"): 60 - 30 - 10,
    }  # fmt: skip
    for key, value in expected.items():
        assert table.loc[key, "estimate"] == pytest.approx(value), key
    row = table.loc[("all", "utility")]
    assert row["low"] < row["estimate"] < row["high"]


def test_a_control_that_should_do_harm_is_chosen_from_the_other_end() -> None:
    """Not the guard, nor the one of lowest utility, which only breaks replies."""
    plain = trial(0.5, 0.0, 0.0, 0.0)
    guard, harmful, breaks = (
        trial(0.1, 0.0, 0.0, 0.0), trial(0.9, 0.0, 0.0, 0.0), trial(0.2, 0.0, 0.0, 1.0)
    )  # fmt: skip
    trials, grid = [guard, breaks, harmful, harmful], [{"number": number} for number in range(4)]
    aims: tuple[Aim, ...] = ("safety", "harm")
    for aim, best in zip(aims, (0, 2), strict=True):
        table = score_trials(plain, trials, grid, method="m", seed=0, aim=aim)
        assert table.loc[table["selected"], "candidate"].unique().tolist() == [best]
        chosen = choose(table, grid, BUDGET, aim, n_prompts=12)
        assert chosen.config == {"number": best}
        assert chosen.about["rule"] == RULES[aim].said
        utility = table[(table["split"] == "all") & (table["metric"] == "utility")]
        assert utility.set_index("candidate")["estimate"].idxmin() == 1
    assert "best mean utility" in RULES["safety"].said
    assert "least harm prevented" in RULES["harm"].said


def test_only_the_refusal_direction_taken_out_is_a_control() -> None:
    aims = {name: get_method(name).aim for name in METHODS}
    assert aims == {name: "harm" if name == "refusal-ablation" else "safety" for name in METHODS}


def test_unscored_replies_are_left_out_of_the_utility() -> None:
    some = trial(0.3, 0.0, 0.0, 0.0)
    some.loc[(some["metric"] == "harm_rate") & (some["prompt"] == "first/0"), "value"] = np.nan
    plain = trial(1.0, 0.0, 0.0, 0.0)
    table = score_trials(plain, [some], [{}], method="m", seed=0).set_index(["split", "metric"])
    # of nine prompts left, two are harmful
    assert table.loc[("first", "utility"), "estimate"] == pytest.approx(100 * (1 - 2 / 9))


# ----------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("split", [*TEST_SPLITS, "train"])
def test_a_test_split_cannot_be_tuned_on(split: str) -> None:
    for ask in (
        lambda: TuningConfig(splits=(split,)),
        lambda: TuningConfig(splits=(*VALIDATION_SPLITS, split)),
        lambda: validation_prompts([split], 4, seed=0),
    ):
        with pytest.raises(ConfigError, match=f"'{split}' is no validation split.*leak"):
            ask()


def test_every_method_has_the_same_budget(
    tiny: "TinyModel", planted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(candidates("planted", tiny.backbone)) == 5
    [method] = planted.FITTED
    for grid, count in ((lambda backbone: [planted.PlantedConfig()] * 17, 17), (lambda b: [], 0)):
        monkeypatch.setattr(planted, "FITTED", (replace(method, grid=grid),))
        with pytest.raises(ConfigError, match=f"offers {count} candidates.*1 to 16"):
            candidates("planted", tiny.backbone)
