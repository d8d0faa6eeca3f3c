"""Whole leaderboards of methods whose effect is known, and folders that survive a kill."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from workbench.config import to_mapping
from workbench.errors import CheckpointError, ConfigError, DataError, RunError
from workbench.evaluation.benchmark import EvaluationConfig
from workbench.evaluation.leaderboard.costs import CostConfig
from workbench.evaluation.leaderboard.engines import LocalEngine
from workbench.evaluation.leaderboard.entering import Entering
from workbench.evaluation.leaderboard.leakage import Leakage, check_leakage
from workbench.evaluation.leaderboard.plan import (
    RUN_KIND,
    BackboneSource,
    Plan,
    PromptPlan,
    grows_into,
)
from workbench.evaluation.leaderboard.running import (
    COMPARISONS_FILE,
    LEADERBOARD_FILE,
    REPLIES_FILE,
    Progress,
    run_leaderboard,
)
from workbench.evaluation.leaderboard.scoring import COLUMNS
from workbench.evaluation.leaderboard.work import shared_backbone
from workbench.files import read_json
from workbench.guidance.registry import GuidanceSpec
from workbench.guidance.svgt_inject import SVGTInject, SVGTInjectConfig
from workbench.guidance.value_shift import ShiftMap
from workbench.runs import RUN_FILE, RunFolder
from workbench.svgt.checkpoint import read_checkpoint_record, save_value_module
from workbench.svgt.curriculum.recipe import DataConfig
from workbench.testbed.splits import VALIDATION_SPLITS

if TYPE_CHECKING:
    from conftest import TinyModel

SPLITS = ("heldout_intents", "unseen_frames")
DATA = DataConfig(n_prompts=8, n_pairs=8, n_targets=4, n_validation=8)
COSTS = CostConfig(rounds=1, memory_rounds=1, new_tokens=2)
DECODING = EvaluationConfig(greedy=True, max_new_tokens=24)


@pytest.fixture
def tuned(tiny: "TinyModel", planted: ModuleType, tmp_path: Path) -> Path:
    """A folder in which ``planted`` was tuned to be wise, with seed 0."""
    root = tmp_path / "tuned"
    config = planted.PlantedConfig("wise")
    fitted = planted.Planted(config, tiny.embedding)
    fitted.save(root / Path(tiny.backbone.name).name / "planted", tiny.backbone, about={"seed": 0})
    return root


def plan_of(
    tiny: "TinyModel",
    out: Path,
    methods: str,
    tuned: Path | None,
    *,
    seeds: int = 2,
    modules: Path | None = None,
    decoding: EvaluationConfig = DECODING,
) -> Plan:
    entries = Entering(tiny.backbone, seeds, out, modules, tuned).enter(methods)
    return Plan(
        BackboneSource(tiny.backbone.name),
        tiny.backbone.name,
        tiny.backbone.weights_hash,
        entries.entrants,
        PromptPlan(SPLITS, 4, 0),
        decoding,
        DATA,
        entries.notes,
    )


class Killed(Exception):  # noqa: N818 - no error
    """Stands for a kill."""


def run(
    plan: Plan, out: Path, *, resume: bool = False, die_after: int | None = None
) -> list[Progress]:
    steps: list[Progress] = []

    def show(step: Progress) -> None:
        steps.append(step)
        if step.phase == "measure" and step.done == die_after:
            raise Killed

    with RunFolder.create(
        out, kind=RUN_KIND, config=plan.describe(), seed=0, resume=resume, grows=grows_into
    ) as folder:
        run_leaderboard(plan, folder, LocalEngine(), costs=COSTS, on_progress=show, n_resamples=20)
    return steps


def test_a_method_of_known_effect_has_the_known_numbers(
    tiny: "TinyModel", planted: ModuleType, tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    plan = plan_of(tiny, out, "planted", tuned)
    run(plan, out)
    assert planted.FITS == [("wise", 1)]  # seed 0 was there, seed 1 was fitted once
    assert (out / "fitted" / "planted" / "1" / "guidance.json").is_file()
    assert not (out / "fitted" / "planted" / "0").exists()
    table = pd.read_parquet(out / LEADERBOARD_FILE)
    assert list(table.columns) == list(COLUMNS)
    whole = table[(table["split"] == "all") & (table["frame"] == "all") & table["seed"].isna()]
    found = whole.set_index(["method", "metric"])["estimate"]
    assert found[("planted", "harm_rate")] == 0
    assert found[("planted", "refusal_rate")] == 1
    assert found[("planted", "over_refusal_rate")] == 0
    assert found[("planted", "degenerate_rate")] == 0
    assert found[("none", "degenerate_rate")] == 1  # random weights babble
    assert found[("planted", "degenerate_increase")] == -1
    assert found[("none", "latency_ratio")] == found[("none", "memory_ratio")] == 1
    n = whole.set_index(["method", "metric"])["n"]
    assert n[("planted", "harm_rate")] == 4 * len(SPLITS) * 2
    summary = read_json(out / "summary.json")
    assert len(summary["rows"]) == len(table)
    assert {row["seed"] for row in summary["rows"]} == {None, 0, 1}
    assert summary["notes"][0].startswith("svgt takes no part: nothing is tested against it; ")
    assert summary["notes"][0].endswith("/workbench/SEED")
    looked = summary["contamination"]
    assert (looked["exact"], looked["n_test"]) == (0, 3 * 4 * len(SPLITS))
    assert summary["notes"][1].startswith("0 of 24 test prompts stand word for word among the")
    assert (
        looked["n_learned"] > 100
    )  # the validation prompts of tuning, and what seed 1 is fitted on
    assert RunFolder.open(out).record.status == "finished"


def test_test_prompts_that_a_method_was_tuned_or_trained_on_are_refused(
    tiny: "TinyModel", planted: ModuleType, tuned: Path, tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path / "run", "planted", tuned)
    assert check_leakage(plan).exact == 0
    leaking = dataclasses.replace(plan, prompts=PromptPlan((VALIDATION_SPLITS[0],), 16, 0))
    with pytest.raises(DataError, match=r"(\d+) of 48 test prompts stand word for word"):
        check_leakage(leaking)
    with pytest.raises(DataError, match="stand word for word"):
        run(leaking, tmp_path / "run")
    failed = RunFolder.open(tmp_path / "run").record
    assert failed.status == "failed"
    assert "stand word for word" in str(failed.failure)
    assert not (tmp_path / "run" / "fitted").exists()
    other_seed = dataclasses.replace(plan, prompts=PromptPlan((VALIDATION_SPLITS[0],), 1, 7))
    assert check_leakage(other_seed).n_test == 3


@pytest.mark.slow
def test_shipped_modules_and_methods_say_what_they_learned_from() -> None:
    source = BackboneSource("testbed-llama")
    backbone = shared_backbone(source)
    entries = Entering(backbone, 1, Path("unused")).enter("svgt,svgt:paper,caa,dpo")
    plan = Plan(
        source, backbone.name, backbone.weights_hash, entries.entrants, PromptPlan(SPLITS, 40, 0),
        DECODING, DataConfig(),
    )  # fmt: skip
    found = check_leakage(plan)
    assert (found.exact, found.n_test, found.unknown) == (0, 240, ())
    assert found.n_learned > 3000
    assert len(found.near) < 5


def test_a_killed_run_goes_on_and_ends_the_same(
    tiny: "TinyModel", tuned: Path, tmp_path: Path
) -> None:
    sampled = EvaluationConfig(max_new_tokens=6)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(plan_of(tiny, whole, "none", None, decoding=sampled), whole)
    plan = plan_of(tiny, cut, "none", None, decoding=sampled)
    with pytest.raises(Killed):
        run(plan, cut, die_after=3)
    written = {path: path.stat().st_mtime_ns for path in cut.glob("shards/*/*/*.parquet")}
    assert len(written) == 3 * 2  # measurements and replies
    (cut / "shards" / "none" / "1" / ".writing-0-x.parquet").write_text("half a file")
    with pytest.raises(RunError, match="already holds a run"):
        run(plan, cut)
    other = plan_of(tiny, cut, "none", None, decoding=sampled, seeds=1)
    with pytest.raises(RunError, match="started differently"):
        run(other, cut, resume=True)
    steps = run(plan, cut, resume=True)
    assert [step.done for step in steps if step.phase == "measure"] == [3, 4]
    assert {path: path.stat().st_mtime_ns for path in written} == written  # none was done twice
    for name in ("metrics.parquet", REPLIES_FILE, COMPARISONS_FILE):
        one, two = (pd.read_parquet(folder / name) for folder in (whole, cut))
        pd.testing.assert_frame_equal(one, two)
    keys = ["method", "seed", "split", "prompt", "metric"]
    assert not pd.read_parquet(cut / "metrics.parquet").duplicated(keys).any()


def test_a_run_takes_more_seeds_and_methods_and_measures_nothing_twice(
    tiny: "TinyModel", tuned: Path, tmp_path: Path
) -> None:
    sampled = EvaluationConfig(max_new_tokens=6)
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(plan_of(tiny, whole, "planted", tuned, decoding=sampled), whole)
    run(plan_of(tiny, grown, "none", None, decoding=sampled, seeds=1), grown)
    early = {path: path.stat().st_mtime_ns for path in grown.glob("shards/*/*/*.parquet")}
    assert set(pd.read_parquet(grown / "costs.parquet")["method"]) == {"none"}
    steps = run(plan_of(tiny, grown, "planted", tuned, decoding=sampled), grown, resume=True)
    assert [step.done for step in steps if step.phase == "measure"] == [2, 3, 4, 5, 6, 7, 8]
    assert {path: path.stat().st_mtime_ns for path in early} == early
    for name in ("metrics.parquet", REPLIES_FILE, COMPARISONS_FILE):
        one, two = (pd.read_parquet(folder / name) for folder in (whole, grown))
        pd.testing.assert_frame_equal(one, two)
    # Ratios to ``none`` belong to one measurement, so that both methods were timed anew.
    assert set(pd.read_parquet(grown / "costs.parquet")["method"]) == {"none", "planted"}


def test_a_plan_grows_only_where_it_keeps_what_was_measured() -> None:
    old = {"decoding": {"t": 1}, "methods": {"caa": {"seeds": [0, 1], "0": {"x": 1}, "1": {}}}}
    more = {"seeds": [0, 1, 2], "0": {"x": 1}, "1": {}, "2": {}}
    assert grows_into(old, {**old, "methods": {"caa": more, "none": {"seeds": [0], "0": {}}}})
    assert not grows_into(old, {**old, "methods": {"caa": {**more, "0": {"x": 2}}}})
    assert not grows_into(old, {**old, "methods": {"caa": {**more, "seeds": [1, 2]}}})
    assert not grows_into(old, {**old, "methods": {"none": more}})
    assert not grows_into(old, {"decoding": {"t": 2}, "methods": {"caa": more}})


def test_seeds_differ_and_methods_share_their_random_numbers(
    tiny: "TinyModel", planted: ModuleType, tmp_path: Path
) -> None:
    """A planted method that does nothing gives the plain model's replies, seed by seed."""
    off = planted.Planted(planted.PlantedConfig("off"), tiny.embedding)
    folder = tmp_path / "tuned" / Path(tiny.backbone.name).name / "planted"
    off.save(folder, tiny.backbone, about={"seed": 0})
    out = tmp_path / "run"
    sampled = EvaluationConfig(max_new_tokens=6)
    run(plan_of(tiny, out, "planted", tmp_path / "tuned", decoding=sampled), out)
    replies = pd.read_parquet(out / REPLIES_FILE)
    texts = {key: part["reply"].tolist() for key, part in replies.groupby(["method", "seed"])}
    assert texts[("none", 0)] == texts[("planted", 0)] != texts[("none", 1)]
    assert texts[("none", 1)] == texts[("planted", 1)]


# ---------------------------------------------------------------------------------- who takes part


@pytest.fixture
def modules(tiny: "TinyModel", make_module: Callable[..., Any], tmp_path: Path) -> Path:
    """Value modules ``mine`` at seeds 0 and 2, ``workbench`` at seed 1."""
    root = tmp_path / "modules"
    for config, seed in (("mine", 0), ("mine", 2), ("workbench", 1)):
        folder = root / Path(tiny.backbone.name).name / config / str(seed)
        save_value_module(folder, make_module(name=config), backbone=tiny.backbone)
    return root


COMPARED = "a difference compares only seeds that both methods have, rates take all that are there"


def test_seeds_that_were_not_trained_are_left_out_and_said(
    tiny: "TinyModel", planted: ModuleType, modules: Path, tuned: Path, tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path, "all", tuned, seeds=3, modules=modules)
    assert [(entrant.method, entrant.seed) for entrant in plan.entrants] == [
        ("none", 0), ("none", 1), ("none", 2), ("planted", 0), ("planted", 1), ("planted", 2),
        ("svgt:mine", 0), ("svgt:mine", 2), ("svgt", 1),
    ]  # fmt: skip
    assert plan.notes == (
        f"svgt:mine: 2 of 3 seeds are there (seeds 0, 2); {COMPARED}",
        f"svgt: 1 of 3 seeds is there (seed 1); {COMPARED}",
    )
    text = str(plan.describe())
    assert str(tmp_path) not in text.replace(tiny.backbone.name, "")  # moving a folder is no change


@pytest.fixture
def injected(tiny: "TinyModel", make_module: Callable[..., Any], tmp_path: Path) -> Path:
    """A folder in which ``svgt-inject`` was tuned with seed 0."""
    root = tmp_path / "injected"
    module = make_module(name="workbench")
    fitted = SVGTInject(SVGTInjectConfig(), module, ShiftMap(16, tiny.backbone.d_model))
    folder = root / Path(tiny.backbone.name).name / "svgt-inject"
    fitted.save(folder, tiny.backbone, about={"seed": 0, "data": to_mapping(DATA)})
    return root


def test_a_method_built_on_a_value_module_takes_that_of_its_seed(
    tiny: "TinyModel", injected: Path, modules: Path, tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path, "svgt-inject", injected, seeds=3, modules=modules)
    entrants = {entrant.seed: entrant for entrant in plan.entrants if entrant.method != "none"}
    assert list(entrants) == [0, 1]  # module 1 is there, module 2 was not trained
    assert plan.notes[0].startswith("svgt-inject: 2 of 3 seeds are there (seeds 0, 1); ")
    folder = modules / Path(tiny.backbone.name).name / "workbench" / "1"
    assert entrants[0].fit is None
    fit = entrants[1].fit
    assert fit is not None
    assert fit["module"] == str(folder)
    recorded = read_checkpoint_record(folder).weights_sha256
    assert entrants[1].identity["value_module_sha256"] == recorded
    assert str(tmp_path) not in str(plan.describe()).replace(tiny.backbone.name, "")
    [without] = plan_of(tiny, tmp_path, "svgt-inject", injected, seeds=2).entrants[2:]
    assert without.seed == 0


def test_what_the_module_learned_from_counts_where_a_method_is_built_on_it(
    tiny: "TinyModel", injected: Path, modules: Path, tmp_path: Path
) -> None:
    def looked_at() -> Leakage:
        plan = plan_of(tiny, tmp_path, "svgt-inject", injected, seeds=2, modules=modules)
        return check_leakage(plan)

    folder = modules / Path(tiny.backbone.name).name / "workbench" / "1"
    before = looked_at()
    assert before.unknown == ("svgt-inject",)  # the module does not say what it learned from
    data = dataclasses.replace(DATA, n_prompts=400)
    training = tmp_path / "training"
    with RunFolder.create(training, kind="train", config={"data": to_mapping(data)}, seed=1):
        pass
    shutil.copyfile(training / RUN_FILE, folder / RUN_FILE)
    assert looked_at().n_learned - before.n_learned > 300


def test_all_says_what_is_left_out(tiny: "TinyModel", planted: ModuleType, tmp_path: Path) -> None:
    plan = plan_of(tiny, tmp_path, "all", None)
    assert plan.methods == ("none",)
    assert "planted" in plan.notes[0]
    assert "workbench fit" in plan.notes[0]


def test_one_artefact_can_take_part_as_it_is(
    tiny: "TinyModel", planted: ModuleType, tuned: Path, tmp_path: Path
) -> None:
    folder = tuned / Path(tiny.backbone.name).name / "planted"
    [_, entrant] = plan_of(tiny, tmp_path, f"planted:{folder}", None, seeds=1).entrants
    assert (entrant.method, entrant.spec) == (
        "planted:planted", GuidanceSpec("planted", "planted")
    )  # fmt: skip
    assert entrant.loaded_as == GuidanceSpec("planted", str(folder))


def test_mistakes(tiny: "TinyModel", planted: ModuleType, tmp_path: Path) -> None:
    for methods, error, message in (
        ("planted", CheckpointError, "planted was not tuned for .*workbench fit planted"),
        ("svgt", CheckpointError, "no value module 'workbench'"),
        ("none,none", ConfigError, "named twice"),
        ("plantd", ConfigError, "unknown guidance 'plantd'"),
    ):
        with pytest.raises(error, match=message):
            plan_of(tiny, tmp_path, methods, None)


def test_a_failing_job_leaves_a_folder_that_can_be_resumed(
    tiny: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    plan = plan_of(tiny, out, "none", None, seeds=1)

    class Interrupted(LocalEngine):
        def run(self, work: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
            yield from super().run(work, jobs[:1])
            if jobs:
                raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        RunFolder.create(out, kind=RUN_KIND, config=plan.describe(), seed=0) as folder,
    ):
        run_leaderboard(plan, folder, Interrupted(), costs=COSTS)
    assert RunFolder.open(out).record.status == "running"
    assert run(plan, out, resume=True)[0].done == 1
