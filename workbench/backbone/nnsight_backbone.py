"""A frozen Hugging Face causal language model, seen through nnsight.

nnsight leaves the Hugging Face modules as they are and runs code beside their forward pass. A pass
that nobody watches is the plain model's; a watched one is a trace in which the attached functions
are visited one after the other.
"""

from collections.abc import Mapping
from typing import ClassVar

from nnsight import NNsight
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.backbone.architecture import parts_of
from workbench.backbone.frozen import NNSIGHT, FrozenBackbone, ModelShape
from workbench.backbone.nnsight_sites import NnsightSites


class NnsightBackbone(FrozenBackbone):
    """A frozen decoder-only model; ``load_backbone(..., backend="nnsight")`` makes one.

    Args:
        name: Name the user loaded it by, for messages and records.
        model: The plain model; its attention is set to the eager one, whose scores can be seen.
        tokenizer: Its tokenizer, untouched.
        weights: The model's own tensors by their checkpoint names, for the fingerprint.
        n_ctx: Most positions a sequence may have.
        eos_ids: Tokens that end a response.
        windows: By block whose attention slides, how many positions a query sees.

    Raises:
        BackboneError: An architecture whose parts or scores cannot be found.
    """

    backend: ClassVar[str] = NNSIGHT

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weights: Mapping[str, Tensor],
        n_ctx: int,
        eos_ids: tuple[int, ...],
        windows: Mapping[int, int],
    ) -> None:
        model.set_attn_implementation("eager")
        parts = parts_of(name, model)
        shape = shape_of(model)
        traced = NNsight(model)
        points = NnsightSites(traced, parts, shape.n_heads)
        super().__init__(
            name,
            model,
            tokenizer,
            sites=points,
            shape=shape,
            plain=model,
            weights=weights,
            n_ctx=n_ctx,
            eos_ids=eos_ids,
            windows=windows,
        )
        self._model, self._traced, self._points = model, traced, points

    def _run(self, ids: Tensor, inputs: Mapping[str, object]) -> Tensor:
        if not self._points.watched:
            logits = self._model(ids, **inputs).logits
        else:
            logits = self._watched(ids, inputs)
        assert isinstance(logits, Tensor)
        return logits

    def _watched(self, ids: Tensor, inputs: Mapping[str, object]) -> object:
        found: list[object] = []
        with self._traced.trace(ids, **inputs) as tracer:
            self._points.visit(self.n_layers - 1)
            found.append(tracer.result.logits)
        return found[0]

    def _run_lower(self, ids: Tensor, last_layer: int, inputs: Mapping[str, object]) -> None:
        with self._traced.trace(ids, **inputs) as tracer:
            self._points.visit(last_layer)
            tracer.stop()


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Sizes as the configuration and the embeddings state them."""
    config = model.config.get_text_config()
    n_heads, d_model = int(config.num_attention_heads), int(config.hidden_size)
    return ModelShape(
        n_layers=int(config.num_hidden_layers),
        n_heads=n_heads,
        d_head=int(getattr(config, "head_dim", None) or d_model // n_heads),
        d_model=d_model,
        vocab_size=int(config.vocab_size),
    )
