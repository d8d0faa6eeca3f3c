"""What do the slots write directly towards safety? Direct logit attribution of one decision.

Safe and harmful reply agree up to some token (usually none). At the place that predicts the first
token in which they differ, with the final norm's scale frozen, the logit difference safe - harmful
is a sum of what every part wrote into the residual stream there:

    stream      the place's own residual after block L; for the first token a bridge token
    slots       of each head above L, from slot keys
    tokens      of each head above L, from all other keys
    rest        of each block above L: its MLP and biases
    constant    of the unembedding

Direct means by the unembedding alone: what a head writes for a later block to read is in that
block's share. The null is the same part where the slots hold noise of equal norm.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.anchoring.edits import BridgeEdit, unchanged
from probes.anchoring.estimates import Estimates, as_values
from probes.anchoring.scene import Scene
from probes.margins import ReplyBatch, reply_batches
from probes.records import Record
from workbench.backbone.protocol import Backbone, TokenBatch

ATTRIBUTION = "logit_attribution"
TOLERANCE = 1e-3
BROKEN_SUM = (
    "not measured: the parts do not add up to the logits, for this architecture caps or scales "
    "them or normalises what its heads write"
)


@dataclass(frozen=True, eq=False)
class Attribution:
    """Parts of the logit difference safe - harmful at each prompt's decision; NaN: no decision.

    Attributes:
        layers: The blocks above L.
        stream: Of the residual after block L.
        slots: Of slot keys, by head.
        tokens: Of other keys, by head.
        rest: Of MLP and biases, by block.
        constant: Of the unembedding.
        difference: The logit difference itself, as the model gives it.
    """

    layers: tuple[int, ...]
    stream: Float[Tensor, " batch"]
    slots: Float[Tensor, "batch layer head"]
    tokens: Float[Tensor, "batch layer head"]
    rest: Float[Tensor, "batch layer"]
    constant: Float[Tensor, " batch"]
    difference: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of all parts."""
        by_head = (self.slots + self.tokens).sum(dim=(1, 2))
        return self.stream + by_head + self.rest.sum(dim=1) + self.constant

    @property
    def adds_up(self) -> bool:
        """Whether the sum is the difference, as it must be, wherever there is one."""
        decided = self.difference.isfinite()
        error = (self.total - self.difference)[decided].abs()
        return bool((error <= TOLERANCE * (1 + self.difference[decided].abs())).all())


@dataclass(frozen=True, eq=False)
class Decision:
    """The first tokens in which safe and harmful replies differ.

    Attributes:
        response: The safe replies up to there.
        place: How many tokens they share.
        safe: The safe reply's token there.
        harmful: The harmful reply's.
        exists: False where the two replies are the same.
    """

    response: TokenBatch
    place: Int[Tensor, " batch"]
    safe: Int[Tensor, " batch"]
    harmful: Int[Tensor, " batch"]
    exists: Bool[Tensor, " batch"]


def find_decisions(scene: Scene) -> Decision:
    """Compare the replies token by token, end tokens included."""
    pairs = scene.pairs
    both = scene.backbone.encode_responses([*pairs.safe, *pairs.harmful])
    safe, harmful = torch.split(both.ids, len(pairs))
    real_safe, real_harmful = torch.split(both.mask, len(pairs))
    differ = (safe != harmful) & real_safe & real_harmful
    place = differ.int().argmax(dim=1)
    width = int(place.max()) + 1
    rows = torch.arange(len(pairs), device=place.device)
    return Decision(
        response=TokenBatch(safe[:, :width], real_safe[:, :width]),
        place=place,
        safe=safe[rows, place],
        harmful=harmful[rows, place],
        exists=differ.any(dim=1),
    )


@torch.no_grad()
def attribute(scene: Scene, edit: BridgeEdit = unchanged) -> Attribution:
    """Take the logit difference at every prompt's decision apart.

    Args:
        scene: Prompts with open gates.
        edit: What is done to the bridges.
    """
    decision = find_decisions(scene)
    prompt = scene.backbone.encode(scene.pairs.prompts)
    found = [
        (batch.rows, _attribute_batch(scene, batch, decision, edit))
        for _, batch in reply_batches(prompt, decision.response, scene.batch_size)
    ]
    order = torch.cat([rows for rows, _ in found]).argsort()

    def joined(name: str) -> Tensor:
        whole = torch.cat([getattr(part, name) for _, part in found])[order].cpu()
        exists = decision.exists.cpu().view(-1, *[1] * (whole.ndim - 1))
        return torch.where(exists, whole, torch.nan)

    parts = ("stream", "slots", "tokens", "rest", "constant", "difference")
    return Attribution(scene.slot_layers, **{name: joined(name) for name in parts})


def _attribute_batch(
    scene: Scene, batch: ReplyBatch, decision: Decision, edit: BridgeEdit
) -> Attribution:
    layers, columns, backbone = scene.slot_layers, scene.columns(batch), scene.backbone
    place, safe, harmful = (
        of[batch.rows] for of in (decision.place, decision.safe, decision.harmful)
    )
    rows = torch.arange(len(place), device=place.device)
    query = columns.slots.stop - 1 + place
    with ExitStack() as stack:
        residual = stack.enter_context(backbone.capture([scene.first_layer - 1, *layers]))
        patterns = stack.enter_context(backbone.capture_patterns(layers))
        values = stack.enter_context(backbone.capture_values(layers))
        logits = scene.run(batch, edit).response_logits[rows, place].float()
    states = [residual[layer][rows, query].float() for layer in layers]
    towards_safe, constant_safe = backbone.logit_direction(states[-1], safe)
    towards_harm, constant_harm = backbone.logit_direction(states[-1], harmful)
    direction = towards_safe - towards_harm
    # What is captured after block L is the slot before it was written.
    written = edit(scene.write).bridge[batch.rows, -1].float()
    before = residual[scene.first_layer - 1][rows, query].float()
    readouts = [
        (state * direction).sum(dim=-1)
        for state in (torch.where(place[:, None] == 0, written, before), *states)
    ]
    by_key = torch.stack(
        [
            _by_key(backbone, layer, patterns[layer][rows, :, query], values[layer], direction)
            for layer in layers
        ],
        dim=1,
    )
    on_slots = by_key[..., columns.slots].sum(dim=-1)
    on_tokens = by_key.sum(dim=-1) - on_slots
    gained = torch.stack(readouts[1:], dim=1) - torch.stack(readouts[:-1], dim=1)
    return Attribution(
        layers=layers,
        stream=readouts[0],
        slots=on_slots,
        tokens=on_tokens,
        rest=gained - (on_slots + on_tokens).sum(dim=-1),
        constant=constant_safe - constant_harm,
        difference=logits[rows, safe] - logits[rows, harmful],
    )


def _by_key(
    backbone: Backbone,
    layer: int,
    alpha: Float[Tensor, "row head key"],
    values: Float[Tensor, "row head key d_head_v"],
    direction: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row head key"]:
    """What each head writes along a direction on account of each key."""
    weights, _ = backbone.output_map(layer)
    reader = torch.einsum("hed,bd->bhe", weights, direction)
    return alpha.float() * torch.einsum("bhke,bhe->bhk", values.float(), reader)


def attribution_records(
    own: Attribution, control: Attribution, estimates: Estimates
) -> list[Record]:
    """Means of all parts; heads and blocks apart.

    Args:
        own: With the bridges.
        control: With noise of their norms: the null.
        estimates: Of these prompts.
    """
    base = replace(estimates.base, metric=ATTRIBUTION)
    if not (own.adds_up and control.adds_up):
        return [replace(base, site="total", note=BROKEN_SUM)]
    records = []
    for site in ("stream", "constant", "total", "difference"):
        records.append(_part(replace(base, site=site), own, control, estimates))
    for index, layer in enumerate(own.layers):
        at_layer = replace(base, layer=layer)
        records.append(_part(replace(at_layer, site="rest"), own, control, estimates, (index,)))
        for head in range(own.slots.shape[2]):
            for site in ("slots", "tokens"):
                record = replace(at_layer, site=site, head=head)
                records.append(_part(record, own, control, estimates, (index, head)))
    return records


def _part(
    record: Record,
    own: Attribution,
    control: Attribution,
    estimates: Estimates,
    index: tuple[int, ...] = (),
) -> Record:
    """The mean of the part that the record's site names, at a block or head."""
    values, null = (as_values(getattr(of, record.site)[:, *index]) for of in (own, control))
    measured = null[np.isfinite(null)]
    expected = float(measured.mean()) if measured.size else float("nan")
    return estimates.mean(replace(record, null=expected), values)
