"""The three-stage curriculum: unconditional, conditional, bridge (SVGT, arXiv 2605.11712).

1. Texts: the encoder's response side, mixer, readout and the discriminator learn what harm is.
2. Pairs: the prompt side learns that harm depends on the prompt; as an option the trigger pathway,
   which decides about the bridge, is trained here too.
3. Safe responses: everything but the bridge is frozen.

Stages 1 and 2 read the frozen backbone's states once and reuse them.
"""

from workbench.svgt.curriculum.curriculum import TrainedModule, train_value_module
from workbench.svgt.curriculum.loop import TrainingEvent
from workbench.svgt.curriculum.recipe import CurriculumConfig, DataConfig, Recipe, StageConfig

__all__ = [
    "CurriculumConfig",
    "DataConfig",
    "Recipe",
    "StageConfig",
    "TrainedModule",
    "TrainingEvent",
    "train_value_module",
]
