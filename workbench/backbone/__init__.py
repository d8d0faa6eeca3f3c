"""The frozen model and its residual stream: load, tokenise, observe, overwrite."""

from workbench.backbone.cache import SlotCache
from workbench.backbone.frozen import BACKENDS, FrozenBackbone
from workbench.backbone.loading import (
    load_backbone,
    load_plain,
    trace_model,
    wrap_model,
)
from workbench.backbone.protocol import (
    Backbone,
    Prompt,
    TokenBatch,
    pad_rows,
    positions_from_mask,
)
from workbench.backbone.transformer_lens import TransformerLensBackbone

__all__ = [
    "BACKENDS",
    "Backbone",
    "FrozenBackbone",
    "Prompt",
    "SlotCache",
    "TokenBatch",
    "TransformerLensBackbone",
    "load_backbone",
    "load_plain",
    "pad_rows",
    "positions_from_mask",
    "trace_model",
    "wrap_model",
]
