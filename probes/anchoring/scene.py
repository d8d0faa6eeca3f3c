"""The prompts under study, the bridges written behind them, and how replies are run with them.

Bridges are computed once. Every measurement then replays them, edited or not, in the same
teacher-forced passes, so two measurements differ in the edit alone. What may be taken away besides
the bridge is its *readers*: a head that reads the slots. Bridge content reaches the token that is
predicted by two kinds of paths only,

* heads above L, by which the predicting query attends to slot keys, and
* the *stream* of the last slot, whose residual is a bridge token and predicts the first token;

blinding all heads and closing the stream is the knock-out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.anchoring.edits import (
    BridgeEdit,
    EditedWriter,
    ReplayedWriter,
    rows_of,
    unchanged,
    write_bridges,
)
from probes.margins import (
    BATCH_SIZE,
    PairLogProbs,
    ReplyBatch,
    ReplyPairs,
    reply_log_probs,
)
from probes.records import NOT_MEASURED
from workbench.backbone.protocol import Backbone
from workbench.errors import BackboneError, DataError
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.slots import Columns, SlotForward, forward_with_slots
from workbench.svgt.value_module import BridgeWrite


@dataclass(frozen=True, eq=False)
class Scene:
    """Prompts with two replies each, and the bridge that a guidance writes behind each prompt.

    Attributes:
        backbone: The frozen model.
        guidance: Whose bridge is studied.
        pairs: The prompts and replies.
        write: What was written behind every prompt.
        n_tokens: Tokens of every reply that count; None for all.
        batch_size: Replies a pass.
    """

    backbone: Backbone
    guidance: SVGTBridge
    pairs: ReplyPairs
    write: BridgeWrite
    n_tokens: int | None = None
    batch_size: int = BATCH_SIZE

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def first_layer(self) -> int:
        """The lowest block that sees the slots."""
        return self.guidance.writer.config.layer + 1

    @property
    def why_not_by_head(self) -> str:
        """Why what single heads add to the residual stream is not known; empty where it is."""
        try:
            self.backbone.output_map(self.first_layer)
        except BackboneError as error:
            return f"{NOT_MEASURED}: {error}"
        return ""

    @property
    def slot_layers(self) -> tuple[int, ...]:
        """The blocks that see the slots."""
        return tuple(range(self.first_layer, self.backbone.n_layers))

    @property
    def n_slots(self) -> int:
        """K."""
        return self.write.bridge.shape[1]

    def rows(self, index: Sequence[int]) -> "Scene":
        """Some of the prompts.

        Raises:
            DataError: None is asked for.
        """
        picked = rows_of(self.write, torch.tensor(list(index), dtype=torch.long))
        return replace(self, pairs=self.pairs.rows(index), write=picked)

    def seeing(self) -> "Scene":
        """The prompts whose gate is open.

        Raises:
            DataError: The gate stays closed for all of them.
        """
        open_rows = self.write.open.nonzero().flatten().tolist()
        if not open_rows:
            raise DataError(
                f"the gate of {self.guidance.name} stays closed for all {len(self)} prompts, so "
                "there is no bridge to study: give prompts that it takes for harmful, or use a "
                "module trained for this backbone"
            )
        return self.rows(open_rows)

    def guided_by(self, edit: BridgeEdit) -> SVGTBridge:
        """The guidance with every bridge edited, for decoding all the prompts as one batch."""
        n_bridge = edit(self.write).bridge.shape[1]
        writer = EditedWriter(self.guidance.writer, edit, n_bridge)
        return replace(self.guidance, writer=writer, closed_rows="shifted")

    def run(self, batch: ReplyBatch, edit: BridgeEdit | None) -> SlotForward:
        """One pass over some replies; without an edit, without any slots."""
        writer = None
        if edit is not None:
            written = rows_of(edit(self.write), batch.rows)
            writer = ReplayedWriter(self.guidance.writer.config, written)
        return forward_with_slots(self.backbone, batch.prompt, batch.response, writer)

    def log_probs(
        self,
        edit: BridgeEdit | None = unchanged,
        *,
        blind: Bool[Tensor, "layer head"] | None = None,
        control: "PromptKeys | None" = None,
    ) -> PairLogProbs:
        """Log-probabilities of both replies; carries a graph where the edit does.

        Args:
            edit: What is done to the bridges; None takes the slots away altogether.
            blind: Heads (of all blocks) whose predicting queries do not see the slots.
            control: Hide these prompt keys from the blind heads instead of the slots.
        """

        def forward(batch: ReplyBatch) -> SlotForward:
            if blind is None:
                return self.run(batch, edit)
            columns = self.columns(batch)
            keys = _slot_keys(columns, batch) if control is None else control.of(columns, batch)
            with blinded(self.backbone, columns, blind, keys):
                return self.run(batch, edit)

        return reply_log_probs(
            self.backbone,
            self.pairs,
            forward,
            n_tokens=self.n_tokens,
            batch_size=self.batch_size,
        )

    @torch.no_grad()
    def margins(self, edit: BridgeEdit | None = unchanged) -> Float[Tensor, " batch"]:
        """Safety margin of every pair, in nats a token."""
        return self.log_probs(edit).margin

    def columns(self, batch: ReplyBatch) -> Columns:
        """Columns of a pass over these replies with all slots."""
        return Columns(batch.prompt.ids.shape[1], self.n_slots, batch.response.ids.shape[1])


def set_scene(
    backbone: Backbone,
    guidance: SVGTBridge,
    pairs: ReplyPairs,
    *,
    n_tokens: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Scene:
    """Write the bridges behind all prompts."""
    write = write_bridges(backbone, pairs.prompts, guidance.writer, guidance.gate_scale)
    return Scene(backbone, guidance, pairs, write, n_tokens, batch_size)


@dataclass(frozen=True, eq=False)
class PromptKeys:
    """As many keys of the prompt as there are slots, chosen at random: a control for hiding slots.

    Attributes:
        ranks: A random number for every token of every prompt, counted from the prompt's end; the
            tokens with the lowest numbers are chosen, the first token (the sink) never is.
    """

    ranks: Float[Tensor, "batch context"]

    def of(self, columns: Columns, batch: ReplyBatch) -> Bool[Tensor, "row key"]:
        """True at the chosen columns; all but the first where a prompt has no more tokens."""
        from_start = self.ranks[batch.rows, : columns.n_prompt].flip(1)
        first = columns.n_prompt - batch.prompt.lengths[:, None]
        place = torch.arange(columns.n_prompt, device=first.device)
        ranks = from_start.masked_fill(place <= first, torch.inf)
        order = ranks.argsort(dim=1).argsort(dim=1)
        chosen = (order < columns.n_slots) & ranks.isfinite()
        return torch.nn.functional.pad(chosen, (0, columns.total - columns.n_prompt))


def _slot_keys(columns: Columns, batch: ReplyBatch) -> Bool[Tensor, "row key"]:
    is_slot = columns.is_slot(batch.prompt.ids.device)
    return is_slot.expand(len(batch.rows), -1)


@contextmanager
def blinded(
    backbone: Backbone,
    columns: Columns,
    blind: Bool[Tensor, "layer head"],
    keys: Bool[Tensor, "row key"],
) -> Iterator[None]:
    """Within, the blind heads' predicting queries do not see the given keys.

    Predicting queries are the last slot and every response token; the slots before it go on
    reading one another.

    Args:
        backbone: The model.
        columns: Columns of the pass.
        blind: Which heads, of all blocks.
        keys: Which keys, row by row.
    """
    predicting = torch.zeros(columns.total, dtype=torch.bool, device=keys.device)
    predicting[columns.slots.stop - 1 :] = True
    with keys_hidden(backbone, blind, predicting[:, None] & keys[:, None, None, :]):
        yield


@contextmanager
def keys_hidden(
    backbone: Backbone,
    blind: Bool[Tensor, "layer head"],
    hidden: Bool[Tensor, "#row 1 query key"],
) -> Iterator[None]:
    """Within, the marked queries of the blind heads do not see the marked keys."""
    layers = blind.any(dim=1).nonzero().flatten().tolist()

    def hide(scores: Tensor, layer: int) -> Tensor:
        heads = blind[layer].to(scores.device)[:, None, None]
        return scores.masked_fill(hidden & heads, torch.finfo(scores.dtype).min)

    with backbone.edit_scores(layers, hide) if layers else nullcontext():
        yield
