"""From a value module's correction to a shift of the residual stream, and how that is learned.

    Delta = open * strength * u * (W_2 GELU(W_1 delta_z + b_1) + b_2)

with delta_z the value module's correction, read once from the prompt, ``open`` its gate, and u the
scale of the residual stream per coordinate at l*. Delta is added at the output of block l*, at the
prompt's end and at every generated token. W_2 and b_2 start at zero: untrained is unguided.

Only W and b learn, by the loss of stage 3 (:mod:`workbench.svgt.objectives`), the trigger state h
shifted by Delta in the place of the bridge tokens:

    L = ce * CE(safe response | prompt, Delta) + safety * mean(softplus(s) + 2 relu(s))
      + norm * relu(| ||h + Delta|| / ||h|| - 1 | - 0.2)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.errors import ConfigError, NonFiniteError
from workbench.guidance.editing import ActivationEdit, EditingSession
from workbench.guidance.protocol import DecoderPass, Reading, whole_pass
from workbench.svgt.curriculum.sampling import StepSampler
from workbench.svgt.curriculum.stages import TokenisedTargets
from workbench.svgt.latent_bridge import residual_unit
from workbench.svgt.objectives import (
    IGNORED,
    BridgeLoss,
    BridgeLossWeights,
    combine,
    norm_penalty,
    response_cross_entropy,
    safety_penalty,
)
from workbench.svgt.slots import forward_with_slots
from workbench.svgt.value_module import BridgeWrite, ValueModule
from workbench.svgt.value_space import last_valid

_STAGE = 2  # of the curriculum: the loss, and so the order of the examples, is stage 3's


@dataclass(frozen=True)
class ShiftTraining:
    """How the map from corrections to shifts is trained.

    Attributes:
        loss: Weights of the three terms; those of the ``workbench`` recipe.
        updates: Optimiser steps (AdamW).
        batch_size: Examples a step.
        learning_rate: Of AdamW, falling to zero linearly.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
    """

    loss: BridgeLossWeights = field(
        default_factory=lambda: BridgeLossWeights(ce=1.0, safety=0.0, norm=0.1)
    )
    updates: int = 200
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.updates < 1 or self.batch_size < 1:
            raise ConfigError("training.updates and batch_size must be at least 1")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ConfigError(
                "training.learning_rate and clip must be positive, weight_decay not negative"
            )


class ShiftMap(nn.Module):
    """From a correction in value space to a shift of the residual stream; see the module."""

    unit: Float[Tensor, ""]

    def __init__(self, d_value: int, d_model: int) -> None:
        """Build a map that gives zero for everything."""
        super().__init__()
        self.hidden = nn.Linear(d_value, d_model)
        self.out = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("unit", torch.ones(()))

    def forward(self, delta_z: Float[Tensor, "batch d_value"]) -> Float[Tensor, "batch d_model"]:
        """The shift of each row at strength 1."""
        shift: Tensor = self.unit * self.out(functional.gelu(self.hidden(delta_z)))
        return shift


@dataclass(frozen=True, eq=False)
class Steering:
    """What was decided for each row of a batch, once, from its prompt.

    Attributes:
        decided: Score, correction and gate, as the value module gives them.
        trigger_state: h: the prompt's last state after block l*, before the shift.
        shift: Delta, zero where the gate is closed.
    """

    decided: BridgeWrite
    trigger_state: Float[Tensor, "batch d_model"]
    shift: Float[Tensor, "batch d_model"]


class ShiftSession(EditingSession):
    """Decides on the shift while the prompt is read, in that same pass, and adds it from then on.

    Positions of rows with a closed gate count as edited, by zero.

    Args:
        module: The value module; a trigger that could follow the response reads the prompt too.
        shift: The map.
        strength: Multiplies the shift.
        backbone: The frozen model.
        prompt: The encoded prompts.
    """

    def __init__(
        self,
        module: ValueModule,
        shift: ShiftMap,
        strength: float,
        backbone: Backbone,
        prompt: TokenBatch,
    ) -> None:
        super().__init__(backbone, [ActivationEdit("residual", module.config.layer, self._shifts)])
        self._module, self._shift, self._strength = module, shift, strength
        self._backbone, self._prompt = backbone, prompt
        self._below: Mapping[int, Tensor] = {}
        self._steering: Steering | None = None

    @property
    def steering(self) -> Steering:
        """What was decided in the prompt pass."""
        assert self._steering is not None, "the prompt pass comes first"
        return self._steering

    def during(self, call: DecoderPass) -> AbstractContextManager[None]:
        """The edit, and in the prompt pass what the trigger reads below it."""
        edit = super().during(call)
        return self._deciding(edit) if call.step == 0 else edit

    @contextmanager
    def _deciding(self, edit: AbstractContextManager[None]) -> Iterator[None]:
        self._steering = None
        layer = self._module.config.layer
        below = [read for read in self._module.capture_layers if read != layer]
        with self._backbone.capture(below) as self._below, edit:
            yield
        self._below = {}

    def _shifts(
        self, states: Float[Tensor, "batch query d_model"]
    ) -> Float[Tensor, "batch query d_model"]:
        if self._steering is None:
            self._steering = self._decide(states)
        return self._steering.shift[:, None, :].expand_as(states)

    def _decide(self, at_layer: Float[Tensor, "batch query d_model"]) -> Steering:
        columns = slice(0, self._prompt.ids.shape[1])
        read = {**self._below, self._module.config.layer: at_layer}
        on_prompt = {layer: state[:, columns].detach().float() for layer, state in read.items()}
        with torch.no_grad():
            decided = self._module.write_bridge(on_prompt, self._prompt.mask)
        shift = self._strength * self._shift(decided.delta_z)
        return Steering(
            decided,
            last_valid(on_prompt[self._module.config.layer], self._prompt.mask),
            torch.where(decided.open[:, None], shift, 0.0),
        )

    def reading(self) -> Reading | None:
        """Score, correction and gate, the same for every token."""
        decided = self.steering.decided
        return Reading(decided.score, decided.delta_z.norm(dim=-1), decided.open)


def shift_loss(
    module: ValueModule,
    shift: ShiftMap,
    backbone: Backbone,
    rows: TokenisedTargets,
    weights: BridgeLossWeights,
) -> BridgeLoss:
    """The loss of stage 3 on a few examples, in one steered pass."""
    session = ShiftSession(module, shift, 1.0, backbone, rows.prompt)
    layer = module.config.response_layer
    with session.during(whole_pass(rows.prompt, rows.response)):
        steered = forward_with_slots(
            backbone, rows.prompt, rows.response, None, capture_layers=[layer]
        )
    found, scored = session.steering, steered.states[layer]
    return combine(
        response_cross_entropy(
            steered.response_logits, rows.response.ids.masked_fill(~rows.response.mask, IGNORED)
        ),
        safety_penalty(
            module.score_response(
                scored.prompt.float(),
                scored.response.float(),
                rows.prompt.mask,
                rows.response.mask,
            )
        ),
        norm_penalty((found.trigger_state + found.shift)[:, None, :], found.trigger_state),
        weights,
    )


def train_shift(
    module: ValueModule,
    backbone: Backbone,
    targets: TokenisedTargets,
    training: ShiftTraining,
    *,
    seed: int,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> ShiftMap:
    """Train the map; module and backbone stay as they are, and so do torch's random numbers.

    Raises:
        NonFiniteError: The training diverged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        shift = ShiftMap(module.config.d_value, backbone.d_model)
    shift.to(backbone.device).unit.copy_(_state_unit(module, backbone, targets))
    optimizer = torch.optim.AdamW(
        shift.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    for step in range(training.updates):
        index = StepSampler(seed, _STAGE, step).draw(len(targets), training.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * (1 - step / training.updates)
        loss = shift_loss(module, shift, backbone, targets.rows(index), training.loss)
        if not bool(loss.total.isfinite()):
            raise NonFiniteError(f"the shift diverged at step {step}: lower training.learning_rate")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        nn.utils.clip_grad_norm_(shift.parameters(), training.clip)
        optimizer.step()
        on_step(step + 1, training.updates)
    return shift.requires_grad_(False).eval()


def _state_unit(
    module: ValueModule, backbone: Backbone, targets: TokenisedTargets
) -> Float[Tensor, ""]:
    """Scale per coordinate of the prompts' last states at l*."""
    layer = module.config.layer
    states = backbone.read_states(targets.prompt, [layer])[layer]
    return residual_unit(last_valid(states, targets.prompt.mask))
