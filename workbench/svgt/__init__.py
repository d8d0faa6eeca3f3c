"""SVGT: the value space, its correction, and the latent bridge into a frozen backbone."""

from workbench.svgt.checkpoint import (
    CheckpointRecord,
    load_value_module,
    read_checkpoint_record,
    save_value_module,
)
from workbench.svgt.config import (
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
)
from workbench.svgt.correction import Correction, correct
from workbench.svgt.reference import (
    ReferenceFile,
    import_reference,
    read_reference_config,
    read_reference_file,
)
from workbench.svgt.value_module import BridgeWrite, ValueModule

__all__ = [
    "BridgeConfig",
    "BridgeWrite",
    "CheckpointRecord",
    "Correction",
    "CorrectionConfig",
    "EncoderConfig",
    "ReferenceFile",
    "SVGTConfig",
    "TriggerConfig",
    "ValueModule",
    "correct",
    "import_reference",
    "load_value_module",
    "read_checkpoint_record",
    "read_reference_config",
    "read_reference_file",
    "save_value_module",
]
