"""What every room above needs from a frozen language model, and nothing more.

A backbone is observed and, inside a context, overwritten; it is never trained. The protocol speaks
of layers (blocks counted from 0), positions and residuals, never of hook names: those belong to
``workbench.backbone.hooks`` and ``workbench.backbone.nnsight_sites``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.adapters import AdaptedWeights, LinearMap
from workbench.backbone.cache import SlotCache
from workbench.data.example import Conversation

Prompt = str | Conversation
ResidualEdit = Callable[[Float[Tensor, "batch seq d_model"]], Float[Tensor, "batch seq d_model"]]
MixEdit = Callable[
    [Float[Tensor, "batch head query d_head_v"]], Float[Tensor, "batch head query d_head_v"]
]
ScoreEdit = Callable[
    [Float[Tensor, "batch head query key"], int], Float[Tensor, "batch head query key"]
]
HiddenKeys = Callable[[], Bool[Tensor, "..."]]
VisitStates = Callable[[Int[Tensor, " row"], slice, Mapping[int, Tensor]], None]
"""Gets the indices of a pass's rows, its columns, and states by layer: (row, column, d_model)."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of several texts with the mask of the real tokens.

    Attributes:
        ids: Token ids; the value at a padded place is arbitrary but valid.
        mask: True at real tokens. The real tokens of a row are contiguous.
    """

    ids: Int[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Number of real tokens of every row."""
        return self.mask.sum(dim=1)

    def rows(self, index: Tensor | slice) -> "TokenBatch":
        """The batch of the given rows, same columns."""
        return TokenBatch(self.ids[index], self.mask[index])

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(self.ids.to(device), self.mask.to(device))


def positions_from_mask(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions counted from 0 at the first real token; padding repeats its neighbour's position.

    Columns before the first real token get position 0, columns after the last one repeat the last
    position, so that no padded column can exceed the context.
    """
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def pad_rows(
    rows: Sequence[Sequence[int]], *, pad_id: int, side: str, device: torch.device | str
) -> TokenBatch:
    """Rows of token ids as one padded batch.

    Args:
        rows: Token ids of every row.
        pad_id: Id written at padded places.
        side: ``"left"`` or ``"right"``, where the padding goes.
        device: Where the tensors live.
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for number, row in enumerate(rows):
        columns = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, columns] = torch.tensor(row, dtype=torch.long)
        mask[number, columns] = True
    return TokenBatch(ids.to(device), mask.to(device))


@runtime_checkable
class Backbone(Protocol):
    """A frozen decoder-only language model whose residual stream can be read and overwritten."""

    @property
    def name(self) -> str:
        """Name it was loaded by."""
        ...

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def n_heads(self) -> int:
        """Query heads a block."""
        ...

    @property
    def d_head(self) -> int:
        """Width of a head."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def n_ctx(self) -> int:
        """Most positions a sequence may have."""
        ...

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tokens go in, and where states and logits come out."""
        ...

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that holds weights, ``device`` first."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the residual stream."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        ...

    @property
    def pad_id(self) -> int:
        """Id written at padded and slot places; never attended to."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights as loaded."""
        ...

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer."""
        ...

    def encode(self, prompts: Sequence[Prompt]) -> TokenBatch:
        """Prompts as a left-padded batch."""
        ...

    def encode_responses(self, texts: Sequence[str]) -> TokenBatch:
        """Responses with the end token, right-padded."""
        ...

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of rows of ids, special tokens left out."""
        ...

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's own text."""
        ...

    def check_context(self, prompt_length: int, *, n_slots: int, n_new: int) -> None:
        """Raise ``ContextLengthError`` where the sequence would not fit."""
        ...

    def new_cache(self, capacity: int) -> SlotCache:
        """An empty key-value cache for sequences of up to ``capacity`` columns."""
        ...

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "batch seq"] | Float[Tensor, "batch 1 seq key"],
        position_ids: Int[Tensor, "batch seq"] | None = None,
        cache: SlotCache | None = None,
        columns: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch column vocab"]:
        """Logits, at every column or at the chosen ones."""
        ...

    def run_blocks(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "batch seq"] | Float[Tensor, "batch 1 seq key"],
        last_layer: int,
        position_ids: Int[Tensor, "batch seq"] | None = None,
        cache: SlotCache | None = None,
    ) -> None:
        """Run blocks up to ``last_layer`` only, for the hooks that watch them."""
        ...

    def capture(self, layers: Sequence[int]) -> AbstractContextManager[Mapping[int, Tensor]]:
        """Residuals after the given blocks."""
        ...

    def capture_patterns(
        self, layers: Sequence[int]
    ) -> AbstractContextManager[Mapping[int, Tensor]]:
        """Attention patterns (after the softmax) of the given blocks."""
        ...

    def capture_values(self, layers: Sequence[int]) -> AbstractContextManager[Mapping[int, Tensor]]:
        """Value vectors of the given blocks by query head: (batch, head, key, d_head_v)."""
        ...

    def capture_attention(
        self, layers: Sequence[int]
    ) -> AbstractContextManager[Mapping[int, Tensor]]:
        """What the attention of the given blocks hands on: (batch, query, d_model)."""
        ...

    def capture_mixes(self, layers: Sequence[int]) -> AbstractContextManager[Mapping[int, Tensor]]:
        """Each head's pattern times its values: (batch, head, query, d_head_v)."""
        ...

    def overwrite(
        self, layer: int, edit: ResidualEdit, *, rows: int | None = None
    ) -> AbstractContextManager[None]:
        """Replace the residual after a block by ``edit`` of it."""
        ...

    def overwrite_attention(self, layer: int, edit: ResidualEdit) -> AbstractContextManager[None]:
        """Replace what the attention of a block hands on by ``edit`` of it."""
        ...

    def overwrite_mixes(self, layer: int, edit: MixEdit) -> AbstractContextManager[None]:
        """Replace what the heads of a block gathered by ``edit`` of it."""
        ...

    def only_newest_row(self, last_layer: int, rows: int) -> AbstractContextManager[None]:
        """Run the last of ``rows`` query rows alone up to a block whose edit restores the rest."""
        ...

    def hide_keys(self, layers: Sequence[int], hidden: HiddenKeys) -> AbstractContextManager[None]:
        """Hide the marked keys from the queries of the given blocks."""
        ...

    def edit_scores(self, layers: Sequence[int], edit: ScoreEdit) -> AbstractContextManager[None]:
        """Replace attention scores (before the softmax) by ``edit`` of them."""
        ...

    @property
    def linear_maps(self) -> Mapping[str, LinearMap]:
        """Linear maps of the blocks by checkpoint name."""
        ...

    def adapted(self, changes: Mapping[str, Float[Tensor, "..."]]) -> AdaptedWeights:
        """Weights W + D, in place while the result is entered."""
        ...

    def output_map(
        self, layer: int
    ) -> tuple[Float[Tensor, "head d_head_v d_model"], Float[Tensor, " d_model"]]:
        """W and b of a block: its attention's output is sum_h mix_h W[h] + b."""
        ...

    def logit_direction(
        self, residual: Float[Tensor, "batch d_model"], tokens: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
        """The w and c of each row with logit(token) = w . residual + c, final scale frozen."""
        ...

    def read_states(
        self,
        batch: TokenBatch,
        layers: Sequence[int],
        *,
        batch_size: int = 64,
        position_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> dict[int, Float[Tensor, "batch seq d_model"]]:
        """Residuals of many rows in float32, zero at padded places, without a graph."""
        ...

    def visit_states(
        self,
        batch: TokenBatch,
        layers: Sequence[int],
        visit: VisitStates,
        *,
        batch_size: int = 64,
        position_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> None:
        """The same in the backbone's number type, shown a pass at a time."""
        ...
