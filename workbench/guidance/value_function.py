"""A value function on residual states: how safe the reply will be that passes through this state.

RE-Control (Kong et al., NeurIPS 2024, arXiv 2406.05954) sees decoding as a dynamical system with
states h_0, ..., h_T (the prompt's end, then every token of the reply, the end token last) and a
reward r for the whole reply: here 1 for a safe reply, 0 for a harmful one. V is an MLP with one
hidden ReLU layer,

    V(h) = w . relu(W (h - m) / u + b) + c

m the mean of the states and u their spread (one number: the root mean square of a coordinate of
h - m), both fixed, so that neither training nor step sizes depend on a backbone's scale. It is
trained by squared errors towards

    bellman  V(h_T) -> r,  V(h_t) -> V(h_{t+1}) as it stands now (no gradient through it); published
    return   V(h_t) -> r at every t: no bootstrapping, since every reply's reward is known
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from workbench.backbone.protocol import Backbone
from workbench.data.training import LabelledPair, SafeTarget, ValueData
from workbench.errors import ConfigError, DataError, NonFiniteError
from workbench.svgt.curriculum.state_bank import PairBank, bank_pairs

ValueTarget = Literal["bellman", "return"]


@dataclass(frozen=True)
class ValueTraining:
    """How a value function is built and trained.

    Attributes:
        target: What V learns, see the module.
        hidden: Width of the hidden layer; None: that of the states, as published.
        updates: Optimiser steps (Adam).
        batch_size: States a step, drawn from all replies alike.
        learning_rate: Of Adam, falling to zero linearly.
    """

    target: ValueTarget = "bellman"
    hidden: int | None = None
    updates: int = 1500
    batch_size: int = 512
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(
                f"training.hidden = {self.hidden}: must be positive, or null for the states' width"
            )
        if self.updates < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ConfigError(
                "training.updates and batch_size must be at least 1, learning_rate positive"
            )


class ValueFunction(nn.Module):
    """V, see the module."""

    mean: Float[Tensor, " d_model"]
    unit: Float[Tensor, ""]

    def __init__(self, d_model: int, hidden: int) -> None:
        """Build an untrained V from torch's global random generator."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("unit", torch.ones(()))
        self.hidden = nn.Linear(d_model, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The value of each state."""
        standard = (states - self.mean) / self.unit
        value: Tensor = self.out(functional.relu(self.hidden(standard)))
        return value.squeeze(-1)

    def standardise(self, states: Float[Tensor, "token d_model"]) -> None:
        """Take mean and spread from these states.

        Raises:
            DataError: They do not differ.
        """
        mean = states.mean(dim=0)
        unit = torch.linalg.vector_norm(states - mean) / math.sqrt(states.numel())
        if not float(unit) > 0:
            raise DataError("all states are the same: a value function needs different ones")
        self.mean.copy_(mean)
        self.unit.copy_(unit)

    def gradient(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The gradient of V at each state, apart from any graph the states stand in."""
        # Outside inference mode a clone of an inference tensor can carry gradients.
        with torch.inference_mode(False), torch.enable_grad():
            point = states.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(point).sum(), point)
        return gradient

    def ascend(
        self, states: Float[Tensor, "*batch d_model"], step_size: float, n_steps: int
    ) -> Float[Tensor, "*batch d_model"]:
        """Where ``n_steps`` steps of gradient ascent lead from each state, as a displacement.

        A step is ``step_size * unit^2 * gradient``: gradient ascent by ``step_size`` on states
        measured in units of their spread. Negative step sizes descend.
        """
        shift = torch.zeros_like(states)
        for _ in range(n_steps):
            shift = shift + step_size * self.unit**2 * self.gradient(states + shift)
        return shift


def build_value_function(d_model: int, training: ValueTraining, *, seed: int) -> ValueFunction:
    """An untrained V; torch's global generators are as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        return ValueFunction(d_model, training.hidden or d_model)


@dataclass(frozen=True, eq=False)
class ValueExamples:
    """States along labelled replies, reply after reply, each from the prompt's end to its last.

    Attributes:
        states: One row a state.
        rewards: 1 where the reply that passes through the state is safe, else 0.
        last: True at the last state of each reply.
    """

    states: Float[Tensor, "token d_model"]
    rewards: Float[Tensor, " token"]
    last: Bool[Tensor, " token"]


def read_value_examples(backbone: Backbone, data: ValueData, layer: int) -> ValueExamples:
    """Run the backbone over all labelled replies: the pairs, and both replies of the targets.

    Raises:
        DataError: There are no safe, or no harmful replies.
    """
    pairs = [*data.pairs, *(pair for target in data.targets for pair in _both_replies(target))]
    if {pair.harmful for pair in pairs} != {True, False}:
        raise DataError("a value function needs safe and harmful replies to learn from")
    return lay_out(bank_pairs(backbone, pairs, layer=layer, n_slots=0))


def _both_replies(target: SafeTarget) -> list[LabelledPair]:
    replies = [LabelledPair(target.prompt, target.safe_response, False, target.group)]
    if target.harmful_response is not None:
        replies.append(LabelledPair(target.prompt, target.harmful_response, True, target.group))
    return replies


def lay_out(bank: PairBank) -> ValueExamples:
    """The states of each reply after the one at its prompt's end, replies one after the other."""
    ends = bank.prompt.tokens[bank.prompt.lengths.cumsum(0) - 1]
    lengths = bank.response.lengths + 1
    stops = lengths.cumsum(0)
    total = int(lengths.sum())
    first = torch.zeros(total, dtype=torch.bool, device=ends.device)
    first[stops - lengths] = True
    states = ends.new_empty((total, ends.shape[1]))
    states[first], states[~first] = ends, bank.response.tokens
    rewards = 1.0 - bank.labels.to(ends.device)
    return ValueExamples(states, rewards.repeat_interleave(lengths), first.roll(-1))


def value_loss(
    value: ValueFunction,
    examples: ValueExamples,
    index: Int[Tensor, " batch"],
    target: ValueTarget,
) -> Float[Tensor, ""]:
    """Mean squared error of V at some states against what it is to learn there.

    The examples may stand elsewhere than V: the rows that are looked at go to its device.
    """
    device = value.mean.device
    wanted = examples.rewards[index].to(device)
    if target == "bellman":
        with torch.no_grad():
            following = value(examples.states[(index + 1) % len(examples.states)].to(device))
        wanted = torch.where(examples.last[index].to(device), wanted, following)
    return functional.mse_loss(value(examples.states[index].to(device)), wanted)


def train_value_function(
    examples: ValueExamples,
    training: ValueTraining,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> ValueFunction:
    """Train V on a device; torch's global generator is as before afterwards.

    Raises:
        DataError: The states do not differ.
        NonFiniteError: The training diverged.
    """
    value = build_value_function(examples.states.shape[1], training, seed=seed).to(device)
    value.standardise(examples.states)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(value.parameters(), lr=training.learning_rate)
    for step in range(training.updates):
        index = torch.randint(len(examples.states), (training.batch_size,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * (1 - step / training.updates)
        loss = value_loss(value, examples, index, training.target)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        on_step(step + 1, training.updates)
    if not bool(loss.isfinite()):
        raise NonFiniteError("the value function diverged: lower training.learning_rate")
    return value.requires_grad_(False).eval()
