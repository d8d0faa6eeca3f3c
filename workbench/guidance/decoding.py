"""The one decoder: batched, cached, streaming, guided or not.

Columns stand as ``[left-padded prompt | K slots | response]``; without slots K = 0 and the decoder
is the plain model. One forward pass a new token. Where a guidance refreshes its slots, they are fed
beside the current token in that same pass, their old keys and values are written over, and slots
still see the prompt and earlier slots only. Rows that have finished are fed padding and recorded no
more.

Traces of token t belong to the pass that predicted it (correction, gate, attention on the slots) or
to the pass that read it (harm score); a token is reported once all that was asked for is known.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.arguments import typed_arguments
from workbench.backbone.masks import additive_mask
from workbench.backbone.protocol import Backbone, Prompt, TokenBatch
from workbench.errors import ConfigError
from workbench.guidance.protocol import DecoderPass, Guidance, Reading
from workbench.guidance.receipts import Receipt, ReceiptBook
from workbench.guidance.sampling import Sampling, choose_tokens, draw_uniforms
from workbench.svgt.slots import Columns, slot_positions, visible_keys

_ANY_PROMPTS: Sequence[Prompt] = ("",)
"""Stands for prompts: a guidance that leaves them alone gives back the same sequence."""

SlotAttention = Literal["none", "mean", "heads"]
FinishReason = Literal["stop", "length"]


@runtime_checkable
class ObserverSettings(Protocol):
    """Of an observer's configuration, what decoding needs to know."""

    @property
    def encoder_layer(self) -> int:
        """The layer whose states are scored: the one the encoder was trained on."""
        ...


@runtime_checkable
class HarmObserver(Protocol):
    """Whatever scores a response by its states; a ``ValueModule`` is one."""

    @property
    def config(self) -> ObserverSettings:
        """Which layer it reads."""
        ...

    def score_response(
        self,
        prompt: Float[Tensor, "batch context d_model"],
        response: Float[Tensor, "batch seq d_model"],
        prompt_mask: Bool[Tensor, "batch context"],
        response_mask: Bool[Tensor, "batch seq"],
    ) -> Float[Tensor, " batch"]:
        """Harm score of the response so far."""
        ...


@dataclass(frozen=True)
class TraceRequest:
    """What to record beside the tokens; everything costs time, so nothing is on by default.

    Attributes:
        observer: Scores the response after every token, guided or not (one pass more at the end).
        bridge: Trigger score, size of the correction and gate.
        slot_attention: Attention that the predicting token pays to the slots: ``mean`` over heads
            and the blocks that see slots, or for all ``heads`` apart.
    """

    observer: HarmObserver | None = None
    bridge: bool = False
    slot_attention: SlotAttention = "none"


@dataclass(frozen=True, eq=False)
class StepTrace:
    """Traces of one token of every row; None where not asked for or not there.

    Attributes:
        harm_score: s of the response up to this token.
        reading: What the guidance had decided when the token was predicted.
        slot_attention: (batch,) or (batch, layer, head).
    """

    harm_score: Float[Tensor, " batch"] | None = None
    reading: Reading | None = None
    slot_attention: Float[Tensor, " batch"] | Float[Tensor, "batch layer head"] | None = None


@dataclass(frozen=True, eq=False)
class TokenStep:
    """One new token of every row, as streamed.

    Attributes:
        index: 0 for the first new token.
        ids: The tokens.
        live: Rows that had not finished before; elsewhere ids and traces mean nothing.
        trace: The traces asked for.
    """

    index: int
    ids: Int[Tensor, " batch"]
    live: Bool[Tensor, " batch"]
    trace: StepTrace


@dataclass(frozen=True, eq=False)
class TokenTrace:
    """Traces along one row's tokens; None where not asked for or not there.

    Attributes:
        harm_score: s of the response up to each token; above 0 means harmful.
        trigger_score: Score of the state the bridge in use was made from.
        correction_norm: Size of its correction.
        open: Whether the row saw the slots.
        slot_attention: Attention on the slots, (token,) or (token, layer, head).
    """

    harm_score: Float[Tensor, " token"] | None
    trigger_score: Float[Tensor, " token"] | None
    correction_norm: Float[Tensor, " token"] | None
    open: Bool[Tensor, " token"] | None
    slot_attention: Float[Tensor, " token"] | Float[Tensor, "token layer head"] | None


@dataclass(frozen=True, eq=False)
class Generation:
    """One finished response.

    Attributes:
        ids: New tokens, the stop token included.
        text: Their text, special tokens left out.
        finish: ``stop`` at a stop token, ``length`` at the limit.
        trace: The traces asked for.
    """

    ids: tuple[int, ...]
    text: str
    finish: FinishReason
    trace: TokenTrace


def generate(
    backbone: Backbone,
    prompts: Sequence[Prompt] | TokenBatch,
    guidance: Guidance,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    stop: Sequence[int] | None = None,
    on_token: Callable[[TokenStep], None] | None = None,
    trace: TraceRequest | None = None,
    receipts: ReceiptBook | None = None,
) -> list[Generation]:
    """Generate a response to every prompt.

    Args:
        backbone: The frozen model.
        prompts: Texts or conversations, or prompts already encoded (left-padded).
        guidance: How to steer; ``NoGuidance()`` for the plain model.
        max_new_tokens: Limit of every response.
        sampling: How tokens are chosen.
        generator: Source of the rows' random streams; needed unless greedy.
        stop: Tokens that end a response; the backbone's end tokens by default.
        on_token: Called with every step as soon as it is known.
        trace: What to record beside the tokens.
        receipts: Gets what the guidance did to the states.

    Raises:
        TokenError: A prompt is empty or has unknown words.
        ContextLengthError: Prompt, slots and new tokens exceed the context.
        ConfigError: An argument of another type (one text instead of a list), sampling without a
            generator, no token to generate, or tokens for a guidance that rewrites prompts.
    """
    steps: list[TokenStep] = []
    for step in stream(
        backbone,
        prompts,
        guidance,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        generator=generator,
        stop=stop,
        trace=trace,
        receipts=receipts,
    ):
        steps.append(step)
        if on_token is not None:
            on_token(step)
    if not steps:
        return []
    return _generations(backbone, steps, _stop_ids(backbone, stop))


@typed_arguments
def stream(
    backbone: Backbone,
    prompts: Sequence[Prompt] | TokenBatch,
    guidance: Guidance,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    stop: Sequence[int] | None = None,
    trace: TraceRequest | None = None,
    receipts: ReceiptBook | None = None,
) -> Iterator[TokenStep]:
    """Generate step by step; arguments and errors as for ``generate``.

    Between two steps no hook is held: a stream may be dropped at any point. The receipts are
    complete once it has ended.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}: ask for at least one token")
    if isinstance(prompts, TokenBatch):
        if guidance.prepare(_ANY_PROMPTS) is not _ANY_PROMPTS:
            raise ConfigError(
                f"{guidance.name} rewrites prompts, which tokens are not: give texts or "
                "conversations"
            )
        prompt = prompts.to(backbone.device)
    else:
        prompt = backbone.encode(guidance.prepare(prompts))
    n_rows = len(prompt.ids)
    if n_rows == 0:
        return
    backbone.check_context(
        int(prompt.lengths.max()), n_slots=guidance.n_slots, n_new=max_new_tokens
    )
    uniforms = None
    if not sampling.greedy:
        if generator is None:
            raise ConfigError(
                "sampling needs a torch.Generator with a seed of yours: pass one, or be greedy"
            )
        uniforms = draw_uniforms(generator, n_rows, max_new_tokens).to(backbone.device)
    run = _Run(backbone, prompt, guidance, max_new_tokens, trace or TraceRequest())
    stop_ids = torch.tensor(_stop_ids(backbone, stop), dtype=torch.long, device=backbone.device)
    live = torch.ones(n_rows, dtype=torch.bool, device=backbone.device)

    logits = run.read_prompt()
    for index in range(max_new_tokens):
        uniform = None if uniforms is None else uniforms[:, index]
        ids = choose_tokens(logits, sampling, uniform).masked_fill(~live, backbone.pad_id)
        chosen = TokenStep(index, ids, live, run.prediction_trace())
        live = live & ~torch.isin(ids, stop_ids)
        last = index + 1 == max_new_tokens or not bool(live.any())
        if last and receipts is not None:
            receipts.add(run.receipts())
        if not run.scores:
            yield chosen
            if last:
                return
        logits = run.read_token(index + 1, ids, chosen.live)
        if run.scores:
            yield TokenStep(index, ids, chosen.live, run.scored(chosen.trace))
            if last:
                return


def _only_columns(
    nowhere: Bool[Tensor, "batch query"], columns: Sequence[int]
) -> Bool[Tensor, "batch query"]:
    """True in these columns of every row."""
    nowhere[:, columns] = True
    return nowhere


def _stop_ids(backbone: Backbone, stop: Sequence[int] | None) -> tuple[int, ...]:
    return backbone.eos_ids if stop is None else tuple(stop)


@dataclass(eq=False)
class _Observed:
    """States an observer reads, gathered pass by pass."""

    prompt: Float[Tensor, "batch context d_model"]
    response: Float[Tensor, "batch token d_model"]
    mask: Bool[Tensor, "batch token"]
    n_tokens: int = 0


@dataclass(frozen=True, eq=False)
class _Masks:
    """Additive masks of the token passes over all columns there will ever be.

    Attributes:
        token: The newest token's view; rows with a closed gate do not see the slots.
        refresh: Slots and newest token fed together; there the gate is decided on the way.
    """

    token: Float[Tensor, "batch 1 1 key"]
    refresh: Float[Tensor, "batch 1 query key"]


class _Run:
    """Passes of one batch: masks, positions, cache and traces."""

    def __init__(
        self,
        backbone: Backbone,
        prompt: TokenBatch,
        guidance: Guidance,
        max_new_tokens: int,
        trace: TraceRequest,
    ) -> None:
        self._backbone = backbone
        self._prompt = prompt
        self._session = guidance.begin(backbone, prompt)
        self._trace = trace
        self._columns = Columns(prompt.ids.shape[1], guidance.n_slots, max_new_tokens)
        self._cache = backbone.new_cache(self._columns.total)
        self._response_mask = torch.ones(
            (len(prompt.ids), max_new_tokens), dtype=torch.bool, device=prompt.ids.device
        )
        self._key_is_slot = self._columns.is_slot(prompt.ids.device)
        self._visible = visible_keys(prompt.mask, guidance.n_slots, self._response_mask)
        self._positions = slot_positions(prompt.mask, guidance.n_slots, self._response_mask)
        self._slot_ids = prompt.ids.new_full((len(prompt.ids), guidance.n_slots), backbone.pad_id)
        self._masks: _Masks | None = None
        self._observed: _Observed | None = None
        self._slot_attention: Tensor | None = None

    @property
    def scores(self) -> bool:
        """Whether the response is scored as it grows."""
        return self._trace.observer is not None

    def receipts(self) -> tuple[Receipt, ...]:
        """What the guidance did to the states that chose a token."""
        return self._session.receipts()

    @torch.no_grad()
    def read_prompt(self) -> Float[Tensor, "batch vocab"]:
        """Read prompts and slots; logits of the first new token."""
        end = self._columns.slots.stop
        is_slot = self._key_is_slot[:end]
        slots = torch.zeros_like(self._slot_ids, dtype=torch.bool)
        ends = sorted({self._columns.n_prompt - 1, end - 1})
        call = DecoderPass(
            step=0,
            feeds_slots=self._columns.n_slots > 0,
            query_is_slot=is_slot,
            key_is_slot=is_slot,
            real=torch.cat([self._prompt.mask, slots], dim=1),
            predicts=_only_columns(slots.new_zeros(len(slots), end), ends),
            prompt_columns=self._columns.n_prompt,
        )
        logits = self._forward(
            call,
            torch.cat([self._prompt.ids, self._slot_ids], dim=1),
            additive_mask(self._visible[:, :end, :end], self._backbone.dtype),
            self._positions[:, :end],
            ends,
        )
        self._positions = self._token_positions()
        self._masks = self._token_masks()
        opened = self._session.open
        if opened is None:
            return logits[:, 0]
        return torch.where(opened[:, None], logits[:, 1], logits[:, 0])

    @torch.no_grad()
    def read_token(
        self, step: int, ids: Int[Tensor, " batch"], live: Bool[Tensor, " batch"]
    ) -> Float[Tensor, "batch vocab"]:
        """Read the ``step``-th new token, refreshing the slots where the guidance wants it."""
        assert self._masks is not None
        column = self._columns.response.start + step - 1
        key_is_slot = self._key_is_slot[: column + 1]
        feeds = self._session.feeds_slots(step)
        queries = [self._columns.slots] if feeds else []
        queries.append(slice(column, column + 1))
        real = live[:, None]
        if feeds:
            real = torch.cat([torch.zeros_like(self._slot_ids, dtype=torch.bool), real], dim=1)
        call = DecoderPass(
            step=step,
            feeds_slots=feeds,
            query_is_slot=torch.cat([key_is_slot[part] for part in queries]),
            key_is_slot=key_is_slot,
            real=real,
            predicts=real,
            prompt_columns=0,
        )
        with self._replacing_slots() if feeds else nullcontext():
            logits = self._forward(
                call,
                torch.cat([self._slot_ids, ids[:, None]], dim=1) if feeds else ids[:, None],
                (self._masks.refresh if feeds else self._masks.token)[..., : column + 1],
                torch.cat([self._positions[:, part] for part in queries], dim=1),
                [real.shape[1] - 1],
            )
        if feeds:
            self._masks = self._token_masks()
        return logits[:, 0]

    def _replacing_slots(self) -> AbstractContextManager[None]:
        return self._cache.replacing(self._columns.slots, self._session.slot_layers.start)

    def prediction_trace(self) -> StepTrace:
        """Traces of the token that the latest pass predicted."""
        reading = self._session.reading() if self._trace.bridge else None
        return StepTrace(reading=reading, slot_attention=self._slot_attention)

    @torch.no_grad()
    def scored(self, trace: StepTrace) -> StepTrace:
        """The trace with the score of the response as read so far."""
        observer, seen = self._trace.observer, self._observed
        assert observer is not None
        assert seen is not None
        tokens = slice(0, seen.n_tokens)
        score = observer.score_response(
            seen.prompt, seen.response[:, tokens], self._prompt.mask, seen.mask[:, tokens]
        )
        return StepTrace(score, trace.reading, trace.slot_attention)

    def _forward(
        self,
        call: DecoderPass,
        ids: Int[Tensor, "batch query"],
        mask: Float[Tensor, "batch 1 query key"],
        positions: Int[Tensor, "batch query"],
        columns: list[int],
    ) -> Float[Tensor, "batch column vocab"]:
        with ExitStack() as stack:
            stack.enter_context(self._session.during(call))
            captured = patterns = None
            layers = self._session.slot_layers
            if self._trace.observer is not None:
                layer = self._trace.observer.config.encoder_layer
                captured = stack.enter_context(self._backbone.capture([layer]))
            if self._trace.slot_attention != "none" and layers:
                patterns = stack.enter_context(self._backbone.capture_patterns(layers))
            logits = self._backbone.forward(
                ids, mask=mask, position_ids=positions, cache=self._cache, columns=columns
            )
        if captured is not None:
            self._observe(call, next(iter(captured.values())).float())
        if patterns is not None:
            stacked = torch.stack([patterns[layer] for layer in layers], dim=1)
            self._slot_attention = self._attention_on_slots(stacked)
        return logits

    def _token_positions(self) -> Int[Tensor, "batch column"]:
        """Positions of all columns, as the session settled them in the prompt pass."""
        return slot_positions(
            self._prompt.mask,
            self._columns.n_slots,
            self._response_mask,
            self._session.response_shift,
        )

    def _token_masks(self) -> _Masks:
        """Masks of the token passes: the token's own, and with the slots fed before it."""
        visible = self._visible[:, self._columns.total - 1 :]
        slots = self._visible[:, self._columns.slots]
        opened = self._session.open
        seen = visible
        if opened is not None:
            seen = visible & (opened[:, None, None] | ~self._key_is_slot)
        dtype = self._backbone.dtype
        return _Masks(
            token=additive_mask(seen, dtype),
            refresh=additive_mask(torch.cat([slots, visible], dim=1), dtype),
        )

    def _observe(self, call: DecoderPass, states: Float[Tensor, "batch query d_model"]) -> None:
        """Keep the states of the prompt, or of the newest token, for the observer."""
        if call.step == 0:
            on_prompt = states[:, self._columns.prompt]
            shape = (len(states), self._columns.n_response)
            self._observed = _Observed(
                prompt=on_prompt,
                response=states.new_zeros((*shape, states.shape[-1])),
                mask=torch.zeros(shape, dtype=torch.bool, device=states.device),
            )
            return
        assert self._observed is not None
        self._observed.response[:, call.step - 1] = states[:, -1]
        self._observed.mask[:, call.step - 1] = True
        self._observed.n_tokens = call.step

    def _attention_on_slots(
        self, patterns: Float[Tensor, "batch layer head query key"]
    ) -> Float[Tensor, " batch"] | Float[Tensor, "batch layer head"]:
        """Attention of the newest query on all slots; 0 in rows that do not see them.

        In the prompt pass the newest query is the last slot, which predicts the first token.
        """
        mass = patterns[..., -1, self._columns.slots].sum(dim=-1).float()
        opened = self._session.open
        if opened is not None:
            mass = mass * opened[:, None, None]
        return mass if self._trace.slot_attention == "heads" else mass.mean(dim=(1, 2))


def _generations(
    backbone: Backbone, steps: Sequence[TokenStep], stop: Sequence[int]
) -> list[Generation]:
    """Cut the recorded steps into one record a row."""
    ids = torch.stack([step.ids for step in steps], dim=1).tolist()
    lengths = torch.stack([step.live for step in steps], dim=1).sum(dim=1).tolist()
    rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    traces = _Traces(steps)
    return [
        Generation(
            ids=tuple(row),
            text=text,
            finish="stop" if row[-1] in stop else "length",
            trace=traces.of_row(number, len(row)),
        )
        for number, (row, text) in enumerate(zip(rows, backbone.decode(rows), strict=True))
    ]


class _Traces:
    """Traces of all steps, stacked along the tokens."""

    def __init__(self, steps: Sequence[TokenStep]) -> None:
        readings = [r for step in steps if (r := step.trace.reading) is not None]
        self._harm_score = _stacked([step.trace.harm_score for step in steps])
        self._slot_attention = _stacked([step.trace.slot_attention for step in steps])
        self._trigger_score = _stacked([r.trigger_score for r in readings])
        self._correction_norm = _stacked([r.correction_norm for r in readings])
        self._open = _stacked([r.open for r in readings])

    def of_row(self, row: int, n_tokens: int) -> TokenTrace:
        """The traces of one row's tokens."""

        def cut(stacked: Tensor | None) -> Tensor | None:
            return None if stacked is None else stacked[row, :n_tokens].clone()

        return TokenTrace(
            harm_score=cut(self._harm_score),
            trigger_score=cut(self._trigger_score),
            correction_norm=cut(self._correction_norm),
            open=cut(self._open),
            slot_attention=cut(self._slot_attention),
        )


def _stacked(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known, dim=1).cpu() if known else None
