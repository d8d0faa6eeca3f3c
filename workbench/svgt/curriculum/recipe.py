"""How a value module is trained: the three stages' amounts, rates and loss weights.

The published values (SVGT, arXiv 2605.11712) are the defaults.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from workbench.errors import ConfigError
from workbench.svgt.config import SVGTConfig
from workbench.svgt.objectives import BridgeLossWeights, SafetyConfig

StageName = Literal["unconditional", "conditional", "bridge"]
STAGES: tuple[StageName, ...] = ("unconditional", "conditional", "bridge")


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Attributes:
        epochs: Passes over the stage's examples; a fraction is allowed.
        batch_size: Examples a step.
        learning_rate: AdamW's rate for the parts that are new in this stage.
        old_rate: Its rate for parts that an earlier stage trained.
        schedule: ``constant`` as published, or ``linear`` decay to zero.
        weight_decay: AdamW's weight decay.
        clip: Largest gradient norm; None: no clipping.
        evaluations: How often the validation set is scored; the best state is kept.
    """

    epochs: float = 5.0
    batch_size: int = 8
    learning_rate: float = 1e-4
    old_rate: float = 1e-5
    schedule: Literal["constant", "linear"] = "constant"
    weight_decay: float = 1e-5
    clip: float | None = 1.0
    evaluations: int = 5

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 1 or self.evaluations < 1:
            raise ConfigError("epochs must be positive, batch_size and evaluations at least 1")
        if self.learning_rate <= 0 or self.old_rate < 0:
            raise ConfigError("learning_rate must be positive, old_rate not negative")
        if self.weight_decay < 0 or (self.clip is not None and self.clip <= 0):
            raise ConfigError(
                "weight_decay must not be negative, clip positive (null: no clipping)"
            )

    def n_steps(self, n_examples: int) -> int:
        """Optimiser steps on this many examples."""
        return max(1, round(self.epochs * n_examples / self.batch_size))


@dataclass(frozen=True)
class CurriculumConfig:
    """The three stages.

    Attributes:
        unconditional: Stage 1, texts: encoder and discriminator.
        conditional: Stage 2, pairs of prompt and response.
        bridge: Stage 3, safe responses: the bridge alone.
        trigger_weight: Weight in stage 2 of the loss that trains the trigger pathway on prompts.
            0 as published: the pathway that decides is then never trained.
        trigger_batch: Prompts a step that this loss looks at.
        label_smoothing: Targets of the binary losses are moved this far towards one half.
        bridge_loss: Weights of the three terms of stage 3.
        safety: What the safety term of stage 3 scores.
        pair_weight: Weight in stage 2 of the loss on pairs; 0, an ablation, leaves the trigger's.
        stages: The stages that run, in order; without a stage its parts stay as they were drawn.
    """

    unconditional: StageConfig = field(default_factory=StageConfig)
    conditional: StageConfig = field(default_factory=lambda: StageConfig(learning_rate=5e-4))
    bridge: StageConfig = field(
        default_factory=lambda: StageConfig(batch_size=4, learning_rate=5e-4)
    )
    trigger_weight: float = 0.0
    trigger_batch: int = 8
    label_smoothing: float = 0.0
    bridge_loss: BridgeLossWeights = field(default_factory=BridgeLossWeights)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    pair_weight: float = 1.0
    stages: tuple[str, ...] = STAGES

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 0.5:
            raise ConfigError("label_smoothing must be in [0, 0.5)")
        if self.trigger_weight < 0 or self.trigger_batch < 1:
            raise ConfigError("trigger_weight must not be negative, trigger_batch at least 1")
        if self.pair_weight < 0 or self.pair_weight == self.trigger_weight == 0:
            raise ConfigError(
                "pair_weight must not be negative, and stage 2 needs it or trigger_weight above 0"
            )
        if self.stages != tuple(s for s in STAGES if s in self.stages) or not self.stages:
            raise ConfigError(
                f"stages = {self.stages}: name some of {', '.join(STAGES)}, each once, in order"
            )

    def stage(self, name: StageName) -> StageConfig:
        """The settings of a stage."""
        return {
            "unconditional": self.unconditional,
            "conditional": self.conditional,
            "bridge": self.bridge,
        }[name]


@dataclass(frozen=True)
class DataConfig:
    """How much of the embedded world a training draws.

    Attributes:
        n_prompts: Labelled prompts (stage 1, and the trigger in stage 2).
        n_pairs: Labelled pairs (stage 2).
        n_targets: Safe responses (stage 3).
        n_validation: Examples of each kind on which the best state is chosen.
        filler: Put half of the training prompts between random words.
        composed: Share of the training prompts that stand in two of the seen frames at once.
    """

    n_prompts: int = 1600
    n_pairs: int = 1600
    n_targets: int = 600
    n_validation: int = 240
    filler: bool = False
    composed: float = 0.0

    def __post_init__(self) -> None:
        if min(self.n_prompts, self.n_pairs, self.n_targets, self.n_validation) < 1:
            raise ConfigError("n_prompts, n_pairs, n_targets and n_validation must be at least 1")
        if not 0.0 <= self.composed <= 1.0:
            raise ConfigError("composed must be in [0, 1]")

    def scaled(self, size: float) -> "DataConfig":
        """The same with this share of the examples to learn from, for a quick look.

        Raises:
            ConfigError: ``size`` is not in (0, 1].
        """
        if not 0.0 < size <= 1.0:
            raise ConfigError(f"size = {size}: give a share of the examples above 0, at most 1")
        amounts = {
            name: max(1, round(size * getattr(self, name)))
            for name in ("n_prompts", "n_pairs", "n_targets")
        }
        return replace(self, **amounts)


@dataclass(frozen=True)
class Recipe:
    """A named way to build and train a value module."""

    module: SVGTConfig
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    data: DataConfig = field(default_factory=DataConfig)
