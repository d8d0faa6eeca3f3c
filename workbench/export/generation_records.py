"""From a finished generation to the record that figures and tables of responses read."""

from typing import Any

from torch import Tensor

from workbench.backbone.protocol import Backbone
from workbench.export.responses import ResponseRecord, TokenRecord
from workbench.guidance.decoding import Generation
from workbench.guidance.protocol import Guidance
from workbench.guidance.svgt_bridge import SVGTBridge


def response_record(
    backbone: Backbone, guidance: Guidance, generation: Generation
) -> ResponseRecord:
    """One response along its tokens, with the traces that were asked for.

    Args:
        backbone: What replied.
        guidance: What steered it.
        generation: What came out.
    """
    trace, n = generation.trace, len(generation.ids)
    attention = trace.slot_attention
    rows = zip(
        backbone.token_strings(generation.ids),
        _listed(trace.harm_score, n),
        _listed(trace.trigger_score, n),
        _listed(trace.correction_norm, n),
        _listed(trace.open, n),
        _listed(attention if attention is not None and attention.ndim > 1 else None, n),
        strict=True,
    )
    tokens = tuple(
        TokenRecord(text, harm, trigger, norm, is_open, _grid(heads))
        for text, harm, trigger, norm, is_open, heads in rows
    )
    return ResponseRecord(
        guidance.name,
        tokens,
        generation.text,
        generation.finish,
        seeing_layers(guidance, backbone.n_layers),
    )


def seeing_layers(guidance: Guidance, n_layers: int) -> tuple[int, ...]:
    """The blocks whose heads see the slots: those above the bridge."""
    if not isinstance(guidance, SVGTBridge):
        return ()
    return tuple(range(guidance.writer.config.layer + 1, n_layers))


def _listed(values: Tensor | None, n: int) -> list[Any]:
    return [None] * n if values is None else values.tolist()


def _grid(heads: list[list[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if heads is None else tuple(map(tuple, heads))
