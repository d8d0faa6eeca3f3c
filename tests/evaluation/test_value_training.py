"""Trainings in the embedded world: what they draw, what they write, and how they go on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from workbench.config import from_mapping
from workbench.data.training import ValueData
from workbench.errors import ConfigError, NonFiniteError, RunError, WorkbenchWarning
from workbench.evaluation import measured_replies, testbed_training
from workbench.evaluation.testbed_training import TestbedData, draw_value_data
from workbench.evaluation.training_progress import PROGRESS_FILE
from workbench.evaluation.value_training import STATE_FILE, train_into_folder
from workbench.files import file_sha256
from workbench.runs import RunFolder
from workbench.svgt import (
    BridgeConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    load_value_module,
    read_checkpoint_record,
)
from workbench.svgt.curriculum import (
    CurriculumConfig,
    DataConfig,
    Recipe,
    StageConfig,
    TrainedModule,
    TrainingEvent,
)
from workbench.svgt.objectives import SafetyConfig
from workbench.svgt.recipes import RECIPES, make_recipe
from workbench.testbed.corpus import sample_prompts
from workbench.testbed.intents import find_intent
from workbench.testbed.splits import VALIDATION_SPLITS, intent_split

if TYPE_CHECKING:
    from conftest import TinyModel

    from workbench.backbone import Backbone

STAGE = StageConfig(batch_size=4, epochs=1.0, learning_rate=3e-3, evaluations=2)
RECIPE = Recipe(
    SVGTConfig(
        name="mine",
        d_model=32,
        layer=1,
        n_bridge=2,
        d_value=8,
        encoder=EncoderConfig(n_heads=2, n_layers=1),
        trigger=TriggerConfig(kind="windowed", width=8, n_heads=2, noise=0.1, p_token=0.1),
        bridge=BridgeConfig(n_heads=4),
    ),
    CurriculumConfig(STAGE, STAGE, STAGE, trigger_weight=1.0),
    DataConfig(n_prompts=16, n_pairs=16, n_targets=16, n_validation=42, composed=0.3, filler=True),
)
N_STEPS = 4
N_MEASURED = 40  # four splits in equal parts


def train_in_testbed(
    backbone: "Backbone", recipe: Recipe, out: Path, **given: object
) -> TrainedModule | None:
    return train_into_folder(backbone, recipe, TestbedData(recipe.data), out, **given)  # type: ignore[arg-type]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 2)
    monkeypatch.setattr(testbed_training, "_NEW_TOKENS", 5)


def kill_at(stage: str, step: int) -> Callable[[TrainingEvent], None]:
    def kill(event: TrainingEvent) -> None:
        if (event.stage, event.step) == (stage, step):
            raise Killed

    return kill


# ---------------------------------------------------------------------------------------- the data


def texts(data: ValueData) -> list[str]:
    rows = [*data.prompts, *data.pairs, *data.targets]
    return [row.prompt[-1].content for row in rows]


def test_validation_comes_from_all_four_twins_and_shares_no_group_with_training() -> None:
    train, validation = draw_value_data(replace(RECIPE.data, n_validation=40), seed=0)
    groups = {row.group for row in [*train.prompts, *train.pairs, *train.targets]}
    held_out = [{row.group for row in rows} for rows in
                (validation.prompts, validation.pairs, validation.targets)]  # fmt: skip
    assert not groups & set().union(*held_out)
    assert [len(rows) for rows in (validation.prompts, validation.pairs, validation.targets)] == [
        40, 40, 40,
    ]  # fmt: skip
    for number, split in enumerate(VALIDATION_SPLITS):
        wanted = "validation_words" if split == "validation_words" else "validation"
        for row in validation.prompts[number * 10 : (number + 1) * 10]:
            intent = find_intent(row.prompt[-1].content)
            assert intent is not None
            assert intent_split(intent) == wanted
            assert intent.harmful == row.harmful


def test_data_are_drawn_by_their_seed_and_amounts() -> None:
    one, other, third = (texts(draw_value_data(RECIPE.data, seed)[0]) for seed in (0, 0, 1))
    assert one == other
    assert one != third
    assert len(one) == 16 * 3
    _, smallest = draw_value_data(replace(RECIPE.data, n_validation=1), seed=0)
    assert len(smallest.prompts) == len(VALIDATION_SPLITS)


def test_stage_3_learns_refusals_of_harmful_requests() -> None:
    train, _ = draw_value_data(RECIPE.data, seed=0)
    for target in train.targets:
        intent = find_intent(target.prompt[-1].content)
        assert intent is not None
        assert intent.harmful
        assert testbed_training.judge(intent, target.safe_response).refused
        assert target.harmful_response is not None
        assert testbed_training.judge(intent, target.harmful_response).harmful


# --------------------------------------------------------------------------------------- the judge


def test_the_harm_rate_counts_what_the_oracle_calls_harmful(
    tiny: "TinyModel", make_module: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = sample_prompts("validation_intents", 8, seed=0, kind="harmful")
    rng = np.random.default_rng(0)
    said = [value_training_reply(kind, prompt, rng) for kind, prompt in zip(
        ("help",) * 4 + ("refusal",) * 3 + ("babble",), prompts, strict=True
    )]  # fmt: skip
    monkeypatch.setattr(
        measured_replies, "generate", lambda *_, **__: [SimpleNamespace(text=t) for t in said]
    )
    found = testbed_training.harm_rate(tiny.backbone, make_module(), prompts, seed=0)  # type: ignore[arg-type]
    assert found == {"harm_rate": 0.5, "degenerate_rate": 0.125}


def value_training_reply(kind: str, prompt: object, rng: np.random.Generator) -> str:
    from workbench.testbed.corpus import help_reply, refusal_reply

    if kind == "babble":
        return "the the of , cake"
    reply = help_reply if kind == "help" else refusal_reply
    return reply(prompt, rng).text  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- the run's folder


@pytest.fixture(scope="module")
def whole(
    tiny: "TinyModel", tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainedModule, list[TrainingEvent]]:
    """An uninterrupted training."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    events: list[TrainingEvent] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 2)
        patch.setattr(testbed_training, "_NEW_TOKENS", 5)
        before = tiny.backbone.current_weights_hash()
        trained = train_in_testbed(tiny.backbone, RECIPE, out, seed=3, on_event=events.append)
    assert trained is not None
    assert tiny.backbone.current_weights_hash() == before
    return out, trained, events


Whole = tuple[Path, TrainedModule, list[TrainingEvent]]


def test_the_record_says_what_was_trained_on_what(tiny: "TinyModel", whole: Whole) -> None:
    out, _, _ = whole
    record = RunFolder.open(out).record
    assert (record.kind, record.seed, record.status) == ("train", 3, "finished")
    config = dict(record.config)
    assert config.pop("backbone") == tiny.backbone.name
    assert config.pop("weights_hash") == tiny.backbone.weights_hash
    assert config.pop("batch_size") == 64
    assert from_mapping(Recipe, config, where="run.json") == RECIPE
    assert {"packages", "git", "time"} <= set(record.provenance)
    assert set(record.files) == {
        "data.json", "metrics.parquet", "summary.json", "svgt.json", "svgt.safetensors",
    }  # fmt: skip
    assert all(file_sha256(out / name) == digest for name, digest in record.files.items())


def test_the_metrics_hold_every_loss_and_every_validation(whole: Whole) -> None:
    out, _, events = whole
    metrics = RunFolder.open(out).read_metrics()
    assert list(metrics.columns) == ["stage", "step", "kind", "metric", "value"]
    found = {tuple(row[:4]): row[4] for row in metrics.itertuples(index=False)}
    assert len(found) == len(metrics)
    expected: dict[tuple[object, ...], float] = {}
    for event in events:
        for kind, numbers in (("training", event.losses), ("validation", event.metrics or {})):
            for name, value in numbers.items():
                expected[event.stage, event.step, kind, name] = value
    assert found.keys() == expected.keys()
    assert all(found[key] == value for key, value in expected.items() if value == value)
    for stage, wanted in {
        "unconditional": {"accuracy", "f1", "auroc"},
        "conditional": {"accuracy", "f1", "auroc", "ambiguous_auroc", "trigger_auroc"},
        "bridge": {"ce", "safety", "norm", "harm_rate", "degenerate_rate"},
    }.items():
        rows = metrics[(metrics["stage"] == stage) & (metrics["kind"] == "validation")]
        assert wanted <= set(rows["metric"])
        assert set(rows["step"]) == {0, 2, N_STEPS}
        losses = metrics[(metrics["stage"] == stage) & (metrics["kind"] == "training")]
        assert set(losses["step"]) == set(range(1, N_STEPS + 1))
    losses = metrics[metrics["kind"] == "training"]
    assert set(losses.loc[losses["stage"] == "bridge", "metric"]) == {
        "total", "ce", "safety", "norm",
    }  # fmt: skip


def test_the_summary_holds_each_stages_best_state(tiny: "TinyModel", whole: Whole) -> None:
    out, trained, _ = whole
    measured = [row for row in RunFolder.open(out).read_summary() if "split" not in row]
    rows = {(row["stage"], row["metric"]): row for row in measured}
    for name, value in trained.final_metrics().items():
        stage, metric = name.split(".")
        row = rows.pop((stage, metric))
        assert row["estimate"] == (value if value == value else None)
        assert (row["backbone"], row["config"], row["seed"]) == (tiny.backbone.name, "mine", 3)
        if metric in ("harm_rate", "degenerate_rate"):
            assert row["n"] == 2 * len(VALIDATION_SPLITS)
        elif metric == "ambiguous_auroc":
            assert 0 < row["n"] < N_MEASURED
        else:
            assert row["n"] == N_MEASURED
    assert not rows


def test_the_module_can_be_used_at_once(tiny: "TinyModel", whole: Whole) -> None:
    out, trained, _ = whole
    module = load_value_module(out, tiny.backbone)
    assert module.config == RECIPE.module
    expected = trained.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    recorded = dict(read_checkpoint_record(out).metrics)
    assert recorded.pop("seed") == 3
    final = trained.final_metrics()
    assert recorded == {n: v if v == v else None for n, v in final.items()}


def test_what_it_needed_to_go_on_is_gone_at_the_end(whole: Whole) -> None:
    assert not (whole[0] / STATE_FILE).exists()
    assert not (whole[0] / PROGRESS_FILE).exists()


# ---------------------------------------------------------------------------------------- going on


def assert_same_run(found: Path, expected: Path) -> None:
    for name in ("metrics.parquet", "summary.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    weights = [(folder / "svgt.safetensors").read_bytes() for folder in (found, expected)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("stage", "step"),
    [("unconditional", 2), ("unconditional", 4), ("conditional", 3), ("bridge", 0), ("bridge", 2)],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    tiny: "TinyModel", whole: Whole, tmp_path: Path, stage: str, step: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train_in_testbed(tiny.backbone, RECIPE, out, seed=3, on_event=kill_at(stage, step))
    assert RunFolder.open(out).record.status == "running"
    assert (out / STATE_FILE).exists()
    assert not (out / "svgt.json").exists()
    assert train_in_testbed(tiny.backbone, RECIPE, out, seed=3, resume=True) is not None
    assert_same_run(out, whole[0])
    record = RunFolder.open(out).record
    assert (record.status, len(record.resumed)) == ("finished", 1)
    assert set(record.files) == set(RunFolder.open(whole[0]).record.files)


def test_a_run_killed_while_it_writes_its_results_writes_them_once(
    tiny: "TinyModel", whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_summary", killed)
        with pytest.raises(Killed):
            train_in_testbed(tiny.backbone, RECIPE, out, seed=3)
    events: list[TrainingEvent] = []
    train_in_testbed(tiny.backbone, RECIPE, out, seed=3, resume=True, on_event=events.append)
    assert not events  # nothing is trained again
    assert_same_run(out, whole[0])


def test_resuming_a_finished_run_does_nothing(tiny: "TinyModel", whole: Whole) -> None:
    out = whole[0]
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    assert train_in_testbed(tiny.backbone, RECIPE, out, seed=3, resume=True) is None
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    assert after == before


def test_resuming_nothing_starts(tiny: "TinyModel", whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train_in_testbed(tiny.backbone, RECIPE, out, seed=3, resume=True) is not None
    assert_same_run(out, whole[0])


def test_two_trainings_into_one_folder(tiny: "TinyModel", whole: Whole, tmp_path: Path) -> None:
    """A second one is refused while the first runs, and the first ends as if alone."""
    out = tmp_path / "run"
    refused: list[str] = []

    def intrude(event: TrainingEvent) -> None:
        if event.step == 2:
            for resume in (False, True):
                with pytest.raises(RunError, match="in use by another run") as caught:
                    train_in_testbed(tiny.backbone, RECIPE, out, seed=3, resume=resume)
                refused.append(str(caught.value))

    train_in_testbed(tiny.backbone, RECIPE, out, seed=3, on_event=intrude)
    assert len(refused) == 6
    assert_same_run(out, whole[0])


def test_a_folder_that_holds_a_run_is_refused(tiny: "TinyModel", whole: Whole) -> None:
    with pytest.raises(RunError, match=r"already holds a run \(train, finished\)"):
        train_in_testbed(tiny.backbone, RECIPE, whole[0], seed=3)


def test_another_configuration_is_refused_by_its_keys(tiny: "TinyModel", tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train_in_testbed(tiny.backbone, RECIPE, out, seed=3, on_event=kill_at("unconditional", 2))
    before = (out / STATE_FILE).read_bytes()
    longer = replace(RECIPE.curriculum, bridge=replace(STAGE, epochs=2.0))
    other = replace(RECIPE, curriculum=longer, data=replace(RECIPE.data, n_pairs=20))
    with pytest.raises(RunError) as caught:
        train_in_testbed(tiny.backbone, other, out, seed=4, resume=True)
    message = str(caught.value)
    assert "curriculum.bridge.epochs was 1.0, now 2.0" in message
    assert "data.n_pairs was 16, now 20" in message
    assert "seed was 3, now 4" in message
    assert "n_targets" not in message
    assert (out / STATE_FILE).read_bytes() == before


# ------------------------------------------------------------------------------- every named recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_trains(tiny: "TinyModel", tmp_path: Path, name: str) -> None:
    """Two steps a stage, on amounts that a test can afford; all else as the recipe says."""
    recipe = make_recipe(name, d_model=tiny.backbone.d_model, n_layers=tiny.backbone.n_layers)

    def two_steps(stage: StageConfig) -> StageConfig:
        return replace(stage, epochs=2 * stage.batch_size / 32, evaluations=1)

    plan = recipe.curriculum
    short = replace(
        recipe,
        curriculum=replace(
            plan,
            unconditional=two_steps(plan.unconditional),
            conditional=two_steps(plan.conditional),
            bridge=two_steps(plan.bridge),
        ),
        data=replace(recipe.data, n_prompts=32, n_pairs=32, n_targets=32, n_validation=40),
    )
    out = tmp_path / "run"
    trained = train_in_testbed(tiny.backbone, short, out, seed=0)
    assert trained is not None
    assert [row["step"] for row in trained.losses] == [1, 2, 1, 2, 1, 2]
    assert load_value_module(out, tiny.backbone).config == recipe.module


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 2}, r"layer = 2 is out of range .* choose 0 to 1"),
        ({"d_model": 64}, "width 64, but .* has width 32"),
        ({"score_layer": 3}, r"score_layer = 3 is out of range"),
    ],
)
def test_a_recipe_that_does_not_fit_leaves_no_folder(
    tiny: "TinyModel", tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    other = replace(RECIPE, module=replace(RECIPE.module, **changes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        train_in_testbed(tiny.backbone, other, tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{"n_prompts": 0}, {"n_pairs": -1}, {"n_validation": 0}, {"composed": 1.5}]
)
def test_impossible_amounts_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        DataConfig(**changes)  # type: ignore[arg-type]


def test_a_smaller_size_leaves_validation_whole() -> None:
    small = DataConfig(n_prompts=100, n_pairs=50, n_targets=3, n_validation=40).scaled(0.1)
    assert small == DataConfig(n_prompts=10, n_pairs=5, n_targets=1, n_validation=40)
    for size in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="size"):
            DataConfig().scaled(size)


def test_a_training_that_diverges_can_be_looked_at_but_leaves_no_module(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    wild = replace(RECIPE.curriculum, conditional=replace(STAGE, learning_rate=1e12))
    with pytest.raises(NonFiniteError, match=r"stage conditional.*lower the learning rate"):
        train_in_testbed(tiny.backbone, replace(RECIPE, curriculum=wild), tmp_path / "run", seed=3)
    assert not (tmp_path / "run" / "svgt.json").exists()
    assert RunFolder.open(tmp_path / "run").record.status == "failed"


# ------------------------------------------------------------------------------------- batch size


def test_texts_are_read_by_the_batch_size_and_the_weights_agree_up_to_rounding(
    tiny: "TinyModel", whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 2)
    monkeypatch.setattr(testbed_training, "_NEW_TOKENS", 5)
    read: list[int] = []
    run_blocks = tiny.backbone.run_blocks

    def watched(ids: torch.Tensor, **rest: object) -> None:
        read.append(len(ids))
        run_blocks(ids, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny.backbone, "run_blocks", watched)
    out = tmp_path / "run"
    few = train_in_testbed(tiny.backbone, RECIPE, out, seed=3, batch_size=3)
    assert max(read) == 3
    assert RunFolder.open(out).record.config["batch_size"] == 3
    assert few is not None
    expected = whole[1].module.state_dict()
    for name, value in few.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_a_training_goes_on_with_another_batch_size_and_says_so(
    tiny: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 1)
    monkeypatch.setattr(testbed_training, "_NEW_TOKENS", 3)
    out = tmp_path / "run"

    def kill(event: TrainingEvent) -> None:
        if (event.stage, event.step) == ("bridge", 2):
            raise Killed

    with pytest.raises(Killed):
        train_in_testbed(tiny.backbone, RECIPE, out, seed=3, on_event=kill)
    with pytest.raises(RunError, match="started differently: seed"):
        train_in_testbed(tiny.backbone, RECIPE, out, seed=4, batch_size=5, resume=True)
    with pytest.warns(WorkbenchWarning, match="batch size 64 and goes on with 5: .* rounding"):
        train_in_testbed(tiny.backbone, RECIPE, out, seed=3, batch_size=5, resume=True)
    record = RunFolder.open(out).record
    assert (record.status, record.config["batch_size"]) == ("finished", 5)
    again = train_in_testbed(tiny.backbone, RECIPE, out, seed=3, batch_size=7, resume=True)
    assert again is None  # finished: nothing is read, and the record stays
    assert RunFolder.open(out).record.config["batch_size"] == 5


def test_what_depends_on_the_batch_size_cannot_go_on_with_another(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    """Validation then scores sampled replies, and they choose the best state."""
    recipe = replace(
        RECIPE, curriculum=replace(RECIPE.curriculum, safety=SafetyConfig("on-policy"))
    )
    out = tmp_path / "run"

    def kill(event: TrainingEvent) -> None:
        raise Killed

    with pytest.raises(Killed):
        train_in_testbed(tiny.backbone, recipe, out, seed=3, on_event=kill)
    with pytest.raises(RunError, match="with batch size 5: it began with 64"):
        train_in_testbed(tiny.backbone, recipe, out, seed=3, batch_size=5, resume=True)
