"""The training loop that all stages share: batches, early best, and a state that resumes exactly.

What a step does depends on the seed, the stage and the step's number alone: batch order and dropout
are drawn anew from them. A run that was killed and resumed therefore ends with the very weights of
an uninterrupted one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workbench.backbone.memory import memory_named
from workbench.errors import CheckpointError, NonFiniteError
from workbench.files import read_tensors, write_tensors
from workbench.remedies import remedied_by
from workbench.svgt.curriculum.recipe import STAGES, StageName
from workbench.svgt.curriculum.sampling import StepSampler
from workbench.svgt.curriculum.stages import StageTask
from workbench.svgt.value_module import ValueModule
from workbench.training_state import load_optimizer_tensors, optimizer_tensors


@dataclass(frozen=True)
class TrainingEvent:
    """One step, for whoever watches.

    Attributes:
        stage: The stage's name.
        step: Steps done, counted from 1; 0 is the state before the stage.
        n_steps: Steps of this stage.
        losses: Training losses of this step.
        metrics: Validation metrics, where this step was followed by an evaluation.
    """

    stage: StageName
    step: int
    n_steps: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float] | None = None


OnEvent = Callable[[TrainingEvent], None]


@dataclass
class TrainingState:
    """Where a training stands, and what it found so far.

    Attributes:
        stage: Index of the running stage.
        step: Steps done in it.
        best: The best weights of the stage so far.
        best_selection: Their value of the selection criterion.
        history: Every validation so far, one row each.
        losses: The training losses of every step so far, one row each.
    """

    stage: int = 0
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_selection: float = float("inf")
    history: list[dict[str, object]] = field(default_factory=list)
    losses: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class StateFile:
    """The file from which a killed training goes on; without a path nothing is written."""

    path: Path | None

    def save(
        self, state: TrainingState, module: ValueModule, optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Write weights, best weights, optimiser and position, atomically."""
        if self.path is None:
            return
        tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in state.best.items()}
        if optimizer is not None:
            tensors |= optimizer_tensors(optimizer, "adamw")
        position = {
            "stage": state.stage,
            "step": state.step,
            "best_selection": state.best_selection,
            "history": state.history,
            "losses": state.losses,
        }
        contiguous = {name: value.detach().clone() for name, value in tensors.items()}
        write_tensors(self.path, contiguous, {"position": json.dumps(position)})

    def load(self, module: ValueModule) -> tuple[TrainingState, dict[str, Tensor]]:
        """Put the saved weights into the module; gives the position and the optimiser's tensors.

        Raises:
            CheckpointError: The file is of another configuration.
            RunError: It is damaged.
        """
        if self.path is None or not self.path.exists():
            return TrainingState(), {}
        tensors, metadata = read_tensors(self.path)
        try:
            position = json.loads(metadata["position"])
            state = TrainingState(**position, best=_with_prefix(tensors, "best."))
            module.load_state_dict(_with_prefix(tensors, "module."))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path} does not belong to this training; start anew in another folder"
            ) from error
        return state, {n: v for n, v in tensors.items() if n.startswith("adamw.")}


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _step_seed(seed: int, state: TrainingState) -> int:
    drawn = np.random.SeedSequence([seed, state.stage, state.step]).generate_state(1, np.uint64)
    return int(drawn[0] >> np.uint64(1))


def _rate_share(task: StageTask, step: int, n_steps: int) -> float:
    return 1.0 if task.stage.schedule == "constant" else (n_steps - step) / n_steps


def _evaluation_steps(n_steps: int, evaluations: int) -> set[int]:
    return {round(n_steps * (i + 1) / evaluations) for i in range(evaluations)}


@contextmanager
def _step_remedied(task: StageTask) -> Iterator[None]:
    """Within, memory that runs out is that of what a step learns from, a setting of the stage."""
    remedy = (
        f"lower curriculum.{task.name}.batch_size (now {task.stage.batch_size}), the examples of a "
        "step, in the configuration, or leave long examples out"
    )
    with remedied_by(remedy), memory_named(f"learning in stage {task.name}", remedy):
        yield


@contextmanager
def _divergence_named(task: StageTask, state: TrainingState) -> Iterator[None]:
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(
            f"stage {task.name} diverged at step {state.step}: {error}; lower the learning rate"
        ) from error


def _evaluate(task: StageTask, state: TrainingState) -> dict[str, float]:
    task.module.eval()
    with _divergence_named(task, state):
        metrics = task.validate()
        if not np.isfinite(metrics["selection"]):
            raise NonFiniteError(f"its validation loss is {metrics['selection']}")
    task.module.train()
    if metrics["selection"] < state.best_selection:
        state.best_selection = metrics["selection"]
        state.best = {n: v.detach().clone() for n, v in task.module.state_dict().items()}
    state.history.append({"stage": task.name, "step": state.step, **metrics})
    return metrics


def run_stage(
    task: StageTask,
    state: TrainingState,
    optimizer_state: Mapping[str, Tensor],
    file: StateFile,
    *,
    seed: int,
    on_event: OnEvent,
) -> None:
    """Run one stage from where ``state`` stands and leave the module at the stage's best weights.

    Raises:
        NonFiniteError: A loss became NaN or infinite; the last saved state is untouched.
    """
    task.enter()
    groups = task.groups()
    peaks = [group.learning_rate for group in groups]
    optimizer = torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": group.learning_rate} for group in groups],
        weight_decay=task.stage.weight_decay,
    )
    load_optimizer_tensors(optimizer, optimizer_state, "adamw")
    n_steps = task.stage.n_steps(task.n_examples)
    evaluate_at = _evaluation_steps(n_steps, task.stage.evaluations)
    learning = [parameter for group in groups for parameter in group.parameters]
    if state.step == 0:
        metrics = _evaluate(task, state)
        on_event(TrainingEvent(task.name, 0, n_steps, {}, metrics))
    while state.step < n_steps:
        torch.manual_seed(_step_seed(seed, state))
        with _step_remedied(task), _divergence_named(task, state):
            losses = task.losses(StepSampler(seed, state.stage, state.step))
            if not bool(losses["total"].isfinite()):
                raise NonFiniteError("its loss is not finite")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(losses["total"])
        if task.stage.clip is not None:
            nn.utils.clip_grad_norm_(learning, task.stage.clip)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _rate_share(task, state.step, n_steps)
        optimizer.step()
        state.step += 1
        numbers = {name: float(value.detach()) for name, value in losses.items()}
        state.losses.append({"stage": task.name, "step": state.step, **numbers})
        metrics_now = _evaluate(task, state) if state.step in evaluate_at else None
        if metrics_now is not None:
            file.save(state, task.module, optimizer)
        on_event(TrainingEvent(task.name, state.step, n_steps, numbers, metrics_now))
    task.module.load_state_dict(state.best)


def advance(state: TrainingState) -> None:
    """Move on to the next stage."""
    state.stage, state.step = state.stage + 1, 0
    state.best, state.best_selection = {}, float("inf")


def is_complete(state: TrainingState) -> bool:
    """Whether every stage is done."""
    return state.stage >= len(STAGES)
