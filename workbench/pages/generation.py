"""Two responses to one prompt, without and with guidance, token by token in step.

Both start from equal generators, so they share their random numbers: where they differ, guidance
made the difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from workbench.export.generation_records import seeing_layers
from workbench.export.responses import ResponseRecord, TokenRecord
from workbench.guidance import (
    GREEDY,
    Guidance,
    NoGuidance,
    Sampling,
    TokenStep,
    TraceRequest,
    stream,
)
from workbench.guidance.registry import GuidanceOptions
from workbench.pages.conversation_text import parse_conversation
from workbench.pages.loading import LoadedBackbone, LoadedGuidance
from workbench.pages.request import PlaygroundRequest
from workbench.svgt.value_module import ValueModule
from workbench.testbed.intents import Intent, find_intent
from workbench.testbed.tokenizer import vocabulary


@dataclass(frozen=True)
class PromptCheck:
    """What is known of a prompt before anything is generated.

    Attributes:
        n_tokens: its length in tokens, those of the chat template included.
        n_added: tokens that the guidance puts before it.
        n_slots: columns that the guidance puts behind it.
        n_new: most new tokens.
        n_context: positions of the backbone.
        intent: what it asks for; None where that is not known for certain.
    """

    n_tokens: int
    n_added: int
    n_slots: int
    n_new: int
    n_context: int
    intent: Intent | None

    @property
    def n_needed(self) -> int:
        """Positions that the longest reply takes, everything counted."""
        return self.n_tokens + self.n_added + self.n_slots + self.n_new


@dataclass(frozen=True)
class ResponsePair:
    """The responses so far; ``guided`` is None where only the plain model was asked."""

    plain: ResponseRecord
    guided: ResponseRecord | None

    @property
    def records(self) -> tuple[ResponseRecord, ...]:
        """Those that there are, the plain one first."""
        return (self.plain,) if self.guided is None else (self.plain, self.guided)


def check_request(
    request: PlaygroundRequest, loaded: LoadedBackbone, guidance: LoadedGuidance
) -> PromptCheck:
    """Tokenise a prompt, see that everything asked for has room, and recognise the intent.

    The model is not run, so this can be said before anybody presses a button.

    Raises:
        TokenError: empty, or words outside the vocabulary, which are named.
        ContextLengthError: prompt, slots and new tokens together exceed the context.
        ConfigError: the guidance does not have such a strength.
    """
    backbone, steered = loaded.backbone, guidance.with_options(_options(request))
    conversation = parse_conversation(request.prompt)
    with loaded.lock:
        n_tokens = int(backbone.encode([conversation]).lengths[0])
        n_guided = int(backbone.encode(steered.prepare([conversation])).lengths[0])
        intent = None
        if set(vocabulary()) == set(backbone.tokenizer.get_vocab()):
            # Its tokens spell the request as the corpus does: lower case, punctuation apart.
            last_turn = backbone.encode([conversation[-1].content]).ids.tolist()
            intent = find_intent(backbone.decode(last_turn)[0])
    n_new = request.max_new_tokens
    backbone.check_context(max(n_tokens, n_guided), n_slots=steered.n_slots, n_new=n_new)
    return PromptCheck(
        n_tokens, n_guided - n_tokens, steered.n_slots, n_new, backbone.n_ctx, intent
    )


def stream_pair(
    request: PlaygroundRequest, loaded: LoadedBackbone, guidance: LoadedGuidance
) -> Iterator[ResponsePair]:
    """Generate both responses in step; every item holds all tokens so far, the last one all.

    Raises:
        TokenError, ContextLengthError, ConfigError: see :func:`check_request`.
    """
    plain = _stream_one(request, loaded, NoGuidance(), guidance.observer)
    steered = guidance.with_options(_options(request))
    if isinstance(steered, NoGuidance):
        for record in plain:
            yield ResponsePair(record, None)
        return
    pair = ResponsePair(ResponseRecord("none"), ResponseRecord(steered.name))
    guided = _stream_one(request, loaded, steered, guidance.observer)
    for first, second in zip_longest(plain, guided):
        pair = ResponsePair(first or pair.plain, second or pair.guided)
        yield pair


def _options(request: PlaygroundRequest) -> GuidanceOptions:
    return GuidanceOptions(request.strength, request.refresh, request.momentum)


def _stream_one(
    request: PlaygroundRequest,
    loaded: LoadedBackbone,
    guidance: Guidance,
    observer: ValueModule | None,
) -> Iterator[ResponseRecord]:
    backbone = loaded.backbone
    steps = stream(
        backbone,
        [parse_conversation(request.prompt)],
        guidance,
        max_new_tokens=request.max_new_tokens,
        sampling=_sampling(request),
        generator=torch.Generator().manual_seed(request.seed),
        trace=TraceRequest(
            observer=observer,
            bridge=True,
            slot_attention="heads" if guidance.n_slots else "none",
        ),
    )
    record = ResponseRecord(guidance.name, slot_layers=seeing_layers(guidance, backbone.n_layers))
    ids: list[int] = []
    while True:
        with loaded.lock:  # held for one pass, so that sessions generate in turns
            step = next(steps, None)
        if step is None:
            return
        ids.append(int(step.ids[0]))
        ended = ids[-1] in backbone.eos_ids
        record = replace(
            record,
            tokens=(*record.tokens, _token(step, backbone.token_strings(ids[-1:])[0])),
            text=backbone.decode([ids])[0],
            finish="stop" if ended else "length" if len(ids) == request.max_new_tokens else None,
        )
        yield record


def _sampling(request: PlaygroundRequest) -> Sampling:
    if request.temperature == 0:
        return GREEDY
    return Sampling(temperature=request.temperature, top_p=request.top_p)


def _token(step: TokenStep, text: str) -> TokenRecord:
    trace = step.trace
    reading, attention = trace.reading, trace.slot_attention
    return TokenRecord(
        text=text,
        harm_score=None if trace.harm_score is None else float(trace.harm_score[0]),
        trigger_score=None if reading is None else float(reading.trigger_score[0]),
        correction_norm=None if reading is None else float(reading.correction_norm[0]),
        open=None if reading is None else bool(reading.open[0]),
        slot_attention=None
        if attention is None
        else tuple(tuple(heads) for heads in attention[0].tolist()),
    )
