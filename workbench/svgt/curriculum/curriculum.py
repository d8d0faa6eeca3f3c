"""All three stages in order, from data and a frozen backbone to a trained value module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.backbone.protocol import Backbone
from workbench.data.training import ValueData
from workbench.errors import CheckpointError
from workbench.svgt.config import SVGTConfig
from workbench.svgt.curriculum.loop import (
    OnEvent,
    StateFile,
    TrainingState,
    advance,
    is_complete,
    run_stage,
)
from workbench.svgt.curriculum.recipe import STAGES, CurriculumConfig, StageName
from workbench.svgt.curriculum.stages import (
    Banks,
    BridgeStage,
    ConditionalStage,
    SampleResponses,
    StageTask,
    UnconditionalStage,
    tokenise_targets,
)
from workbench.svgt.curriculum.state_bank import (
    BATCH_SIZE,
    PromptBank,
    bank_pairs,
    bank_prompts,
)
from workbench.svgt.origin import identify
from workbench.svgt.trigger import WindowedTrigger
from workbench.svgt.value_module import Part, ValueModule

MeasureHarm = Callable[[ValueModule], Mapping[str, float]]

_READ_FROM_BANKS: tuple[StageName, ...] = ("unconditional", "conditional")
_UNTOUCHED_BY_STAGE_3: tuple[Part, ...] = ("encoder", "trigger", "discriminator")


@dataclass(frozen=True, eq=False)
class TrainedModule:
    """A trained value module, frozen, and what was measured on the way there.

    Attributes:
        module: The module at the best state of its last stage.
        history: Every validation, one row each.
        losses: The training losses of every step, one row each.
    """

    module: ValueModule
    history: Sequence[Mapping[str, object]]
    losses: Sequence[Mapping[str, object]]

    def final_metrics(self) -> dict[str, float]:
        """Validation metrics of each stage's best state, as ``stage.metric``."""
        best: dict[object, Mapping[str, object]] = {}
        for row in self.history:
            current = best.get(row["stage"])
            if current is None or _selection(row) < _selection(current):
                best[row["stage"]] = row
        return {
            f"{stage}.{name}": float(str(value))
            for stage, row in best.items()
            for name, value in row.items()
            if name not in ("stage", "step", "selection")
        }


def _selection(row: Mapping[str, object]) -> float:
    return float(str(row["selection"]))


def _read_banks(backbone: Backbone, config: SVGTConfig, data: ValueData, batch_size: int) -> Banks:
    layers = sorted({*config.trigger_layers, config.encoder_layer, config.layer})
    return Banks(
        bank_prompts(backbone, data.prompts, layers, batch_size=batch_size),
        bank_pairs(
            backbone,
            data.pairs,
            layer=config.encoder_layer,
            n_slots=config.n_bridge,
            batch_size=batch_size,
        ),
    )


def _start_from_data(module: ValueModule, prompts: PromptBank) -> None:
    """Set what starts from states: the trigger's standardiser and the bridge's base and scale."""
    if isinstance(module.trigger, WindowedTrigger):
        module.trigger.fit_standardiser(*prompts.layer_statistics(module.config.trigger_layers))
    module.bridge.initialise(prompts.last_states(module.config.layer))


def _take_over(module: ValueModule, earlier: ValueModule) -> None:
    """Copy the parts that stages 1 and 2 train.

    Raises:
        CheckpointError: They are built differently.
    """
    for part in _UNTOUCHED_BY_STAGE_3:
        try:
            module.get_submodule(part).load_state_dict(earlier.get_submodule(part).state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"the {part} of the module whose stages 1 and 2 are to be taken over is built "
                "differently; train all stages"
            ) from error


def train_value_module(
    backbone: Backbone,
    config: SVGTConfig,
    curriculum: CurriculumConfig,
    train: ValueData,
    validation: ValueData,
    *,
    seed: int,
    state_file: Path | None = None,
    measure_harm: MeasureHarm | None = None,
    sample_responses: SampleResponses | None = None,
    earlier: ValueModule | None = None,
    batch_size: int = BATCH_SIZE,
    on_event: OnEvent = lambda event: None,
) -> TrainedModule:
    """Train a value module for a frozen backbone.

    Args:
        backbone: The model; its weights are not touched.
        config: What to build.
        curriculum: How to train it.
        train: Examples to learn from.
        validation: Examples on which each stage's best state is chosen.
        seed: Decides initialisation, batch order and dropout; the first two are the same on every
            device, dropout is drawn where the module computes.
        state_file: Where the training keeps what it needs to go on after a kill; if the file
            exists, it goes on from there.
        measure_harm: Generates and judges text with the module, for stage 3's validation.
        sample_responses: Draws responses for stage 3's on-policy safety term.
        earlier: A module trained on the same data with the same seed, whose stages 1 and 2 are
            taken over: only stage 3 runs. Where nothing but stage 3 is configured differently the
            result is that of a whole training, bit for bit.
        batch_size: Texts that the backbone reads, and the module scores, at a time. What a step of
            a stage learns from is that stage's own ``batch_size``.
        on_event: Told of every step.

    Raises:
        ConfigError: The configuration does not fit the backbone.
        CheckpointError: ``earlier`` is built differently.
        DataError: A stage has no examples or only one class.
        NonFiniteError: A loss diverged.
    """
    config.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )
    train.check("training")
    validation.check("validation")
    file = StateFile(state_file)
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        module = ValueModule(config)
        to_run = [name for name in STAGES if name in curriculum.stages]
        tasks: dict[StageName, StageTask] = {}
        if earlier is None:
            banks = _read_banks(backbone, config, train, batch_size)
            _start_from_data(module, banks.prompts)
            if set(to_run) & set(_READ_FROM_BANKS):
                held_out = _read_banks(backbone, config, validation, batch_size)
                given = (module, curriculum, banks, held_out)
                tasks["unconditional"] = UnconditionalStage(*given, batch_size=batch_size)
                tasks["conditional"] = ConditionalStage(*given, batch_size=batch_size)
        else:
            prompts = bank_prompts(
                backbone, train.prompts, module.capture_layers, batch_size=batch_size
            )
            _start_from_data(module, prompts)
            _take_over(module, earlier)
            to_run = [name for name in to_run if name not in _READ_FROM_BANKS]
        module.to(backbone.device)
        contrastive = curriculum.safety.kind == "contrastive"
        tasks["bridge"] = BridgeStage(
            module,
            curriculum,
            backbone,
            tokenise_targets(backbone, train.targets, with_harmful=contrastive),
            tokenise_targets(backbone, validation.targets, with_harmful=contrastive),
            measure_harm,
            sample_responses,
            batch_size=batch_size,
        )
        state = _run(
            {name: tasks[name] for name in to_run}, module, file, seed=seed, on_event=on_event
        )
    module.freeze()
    module.eval()
    module.made_for = identify(backbone)
    return TrainedModule(module, state.history, state.losses)


def _run(
    tasks: Mapping[StageName, StageTask],
    module: ValueModule,
    file: StateFile,
    *,
    seed: int,
    on_event: OnEvent,
) -> TrainingState:
    """Run the given stages from where the state file stands; a stage without a task is skipped."""
    state, optimizer_state = file.load(module)
    while not is_complete(state):
        task = tasks.get(STAGES[state.stage])
        if task is not None:
            run_stage(task, state, optimizer_state, file, seed=seed, on_event=on_event)
            optimizer_state = {}
        advance(state)
        if task is not None:
            file.save(state, module, None)
    return state
