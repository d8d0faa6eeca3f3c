"""RE-Control: gradient ascent on a value function of the states, at every token anew.

    h <- h + strength * grad V(h)      n_steps times, h in units of the states' spread

at the residual stream after one block, at the prompt's end and at every generated token (Kong et
al., NeurIPS 2024, arXiv 2406.05954). V is an MLP that learned the reward of whole replies from
states along them, see :mod:`workbench.guidance.value_function`. The paper edits the last block,
where an edit reaches the next token alone; below it, later tokens read the edited states too.

Departure: in the paper V learns from replies that the model itself was sampled for, scored by a
reward model. Here it learns from the training split's own replies with their labels, as every other
method does: states of texts that the model might not have written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import ValueData
from workbench.errors import ConfigError
from workbench.guidance.artifact import load_artifact, read_config, save_artifact, take_tensors
from workbench.guidance.editing import ActivationEdit, EditingSession
from workbench.guidance.fitting import check_place, layers_at, require_layer
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession
from workbench.guidance.value_function import (
    ValueFunction,
    ValueTraining,
    build_value_function,
    read_value_examples,
    train_value_function,
)
from workbench.svgt.recipes import default_layer

NAME = "re-control"


@dataclass(frozen=True)
class ReControlConfig:
    """Where and how far RE-Control moves.

    Attributes:
        layer: The block after which states are moved.
        strength: Step size of the ascent, states in units of their spread.
        n_steps: Steps a token.
        training: Of the value function; neither strength nor n_steps changes what it learns.
    """

    layer: int
    strength: float = 2.0
    n_steps: int = 10
    training: ValueTraining = field(default_factory=ValueTraining)

    def __post_init__(self) -> None:
        check_place(self.layer, self.strength)
        if self.n_steps < 0:
            raise ConfigError(f"n_steps = {self.n_steps}: must not be negative")


@dataclass(frozen=True, eq=False)
class ReControl(WithoutSlots):
    """RE-Control with a trained value function.

    Attributes:
        config: Layer, step size and number of steps.
        value: V.
        factor: Multiplies the step size: 0 moves nothing, -1 descends.
    """

    config: ReControlConfig
    value: ValueFunction
    factor: float = 1.0

    @property
    def name(self) -> str:
        """``re-control``."""
        return NAME

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that moves the states at one layer."""
        return EditingSession(
            backbone, [ActivationEdit("residual", self.config.layer, self.displacement)]
        )

    def displacement(
        self, states: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What is added to residual states, each by itself."""
        return self.value.ascend(
            states.to(self.value.mean.dtype), self.coefficient, self.config.n_steps
        )

    @classmethod
    def fit(
        cls,
        backbone: Backbone,
        data: ValueData,
        config: ReControlConfig,
        *,
        seed: int,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> "ReControl":
        """Train V on the pairs and on both replies of the targets.

        Raises:
            ConfigError: The backbone has no such layer.
            DataError: There are no safe, or no harmful replies.
            NonFiniteError: The training diverged.
        """
        require_layer(backbone, config.layer)
        examples = read_value_examples(backbone, data, config.layer)
        value = train_value_function(
            examples, config.training, seed=seed, device=backbone.device, on_step=on_step
        )
        return cls(config, value)

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write configuration and V.

        Raises:
            CheckpointError: A weight is NaN.
            RunError: The files cannot be written.
        """
        save_artifact(
            folder, NAME, self.config, self.value.state_dict(), backbone=backbone, about=about
        )

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> "ReControl":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`.
        """
        artifact = load_artifact(folder, NAME, backbone)
        config = read_config(artifact, ReControlConfig, folder)
        value = build_value_function(backbone.d_model, config.training, seed=0)
        shapes = {name: tuple(tensor.shape) for name, tensor in value.state_dict().items()}
        value.load_state_dict(take_tensors(artifact, shapes, folder))
        return cls(config, value.requires_grad_(False).eval().to(backbone.device))


def grid(backbone: Backbone) -> tuple[ReControlConfig, ...]:
    """The last block, as published, and those that end the first and the second third."""
    layers = (*layers_at(backbone, 0.3), default_layer(backbone.n_layers), backbone.n_layers - 1)
    return tuple(
        ReControlConfig(layer, strength)
        for layer in dict.fromkeys(layers)
        for strength in (0.5, 1.0, 2.0, 3.0, 5.0)
    )


FITTED: tuple[Method, ...] = (
    Method(
        name=NAME,
        title="RE-Control",
        source="arXiv 2406.05954",
        config_type=ReControlConfig,
        grid=grid,
        fit=ReControl.fit,
        load=ReControl.load,
        decoding_fields=("strength", "n_steps"),
    ),
)
