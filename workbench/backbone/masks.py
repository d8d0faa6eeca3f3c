"""Which key a query may see: causality, padding, and windows that slide with the position.

A sliding block sees the keys of the newest W positions. Distance is counted in positions, not in
columns, as everywhere in the workbench: slots that a row leaves out then take nothing away from its
window, and a response after K slots stands K positions further on, in every block.
"""

from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from workbench.backbone.memory import memory_named
from workbench.errors import BackboneError
from workbench.remedies import memory_remedy

_FULL, _SLIDING = "full_attention", "sliding_attention"


def causal_keys(real: Bool[Tensor, "batch key"]) -> Bool[Tensor, "batch query key"]:
    """Which key each query may see: the real ones up to its own column."""
    width = real.shape[1]
    with _room(real):
        earlier = torch.ones((width, width), dtype=torch.bool, device=real.device).tril()
        return earlier & real[:, None, :]


def additive_mask(
    visible: Bool[Tensor, "batch query key"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 query key"]:
    """The mask that is added to attention scores: 0, or the lowest number of the type."""
    with _room(visible):
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def _room(keys: Tensor) -> AbstractContextManager[None]:
    return memory_named(f"masking {len(keys)} rows of {keys.shape[-1]} tokens", memory_remedy())


def beyond_window(
    query_positions: Int[Tensor, "batch query"],
    key_positions: Int[Tensor, "batch key"],
    window: int,
) -> Bool[Tensor, "batch query key"]:
    """Pairs in which the key's position is ``window`` or more behind the query's."""
    return query_positions[:, :, None] - key_positions[:, None, :] >= window


def layer_windows(name: str, config: PretrainedConfig) -> dict[int, int]:
    """Positions a query of a block sees, itself included, for the blocks whose attention slides.

    Args:
        name: The backbone, for messages.
        config: Its configuration.

    Raises:
        BackboneError: Blocks of another kind than full or sliding attention.
    """
    kinds = getattr(config, "layer_types", None)
    others = sorted(set(kinds or ()) - {_FULL, _SLIDING})
    if others:
        raise BackboneError(
            f"{name} ({config.model_type}) has blocks of another kind: {', '.join(others)}. Slots "
            "need attention that sees all earlier tokens, or those of a sliding window, in every "
            "block"
        )
    window = getattr(config, "sliding_window", None)
    if not window or not getattr(config, "use_sliding_window", True):
        return {}
    layers = range(config.num_hidden_layers)
    return {i: int(window) for i in layers if kinds is None or kinds[i] == _SLIDING}
