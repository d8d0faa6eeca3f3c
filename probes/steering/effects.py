"""Margins under an intervention in the residual stream.

*Steering* adds a vector at one layer to every position that predicts a reply token: the prompt's
last token and the reply's own tokens, as contrastive activation addition does (arXiv 2312.06681).
*Ablation* takes a direction out of the whole stream, x - v v^T x after the embeddings and after
every block, at every position (arXiv 2406.11717).
"""

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from probes.margins import ReplyBatch, ReplyPairs, reply_log_probs, safety_margin
from workbench.backbone.protocol import Backbone
from workbench.svgt.slots import SlotForward, forward_with_slots

_EMBEDDINGS = -1


@torch.no_grad()
def steered_margins(
    backbone: Backbone,
    pairs: ReplyPairs,
    layer: int,
    vectors: Float[Tensor, "n d_model"],
    coefficient: float,
    *,
    batch_size: int,
) -> Float[Tensor, " batch"]:
    """Safety margin of every pair with ``coefficient`` times its vector added after a block."""

    def forward(batch: ReplyBatch) -> SlotForward:
        added = coefficient * vectors.to(backbone.device, backbone.dtype)[batch.rows, None]
        first = batch.prompt.ids.shape[1] - 1

        def add(residual: Float[Tensor, "batch seq d_model"]) -> Tensor:
            return torch.cat([residual[:, :first], residual[:, first:] + added], dim=1)

        with backbone.overwrite(layer, add):
            return forward_with_slots(backbone, batch.prompt, batch.response, None)

    return reply_log_probs(backbone, pairs, forward, batch_size=batch_size).margin


@torch.no_grad()
def ablated_margins(
    backbone: Backbone,
    pairs: ReplyPairs,
    directions: Float[Tensor, "n d_model"],
    *,
    batch_size: int,
) -> Float[Tensor, " batch"]:
    """Safety margin of every pair with its (unit) direction taken out of the whole stream."""

    def forward(batch: ReplyBatch) -> SlotForward:
        unit = directions.to(backbone.device, backbone.dtype)[batch.rows, None]

        def ablate(residual: Float[Tensor, "batch seq d_model"]) -> Tensor:
            return residual - (residual * unit).sum(dim=-1, keepdim=True) * unit

        with ExitStack() as stack:
            for layer in range(_EMBEDDINGS, backbone.n_layers):
                stack.enter_context(backbone.overwrite(layer, ablate))
            return forward_with_slots(backbone, batch.prompt, batch.response, None)

    return reply_log_probs(backbone, pairs, forward, batch_size=batch_size).margin


@torch.no_grad()
def plain_margins(
    backbone: Backbone, pairs: ReplyPairs, *, batch_size: int
) -> Float[Tensor, " batch"]:
    """Safety margin of every pair in the untouched model."""
    return safety_margin(backbone, pairs, None, batch_size=batch_size)
