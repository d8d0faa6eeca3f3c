"""SVGT-Inject: SVGT's correction added to the residual stream, without a bridge.

The baseline of the SVGT paper (arXiv 2605.11712) that asks what the bridge tokens add: encoder,
trigger, discriminator, correction and gate are those of a trained value module, unchanged; but
where SVGT writes bridge tokens, a learned map turns the correction into one vector, which is added
after block l* at the prompt's end and at every generated token. See
:mod:`workbench.guidance.value_shift`. The gate means what it means for the bridge: a row where it
stays closed is the plain model, bit for bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.config import from_mapping, to_mapping
from workbench.data.training import ValueData
from workbench.errors import CheckpointError, ConfigError, DataError
from workbench.guidance.artifact import (
    Artifact,
    load_artifact,
    read_config,
    save_artifact,
    take_tensors,
)
from workbench.guidance.fitting import check_strength
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession
from workbench.guidance.registry import load_module
from workbench.guidance.value_shift import ShiftMap, ShiftSession, ShiftTraining, train_shift
from workbench.svgt.config import SVGTConfig
from workbench.svgt.curriculum.stages import tokenise_targets
from workbench.svgt.objectives import BridgeLossWeights
from workbench.svgt.recipes import DEFAULT_RECIPE
from workbench.svgt.value_module import ValueModule

NAME = "svgt-inject"
_MODULE, _SHIFT = "module.", "shift."
_MODULE_CONFIG = "value_module"


@dataclass(frozen=True)
class SVGTInjectConfig:
    """Which value module, how strongly, and how the map to the residual stream is trained.

    Attributes:
        module: A shipped value module's configuration, or a folder, as after ``svgt:``.
        strength: Multiplies the shift; the map is trained at 1.
        training: Of the map; strength does not change what it learns.
    """

    module: str = DEFAULT_RECIPE
    strength: float = 1.0
    training: ShiftTraining = field(default_factory=ShiftTraining)

    def __post_init__(self) -> None:
        check_strength(self.strength)


@dataclass(frozen=True, eq=False)
class SVGTInject(WithoutSlots):
    """SVGT-Inject with a trained value module and a trained map.

    Attributes:
        config: Strength, and how it was made.
        module: The value module, frozen.
        shift: The map from corrections to shifts.
        factor: Multiplies the strength: 0 adds nothing, -1 takes away.
    """

    config: SVGTInjectConfig
    module: ValueModule
    shift: ShiftMap
    factor: float = 1.0

    @property
    def name(self) -> str:
        """``svgt-inject``."""
        return NAME

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that decides on each prompt and shifts the states."""
        return ShiftSession(self.module, self.shift, self.coefficient, backbone, prompt)

    @classmethod
    def fit(
        cls,
        backbone: Backbone,
        data: ValueData,
        config: SVGTInjectConfig,
        *,
        seed: int,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> "SVGTInject":
        """Train the map on the targets' safe replies.

        Raises:
            CheckpointError: There is no such value module for this backbone.
            DataError: There are no targets.
            NonFiniteError: The training diverged.
        """
        if not data.targets:
            raise DataError("svgt-inject learns from safe replies, and the data hold none")
        with torch.random.fork_rng(devices=[]):
            module = load_module(config.module, backbone)
        targets = tokenise_targets(backbone, data.targets)
        shift = train_shift(module, backbone, targets, config.training, seed=seed, on_step=on_step)
        return cls(config, module, shift)

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write configuration, map and value module: nothing else is needed to load it.

        Raises:
            CheckpointError: A weight is NaN.
            RunError: The files cannot be written.
        """
        save_artifact(
            folder,
            NAME,
            self.config,
            _named(self.module, self.shift),
            backbone=backbone,
            about={**(about or {}), _MODULE_CONFIG: to_mapping(self.module.config)},
        )

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> "SVGTInject":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`; or the value
                module's configuration is missing or does not fit.
        """
        artifact = load_artifact(folder, NAME, backbone)
        config = read_config(artifact, SVGTInjectConfig, folder)
        settings = _module_config(artifact, folder)
        with torch.random.fork_rng(devices=[]):
            module, shift = ValueModule(settings), ShiftMap(settings.d_value, backbone.d_model)
        shapes = {name: tuple(value.shape) for name, value in _named(module, shift).items()}
        tensors = take_tensors(artifact, shapes, folder)
        module.load_state_dict(_part(tensors, _MODULE))
        shift.load_state_dict(_part(tensors, _SHIFT))
        return cls(
            config,
            module.freeze().eval().to(backbone.device),
            shift.requires_grad_(False).eval().to(backbone.device),
        )


def _named(module: ValueModule, shift: ShiftMap) -> dict[str, Tensor]:
    parts = ((_MODULE, module.state_dict()), (_SHIFT, shift.state_dict()))
    return {prefix + name: value for prefix, state in parts for name, value in state.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _module_config(artifact: Artifact, folder: str | Path) -> SVGTConfig:
    found = artifact.record.about.get(_MODULE_CONFIG)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"the artefact in {folder} does not say what its value module is")
    try:
        return from_mapping(SVGTConfig, found, where=f"{folder}: about.{_MODULE_CONFIG}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def grid(backbone: Backbone) -> tuple[SVGTInjectConfig, ...]:
    """The losses of the ``workbench`` recipe, once also for twice as long, and the published."""
    trainings = (
        ShiftTraining(),
        ShiftTraining(updates=400),
        ShiftTraining(loss=BridgeLossWeights()),
    )
    return tuple(
        SVGTInjectConfig(strength=strength, training=training)
        for training in trainings
        for strength in (0.5, 0.75, 1.0, 1.25, 1.5)
    )


FITTED: tuple[Method, ...] = (
    Method(
        name=NAME,
        title="SVGT-Inject",
        source="arXiv 2605.11712",
        config_type=SVGTInjectConfig,
        grid=grid,
        fit=SVGTInject.fit,
        load=SVGTInject.load,
        value_module="module",
    ),
)
