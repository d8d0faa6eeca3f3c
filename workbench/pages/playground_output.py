"""The Playground's answers: the prompt's check, the two responses, their traces.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.errors import WorkbenchError
from workbench.export.responses import ResponseRecord, trace_frame
from workbench.export.token_html import legend_html, tokens_html
from workbench.export.trace_figures import (
    ATTENTION_HELP,
    HARM_HELP,
    HEATMAP_HELP,
    harm_score_figure,
    slot_attention_figure,
    slot_attention_heatmap,
)
from workbench.pages.composing import KIND_NAMES
from workbench.pages.generation import PromptCheck, ResponsePair, check_prompt, stream_pair
from workbench.pages.loading import LoadedBackbone, LoadedModule, get_backbone, get_module
from workbench.pages.request import UNGUIDED_ONLY, PlaygroundRequest
from workbench.pages.verdicts import Tone, verdict_text
from workbench.pages.widgets import figure_block, table_block
from workbench.svgt.config import SVGTConfig
from workbench.testbed.intents import Intent
from workbench.testbed.oracle import judge

_RESULT = "playground-result"
_COLOURS: dict[Tone, Literal["orange", "blue", "gray"]] = {
    "bad": "orange", "good": "blue", "neutral": "gray",
}  # fmt: skip
_ICONS: dict[Tone, str] = {
    "bad": ":material/warning:", "good": ":material/check_circle:", "neutral": ":material/info:",
}  # fmt: skip


@dataclass(frozen=True)
class _Result:
    """What one press of the button gave, kept in the session it belongs to."""

    request: PlaygroundRequest
    intent: Intent | None
    module: SVGTConfig | None
    pair: ResponsePair


def answer(
    request: PlaygroundRequest, *, generate: bool, checked: DeltaGenerator, notes: DeltaGenerator
) -> None:
    """Load what is asked for, check the prompt, generate if wanted, and show the last result.

    Args:
        request: what the page's widgets say.
        generate: whether the button was pressed.
        checked: place for the prompt's check.
        notes: place in the sidebar for what the module makes of the knobs.
    """
    try:
        loaded, module = _load(request, checked)
        if module is not None:
            notes.caption(_module_text(module.module.config))
        check = check_prompt(request.prompt, loaded)
        checked.markdown(_check_text(check))
        if generate:
            _generate(request, check, loaded, module)
            return
    except WorkbenchError as error:
        checked.error(str(error), icon=":material/error:")
    result = st.session_state.get(_RESULT)
    if isinstance(result, _Result):
        if result.request != request:
            st.info("The settings have changed since: press Generate for new answers.")
        _show(result, _Places(guided=result.pair.guided is not None))


def _load(
    request: PlaygroundRequest, checked: DeltaGenerator
) -> tuple[LoadedBackbone, LoadedModule | None]:
    with checked, st.spinner(f"Loading {request.backbone} … (once, some seconds)"):
        loaded = get_backbone(request.backbone)
        if request.config == UNGUIDED_ONLY:
            return loaded, None
        return loaded, get_module(request.config, loaded)


def _generate(
    request: PlaygroundRequest,
    check: PromptCheck,
    loaded: LoadedBackbone,
    module: LoadedModule | None,
) -> None:
    places = _Places(guided=module is not None)
    pair = None
    for pair in stream_pair(request, loaded, module):
        places.draw_tokens(pair)
    assert pair is not None, "at least one token is generated"
    config = None if module is None else module.module.config
    result = _Result(request, check.intent, config, pair)
    st.session_state[_RESULT] = result
    _show(result, places)


def _check_text(check: PromptCheck) -> str:
    room = f":small[{check.n_tokens} tokens, room for {check.n_free} more."
    if check.intent is None:
        return f"{room} No request of the embedded world recognised, so replies get no verdict.]"
    intent = check.intent
    category = f" ({intent.category})" if intent.category else ""
    owner = intent.owner.replace(" 's", "'s")
    return (
        f"{room} Recognised: **{KIND_NAMES[intent.kind]}**{category}, to {intent.verb} "
        f"{owner} {intent.object}. The oracle will judge the replies.]"
    )


def _module_text(config: SVGTConfig) -> str:
    text = f"K = {config.n_bridge} bridge tokens, written at block {config.layer}. "
    if config.trigger.mode == "prompt":
        return text + "The trigger reads the prompt alone, so refresh and β change nothing."
    return text + "The trigger follows the newest token."


class _Places:
    """The two columns and what is drawn in them while tokens arrive."""

    def __init__(self, *, guided: bool) -> None:
        with st.container():
            self._legend = st.container()
        columns = st.columns(2, gap="large") if guided else [st.container()]
        titles = ("Unguided", "With SVGT")[: len(columns)]
        self._tokens: list[DeltaGenerator] = []
        self.below: list[DeltaGenerator] = []
        for column, title in zip(columns, titles, strict=True):
            with column:
                st.subheader(title, anchor=False)
                self._tokens.append(st.empty())
                self.below.append(st.container())

    def draw_tokens(self, pair: ResponsePair) -> None:
        """Draw the tokens so far."""
        for place, record in zip(self._tokens, pair.records, strict=True):
            place.html(tokens_html(record))

    def draw_legend(self) -> None:
        """Say what the colours mean."""
        self._legend.html(legend_html())


def _show(result: _Result, places: _Places) -> None:
    pair, request = result.pair, result.request
    places.draw_tokens(pair)
    for place, record in zip(places.below, pair.records, strict=True):
        with place:
            _show_verdict(result.intent, record, request.max_new_tokens)
    if result.module is None:
        st.caption("No value module was used, so there are no harm scores and no bridge to show.")
        return
    places.draw_legend()
    st.caption(_made_with(request))
    assert pair.guided is not None
    _show_metrics(pair.guided)
    _show_traces(pair)


def _show_verdict(intent: Intent | None, record: ResponseRecord, limit: int) -> None:
    ending = (
        f"ended by itself after {len(record.tokens)} tokens"
        if record.finish == "stop"
        else f"cut at the limit of {limit} tokens"
    )
    if intent is None:
        st.caption(f"No verdict: the request is not one of the embedded world. Reply {ending}.")
        return
    verdict = verdict_text(intent, judge(intent, record.text))
    st.badge(verdict.label, icon=_ICONS[verdict.tone], color=_COLOURS[verdict.tone])
    st.caption(f"Oracle: {verdict.reason} Reply {ending}.")


def _made_with(request: PlaygroundRequest) -> str:
    refresh = "never" if request.refresh is None else f"every {request.refresh} tokens"
    how = (
        "greedy"
        if request.temperature == 0
        else f"T = {request.temperature:g}, top-p = {request.top_p:g}, seed {request.seed}"
    )
    return (
        f"Made with {request.backbone}, svgt:{request.config}: gate scale "
        f"{request.gate_scale:g}, refresh {refresh}, β = {request.momentum:g}; {how}. Both columns "
        "share their random numbers, and the harm score of both comes from this value module."
    )


def _show_metrics(guided: ResponseRecord) -> None:
    first = guided.tokens[0]
    shares = [s for token in guided.tokens if (s := token.mean_slot_attention) is not None]
    trigger, gate, size, attention = st.columns(4)
    trigger.metric(
        "Trigger score s (logit)", _number(first.trigger_score, "+.2f"), border=True,
        help="Score of the prompt's value state; above 0 the module finds it harmful.",
    )  # fmt: skip
    gate.metric(
        "Gate", "open" if first.open else "closed", border=True,
        help="Closed: the slots are hidden and the model runs as if unguided.",
    )  # fmt: skip
    size.metric(
        "Correction ‖Δz‖", _number(first.correction_norm, ".2f"), border=True,
        help="Length of the step in value space that the bridge is made from.",
    )  # fmt: skip
    attention.metric(
        "Attention on slots", _number(sum(shares) / len(shares) if shares else None, ".1%"),
        border=True, help="Share of attention, mean over tokens, heads and the blocks above.",
    )  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _show_traces(pair: ResponsePair) -> None:
    assert pair.guided is not None
    left, right = st.columns(2, gap="large")
    with left:
        figure_block(
            harm_score_figure(pair.records), key="harm-score",
            title="Harm score along the reply", how_to_read=HARM_HELP,
        )  # fmt: skip
    with right:
        figure_block(
            slot_attention_figure(pair.records), key="slot-attention",
            title="Attention on the bridge slots", how_to_read=ATTENTION_HELP,
        )  # fmt: skip
    with st.expander("Which heads read the bridge", icon=":material/grid_on:"):
        if not any(token.open for token in pair.guided.tokens):
            st.write("The gate stayed closed: no head could see the slots.")
        else:
            figure_block(
                slot_attention_heatmap(pair.guided), key="slot-attention-heads",
                title="Attention on the slots by block and head", how_to_read=HEATMAP_HELP,
            )  # fmt: skip
    with st.expander("Traces as a table", icon=":material/table:"):
        table_block(trace_frame(pair.records), key="trace")
