"""All three stages in order, from data and a frozen backbone to a trained value module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.backbone.protocol import Backbone
from workbench.data.training import ValueData
from workbench.svgt.config import SVGTConfig
from workbench.svgt.curriculum.loop import (
    OnEvent,
    StateFile,
    advance,
    is_complete,
    run_stage,
)
from workbench.svgt.curriculum.recipe import CurriculumConfig
from workbench.svgt.curriculum.stages import (
    Banks,
    BridgeStage,
    ConditionalStage,
    StageTask,
    UnconditionalStage,
    tokenise_targets,
)
from workbench.svgt.curriculum.state_bank import bank_pairs, bank_prompts
from workbench.svgt.trigger import WindowedTrigger
from workbench.svgt.value_module import ValueModule

MeasureHarm = Callable[[ValueModule], Mapping[str, float]]


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


def _read_banks(backbone: Backbone, config: SVGTConfig, data: ValueData) -> Banks:
    layers = sorted({*config.trigger_layers, config.encoder_layer, config.layer})
    return Banks(
        bank_prompts(backbone, data.prompts, layers),
        bank_pairs(backbone, data.pairs, layer=config.encoder_layer, n_slots=config.n_bridge),
    )


def _start_from_data(module: ValueModule, banks: Banks) -> None:
    """Set what starts from states: the trigger's standardiser and the bridge's base and scale."""
    if isinstance(module.trigger, WindowedTrigger):
        module.trigger.fit_standardiser(
            *banks.prompts.layer_statistics(module.config.trigger_layers)
        )
    module.bridge.initialise(banks.prompts.last_states(module.config.layer))


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
    on_event: OnEvent = lambda event: None,
) -> TrainedModule:
    """Train a value module for a frozen backbone.

    Args:
        backbone: The model; its weights are not touched.
        config: What to build.
        curriculum: How to train it.
        train: Examples to learn from.
        validation: Examples on which each stage's best state is chosen.
        seed: Decides initialisation, batch order and dropout.
        state_file: Where the training keeps what it needs to go on after a kill; if the file
            exists, it goes on from there.
        measure_harm: Generates and judges text with the module, for stage 3's validation.
        on_event: Told of every step.

    Raises:
        ConfigError: The configuration does not fit the backbone.
        DataError: A stage has no examples or only one class.
        NonFiniteError: A loss diverged.
    """
    config.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )
    train.check("training")
    validation.check("validation")
    file = StateFile(state_file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ValueModule(config)
        banks = _read_banks(backbone, config, train)
        validation_banks = _read_banks(backbone, config, validation)
        _start_from_data(module, banks)
        stages: list[StageTask] = [
            UnconditionalStage(module, curriculum, banks, validation_banks),
            ConditionalStage(module, curriculum, banks, validation_banks),
            BridgeStage(
                module,
                curriculum,
                backbone,
                tokenise_targets(backbone, train.targets),
                tokenise_targets(backbone, validation.targets),
                measure_harm,
            ),
        ]
        state, optimizer_state = file.load(module)
        while not is_complete(state):
            run_stage(
                stages[state.stage], state, optimizer_state, file, seed=seed, on_event=on_event
            )
            optimizer_state = {}
            advance(state)
            file.save(state, module, None)
    module.freeze()
    module.eval()
    return TrainedModule(module, state.history, state.losses)
