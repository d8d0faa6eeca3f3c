"""From a variant to the guidance that is measured: train what must be trained, reuse the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from workbench.backbone.protocol import Backbone
from workbench.config import from_mapping
from workbench.evaluation.ablations.catalogue import (
    REFERENCE,
    Changes,
    Exchange,
    Variant,
    changed,
    changes_stage_3_only,
)
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.value_training import train_into_folder
from workbench.guidance.registry import find_value_module, shipped_configs
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.checkpoint import RECORD_FILE, load_value_module, read_checkpoint_record
from workbench.svgt.config import SVGTConfig
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.slots import ClosedRows
from workbench.svgt.value_module import ValueModule

Told = Callable[[str], OnEvent]
Anew = Literal["nothing", "stage 3", "all stages"]


@dataclass(frozen=True)
class Subject:
    """A variant of an ablation in a reference, at one seed.

    Attributes:
        ablation: The ablation's name; empty for the reference, which all ablations share.
        recipe: The reference's recipe.
        variant: What is different.
        seed: Of training and sampling.
    """

    ablation: str
    recipe: Recipe
    variant: Variant
    seed: int

    @property
    def key(self) -> str:
        """``REFERENCE`` or ``REFERENCE/ABLATION/VARIANT``: in records and folders."""
        name = self.recipe.module.name
        if self.variant.name == REFERENCE:
            return name
        return f"{name}/{self.ablation}/{self.variant.name}"

    @property
    def anew(self) -> Anew:
        """What is trained for it beside its reference's module."""
        if not self.variant.trained:
            return "nothing"
        recipe = changed(self.recipe, self.variant.trained)
        return "stage 3" if changes_stage_3_only(recipe, self.recipe) else "all stages"


@dataclass(frozen=True, eq=False)
class ModuleStore:
    """Where the value modules of a backbone come from.

    Attributes:
        backbone: The frozen model.
        folder: Where modules are trained: ``FOLDER/KEY/SEED``.
        elsewhere: Modules that are trained already, ``ELSEWHERE/BACKBONE/RECIPE/SEED``; None: no.
        told: Told of the steps of a training, by the name of what is trained.
    """

    backbone: Backbone
    folder: Path
    elsewhere: Path | None = None
    told: Told = lambda name: lambda event: None

    def reference(self, recipe: Recipe, seed: int) -> Path:
        """The folder of a recipe's own module: found, or trained."""
        found = self.find(recipe, seed)
        return found or self._train(recipe, recipe.module.name, seed, None)

    def variant(self, subject: Subject) -> Path:
        """The folder of a variant's module: the reference's where nothing is trained anew."""
        reference = self.reference(subject.recipe, subject.seed)
        if subject.anew == "nothing":
            return reference
        recipe = changed(subject.recipe, subject.variant.trained)
        shared = reference if subject.anew == "stage 3" else None
        return self._train(recipe, subject.key, subject.seed, shared)

    def missing(self, subject: Subject) -> dict[str, Anew]:
        """What must still be trained before a subject can be measured, by the name it will have."""
        missing: dict[str, Anew] = {}
        if self.find(subject.recipe, subject.seed) is None:
            missing[subject.recipe.module.name] = "all stages"
        if subject.anew != "nothing":
            missing[subject.key] = subject.anew
        return {
            key: anew
            for key, anew in missing.items()
            if not (self._folder(key, subject.seed) / RECORD_FILE).is_file()
        }

    def find(self, recipe: Recipe, seed: int) -> Path | None:
        """The folder of a recipe's own module where it need not be trained: it ships, or is there.

        Modules that were trained into ``folder`` are not looked for.
        """
        for folder in self._candidates(recipe.module.name, seed):
            if (folder / RECORD_FILE).is_file() and _is_of(folder, recipe.module):
                return folder
        return None

    def _folder(self, key: str, seed: int) -> Path:
        return self.folder / key / str(seed)

    def _candidates(self, name: str, seed: int) -> list[Path]:
        found = []
        if seed == 0 and name in shipped_configs(self.backbone):
            found.append(find_value_module(name, self.backbone))
        if self.elsewhere is not None:
            found.append(self.elsewhere / self.backbone.name / name / str(seed))
        return found

    def _train(self, recipe: Recipe, key: str, seed: int, earlier: Path | None) -> Path:
        out = self._folder(key, seed)
        train_into_folder(
            self.backbone,
            recipe,
            TestbedData(recipe.data),
            out,
            seed=seed,
            resume=True,
            earlier=earlier,
            on_event=self.told(key),
        )
        return out


def _is_of(folder: Path, config: SVGTConfig) -> bool:
    """Whether a module has exactly this configuration."""
    recorded = read_checkpoint_record(folder).config
    return from_mapping(SVGTConfig, recorded, where=str(folder / RECORD_FILE)) == config


def build_guidance(subject: Subject, store: ModuleStore) -> SVGTBridge:
    """Load a subject's module, change what is changed in use, and make a guidance of it.

    Raises:
        ConfigError: The variant does not fit the backbone.
        NonFiniteError: Its training diverged.
    """
    module = load_value_module(store.variant(subject), store.backbone)
    module = reconfigured(module, subject.variant.used).to(store.backbone.device)
    if subject.variant.exchange != "none":
        module.add_module("bridge", ExchangedBridge(module.bridge, subject.variant.exchange))
    decoding = subject.variant.decoding
    return SVGTBridge(
        module,
        gate_scale=decoding.gate_scale,
        refresh=decoding.refresh,
        momentum=decoding.momentum,
        closed_rows=_closed_rows(module.config),
    )


def reconfigured(module: ValueModule, changes: Changes) -> ValueModule:
    """The same weights under a changed configuration, frozen.

    Raises:
        ConfigError: The changed configuration is not valid.
    """
    if not changes:
        return module
    other = ValueModule(changed(module.config, changes))
    other.load_state_dict(module.state_dict())
    return other.freeze().eval()


def _closed_rows(config: SVGTConfig) -> ClosedRows:
    """Rows that stay closed equal the plain model wherever the gate is decided once."""
    decided_once = config.gate == "threshold" and config.trigger.mode == "prompt"
    return "plain" if decided_once else "shifted"


class ExchangedBridge(nn.Module):
    """A bridge that is written from another prompt's trigger state or correction.

    Rows are exchanged within the batch, each with the one before it. Only rows that are corrected
    at all exchange their corrections, so that no row loses or gains one.
    """

    def __init__(self, bridge: nn.Module, what: Exchange) -> None:
        super().__init__()
        self.bridge = bridge
        self.what = what

    def forward(
        self,
        trigger_state: Float[Tensor, "batch d_model"],
        delta_z: Float[Tensor, "batch d_value"],
        gate_scale: float = 1.0,
    ) -> Float[Tensor, "batch bridge d_model"]:
        """The inner bridge on exchanged rows."""
        if self.what == "state":
            trigger_state = trigger_state.roll(1, dims=0)
        else:
            delta_z = _exchanged(delta_z)
        written: Tensor = self.bridge(trigger_state, delta_z, gate_scale)
        return written


def _exchanged(delta_z: Float[Tensor, "batch d_value"]) -> Float[Tensor, "batch d_value"]:
    corrected = (delta_z != 0).any(dim=1).nonzero().squeeze(1)
    exchanged = delta_z.clone()
    exchanged[corrected] = delta_z[corrected.roll(1)]
    return exchanged
