"""What every backbone does alike, whatever library opens the model.

Tokenisation, masks and positions, the context check, fingerprints, merged weights, the readout and
the batched reading of states need a frozen Hugging Face model and three things of a library: points
that watch and change a forward pass, logits, and a pass that stops early.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from workbench.arguments import typed_arguments
from workbench.backbone import watching
from workbench.backbone.adapters import AdaptedWeights, LinearMap, LinearWeights
from workbench.backbone.cache import SlotCache
from workbench.backbone.hashing import hash_tensors, hash_tokenizer
from workbench.backbone.masks import additive_mask, beyond_window, causal_keys
from workbench.backbone.memory import memory_named
from workbench.backbone.placement import devices_of
from workbench.backbone.protocol import (
    HiddenKeys,
    MixEdit,
    Prompt,
    ResidualEdit,
    ScoreEdit,
    TokenBatch,
    VisitStates,
    pad_rows,
    positions_from_mask,
)
from workbench.backbone.tokenization import Tokenization
from workbench.backbone.watching import EMBEDDING_LAYER, Captured, Sites
from workbench.errors import BackboneError, ContextLengthError, HookError
from workbench.remedies import memory_remedy

TRANSFORMER_LENS, NNSIGHT = "transformer-lens", "nnsight"
BACKENDS = (TRANSFORMER_LENS, NNSIGHT)
"""Libraries that watch a model's forward pass; the first is the default."""
_PASS_BYTES = 1 << 30
"""Bytes of states and attention scores that one pass of a reading may hold on the device."""
_NORMS_AFTER = {"post_feedforward_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"}
"""Norms between a sublayer and the residual stream, as Gemma 2 and 3, OLMo 2 and GLM 4 call them;
all of these norm both sublayers."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        n_layers: Blocks.
        n_heads: Query heads a block.
        d_head: Width of a head.
        d_model: Width of the residual stream.
        vocab_size: Width of the logits.
    """

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    vocab_size: int


class FrozenBackbone(ABC):
    """A frozen decoder-only model.

    Attributes:
        backend: Name of the library that watches it, as ``load_backbone`` takes it.

    Args:
        name: Name the user loaded it by, for messages and records.
        root: All its modules; frozen here.
        tokenizer: Its tokenizer, untouched.
        sites: Where its forward pass can be watched.
        shape: Its sizes.
        plain: The Hugging Face model, which states what a forward takes.
        weights: The model's own tensors by their checkpoint names, for the fingerprint.
        n_ctx: Most positions a sequence may have.
        eos_ids: Tokens that end a response.
        windows: By block whose attention slides, how many positions a query sees.
    """

    backend: ClassVar[str]

    def __init__(
        self,
        name: str,
        root: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sites: Sites,
        shape: ModelShape,
        plain: nn.Module,
        weights: Mapping[str, Tensor],
        n_ctx: int,
        eos_ids: tuple[int, ...],
        windows: Mapping[int, int],
    ) -> None:
        root.eval()
        for parameter in root.parameters():
            parameter.requires_grad_(False)
        self.name = name
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self.n_ctx = n_ctx
        self.n_layers = shape.n_layers
        self.n_heads = shape.n_heads
        self.d_model = shape.d_model
        self.vocab_size = shape.vocab_size
        self.d_head = shape.d_head
        self._root = root
        self._sites = sites
        self._keeps_columns = "logits_to_keep" in inspect.signature(plain.forward).parameters
        self._weights = dict(weights)
        self._windows = dict(windows)
        self._tokens = Tokenization(name, tokenizer, eos_ids, shape.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where tokens go in and states and logits come out; the weights' device if they have one.

        A model spread over devices has its embeddings there.
        """
        return next(iter(self._weights.values())).device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that holds weights, ``device`` first."""
        return devices_of(self._weights.values())

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the residual stream."""
        return next(tensor.dtype for tensor in self._weights.values() if tensor.is_floating_point())

    @property
    def pad_id(self) -> int:
        """Id written at padded and slot places; never attended to."""
        return self._tokens.pad_id

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the weights as loaded (taken at first use)."""
        return self.current_weights_hash()

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer."""
        return hash_tokenizer(self.tokenizer)

    def current_weights_hash(self) -> str:
        """SHA-256 of the weights as they are now: equal to ``weights_hash`` while frozen."""
        return hash_tensors(self._weights)

    # ---------------------------------------------------------------- texts

    @typed_arguments
    def encode(self, prompts: Sequence[Prompt]) -> TokenBatch:
        """Prompts as a left-padded batch, by the chat template where the tokenizer has one.

        Args:
            prompts: Conversations, or strings that stand for one user turn.

        Raises:
            ConfigError: One text instead of a list of them.
            TokenError: An empty prompt, or words outside the vocabulary, which it names.
            ContextLengthError: A prompt longer than the context; nothing is ever cut.
        """
        rows = [self._tokens.prompt_ids(prompt) for prompt in prompts]
        for row in rows:
            self.check_context(len(row), n_slots=0, n_new=0)
        return pad_rows(rows, pad_id=self.pad_id, side="left", device=self.device)

    @typed_arguments
    def encode_responses(self, texts: Sequence[str]) -> TokenBatch:
        """Responses as a right-padded batch, each closed as the chat template closes a turn.

        Raises:
            ConfigError: One text instead of a list of them.
            TokenError: Words outside the vocabulary, or a tokenizer without an end token.
            ContextLengthError: A response longer than the context.
        """
        rows = [self._tokens.response_ids(text) for text in texts]
        for row in rows:
            self.check_context(len(row), n_slots=0, n_new=0)
        return pad_rows(rows, pad_id=self.pad_id, side="right", device=self.device)

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of rows of ids, special tokens left out."""
        return [self._tokens.text(row) for row in ids]

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's own text, special tokens shown."""
        return self._tokens.pieces(ids)

    def check_context(self, prompt_length: int, *, n_slots: int, n_new: int) -> None:
        """Check that prompt, slots and new tokens fit into the context.

        Raises:
            ContextLengthError: With the numbers, and what to do.
        """
        total = prompt_length + n_slots + n_new
        if total <= self.n_ctx:
            return
        slots = f" + {n_slots} slots" if n_slots else ""
        new = f" + {n_new} new tokens" if n_new else ""
        total_text = f" = {total}" if slots or new else ""
        room = self.n_ctx - prompt_length - n_slots
        remedy = (
            f"ask for at most {room} new tokens or shorten the prompt"
            if n_new and room > 0
            else f"shorten it by at least {total - self.n_ctx} tokens"
        )
        raise ContextLengthError(
            f"{prompt_length} prompt tokens{slots}{new}{total_text} exceed the {self.n_ctx} "
            f"positions of {self.name}: {remedy} (nothing is cut silently)"
        )

    # --------------------------------------------------------------- forward

    def new_cache(self, capacity: int) -> SlotCache:
        """An empty key-value cache for sequences of up to ``capacity`` columns."""
        return SlotCache(self.n_layers, capacity)

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "batch seq"] | Float[Tensor, "#batch 1 seq key"],
        position_ids: Int[Tensor, "batch seq"] | None = None,
        cache: SlotCache | None = None,
        columns: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch column vocab"]:
        """Logits of a forward pass.

        Args:
            ids: Token ids.
            mask: The real tokens (causality is added), or a full additive mask in which 0 lets a
                query see a key and the lowest number of the type hides it.
            position_ids: Positions; by default counted from 0 at the first real token.
            cache: Keys and values of earlier columns, extended in place; needs a full mask.
            columns: Columns whose logits are wanted; all by default.
        """
        layers = range(self.n_layers)
        with self._room(ids), self._inputs(mask, position_ids, cache, layers) as inputs:
            return self._logits(ids, columns, inputs)

    def logits(self, batch: TokenBatch) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the plain model at every column (meaningless at padded ones)."""
        return self.forward(batch.ids, mask=batch.mask)

    def run_blocks(
        self,
        ids: Int[Tensor, "batch seq"],
        *,
        mask: Bool[Tensor, "batch seq"] | Float[Tensor, "#batch 1 seq key"],
        last_layer: int,
        position_ids: Int[Tensor, "batch seq"] | None = None,
        cache: SlotCache | None = None,
    ) -> None:
        """Run the blocks up to ``last_layer`` and none above, for the hooks that watch them."""
        layers = range(last_layer + 1)
        with self._room(ids), self._inputs(mask, position_ids, cache, layers) as inputs:
            self._run_lower(ids, last_layer, inputs)

    def _room(self, ids: Tensor) -> AbstractContextManager[None]:
        """Within, the masks of a pass included, running out of memory says what to lower."""
        size = " rows of ".join(map(str, ids.shape))
        return memory_named(f"running {size} tokens on {self.device}", memory_remedy())

    @contextmanager
    def _inputs(
        self,
        mask: Tensor,
        position_ids: Tensor | None,
        cache: SlotCache | None,
        layers: Sequence[int],
    ) -> Iterator[dict[str, object]]:
        """The model's own keyword arguments; within, blocks that slide hide what is too far."""
        if mask.ndim == 2 and cache is not None:
            raise BackboneError("a cached forward needs a full mask (batch, 1, seq, key)")
        if position_ids is None:
            if mask.ndim != 2:
                raise BackboneError("a forward with a full mask needs explicit position ids")
            position_ids = positions_from_mask(mask)
        if self._windows and mask.ndim == 2:
            mask = additive_mask(causal_keys(mask), self.dtype)
        inputs: dict[str, object] = {
            "attention_mask": mask.long() if mask.dtype == torch.bool else mask,
            "position_ids": position_ids,
        }
        if cache is None:
            inputs["use_cache"] = False
        else:
            inputs["past_key_values"] = cache
        with ExitStack() as stack:
            if self._windows:
                keys = position_ids if cache is None else cache.place(position_ids)
                for window in set(self._windows.values()):
                    sliding = [i for i in layers if self._windows.get(i) == window]
                    beyond = beyond_window(position_ids, keys, window)
                    stack.enter_context(self._hidden(sliding, beyond[:, None]))
            yield inputs

    def _hidden(self, layers: Sequence[int], hidden: Tensor) -> AbstractContextManager[None]:
        return self.hide_keys(layers, lambda: hidden)

    def _logits(
        self, ids: Tensor, columns: Sequence[int] | None, inputs: Mapping[str, object]
    ) -> Tensor:
        return self._chosen_logits(ids, columns, inputs).to(self.device)

    def _chosen_logits(
        self, ids: Tensor, columns: Sequence[int] | None, inputs: Mapping[str, object]
    ) -> Tensor:
        if columns is None:
            return self._run(ids, inputs)
        if self._keeps_columns:
            if list(columns) == [ids.shape[1] - 1]:  # a number: no tensor to send to the device
                return self._run(ids, {**inputs, "logits_to_keep": 1})
            if len(self.devices) > 1:  # an index would wait at home, the states stand elsewhere
                first = min(columns)
                newest = self._run(ids, {**inputs, "logits_to_keep": ids.shape[1] - first})
                return newest[:, [column - first for column in columns]]
            wanted = torch.tensor(columns, device=ids.device)
            return self._run(ids, {**inputs, "logits_to_keep": wanted})
        return self._run(ids, inputs)[:, list(columns)]

    @abstractmethod
    def _run(self, ids: Tensor, inputs: Mapping[str, object]) -> Tensor:
        """Logits of a pass; ``inputs`` are the model's own keyword arguments."""

    @abstractmethod
    def _run_lower(self, ids: Tensor, last_layer: int, inputs: Mapping[str, object]) -> None:
        """Run the blocks up to ``last_layer`` and, where it can be helped, nothing above."""

    # ----------------------------------------------------------------- hooks

    def capture(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """Residuals after the given blocks, as the latest forward inside the context left them.

        Raises:
            HookError: On entering (no such layer) or leaving (a hook did not fire).
            NonFiniteError: A residual holds a NaN or an infinity.
        """
        return watching.capture_residuals(
            self._sites, layers, self.d_model, self.dtype, self.device
        )

    def capture_patterns(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """Attention patterns of the given blocks: (batch, head, query, key), rows sum to 1."""
        return watching.capture_patterns(self._sites, layers, self.n_heads, self.device)

    def capture_values(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """Value vectors of the given blocks by query head: (batch, head, key, d_head_v)."""
        return watching.capture_values(self._sites, layers, self.n_heads, self.device)

    def capture_attention(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """What the attention of the given blocks hands on: (batch, query, d_model)."""
        return watching.capture_attention(
            self._sites, layers, self.d_model, self.dtype, self.device
        )

    def capture_mixes(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """Each head's pattern times its values: (batch, head, query, d_head_v)."""
        return watching.capture_mixes(self._sites, layers, self.n_heads, self.device)

    def overwrite(
        self, layer: int, edit: ResidualEdit, *, rows: int | None = None
    ) -> AbstractContextManager[None]:
        """Replace the residual after a block by ``edit`` of it, same shape and type.

        Args:
            layer: The block.
            edit: The function.
            rows: Within ``only_newest_row``, the rows the edit restores.
        """
        return watching.overwrite_residual(self._sites, layer, edit, self.device, rows)

    def overwrite_attention(self, layer: int, edit: ResidualEdit) -> AbstractContextManager[None]:
        """Replace what the attention of a block hands on, before it reaches the block's MLP.

        Args:
            layer: The block.
            edit: Gets and returns (batch, query, d_model).
        """
        return watching.overwrite_attention(self._sites, layer, edit, self.device)

    def overwrite_mixes(self, layer: int, edit: MixEdit) -> AbstractContextManager[None]:
        """Replace what the heads of a block gathered, before the output projection.

        Args:
            layer: The block.
            edit: Gets and returns (batch, head, query, d_head_v).
        """
        return watching.overwrite_mixes(self._sites, layer, edit, self.n_heads, self.device)

    def only_newest_row(self, last_layer: int, rows: int) -> AbstractContextManager[None]:
        """Run the last of ``rows`` query rows alone up to a block whose edit restores the rest."""
        return watching.only_newest_row(self._sites, last_layer, rows)

    def hide_keys(self, layers: Sequence[int], hidden: HiddenKeys) -> AbstractContextManager[None]:
        """Hide the marked keys from the queries of blocks.

        Args:
            layers: The blocks; the forward must be given a full mask.
            hidden: Asked when the first of them runs: (query, key), or with the axes of the mask.
        """
        return watching.hide_keys(self._sites, layers, hidden)

    def edit_scores(self, layers: Sequence[int], edit: ScoreEdit) -> AbstractContextManager[None]:
        """Replace the masked attention scores of blocks by ``edit(scores, layer)``."""
        return watching.edit_scores(self._sites, layers, edit, self.device)

    # --------------------------------------------------------------- weights

    @cached_property
    def _linear(self) -> LinearWeights:
        return LinearWeights(self._root, self._sites.blocks, self._weights)

    @property
    def linear_maps(self) -> Mapping[str, LinearMap]:
        """Linear maps of the blocks by checkpoint name; embeddings and readout are none."""
        return self._linear.maps

    def adapted(self, changes: Mapping[str, Float[Tensor, "..."]]) -> AdaptedWeights:
        """Weights W + D, in place while the result is entered; it may be entered again and again.

        Args:
            changes: D by the name of its linear map, (outputs, inputs). Without any, entering
                changes nothing.

        Raises:
            BackboneError: An unknown name, another shape, or an architecture whose modules hold
                copies of its weights; on entering, if adapters are in place already.
            NonFiniteError: A change holds a NaN or an infinity.
        """
        return self._linear.adapted(changes)

    @torch.no_grad()
    def output_map(
        self, layer: int
    ) -> tuple[Float[Tensor, "head d_head_v d_model"], Float[Tensor, " d_model"]]:
        """W and b of a block: its attention's output is sum_h mix_h W[h] + b (b may be zero).

        The projection itself is asked, with unit vectors, so that no layout of weights is assumed.

        Raises:
            HookError: There is no such layer.
            BackboneError: The architecture's attention cannot be taken apart by heads, or what it
                gives is normed or scaled before it is added to the residual stream.
        """
        self._check_added_as_it_is(layer)
        project, width = self._sites.output_projection(layer), self.d_head
        place = project.get_parameter("weight").device
        units = torch.eye(self.n_heads * width, dtype=self.dtype, device=place)
        bias = project(torch.zeros_like(units[0])).float()
        weights: Tensor = project(units).float() - bias
        weights = weights.reshape(self.n_heads, width, self.d_model)
        return weights.to(self.device), bias.to(self.device)

    def _check_added_as_it_is(self, layer: int) -> None:
        block = watching.at(self._sites.blocks, layer)
        parts = {name.rpartition(".")[2] for name, _ in block.named_modules()}
        factors = {getattr(module, "residual_multiplier", 1.0) for module in block.modules()}
        if parts & _NORMS_AFTER or factors != {1.0}:
            raise BackboneError(
                f"the blocks of {self.name} norm or scale what their attention gives before they "
                "add it: a head has no fixed share of the residual stream there, so leave the "
                "analyses of what single heads write out"
            )

    @torch.no_grad()
    def logit_direction(
        self, residual: Float[Tensor, "batch d_model"], tokens: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
        """The vector w and number c of each row with logit(token) = w . residual + c.

        The final norm divides by a scale that depends on the residual. With that scale frozen the
        readout is linear, so w . part is what a part of the residual adds to the logit (direct
        logit attribution, arXiv 2309.16042). A cap or factor that an architecture puts on its
        logits is not part of it.

        Args:
            residual: After the last block, at the place that predicts the token.
            tokens: One token a row.
        """
        norm, unembed = self._sites.readout()
        weight, bias = unembed.get_parameter("weight"), unembed._parameters.get("bias")
        # A spread model may have its norm on another device than its unembedding.
        there = residual.to(norm.get_parameter("weight").device)
        factor, shift, centred = _frozen_norm(norm, there)
        factor, shift = factor.to(self.device), shift.to(self.device)
        tokens = tokens.to(weight.device)
        rows = weight[tokens].float().to(self.device)
        direction = rows * factor
        if centred:
            direction = direction - direction.mean(dim=-1, keepdim=True)
        constant = rows @ shift
        if bias is not None:
            constant = constant + bias[tokens].float().to(self.device)
        return direction, constant

    # ---------------------------------------------------------------- states

    @torch.no_grad()
    def read_states(
        self,
        batch: TokenBatch,
        layers: Sequence[int],
        *,
        batch_size: int = 64,
        position_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> dict[int, Float[Tensor, "batch seq d_model"]]:
        """Residuals of many rows, without a graph; blocks above the highest layer do not run.

        Rows of similar length run together, so padding costs little; what padding there is
        changes no number.

        Args:
            batch: The rows; padding may stand on either side.
            layers: Blocks whose output is wanted; -1 stands for the embeddings.
            batch_size: Most rows a forward pass; fewer where texts are long, see ``visit_states``.
            position_ids: Positions; by default counted from 0 at the first real token.

        Returns:
            By layer, float32 on the backbone's device, zero at padded places.
        """
        self._check_layers(layers)
        shape = (*batch.ids.shape, self.d_model)
        states = {layer: torch.zeros(shape, device=self.device) for layer in layers}

        def keep(rows: Tensor, columns: slice, found: Mapping[int, Tensor]) -> None:
            mask = batch.mask[rows, columns].to(self.device)
            for layer, whole in states.items():
                whole[rows, columns] = found[layer].float() * mask[..., None]

        self.visit_states(batch, layers, keep, batch_size=batch_size, position_ids=position_ids)
        return states

    @torch.no_grad()
    def visit_states(
        self,
        batch: TokenBatch,
        layers: Sequence[int],
        visit: VisitStates,
        *,
        batch_size: int = 64,
        position_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> None:
        """Residuals of many rows, shown a pass at a time, so that no more than a pass is held.

        The passes are those of ``read_states``: rows of similar length, ``batch_size`` of them, or
        as many as keep the states of a pass and its attention scores within 1 GiB of the device.

        Args:
            batch: The rows; padding may stand on either side.
            layers: Blocks whose output is wanted; -1 stands for the embeddings.
            visit: Called after every pass with the indices of its rows, its columns, and by layer
                the states there, (row, column, d_model) in the backbone's number type, meaningless
                at padding.
            batch_size: Most rows a forward pass.
            position_ids: Positions; by default counted from 0 at the first real token.
        """
        self._check_layers(layers)
        if not layers:
            return
        a_token = self.d_model * len(set(layers))

        def fitting(width: int) -> int:
            """Rows of this width within the budget, at four bytes a number."""
            return max(1, _PASS_BYTES // (4 * width * (a_token + self.n_heads * width)))

        for rows, columns in _buckets(batch.mask, batch_size, fitting):
            self._visit_pass(batch, sorted(set(layers)), visit, rows, columns, position_ids)

    def _visit_pass(
        self,
        batch: TokenBatch,
        layers: Sequence[int],
        visit: VisitStates,
        rows: Tensor,
        columns: slice,
        position_ids: Tensor | None,
    ) -> None:
        """One pass; what it captured ends with this frame, before the next pass begins."""
        with self.capture(layers) as captured:
            self.run_blocks(
                batch.ids[rows, columns].to(self.device),
                mask=batch.mask[rows, columns].to(self.device),
                position_ids=None if position_ids is None else position_ids[rows, columns],
                last_layer=max(layers),
            )
        visit(rows, columns, captured)

    def _check_layers(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not EMBEDDING_LAYER <= layer < self.n_layers:
                raise HookError(
                    f"there is no layer {layer}: {self.name} has layers 0 to {self.n_layers - 1}, "
                    "and -1 for the embeddings"
                )


def _frozen_norm(
    norm: nn.Module, residual: Float[Tensor, "batch d_model"]
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " d_model"], bool]:
    """Factor and shift with norm(x) = factor * x' + shift at these states.

    Returns:
        Factor and shift, and whether x' is x with its mean taken away (a LayerNorm) or x itself (an
        RMS norm).
    """
    centred = isinstance(norm, nn.LayerNorm)
    bias = norm._parameters.get("bias")
    gain = norm.get_parameter("weight").float()
    if not centred:
        # At x = 1 the RMS is 1: what an RMS norm makes of it is its gain, whether the architecture
        # stores the gain or the gain less 1. A common factor cancels below.
        gain = norm(torch.ones_like(residual[0])).float()
    shift = torch.zeros_like(gain) if bias is None else bias.float()
    state = residual.float()
    scaled = gain * (state - state.mean(dim=-1, keepdim=True) if centred else state)
    normed = norm(residual).float() - shift
    # Every coordinate of a row has the same ratio; least squares takes it from all of them.
    ratio = (scaled * normed).sum(-1, keepdim=True) / scaled.square().sum(-1, keepdim=True)
    return gain * ratio, shift, centred


def _buckets(
    mask: Bool[Tensor, "batch seq"], batch_size: int, fitting: Callable[[int], int]
) -> Iterator[tuple[Int[Tensor, "row"], slice]]:
    """Rows by length in groups, with the columns that hold any of their tokens.

    A group that is too large at its width is parted.
    """
    order = mask.sum(dim=1).argsort(stable=True)
    for group in torch.split(order, batch_size):
        used = _used(mask, group)
        if used.start < used.stop:
            for rows in torch.split(group, fitting(used.stop - used.start)):
                columns = _used(mask, rows)
                if columns.start < columns.stop:
                    yield rows, columns


def _used(mask: Bool[Tensor, "batch seq"], rows: Int[Tensor, "row"]) -> slice:
    """The columns that hold any token of these rows; an empty slice where none does."""
    used = mask[rows].any(dim=0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
