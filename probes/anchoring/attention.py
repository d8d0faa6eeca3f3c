"""Are bridge tokens attended to, by which heads, and when?

For the query that predicts token t of the safe reply, in a block above L:

    raw mass       A = sum_{j in slots} alpha_j
    weighted mass  N = sum_{j in slots} alpha_j ||v_j W_O|| / sum_j alpha_j ||v_j W_O||

The second weighs a key by what it adds to the residual stream (Kobayashi et al., arXiv 2004.10102):
an attention *sink* takes much mass and adds little (arXiv 2309.17453), so beside both stand the
same quantities for the first token of the prompt, and as null those of slots that hold noise of the
same norm. The first token is predicted by the last slot itself, whose own key counts as a slot.

Attention is not effect: for that see ``paths`` and ``effects``.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.anchoring.edits import BridgeEdit, unchanged
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.scene import Scene
from probes.margins import ReplyBatch, reply_batches
from probes.records import Record
from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.svgt.slots import Columns

Keys = Literal["slots", "sink"]
Weighting = Literal["raw", "weighted"]
KINDS: tuple[tuple[Keys, Weighting], ...] = (
    ("slots", "raw"), ("slots", "weighted"), ("sink", "raw"), ("sink", "weighted"),
)  # fmt: skip
ATTENTION = "attention_mass"


@dataclass(frozen=True, eq=False)
class AttentionMass:
    """Attention on the slots and on the sink, by prompt, block, head and step.

    Attributes:
        layers: The blocks above L.
        mass: By keys and weighting; NaN past the end of a reply.
        why_unweighted: Why weighted masses are NaN everywhere; empty where they are measured.
    """

    layers: tuple[int, ...]
    mass: Mapping[tuple[Keys, Weighting], Float[Tensor, "batch layer head step"]]
    why_unweighted: str = ""


@torch.no_grad()
def attention_mass(scene: Scene, n_steps: int, edit: BridgeEdit = unchanged) -> AttentionMass:
    """Read the patterns of teacher-forced passes over the safe replies.

    Args:
        scene: Prompts with open gates.
        n_steps: Tokens of each reply, from the first.
        edit: What is done to the bridges.
    """
    prompt = scene.backbone.encode(scene.pairs.prompts)
    response = scene.backbone.encode_responses(scene.pairs.safe)
    response = TokenBatch(response.ids[:, :n_steps], response.mask[:, :n_steps])
    n_layers, n_heads = len(scene.slot_layers), scene.backbone.n_heads
    empty = torch.full((len(scene), n_layers, n_heads, response.ids.shape[1]), torch.nan)
    mass = {kind: empty.clone() for kind in KINDS}
    why = scene.why_not_by_head
    for _, batch in reply_batches(prompt, response, scene.batch_size):
        past_end = ~batch.response.mask[:, None]
        for index, patterns in enumerate(_patterns(scene, batch, edit, weigh=not why)):
            for weighting, pattern in patterns.items():
                for keys, found in _on_keys(pattern, scene.columns(batch), batch).items():
                    target = mass[keys, weighting][:, index, :, : found.shape[-1]]
                    target[batch.rows.cpu()] = found.masked_fill(past_end, torch.nan).cpu()
    return AttentionMass(scene.slot_layers, mass, why)


def _patterns(
    scene: Scene, batch: ReplyBatch, edit: BridgeEdit, *, weigh: bool
) -> Iterator[dict[Weighting, Float[Tensor, "row head step key"]]]:
    """Raw and, if wanted, weighted attention of the predicting queries, block by block."""
    layers, columns = scene.slot_layers, scene.columns(batch)
    with ExitStack() as stack:
        patterns = stack.enter_context(scene.backbone.capture_patterns(layers))
        values = stack.enter_context(scene.backbone.capture_values(layers))
        scene.run(batch, edit)
    queries = slice(columns.slots.stop - 1, columns.total - 1)
    for layer in layers:
        raw = patterns[layer][:, :, queries].float()
        shares: dict[Weighting, Tensor] = {"raw": raw}
        if weigh:
            weighted = raw * value_norms(scene.backbone, layer, values[layer])[:, :, None]
            shares["weighted"] = weighted / weighted.sum(dim=-1, keepdim=True)
        yield shares


def value_norms(
    backbone: Backbone, layer: int, values: Float[Tensor, "batch head key d_head_v"]
) -> Float[Tensor, "batch head key"]:
    """``||v W_O||``: how long a head's value vector is in the residual stream.

    By the Gram matrix of W_O, so that no vector of the residual's width is kept for every key.
    """
    weights, _ = backbone.output_map(layer)
    gram = weights @ weights.mT
    vectors = values.float()
    squares = torch.einsum("bhke,hef,bhkf->bhk", vectors, gram, vectors)
    return squares.clamp(min=0).sqrt()


def _on_keys(
    share: Float[Tensor, "row head step key"], columns: Columns, batch: ReplyBatch
) -> dict[Keys, Float[Tensor, "row head step"]]:
    first: Int[Tensor, " row"] = columns.n_prompt - batch.prompt.lengths
    at_first = first[:, None, None, None].expand(*share.shape[:-1], 1)
    return {
        "slots": share[..., columns.slots].sum(dim=-1),
        "sink": share.gather(-1, at_first).squeeze(-1),
    }


def attention_records(
    read: AttentionMass, control: AttentionMass, estimates: Estimates
) -> list[Record]:
    """Mean mass by block, head and step (x), and over the steps of each reply (x empty).

    Args:
        read: With the bridges.
        control: With noise of their norms: the null.
        estimates: Of these prompts.
    """
    records = []
    for (keys, weighting), mass in read.mass.items():
        base = replace(estimates.base, metric=ATTENTION, site=keys, estimator=weighting)
        null = control.mass[keys, weighting]
        for index, layer in enumerate(read.layers):
            for head in range(mass.shape[2]):
                record = replace(base, layer=layer, head=head)
                if weighting == "weighted" and read.why_unweighted:
                    records.append(replace(record, note=read.why_unweighted))
                    continue
                own, other = (as_values(of[:, index, head]) for of in (mass, null))
                records += _over_steps(record, own, other, estimates)
    return records


def _over_steps(
    record: Record, mass: Values, control: Values, estimates: Estimates
) -> list[Record]:
    """One record for the mean over steps, and one for every step."""
    whole = replace(record, null=_mean(control))
    records = [estimates.mean(whole, np.nanmean(mass, axis=1))]
    for step in range(mass.shape[1]):
        at_step = replace(record, x=float(step), null=_mean(control[:, step]))
        records.append(estimates.mean(at_step, mass[:, step]))
    return records


def _mean(values: Values) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
