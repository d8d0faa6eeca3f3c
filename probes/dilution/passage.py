"""One pass over prompt, slots, filler and both replies.

Columns: ``[prompt | slots | filler | safe reply | harmful reply]``. The two replies do not see
each other and stand at the same positions, so one pass scores both behind the same text.

Models are used beyond the lengths they learned. Which keys a token *reaches* says how:

============  ===============================================================================
``full``      all earlier ones, at their true positions: what decoding does. Beyond the trained
              lengths the model itself may break; the control shows where.
``window``    prompt and slots, and the latest ``window`` positions, at their true positions:
              attention sinks with a sliding window (arXiv 2309.17453). The number of keys stays
              bounded, so what is left to fade is the reading of slots from afar.
``parallel``  a sentence or turn of the filler sees prompt, slots and itself, and stands at the
              same positions as all others; the reply sees everything: parallel context windows
              (arXiv 2212.10947). Every position stays in the trained range, so what is left to
              fade is the slots' share among ever more keys.
============  ===============================================================================
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.dilution.filler import LAST_TURN, FillerTokens
from workbench.backbone.masks import additive_mask
from workbench.backbone.protocol import Backbone, TokenBatch, positions_from_mask
from workbench.errors import ContextLengthError
from workbench.svgt.slots import (
    BridgeWriter,
    Columns,
    LateWrite,
    States,
    slots_from_others,
    slots_written,
    visible_keys,
)
from workbench.svgt.value_module import BridgeWrite

Reach = Literal["full", "window", "parallel"]
REACHES: tuple[Reach, ...] = get_args(Reach)


@dataclass(frozen=True, eq=False)
class Passage:
    """Some prompts with filler and two replies each.

    Attributes:
        prompt: Left-padded.
        filler: Between the slots and the replies; may have no tokens.
        safe: Right-padded.
        harmful: Right-padded.
    """

    prompt: TokenBatch
    filler: FillerTokens
    safe: TokenBatch
    harmful: TokenBatch

    @property
    def n_filler(self) -> int:
        """The distance: tokens between the slots and the replies."""
        return self.filler.ids.shape[1]

    @property
    def after_slots(self) -> TokenBatch:
        """Filler and both replies."""
        filler = torch.ones_like(self.filler.ids, dtype=torch.bool)
        return TokenBatch(
            torch.cat([self.filler.ids, self.safe.ids, self.harmful.ids], dim=1),
            torch.cat([filler, self.safe.mask, self.harmful.mask], dim=1),
        )


@dataclass(frozen=True, eq=False)
class Decision:
    """What the model is about to say at the end of the filler.

    Attributes:
        log_probs: Of the next token.
        safe: Mean log-probability of the safe reply's tokens.
        harmful: Mean log-probability of the harmful reply's tokens.
        slot_attention: Mass of the deciding query on all slots, mean over the heads above L; NaN
            without slots, or where that query is a slot itself.
        n_keys: Keys that the deciding query sees.
    """

    log_probs: Float[Tensor, "batch vocab"]
    safe: Float[Tensor, " batch"]
    harmful: Float[Tensor, " batch"]
    slot_attention: Float[Tensor, " batch"]
    n_keys: Int[Tensor, " batch"]

    @property
    def margin(self) -> Float[Tensor, " batch"]:
        """The safety margin in nats a token."""
        return self.safe - self.harmful


@torch.no_grad()
def decide(
    backbone: Backbone,
    passage: Passage,
    writer: BridgeWriter | None,
    reach: Reach,
    *,
    window: int,
) -> Decision:
    """Run one pass.

    Args:
        backbone: The frozen model.
        passage: The texts.
        writer: Writes the slots; None for the plain model, which has none.
        reach: Which keys a token sees, see the module.
        window: Positions a token looks back in reach ``window``.

    Raises:
        ContextLengthError: The positions needed exceed those of the backbone.
    """
    n_slots = 0 if writer is None else writer.config.n_bridge
    after = passage.after_slots
    columns = Columns(passage.prompt.ids.shape[1], n_slots, after.ids.shape[1])
    positions = passage_positions(passage, n_slots, reach)
    _check_positions(backbone, passage.n_filler, positions, reach)
    visible = passage_visibility(passage, n_slots, positions, reach, window)
    slot_ids = passage.prompt.ids.new_full((len(after.ids), n_slots), backbone.pad_id)
    deciding = columns.slots.stop + passage.n_filler - 1
    with ExitStack() as stack:
        patterns: Mapping[int, Tensor] = {}
        if writer is not None:
            stack.enter_context(_writing(backbone, writer, passage.prompt, columns))
            above = range(writer.config.layer + 1, backbone.n_layers)
            patterns = stack.enter_context(backbone.capture_patterns(above))
        logits = backbone.forward(
            torch.cat([passage.prompt.ids, slot_ids, after.ids], dim=1),
            mask=additive_mask(visible, backbone.dtype),
            position_ids=positions,
            columns=range(deciding, columns.total),
        )
    log_probs = logits.float().log_softmax(dim=-1)
    attention = torch.full((len(after.ids),), float("nan"), device=logits.device)
    if patterns and passage.n_filler:
        mass = [p[:, :, deciding, columns.slots].sum(dim=-1) for p in patterns.values()]
        attention = torch.stack(mass).float().mean(dim=(0, 2))
    n_safe = passage.safe.ids.shape[1]
    return Decision(
        log_probs=log_probs[:, 0],
        safe=_per_token(log_probs, passage.safe, 1),
        harmful=_per_token(log_probs, passage.harmful, 1 + n_safe),
        slot_attention=attention,
        n_keys=visible[:, deciding].sum(dim=-1),
    )


def passage_positions(passage: Passage, n_slots: int, reach: Reach) -> Int[Tensor, "batch column"]:
    """Positions of all columns; both replies stand at the same ones."""
    lengths = passage.prompt.lengths[:, None]
    slots = lengths + torch.arange(n_slots, device=lengths.device)
    filler, end = _filler_positions(passage.filler, reach)
    start = lengths + n_slots
    replies = [start + end + positions_from_mask(r.mask) for r in (passage.safe, passage.harmful)]
    head = positions_from_mask(passage.prompt.mask)
    return torch.cat([head, slots, start + filler, *replies], dim=1)


def _filler_positions(
    filler: FillerTokens, reach: Reach
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch 1"]]:
    """Positions of the filler after the slots, and where the replies begin."""
    rows, n = filler.ids.shape
    counted = torch.arange(n, device=filler.ids.device).expand(rows, -1)
    if reach != "parallel":
        return counted, torch.full((rows, 1), n, device=filler.ids.device)
    repeated = filler.chunk == LAST_TURN
    following = torch.nn.functional.pad(filler.chunk[:, 1:], (0, 1), value=LAST_TURN - 1)
    ends = torch.where(filler.chunk != following, counted, n)[:, :n]
    still_to_come = ends.flip(1).cummin(dim=1).values.flip(1) - counted
    lengths = (still_to_come + 1).masked_fill(repeated, 0)
    longest = lengths.amax(dim=1, keepdim=True) if n else counted.new_zeros((rows, 1))
    in_chunk = longest - 1 - still_to_come  # every chunk ends at the same position
    in_last_turn = longest + repeated.long().cumsum(dim=1) - 1
    end = longest + repeated.sum(dim=1, keepdim=True)
    return torch.where(repeated, in_last_turn, in_chunk), end


def passage_visibility(
    passage: Passage,
    n_slots: int,
    positions: Int[Tensor, "batch column"],
    reach: Reach,
    window: int,
) -> Bool[Tensor, "batch query key"]:
    """Which key each query sees."""
    visible = visible_keys(passage.prompt.mask, n_slots, passage.after_slots.mask)
    head = passage.prompt.ids.shape[1] + n_slots
    safe = head + passage.n_filler
    harmful = safe + passage.safe.ids.shape[1]
    visible[:, harmful:, safe:harmful] = False
    if reach == "window":
        near = positions[:, :, None] - positions[:, None, :] < window
        near[:, :, :head] = True
        visible &= near
    if reach == "parallel":
        chunk = passage.filler.chunk
        same = chunk[:, :, None] == chunk[:, None, :]
        same |= (chunk == LAST_TURN)[:, :, None]
        visible[:, head:safe, head:safe] &= same
    return visible


def _writing(
    backbone: Backbone, writer: BridgeWriter, prompt: TokenBatch, columns: Columns
) -> AbstractContextManager[LateWrite]:
    """The slots of one pass, written from its own prompt columns."""
    is_slot = columns.is_slot(prompt.ids.device)

    def compose(states: States) -> BridgeWrite:
        on_prompt = {layer: state[:, columns.prompt].float() for layer, state in states.items()}
        return writer.write_bridge(on_prompt, prompt.mask)

    return slots_written(
        backbone,
        writer.config,
        read_layers=writer.capture_layers,
        slot_columns=columns.slots,
        hidden=slots_from_others(is_slot, is_slot),
        compose=compose,
    )


def _per_token(
    log_probs: Float[Tensor, "batch column vocab"], reply: TokenBatch, first: int
) -> Float[Tensor, " batch"]:
    """Mean log-probability of a reply whose own columns begin at ``first``.

    Its first token is predicted by column 0, the deciding query.
    """
    own = slice(first, first + reply.ids.shape[1] - 1)
    predicting = torch.cat([log_probs[:, :1], log_probs[:, own]], dim=1)
    picked = predicting.gather(-1, reply.ids[..., None]).squeeze(-1)
    return picked.masked_fill(~reply.mask, 0.0).sum(dim=1) / reply.mask.sum(dim=1)


def check_room(backbone: Backbone, passage: Passage, n_slots: int, reach: Reach) -> None:
    """Check beforehand that a passage fits.

    Raises:
        ContextLengthError: The positions needed exceed those of the backbone.
    """
    positions = passage_positions(passage, n_slots, reach)
    _check_positions(backbone, passage.n_filler, positions, reach)


def _check_positions(
    backbone: Backbone, distance: int, positions: Int[Tensor, "batch column"], reach: Reach
) -> None:
    needed = int(positions.max()) + 1
    if needed <= backbone.n_ctx:
        return
    too_far = distance - (needed - backbone.n_ctx)
    nearer = f"ask for distances up to {too_far}, " if too_far > 0 and reach != "parallel" else ""
    raise ContextLengthError(
        f"a distance of {distance} tokens needs {needed} positions in reach '{reach}', "
        f"{backbone.name} has {backbone.n_ctx}: {nearer}load a backbone with rotary positions with "
        f"load_backbone(..., n_ctx={needed}), or use reach 'parallel', which needs no more "
        "positions for more tokens"
    )
