"""The refusal direction: added, or taken out of the stream.

    r = mean h_l(harmful prompts) - mean h_l(harmless prompts)      at a token of the prompt's end
    addition:   h_l <- h_l + strength r                at block l, all tokens
    ablation:   x   <- x - strength (r^ . x) r^        all tokens;  r^ = r / |r|
                x: the embeddings, what every attention writes, the stream that leaves every block

(Arditi et al., arXiv 2406.11717.) There, adding r makes chat models refuse even harmless requests,
and taking it out makes them comply with harmful ones. So addition is a rival of value guidance,
and ablation a **control with a known sign: it should raise harm**, not lower it. So it is measured
at full strength, and layer and position of r are those that do most harm on validation, as the
paper takes the direction whose ablation bypasses refusal best. Tuned for safety it would do best by
doing nothing.

At full strength no attention and no MLP reads anything along r^. Departures: the paper names layers
by what a block reads, here ``layer`` is the block that writes, one less; its search over positions
and layers is larger, and it drops directions that change harmless replies too much. Where a norm
stands between attention and stream (Gemma 2 and 3, OLMo 2, GLM 4), r^ is taken out before that
norm, so that what the norm turns back along r^ reaches the block's own MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import ValueData
from workbench.errors import ConfigError
from workbench.guidance.artifact import load_artifact, read_config, save_artifact, take_tensors
from workbench.guidance.editing import ActivationEdit, EditingSession, EditSite
from workbench.guidance.fitting import (
    check_place,
    class_means_apart,
    layers_at,
    prompt_token,
    read_residuals,
    require_classes,
    require_layer,
    require_length,
)
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession, SlotlessSession

ADDITION, ABLATION = "refusal-addition", "refusal-ablation"
_EMBEDDINGS = -1
_WRITES: tuple[EditSite, ...] = ("residual", "attention")

AlongT = TypeVar("AlongT", bound="_AlongRefusal")


@dataclass(frozen=True)
class RefusalAdditionConfig:
    """What is tuned.

    Attributes:
        layer: Block after which the direction is read and added.
        strength: Multiple of r; above 0 makes the model refuse.
        position: The prompt's token that is read, counted from the end (-1: the last).
        tokens: Where it is added: at ``all`` tokens as published, or from the prompt's last one on
            (``reply``).

    Raises:
        ConfigError: A value out of range.
    """

    layer: int
    strength: float = 1.0
    position: int = -1
    tokens: Literal["all", "reply"] = "all"

    def __post_init__(self) -> None:
        check_place(self.layer, self.strength)
        _check_position(self.position)


@dataclass(frozen=True)
class RefusalAblationConfig:
    """What is tuned.

    Attributes:
        layer: Block after which the direction is read; it is taken out everywhere.
        strength: Share of the component that is taken out, in [0, 1].
        position: The prompt's token that is read, counted from the end (-1: the last).

    Raises:
        ConfigError: A value out of range.
    """

    layer: int
    strength: float = 1.0
    position: int = -1

    def __post_init__(self) -> None:
        check_place(self.layer, self.strength)
        _check_position(self.position)
        if not 0 <= self.strength <= 1:
            raise ConfigError(
                f"strength = {self.strength}: ablation takes out a share between 0 and 1; 1 leaves "
                "nothing along the direction"
            )


def _check_position(position: int) -> None:
    if position >= 0:
        raise ConfigError(
            f"position = {position}: tokens are counted from the prompt's end, -1 is the last"
        )


def fit_refusal_direction(
    backbone: Backbone, data: ValueData, layer: int, position: int
) -> tuple[Float[Tensor, " d_model"], dict[str, object]]:
    """r, and how many prompts of each class it was taken from.

    Raises:
        ConfigError: No such layer.
        DataError: Too few prompts of a class, or r is zero.
    """
    require_layer(backbone, layer)
    harmful = torch.tensor([row.harmful for row in data.prompts], dtype=torch.bool)
    require_classes(harmful, "prompts")
    places = prompt_token(backbone, [row.prompt for row in data.prompts], position)
    direction = class_means_apart(read_residuals(backbone, places, layer), harmful)
    require_length(direction, "the refusal direction")
    n_harmful = int(harmful.sum())
    return direction, {"n_harmful": n_harmful, "n_harmless": len(harmful) - n_harmful}


@dataclass(frozen=True, eq=False)
class _AlongRefusal(WithoutSlots):
    """What addition and ablation share: the direction, and how it is fitted and stored."""

    config: RefusalAdditionConfig | RefusalAblationConfig
    direction: Float[Tensor, " d_model"]
    about: Mapping[str, object] = field(default_factory=dict)
    factor: float = 1.0

    method: ClassVar[str]
    config_type: ClassVar[type[Any]]

    @property
    def name(self) -> str:
        """Name in records."""
        return self.method

    @classmethod
    def fit(
        cls: type[AlongT],
        backbone: Backbone,
        data: ValueData,
        config: RefusalAdditionConfig | RefusalAblationConfig,
        *,
        seed: int,
    ) -> AlongT:
        """Take the difference of means over the labelled prompts; nothing is drawn by the seed.

        Raises:
            As :func:`fit_refusal_direction`.
        """
        return cls(config, *fit_refusal_direction(backbone, data, config.layer, config.position))

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write configuration and r; see :func:`workbench.guidance.artifact.save_artifact`."""
        save_artifact(
            folder,
            self.method,
            self.config,
            {"direction": self.direction},
            backbone=backbone,
            about={**self.about, **(about or {})},
        )

    @classmethod
    def load(cls: type[AlongT], folder: str | Path, backbone: Backbone) -> AlongT:
        """Read it back.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`.
        """
        artifact = load_artifact(folder, cls.method, backbone)
        config = read_config(artifact, cls.config_type, folder)
        tensors = take_tensors(artifact, {"direction": (backbone.d_model,)}, folder)
        return cls(config, tensors["direction"], artifact.record.about)


@dataclass(frozen=True, eq=False)
class RefusalAddition(_AlongRefusal):
    """The refusal direction added at one block.

    Attributes:
        config: Where it acts and how strongly.
        direction: r, in units of the residual stream.
        about: How many prompts of each class it was taken from.
        factor: 1 as tuned, 0 no guidance, -1 against refusal.
    """

    config: RefusalAdditionConfig
    method: ClassVar[str] = ADDITION
    config_type: ClassVar[type[Any]] = RefusalAdditionConfig

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that adds r; none of its hooks where nothing is to be added."""
        if self.coefficient == 0:
            return SlotlessSession()
        step = self.coefficient * self.direction.to(backbone.device)
        everywhere = self.config.tokens == "all"
        edit = ActivationEdit("residual", self.config.layer, step.expand_as, everywhere)
        return EditingSession(backbone, [edit])


@dataclass(frozen=True, eq=False)
class RefusalAblation(_AlongRefusal):
    """The refusal direction taken out of everything that is written into the stream.

    Attributes:
        config: Where it was read and how much is taken out.
        direction: r; only where it points matters.
        about: How many prompts of each class it was taken from.
        factor: 1 as configured, 0 no guidance, -1 adds as much as 1 takes out.

    Raises:
        ConfigError: More than the whole component would be taken out.
    """

    config: RefusalAblationConfig
    method: ClassVar[str] = ABLATION
    config_type: ClassVar[type[Any]] = RefusalAblationConfig

    def __post_init__(self) -> None:
        if abs(self.coefficient) > 1:
            raise ConfigError(
                f"{ABLATION} at {self.factor} times {self.config.strength}: the share that is "
                "taken out lies in [-1, 1]; choose a smaller factor"
            )

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that takes r^ out; none of its hooks where nothing is to be taken out."""
        if self.coefficient == 0:
            return SlotlessSession()
        unit = (self.direction / self.direction.norm()).to(backbone.device)
        share = self.coefficient

        def change(states: Tensor) -> Tensor:
            along: Tensor = (states.float() @ unit)[..., None] * unit
            return -share * along

        blocks = range(backbone.n_layers)
        places: list[tuple[EditSite, int]] = [("residual", _EMBEDDINGS)]
        places += [(site, layer) for site in _WRITES for layer in blocks]
        return EditingSession(
            backbone, [ActivationEdit(*place, change, everywhere=True) for place in places]
        )


def addition_grid(backbone: Backbone) -> tuple[RefusalAdditionConfig, ...]:
    """Two depths, all tokens or the reply's, and four strengths."""
    return tuple(
        RefusalAdditionConfig(layer, strength, tokens=tokens)
        for layer in layers_at(backbone, 0.6, 0.8)
        for tokens in _TOKENS
        for strength in (0.25, 0.5, 0.75, 1.0)
    )


def ablation_grid(backbone: Backbone) -> tuple[RefusalAblationConfig, ...]:
    """Four depths and the prompt's last two tokens; always the whole component."""
    return tuple(
        RefusalAblationConfig(layer, position=position)
        for layer in layers_at(backbone, 0.2, 0.4, 0.6, 0.8)
        for position in (-1, -2)
    )


_TOKENS: tuple[Literal["all", "reply"], ...] = ("all", "reply")

FITTED = (
    Method(
        name=ADDITION,
        title="Refusal direction added",
        source="Arditi et al., arXiv 2406.11717",
        config_type=RefusalAdditionConfig,
        grid=addition_grid,
        fit=RefusalAddition.fit,
        load=RefusalAddition.load,
    ),
    Method(
        name=ABLATION,
        title="Refusal direction taken out (control: raises harm)",
        source="Arditi et al., arXiv 2406.11717",
        config_type=RefusalAblationConfig,
        grid=ablation_grid,
        fit=RefusalAblation.fit,
        load=RefusalAblation.load,
        aim="harm",
    ),
)
