"""A frozen Hugging Face causal language model, seen through TransformerLens.

TransformerLens 4 wraps the Hugging Face modules in place (``TransformerBridge``) and gives every
activation a name. What is added here and in the base class: frozen weights, explicit positions and
masks, a cache whose slots can be written again, tokenisation that drops and hides nothing, and
hooks that prove they fired.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from workbench.backbone.frozen import TRANSFORMER_LENS, FrozenBackbone, ModelShape
from workbench.backbone.hooks import HookSites


class TransformerLensBackbone(FrozenBackbone):
    """A frozen decoder-only model; ``load_backbone`` makes one.

    Args:
        name: Name the user loaded it by, for messages and records.
        bridge: The wrapped model.
        tokenizer: Its tokenizer, untouched.
        weights: The model's own tensors by their checkpoint names, for the fingerprint.
        n_ctx: Most positions a sequence may have.
        eos_ids: Tokens that end a response.
        windows: By block whose attention slides, how many positions a query sees.
    """

    backend: ClassVar[str] = TRANSFORMER_LENS

    def __init__(
        self,
        name: str,
        bridge: TransformerBridge,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weights: Mapping[str, Tensor],
        n_ctx: int,
        eos_ids: tuple[int, ...],
        windows: Mapping[int, int],
    ) -> None:
        shape = ModelShape(
            n_layers=int(bridge.cfg.n_layers),
            n_heads=int(bridge.cfg.n_heads),
            d_head=int(bridge.cfg.d_head),
            d_model=int(bridge.cfg.d_model),
            vocab_size=int(bridge.cfg.d_vocab),
        )
        super().__init__(
            name,
            bridge,
            tokenizer,
            sites=HookSites(bridge),
            shape=shape,
            plain=bridge.original_model,
            weights=weights,
            n_ctx=n_ctx,
            eos_ids=eos_ids,
            windows=windows,
        )
        self._bridge = bridge

    def _run(self, ids: Tensor, inputs: Mapping[str, object]) -> Tensor:
        logits = self._bridge(ids, return_type="logits", **inputs)
        assert isinstance(logits, Tensor)
        return logits

    def _run_lower(self, ids: Tensor, last_layer: int, inputs: Mapping[str, object]) -> None:
        if last_layer < self.n_layers - 1:
            self._bridge(ids, stop_at_layer=last_layer + 1, **inputs)
            return
        self._logits(ids, [0], inputs)
