"""Guidance that adds something to activations: what is added, where, and proof that it was.

An edit's ``change`` is a pure function from the states of one place to what is added to them. The
session adds it, in every pass, at the columns that choose a response token: the prompt's last one
and every new token (or, for an edit that is meant for ``everywhere``, at all real tokens). A column
is read once under a key-value cache, so nothing is added twice; positions that are left alone stay
as they are bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.backbone.protocol import Backbone
from workbench.guidance.protocol import DecoderPass, SlotlessSession
from workbench.guidance.receipts import Receipt, ReceiptCounter

EditSite = Literal["residual", "attention", "heads"]
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ActivationEdit:
    """One place and what is added there.

    Attributes:
        site: ``residual``: the stream after the block, states (batch, query, d_model);
            ``attention``: what its attention hands on, (batch, query, d_model); ``heads``: what
            each head gathered, before the output projection, (batch, head, query, d_head_v).
        layer: The block.
        change: From the states to what is added to them, of the same shape.
        everywhere: Edit all real tokens, those of the prompt too.
    """

    site: EditSite
    layer: int
    change: Change
    everywhere: bool = False

    def applied(
        self, states: Float[Tensor, "..."], where: Bool[Tensor, "batch query"]
    ) -> tuple[Tensor, Tensor]:
        """The edited states and what was added, both as the states are laid out."""
        mask = where[:, None, :, None] if self.site == "heads" else where[..., None]
        added = torch.where(mask, self.change(states).to(states.dtype), 0.0)
        return torch.where(mask, states + added, states), added


class EditingSession(SlotlessSession):
    """Holds edits while a pass runs and keeps a receipt for each.

    Args:
        backbone: The frozen model.
        edits: At most one a site and layer.
    """

    def __init__(self, backbone: Backbone, edits: Sequence[ActivationEdit]) -> None:
        self._backbone = backbone
        self._edits = tuple(edits)
        self._counters = [ReceiptCounter(edit.site, edit.layer) for edit in edits]

    def during(self, call: DecoderPass) -> AbstractContextManager[None]:
        """All edits, in this one pass."""
        return self._editing(call)

    @contextmanager
    def _editing(self, call: DecoderPass) -> Iterator[None]:
        with ExitStack() as stack:
            for edit, counter in zip(self._edits, self._counters, strict=True):
                where = call.real if edit.everywhere else call.predicts
                stack.enter_context(self._one(edit, counter, where, call.prompt_columns))
            yield

    @contextmanager
    def _one(
        self,
        edit: ActivationEdit,
        counter: ReceiptCounter,
        where: Bool[Tensor, "batch query"],
        prompt_columns: int,
    ) -> Iterator[None]:
        seen: list[tuple[Tensor, Tensor]] = []

        def change(states: Tensor) -> Tensor:
            edited, added = edit.applied(states, where)
            seen.append((states, added))
            return edited

        backbone, layer = self._backbone, edit.layer
        overwrite, watch = {
            "residual": (backbone.overwrite, backbone.capture),
            "attention": (backbone.overwrite_attention, backbone.capture_attention),
            "heads": (backbone.overwrite_mixes, backbone.capture_mixes),
        }[edit.site]
        with overwrite(layer, change), watch([layer]) as handed_on:
            yield
            after = handed_on[layer]
        for before, added in seen:
            counter.add(_flat(added), _flat(after - before), where, prompt_columns=prompt_columns)

    def receipts(self) -> tuple[Receipt, ...]:
        """One a place."""
        return tuple(counter.receipt() for counter in self._counters)


def _flat(states: Tensor) -> Float[Tensor, "batch query width"]:
    """Heads side by side, so that every position has one vector."""
    return states if states.ndim == 3 else states.transpose(1, 2).flatten(2)
