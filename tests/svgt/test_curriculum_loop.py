"""A training can be killed, refused, starved of disk or diverge, and never loses what it had."""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.backbone import TransformerLensBackbone, load_backbone
from workbench.backbone.protocol import TokenBatch
from workbench.data.example import Message
from workbench.data.training import LabelledPair, LabelledPrompt, SafeTarget, ValueData
from workbench.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    RunError,
)
from workbench.files import read_tensors, write_tensors
from workbench.svgt import (
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    ValueModule,
)
from workbench.svgt.curriculum import (
    CurriculumConfig,
    StageConfig,
    TrainedModule,
    TrainingEvent,
    state_bank,
    train_value_module,
)
from workbench.svgt.curriculum import curriculum as curriculum_module
from workbench.svgt.curriculum.curriculum import MeasureHarm
from workbench.svgt.curriculum.loop import OnEvent, StateFile, TrainingState, run_stage
from workbench.svgt.curriculum.sampling import StepSampler
from workbench.svgt.curriculum.stages import BridgeStage, ConditionalStage, StageTask
from workbench.svgt.curriculum.stages import tokenise_targets as tokenise
from workbench.svgt.objectives import BridgeLossWeights, SafetyConfig

FIXTURES = Path(__file__).parent.parent / "fixtures"
HARMFUL_WORD, SAFE_WORD = "t100", "t101"
# everything that draws random numbers is on: dropout in all parts, hidden tokens, noise
MODULE = SVGTConfig(
    d_model=64,
    layer=1,
    n_bridge=2,
    d_value=8,
    encoder=EncoderConfig(n_heads=2, n_layers=1, dropout=0.2),
    trigger=TriggerConfig(
        kind="windowed", layers=(-1, 1), width=8, n_heads=2, p_token=0.1, p_last3=0.2, noise=0.2
    ),
    bridge=BridgeConfig(n_heads=2, dropout=0.2),
)
STAGE = StageConfig(
    epochs=1.0,
    batch_size=4,
    learning_rate=3e-3,
    old_rate=1e-3,
    schedule="linear",
    evaluations=3,
)
CURRICULUM = CurriculumConfig(
    unconditional=STAGE,
    conditional=STAGE,
    bridge=replace(STAGE, learning_rate=1e-2),
    trigger_weight=1.0,
    trigger_batch=3,
)
N_STEPS = 5


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def value_data(n: int, seed: int) -> ValueData:
    rng = np.random.default_rng(seed)

    def text(word: str, longest: int) -> str:
        words = [f"t{i}" for i in rng.integers(0, 60, size=rng.integers(1, longest))]
        return " ".join([*words, word])

    marks = [HARMFUL_WORD if i % 2 else SAFE_WORD for i in range(n)]
    asked = [(Message("user", text(mark, 6)),) for mark in marks]
    return ValueData(
        prompts=[LabelledPrompt(p, m == HARMFUL_WORD) for p, m in zip(asked, marks, strict=True)],
        pairs=[
            LabelledPair(p, text("t70", 4), m == HARMFUL_WORD, ambiguous=True)
            for p, m in zip(asked, marks, strict=True)
        ],
        targets=[SafeTarget((Message("user", text(HARMFUL_WORD, 5)),), "t80 t81")] * 4
        + [SafeTarget((Message("user", text(HARMFUL_WORD, 5)),), "t82") for _ in range(n - 4)],
    )


TRAIN, VALIDATION = value_data(4 * N_STEPS, 0), value_data(8, 1)


@pytest.fixture(scope="module")
def backbone() -> TransformerLensBackbone:
    return load_backbone(FIXTURES / "tiny-llama")


def train(
    backbone: TransformerLensBackbone,
    state_file: Path | None = None,
    on_event: OnEvent = lambda event: None,
    *,
    curriculum: CurriculumConfig = CURRICULUM,
    module: SVGTConfig = MODULE,
    data: ValueData = TRAIN,
    validation: ValueData = VALIDATION,
    seed: int = 0,
    measure_harm: MeasureHarm | None = None,
) -> TrainedModule:
    return train_value_module(
        backbone,
        module,
        curriculum,
        data,
        validation,
        seed=seed,
        state_file=state_file,
        on_event=on_event,
        measure_harm=measure_harm,
    )


@dataclass(frozen=True)
class Reference:
    """An uninterrupted training."""

    trained: TrainedModule
    events: list[TrainingEvent]


@pytest.fixture(scope="module")
def whole(backbone: TransformerLensBackbone) -> Reference:
    events: list[TrainingEvent] = []
    return Reference(train(backbone, None, events.append), events)


def kill_at(stage: str, step: int) -> OnEvent:
    def kill(event: TrainingEvent) -> None:
        if (event.stage, event.step) == (stage, step):
            raise Killed

    return kill


def assert_same(found: TrainedModule, expected: TrainedModule) -> None:
    assert_same_weights(found.module.state_dict(), expected.module.state_dict())
    assert json.dumps(found.history) == json.dumps(expected.history)  # NaN equals NaN here
    assert json.dumps(found.losses) == json.dumps(expected.losses)


def assert_same_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


# ----------------------------------------------------------------------------- an undisturbed run


def test_every_stage_is_evaluated_before_it_and_as_often_as_asked(whole: Reference) -> None:
    evaluated = [(e.stage, e.step) for e in whole.events if e.metrics is not None]
    stages = ("unconditional", "conditional", "bridge")
    assert evaluated == [(stage, step) for stage in stages for step in (0, 2, 3, 5)]
    steps = [(e.stage, e.step) for e in whole.events]
    assert steps == [(stage, step) for stage in stages for step in range(N_STEPS + 1)]
    assert {e.n_steps for e in whole.events} == {N_STEPS}


def test_history_and_losses_are_what_the_events_told(whole: Reference) -> None:
    told = [{"stage": e.stage, "step": e.step, **e.metrics} for e in whole.events if e.metrics]
    assert json.dumps(whole.trained.history) == json.dumps(told)
    losses = [{"stage": e.stage, "step": e.step, **e.losses} for e in whole.events if e.step]
    assert whole.trained.losses == losses
    by_stage = {row["stage"]: set(row) - {"stage", "step"} for row in whole.trained.history}
    assert {"accuracy", "f1", "auroc"} < by_stage["unconditional"]
    assert {"accuracy", "f1", "auroc", "ambiguous_auroc"} < by_stage["conditional"]
    assert {"trigger_accuracy", "trigger_f1", "trigger_auroc"} < by_stage["conditional"]
    assert {"ce", "safety", "norm"} < by_stage["bridge"]


def test_final_metrics_are_those_of_each_stages_lowest_selection(whole: Reference) -> None:
    final = whole.trained.final_metrics()
    for stage in ("unconditional", "conditional", "bridge"):
        rows = [row for row in whole.trained.history if row["stage"] == stage]
        best = min(rows, key=lambda row: float(str(row["selection"])))
        expected = {f"{stage}.{name}": value for name, value in best.items()}
        for name in ("stage", "step", "selection"):
            del expected[f"{stage}.{name}"]
        assert expected.items() <= final.items()


def test_the_module_comes_back_frozen_and_at_rest(whole: Reference) -> None:
    module = whole.trained.module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_backbone_is_not_touched(backbone: TransformerLensBackbone) -> None:
    before = backbone.current_weights_hash()
    train(backbone)
    assert backbone.current_weights_hash() == before == backbone.weights_hash


def test_a_seed_is_a_training_whatever_the_global_generators_hold(
    backbone: TransformerLensBackbone, whole: Reference
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train(backbone)
    assert torch.equal(torch.get_rng_state(), before)  # and they are left as they were
    assert_same(again, whole.trained)
    other = train(backbone, seed=1).module.state_dict()
    assert not torch.equal(
        other["discriminator.hidden.weight"],
        whole.trained.module.state_dict()["discriminator.hidden.weight"],
    )


def test_watching_and_saving_change_nothing(
    backbone: TransformerLensBackbone, whole: Reference, tmp_path: Path
) -> None:
    saved = train(backbone, tmp_path / "state.safetensors", lambda event: None)
    assert_same(saved, whole.trained)


def test_states_are_read_where_the_configuration_says(
    backbone: TransformerLensBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[str, object]] = []

    def bank_prompts(_: object, rows: object, layers: object, *, batch_size: int) -> object:
        read.append({"prompts": list(layers), "by": batch_size})  # type: ignore[call-overload]
        return state_bank.bank_prompts(backbone, rows, layers)  # type: ignore[arg-type]

    def bank_pairs(_: object, rows: object, **where: int) -> object:
        read.append({"pairs": where})
        return state_bank.bank_pairs(backbone, rows, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(curriculum_module, "bank_prompts", bank_prompts)
    monkeypatch.setattr(curriculum_module, "bank_pairs", bank_pairs)
    apart = replace(
        MODULE,
        encoder=replace(MODULE.encoder, layer=2),
        trigger=replace(MODULE.trigger, layers=(-1, 0)),
    )
    train(backbone, module=apart)
    expected = [
        {"prompts": [-1, 0, 1, 2], "by": 64},
        {"pairs": {"layer": 2, "n_slots": 2, "batch_size": 64}},
    ]
    assert read == expected * 2  # once for training, once for validation, whatever the epochs


def test_what_starts_from_states_starts_from_the_training_prompts(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    """Standardiser, base and unit, as they are before the first step of stage 3."""
    offsets = replace(
        MODULE, bridge=BridgeConfig(kind="offset", gain_init="residual-norm", dropout=0.0)
    )
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(backbone, file, kill_at("bridge", 0), module=offsets)
    found = {n.removeprefix("module."): v for n, v in read_tensors(file)[0].items()}
    texts = [backbone.read_states(backbone.encode([row.prompt]), [-1, 1]) for row in TRAIN.prompts]
    tokens = [torch.cat([states[layer][0] for states in texts]) for layer in (-1, 1)]
    for index, of_layer in enumerate(tokens):
        torch.testing.assert_close(found["trigger.mean"][index], of_layer.mean(0))
        torch.testing.assert_close(found["trigger.std"][index], of_layer.std(0))
    ends = torch.stack([states[1][0, -1] for states in texts])
    unit = ends.norm(dim=1).mean() / ends.shape[1] ** 0.5
    torch.testing.assert_close(found["bridge.unit"], unit)
    torch.testing.assert_close(found["bridge.base"], (ends.mean(0) / unit).expand(2, -1))


# --------------------------------------------------------------------------------------- resuming

EVALUATIONS = [(s, n) for s in ("unconditional", "conditional", "bridge") for n in (0, 2, 3, 5)]


@pytest.mark.parametrize(("stage", "step"), [*EVALUATIONS, ("conditional", 1), ("bridge", 4)])
def test_a_killed_training_ends_as_if_nothing_had_happened(
    backbone: TransformerLensBackbone, whole: Reference, tmp_path: Path, stage: str, step: int
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(backbone, file, kill_at(stage, step))
    torch.manual_seed(123)  # another process
    redone: list[tuple[str, int]] = []
    resumed = train(backbone, file, lambda event: redone.append((event.stage, event.step)))
    assert_same(resumed, whole.trained)
    steps = [(e.stage, e.step) for e in whole.events]
    assert redone == steps[len(steps) - len(redone) :]
    saved = max((at for at in EVALUATIONS if steps.index(at) <= steps.index((stage, step))),
                key=steps.index)  # fmt: skip
    # nothing that was saved is done again; what a stage starts from is saved with the one before
    begins = steps.index(saved) + (saved[1] > 0)
    assert redone == steps[begins:]


def test_a_training_killed_again_and_again(
    backbone: TransformerLensBackbone, whole: Reference, tmp_path: Path
) -> None:
    file = tmp_path / "state.safetensors"
    kills = [
        ("unconditional", 3), ("unconditional", 4), ("conditional", 0), ("conditional", 5),
        ("bridge", 1), ("bridge", 1), ("bridge", 5),
    ]  # fmt: skip
    for stage, step in kills:
        with pytest.raises(Killed):
            train(backbone, file, kill_at(stage, step))
    assert_same(train(backbone, file), whole.trained)


def test_resuming_a_finished_training_gives_it_back(
    backbone: TransformerLensBackbone, whole: Reference, tmp_path: Path
) -> None:
    file = tmp_path / "state.safetensors"
    train(backbone, file)
    before = file.read_bytes()
    events: list[TrainingEvent] = []
    again = train(backbone, file, events.append)
    assert not events
    assert_same(again, whole.trained)
    assert file.read_bytes() == before


def test_each_stage_starts_from_the_best_state_of_the_one_before(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    one, other = tmp_path / "end.safetensors", tmp_path / "start.safetensors"
    for before, after in (("unconditional", "conditional"), ("conditional", "bridge")):
        for file, stage, step in ((one, before, N_STEPS), (other, after, 0)):
            file.unlink(missing_ok=True)
            with pytest.raises(Killed):
                train(backbone, file, kill_at(stage, step))
        best, start = (
            {n.removeprefix(p): v for n, v in read_tensors(f)[0].items() if n.startswith(p)}
            for f, p in ((one, "best."), (other, "module."))
        )
        assert_same_weights(start, best)


# ---------------------------------------------------------------------------- states on the disk


def test_a_full_disk_leaves_the_last_good_state(
    backbone: TransformerLensBackbone,
    whole: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "state.safetensors"
    kept: list[bytes] = []
    flush = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_up(event: TrainingEvent) -> None:
        if (event.stage, event.step) == ("conditional", 2):
            kept.append(file.read_bytes())
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunError, match="No space left on device"):
        train(backbone, file, fill_up)
    monkeypatch.setattr(os, "fsync", flush)
    assert [file.read_bytes()] == kept
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    events: list[TrainingEvent] = []
    assert_same(train(backbone, file, events.append), whole.trained)
    assert (events[0].stage, events[0].step) == ("conditional", 3)


def test_the_state_of_another_training_is_refused(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(backbone, file, kill_at("unconditional", 2))
    before = file.read_bytes()
    for other in (replace(MODULE, d_value=12), replace(MODULE, trigger=TriggerConfig())):
        with pytest.raises(CheckpointError, match=r"state.safetensors.*another folder"):
            train(backbone, file, module=other)
    assert file.read_bytes() == before
    write_tensors(file, {}, {"position": json.dumps({"stage": 0, "lap": 3})})
    with pytest.raises(CheckpointError, match=r"state.safetensors.*another folder"):
        train(backbone, file)
    write_tensors(file, {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"state.safetensors.*another folder"):
        train(backbone, file)


def test_a_damaged_state_is_named(backbone: TransformerLensBackbone, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(backbone, file, kill_at("unconditional", 2))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"state.safetensors.*truncated"):
        train(backbone, file)


# -------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    ("name", "task"), [("conditional", ConditionalStage), ("bridge", BridgeStage)]
)
def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_saved_state(
    backbone: TransformerLensBackbone,
    whole: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    task: type[StageTask],
) -> None:
    file = tmp_path / "state.safetensors"
    kept: list[bytes] = []
    plain = task.losses

    def poisoned(self: StageTask, sampler: StepSampler) -> Mapping[str, Tensor]:
        losses = plain(self, sampler)
        if sampler.step == 4:
            kept.append(file.read_bytes())
            return {**losses, "total": losses["total"] * float("nan")}
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(task, "losses", poisoned)
        with pytest.raises(
            NonFiniteError, match=rf"stage {name} diverged at step 4.*lower the learning rate"
        ):
            train(backbone, file)
    assert [file.read_bytes()] == kept
    assert_same(train(backbone, file), whole.trained)


@pytest.mark.parametrize("stage", ["unconditional", "conditional", "bridge"])
@pytest.mark.parametrize("evaluations", [1, N_STEPS], ids=["in a step", "in a validation"])
def test_a_rate_that_is_far_too_high_is_told_with_its_remedy(
    backbone: TransformerLensBackbone, stage: str, evaluations: int
) -> None:
    wild = replace(STAGE, learning_rate=1e12, old_rate=1e12, evaluations=evaluations)
    curriculum = replace(CURRICULUM, **{stage: wild})
    with pytest.raises(
        NonFiniteError, match=rf"stage {stage} diverged at step \d.*lower the learning rate"
    ):
        train(backbone, curriculum=curriculum)


# -------------------------------------------------------------------------------------- early best


def scripted(selections: list[float], backbone: TransformerLensBackbone) -> BridgeStage:
    """Stage 3 whose validations are told beforehand, one before it and one a step."""
    n_steps = len(selections) - 1
    stage = replace(STAGE, evaluations=n_steps, epochs=float(n_steps))
    targets = tokenise(backbone, TRAIN.targets[:4])
    torch.manual_seed(0)
    module = ValueModule(MODULE)
    coming = iter(selections)

    class Scripted(BridgeStage):
        def validate(self) -> dict[str, float]:
            return {"selection": next(coming)}

    return Scripted(module, replace(CURRICULUM, bridge=stage), backbone, targets, targets, None)


@pytest.mark.parametrize(
    ("selections", "best"),
    [
        ([5.0, 3.0, 1.0, 4.0, 2.0], 2),
        ([1.0, 3.0, 2.0, 4.0, 2.0], 0),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 4),
        ([5.0, 2.0, 2.0, 2.0, 3.0], 1),  # of equals, the first
        ([5.0, -1.0, -2.0, 0.0, 1.0], 2),
    ],
)
def test_a_stage_ends_at_its_lowest_selection_and_not_at_its_last(
    backbone: TransformerLensBackbone, selections: list[float], best: int
) -> None:
    task = scripted(selections, backbone)
    snapshots: list[dict[str, Tensor]] = []

    def snap(event: TrainingEvent) -> None:
        snapshots.append({n: v.clone() for n, v in task.module.state_dict().items()})

    state = TrainingState(stage=2)
    run_stage(task, state, {}, StateFile(None), seed=0, on_event=snap)
    assert len(snapshots) == len(selections)
    assert_same_weights(task.module.state_dict(), snapshots[best])
    assert state.best_selection == min(selections)
    others = [s for i, s in enumerate(snapshots) if i != best]
    assert not any(torch.equal(s["bridge.seeds"], snapshots[best]["bridge.seeds"]) for s in others)


def test_the_trained_module_has_the_selection_it_was_chosen_for(
    backbone: TransformerLensBackbone,
) -> None:
    """Validation wants what training teaches not to say: what comes back is an early state."""
    stage = replace(STAGE, learning_rate=0.1, evaluations=N_STEPS)
    curriculum = replace(CURRICULUM, bridge=stage, bridge_loss=BridgeLossWeights(1.0, 0.0, 0.0))
    targets = [replace(row, safe_response="t33 t34 t35 t36 t37") for row in VALIDATION.targets]
    trained = train(
        backbone, curriculum=curriculum, validation=replace(VALIDATION, targets=targets)
    )
    rows = [float(str(r["selection"])) for r in trained.history if r["stage"] == "bridge"]
    assert min(rows) < rows[-1] - 0.1
    tokens = tokenise(backbone, targets)
    found = BridgeStage(trained.module, curriculum, backbone, tokens, tokens, None).validate()
    assert found["selection"] == pytest.approx(min(rows), rel=1e-6)


# --------------------------------------------------------------------------- what cannot be trained


def test_examples_of_one_class_or_none_are_refused(backbone: TransformerLensBackbone) -> None:
    one_class = [row for row in TRAIN.prompts if row.harmful]
    with pytest.raises(DataError, match=r"training prompts hold only one class"):
        train(backbone, data=replace(TRAIN, prompts=one_class))
    with pytest.raises(DataError, match=r"validation pairs hold no examples"):
        train(backbone, validation=replace(VALIDATION, pairs=[]))
    with pytest.raises(DataError, match=r"training data hold no safe responses"):
        train(backbone, data=replace(TRAIN, targets=[]))


def test_a_module_that_does_not_fit_the_backbone_is_refused_before_anything_runs(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(ConfigError, match=r"layer = 3 is out of range .* choose 0 to 2"):
        train(backbone, file, module=replace(MODULE, layer=3))
    with pytest.raises(ConfigError, match=r"states of width 32, but .* has width 64"):
        train(backbone, file, module=replace(MODULE, d_model=32))
    assert not file.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0.0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"evaluations": 0}, "evaluations"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"old_rate": -1e-5}, "old_rate"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip": 0.0}, "clip"),
        ({"clip": -1.0}, "clip"),
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StageConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"trigger_weight": -1.0}, "trigger_weight"),
        ({"trigger_batch": 0}, "trigger_batch"),
    ],
)
def test_impossible_curricula_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CurriculumConfig(**changes)  # type: ignore[arg-type]


def test_a_stage_has_at_least_one_step() -> None:
    assert StageConfig(epochs=0.01, batch_size=8).n_steps(10) == 1
    assert StageConfig(epochs=2.5, batch_size=8).n_steps(80) == 25


# ------------------------------------------------------------- stages taken over, or left out


ON_POLICY = SafetyConfig("on-policy", max_new_tokens=3)


def echo(model: ValueModule, prompt: TokenBatch, seed: int) -> TokenBatch:
    """Stands for a sampler: the prompt's first words again, as many as the seed says."""
    n_tokens = 1 + seed % 2
    ids = prompt.ids[:, -n_tokens:]
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "curriculum"),
    [
        ({}, CURRICULUM),
        ({"bridge": BridgeConfig(kind="offset", dropout=0.1)}, CURRICULUM),
        ({"bridge": BridgeConfig(n_heads=2, conditioning="none")}, CURRICULUM),
        ({"correction": CorrectionConfig(kind="zero")}, CURRICULUM),
        ({"gate": "threshold"}, replace(CURRICULUM, bridge_loss=BridgeLossWeights(1.0, 0.0, 0.0))),
        ({}, replace(CURRICULUM, safety=ON_POLICY)),
    ],
    ids=["same", "offset", "unconditioned", "zero", "gate and weights", "on-policy"],
)
def test_taking_stages_1_and_2_over_gives_what_training_them_again_gives(
    backbone: TransformerLensBackbone,
    whole: Reference,
    changes: dict[str, object],
    curriculum: CurriculumConfig,
) -> None:
    """Bit for bit: what stage 3 is given decides nothing before it."""
    module = replace(MODULE, **changes)  # type: ignore[arg-type]
    found, expected = (
        train_value_module(
            backbone, module, curriculum, TRAIN, VALIDATION, seed=0,
            sample_responses=echo, earlier=earlier,
        )
        for earlier in (whole.trained.module, None)
    )  # fmt: skip
    assert_same_weights(found.module.state_dict(), expected.module.state_dict())
    assert {row["stage"] for row in found.history} == {"bridge"}
    of_stage_3 = [row for row in expected.losses if row["stage"] == "bridge"]
    assert json.dumps(found.losses) == json.dumps(of_stage_3)


def test_a_module_of_another_build_cannot_be_taken_over(
    backbone: TransformerLensBackbone, whole: Reference
) -> None:
    with pytest.raises(CheckpointError, match="built differently"):
        train_value_module(
            backbone,
            replace(MODULE, d_value=16),
            CURRICULUM,
            TRAIN,
            VALIDATION,
            seed=0,
            earlier=whole.trained.module,
        )


@pytest.mark.parametrize(
    "stages",
    [("conditional", "bridge"), ("unconditional", "bridge"), ("unconditional", "conditional")],
)
def test_a_stage_that_is_left_out_leaves_its_parts_as_they_were(
    backbone: TransformerLensBackbone, whole: Reference, stages: tuple[str, ...], tmp_path: Path
) -> None:
    curriculum = replace(CURRICULUM, stages=stages)
    found = train(backbone, curriculum=curriculum)
    assert list(dict.fromkeys(str(row["stage"]) for row in found.history)) == list(stages)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = ValueModule(MODULE)
    same = {
        name
        for name, weight in found.module.named_parameters()
        if torch.equal(weight, drawn.get_parameter(name))
    }
    assert any(name.startswith("bridge.") for name in same) == ("bridge" not in stages)
    assert any(name.startswith("trigger.") for name in same) == ("conditional" not in stages)
    if "unconditional" in stages:  # and it was the very stage 1 of the whole curriculum
        first = [row for row in whole.trained.losses if row["stage"] == "unconditional"]
        assert [row for row in found.losses if row["stage"] == "unconditional"] == first
    with pytest.raises(Killed):
        train(backbone, tmp_path / "state", kill_at(stages[1], 4), curriculum=curriculum)
    assert_same(train(backbone, tmp_path / "state", curriculum=curriculum), found)


def test_stages_out_of_order_or_unknown_are_refused() -> None:
    for stages in ((), ("bridge", "conditional"), ("bridge", "bridge"), ("pairs",)):
        with pytest.raises(ConfigError, match="each once, in order"):
            CurriculumConfig(stages=stages)


def test_the_weight_of_the_pairs_takes_them_out_of_stage_2(
    backbone: TransformerLensBackbone,
) -> None:
    found = train(backbone, curriculum=replace(CURRICULUM, pair_weight=0.0))
    for row in found.losses:
        if row["stage"] == "conditional":
            assert row["total"] == row["trigger"]
    with pytest.raises(ConfigError, match="pair_weight"):
        CurriculumConfig(pair_weight=0.0)
