"""SVGT: the value space, its correction, and the latent bridge into a frozen backbone."""

from workbench.svgt.config import (
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
)
from workbench.svgt.correction import Correction, correct
from workbench.svgt.value_module import BridgeWrite, ValueModule

__all__ = [
    "BridgeConfig",
    "BridgeWrite",
    "Correction",
    "CorrectionConfig",
    "EncoderConfig",
    "SVGTConfig",
    "TriggerConfig",
    "ValueModule",
    "correct",
]
