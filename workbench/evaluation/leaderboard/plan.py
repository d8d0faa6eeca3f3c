"""What a leaderboard measures: entrants, seeds and splits, cut into shards.

An entrant is a method at one seed: ``seed`` is the seed it was fitted or trained with, and the seed
of the random numbers with which its replies are drawn. The prompts are the same for all of them.
Everything here is a plain record, so that a shard can be sent to another process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from workbench.config import to_mapping
from workbench.errors import ConfigError
from workbench.evaluation.benchmark import EvaluationConfig
from workbench.guidance.registry import DEFAULT_CONFIG, GuidanceSpec
from workbench.svgt.curriculum.recipe import DataConfig
from workbench.testbed.frames import FRAMES
from workbench.testbed.splits import TEST_SPLITS

BASELINE = "none"
REFERENCE = "svgt"
RUN_KIND = "benchmark"


@dataclass(frozen=True)
class BackboneSource:
    """How any process finds the backbone.

    Attributes:
        name: Embedded name, checkpoint folder or Hugging Face id.
        device: Torch device.
        dtype: Number type of its weights.
    """

    name: str
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class PromptPlan:
    """Which prompts of the embedded world are asked.

    Attributes:
        splits: Names of the splits.
        n_per_kind: Prompts of each kind and split.
        seed: Of the prompts; the same for every entrant.
    """

    splits: tuple[str, ...] = TEST_SPLITS
    n_per_kind: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Entrant:
    """One method at one seed.

    Attributes:
        method: Its name in the leaderboard, see :func:`method_name`.
        spec: What its rows say under ``guidance`` and ``config``; no path of one machine.
        seed: Of the fit and of the sampling.
        source: Folder of the weights or of the fitted artefact; empty for what has none.
        identity: What tells it from others of the same name: hash or configuration.
        fit: Configuration to fit into ``source`` first; None where it is there already.
    """

    method: str
    spec: GuidanceSpec
    seed: int
    source: str = ""
    identity: Mapping[str, object] = field(default_factory=dict)
    fit: Mapping[str, object] | None = None

    @property
    def loaded_as(self) -> GuidanceSpec:
        """What the registry loads."""
        return GuidanceSpec(self.spec.family, self.source)


@dataclass(frozen=True)
class ShardKey:
    """One entrant on one split."""

    method: str
    seed: int
    split: str


@dataclass(frozen=True)
class Plan:
    """A whole leaderboard of one backbone.

    Attributes:
        backbone: Where the backbone is found.
        backbone_name, weights_hash: What it is.
        entrants: Every method at every seed, in the order of the table.
        prompts: What is asked.
        decoding: How replies are generated.
        data: What methods are fitted on.
        notes: What a reader must know, for example that seeds are missing.
    """

    backbone: BackboneSource
    backbone_name: str
    weights_hash: str
    entrants: Sequence[Entrant]
    prompts: PromptPlan
    decoding: EvaluationConfig
    data: DataConfig
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        named = [(entrant.method, entrant.seed) for entrant in self.entrants]
        twice = [key for index, key in enumerate(named) if key in named[:index]]
        if twice:
            method, seed = twice[0]
            raise ConfigError(f"{method} enters twice with seed {seed}; name every method once")

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names in the order of the table."""
        return tuple(dict.fromkeys(entrant.method for entrant in self.entrants))

    def shards(self) -> list[tuple[ShardKey, Entrant]]:
        """Every shard, in the order in which rows stand in the end."""
        return [
            (ShardKey(entrant.method, entrant.seed, split), entrant)
            for entrant in self.entrants
            for split in self.prompts.splits
        ]

    def describe(self) -> dict[str, object]:
        """What a run folder keeps; a resumed run may add to it, see :func:`grows_into`."""
        return {
            "backbone": self.backbone_name,
            "weights_hash": self.weights_hash,
            "methods": {method: self._identity(method) for method in self.methods},
            "prompts": to_mapping(self.prompts),
            "decoding": to_mapping(self.decoding),
            "data": to_mapping(self.data),
        }

    def _identity(self, method: str) -> dict[str, object]:
        """Its seeds, and what tells the weights or the fit of each from others."""
        entered = [entrant for entrant in self.entrants if entrant.method == method]
        return {
            "seeds": [entrant.seed for entrant in entered],
            **{str(entrant.seed): dict(entrant.identity) for entrant in entered},
        }


def grows_into(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a plan so described measures all that the old one does, and more.

    More methods and more seeds may come; what is there keeps its weights, prompts and decoding.
    """
    if any(old[key] != new.get(key) for key in old if key != "methods"):
        return False
    entered = new["methods"]
    return all(
        set(found["seeds"]) <= set(entered.get(method, {"seeds": ()})["seeds"])
        and all(found[str(seed)] == entered[method][str(seed)] for seed in found["seeds"])
        for method, found in old["methods"].items()
    )


def method_name(spec: GuidanceSpec) -> str:
    """A method's name in the leaderboard: ``svgt`` is ``svgt:workbench``."""
    default = spec.family == REFERENCE and spec.config == DEFAULT_CONFIG
    return spec.family if default else str(spec)


def is_attack(frame: str) -> bool:
    """Whether a context frame is a jailbreak: one in which the backbones' corpus hardly refuses.

    These are the frames that the embedded world calls fragile (role play, fiction, a forced prefix,
    a hypothetical world, a checklist), alone or composed with another; contexts of other worlds are
    none.
    """
    return any(name in FRAMES and FRAMES[name].fragile for name in frame.split("+"))
