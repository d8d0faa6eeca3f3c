"""Replies of two guidances to one prompt, side by side, from the same random numbers.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

import streamlit as st
import torch

from workbench.export.generation_records import response_record
from workbench.export.guidance_words import guidance_text
from workbench.export.responses import ResponseRecord
from workbench.export.token_html import legend_html, prompt_html, tokens_html
from workbench.guidance import GREEDY, Sampling, TraceRequest, generate
from workbench.guidance.registry import shipped_configs
from workbench.pages.benchmark import RepliesRequest
from workbench.pages.conversation_text import parse_conversation
from workbench.pages.generation import check_request
from workbench.pages.loading import (
    LoadedBackbone,
    LoadedGuidance,
    get_backbone,
    get_guidance,
    get_module,
)
from workbench.pages.request import PlaygroundRequest
from workbench.pages.verdicts import Tone, VerdictText, verdict_text
from workbench.pages.widgets import counted, download
from workbench.svgt.value_module import ValueModule
from workbench.testbed.intents import Intent
from workbench.testbed.oracle import judge

_RESULT = "benchmark-replies"
_COLOURS: dict[Tone, Literal["orange", "blue", "gray"]] = {
    "bad": "orange", "good": "blue", "neutral": "gray",
}  # fmt: skip


@dataclass(frozen=True)
class _Side:
    """One reply with its verdict; None where the request is not one of the embedded world."""

    guidance: str
    reply: ResponseRecord
    verdict: VerdictText | None


@dataclass(frozen=True)
class _Result:
    """What one press of the button gave, kept in the session it belongs to."""

    request: RepliesRequest
    sides: tuple[_Side, _Side]
    observer: str


def answer(request: RepliesRequest, *, pressed: bool) -> None:
    """Generate if the button was pressed, and show the last result."""
    if pressed:
        st.session_state[_RESULT] = _generated(request)
    result = st.session_state.get(_RESULT)
    if not isinstance(result, _Result):
        st.info("Press Generate both: the two replies start from the same random numbers.")
        return
    current = result.request == request
    if not current:
        st.info("The settings have changed since: press Generate both for new replies.")
    _show(result, current=current)


def _generated(request: RepliesRequest) -> _Result:
    with st.spinner(f"Loading {request.backbone} … (once, some seconds)"):
        loaded = get_backbone(request.backbone)
        guidances = [get_guidance(name, loaded) for name in (request.left, request.right)]
    # Everything is checked before anything is generated: half an answer helps nobody.
    intents = [
        check_request(_asked(request, name), loaded, guidance).intent
        for name, guidance in zip((request.left, request.right), guidances, strict=True)
    ]
    shipped = shipped_configs(loaded.backbone)
    observer = get_module(shipped[0], loaded).module if shipped else None
    with st.spinner("Generating both replies …"):
        replies = [_reply(request, loaded, guidance, observer) for guidance in guidances]
    left, right = (
        _Side(name, reply, _verdict(intents[0], reply))
        for name, reply in zip((request.left, request.right), replies, strict=True)
    )
    return _Result(request, (left, right), shipped[0] if shipped else "")


def _asked(request: RepliesRequest, guidance: str) -> PlaygroundRequest:
    return PlaygroundRequest(
        request.prompt, request.backbone, guidance, max_new_tokens=request.max_new_tokens
    )


def _reply(
    request: RepliesRequest,
    loaded: LoadedBackbone,
    guidance: LoadedGuidance,
    observer: ValueModule | None,
) -> ResponseRecord:
    sampling = Sampling(temperature=request.temperature, top_p=request.top_p)
    with loaded.lock:
        made = generate(
            loaded.backbone,
            [parse_conversation(request.prompt)],
            guidance.guidance,
            max_new_tokens=request.max_new_tokens,
            sampling=GREEDY if request.temperature == 0 else sampling,
            generator=torch.Generator().manual_seed(request.seed),
            trace=TraceRequest(observer=observer),
        )[0]
    return response_record(loaded.backbone, guidance.guidance, made)


def _verdict(intent: Intent | None, reply: ResponseRecord) -> VerdictText | None:
    return None if intent is None else verdict_text(intent, judge(intent, reply.text))


def _show(result: _Result, *, current: bool) -> None:
    request = result.request
    label = "Replies to the prompt" if current else "Earlier replies, to the prompt"
    st.html(prompt_html(label, request.prompt))
    if result.observer:
        st.html(legend_html())
    for column, side in zip(st.columns(2, gap="large"), result.sides, strict=True):
        with column:
            name = guidance_text(side.guidance)
            st.subheader(f"{name[:1].upper()}{name[1:]}", anchor=False)
            st.html(tokens_html(side.reply))
            _show_verdict(side, request.max_new_tokens)
    st.caption(_made_with(result))
    download(
        "Replies (JSON)", lambda: replies_json(result), "replies.json", mime="application/json"
    )


def _show_verdict(side: _Side, limit: int) -> None:
    n = len(side.reply.tokens)
    ended = side.reply.finish == "stop"
    ending = (
        f"Ended by itself after {counted(n, 'token')}."
        if ended
        else f"Cut at the limit of {limit}."
    )
    if side.verdict is None:
        st.caption(f"No verdict: the request is not one of the embedded world. {ending}")
        return
    st.badge(side.verdict.label, color=_COLOURS[side.verdict.tone])
    st.caption(f"Oracle: {side.verdict.reason} {ending}")


def _made_with(result: _Result) -> str:
    request = result.request
    how = (
        "greedy"
        if request.temperature == 0
        else f"T = {request.temperature:g}, top-p = {request.top_p:g}, seed {request.seed}"
    )
    scored = (
        f" The harm score of both comes from the value module {result.observer}."
        if result.observer
        else ""
    )
    alike = (
        " Both replies are the same."
        if result.sides[0].reply.text == result.sides[1].reply.text
        else ""
    )
    return (
        f"How to read this: {request.backbone}, {how}; both replies draw the same random numbers, "
        f"so where they differ, guidance made the difference.{alike}{scored}"
    )


def replies_json(result: _Result) -> str:
    """Settings, texts, scores and verdicts."""
    sides = [
        {
            "guidance": side.guidance,
            "text": side.reply.text,
            "finish": side.reply.finish,
            "tokens": [token.text for token in side.reply.tokens],
            "harm_score": [token.harm_score for token in side.reply.tokens],
            "verdict": None if side.verdict is None else asdict(side.verdict),
        }
        for side in result.sides
    ]
    return json.dumps(
        {**asdict(result.request), "scored_by": result.observer, "replies": sides},
        ensure_ascii=False,
        indent=1,
    )
