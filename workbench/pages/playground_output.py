"""The Playground's answers: the prompt's check, the two responses, their traces.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.errors import WorkbenchError
from workbench.export.guidance_words import family_text, is_switch
from workbench.export.responses import ResponseRecord, trace_frame
from workbench.export.token_html import copy_html, legend_html, prompt_html, tokens_html
from workbench.export.trace_figures import (
    ATTENTION_HELP,
    HARM_HELP,
    HEATMAP_HELP,
    harm_score_figure,
    slot_attention_figure,
    slot_attention_heatmap,
)
from workbench.guidance import SVGTBridge
from workbench.pages.composing import KIND_NAMES
from workbench.pages.generation import PromptCheck, ResponsePair, check_request, stream_pair
from workbench.pages.loading import LoadedBackbone, LoadedGuidance, get_backbone, get_guidance
from workbench.pages.request import PlaygroundRequest
from workbench.pages.verdicts import Tone, verdict_text
from workbench.pages.widgets import counted, figure_block, table_block
from workbench.svgt.config import SVGTConfig
from workbench.testbed.intents import Intent
from workbench.testbed.oracle import judge

_RESULT = "playground-result"
_PLAIN = {
    "Trigger score s (logit)": "trigger score", "Gate": "gate", "Correction ‖Δz‖": "correction",
    "Attention on slots": "attention on slots",
}  # fmt: skip
_SHORT = {
    "token_index": "t", "harm_score": "harm s", "harm_probability": "σ(s)",
    "trigger_score": "trigger s", "correction_norm": "‖Δz‖", "gate_open": "gate",
    "slot_attention": "on slots", "token": "token", "guidance": "guidance",
}  # fmt: skip
"""Names of the table's columns that leave room for all of them."""
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
    observer: str
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
    stage, possible = st.empty(), False
    try:
        loaded, guidance = _load(request, checked)
        config = _module_config(guidance)
        if config is not None:
            notes.caption(_module_text(config))
        check = check_request(request, loaded, guidance)
        checked.markdown(_check_text(check))
        possible = True
        if generate:
            with stage.container():
                st.session_state[_RESULT] = _generate(request, check, loaded, guidance)
    except WorkbenchError as error:
        checked.error(str(error), icon=":material/error:")
    result = st.session_state.get(_RESULT)
    if isinstance(result, _Result):
        with stage.container():  # in the place of what was drawn while tokens arrived
            _show(result, current=result.request == request, possible=possible)
    else:
        stage.empty()


def _load(
    request: PlaygroundRequest, checked: DeltaGenerator
) -> tuple[LoadedBackbone, LoadedGuidance]:
    with checked, st.spinner(f"Loading {request.backbone} … (once, some seconds)"):
        loaded = get_backbone(request.backbone)
        return loaded, get_guidance(request.guidance, loaded)


def _generate(
    request: PlaygroundRequest,
    check: PromptCheck,
    loaded: LoadedBackbone,
    guidance: LoadedGuidance,
) -> _Result:
    pair, places = None, None
    for pair in stream_pair(request, loaded, guidance):
        places = places or _Places(pair)
        places.draw_tokens(pair)
    assert pair is not None, "at least one token is generated"
    observer = "" if guidance.observer is None else guidance.observer.config.name
    return _Result(request, check.intent, _module_config(guidance), observer, pair)


def _module_config(guidance: LoadedGuidance) -> SVGTConfig | None:
    """What wrote the bridge; None where nothing does."""
    if isinstance(guidance.guidance, SVGTBridge) and guidance.observer is not None:
        return guidance.observer.config
    return None


def _check_text(check: PromptCheck) -> str:
    parts = [counted(check.n_tokens, "prompt token")]
    parts += [f"{check.n_added} of the guidance"] if check.n_added else []
    parts += [counted(check.n_slots, "bridge slot")] if check.n_slots else []
    parts.append(f"up to {check.n_new} new = {check.n_needed} of {check.n_context} positions")
    room = f":small[{' + '.join(parts)}."
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
    text = f"K = {counted(config.n_bridge, 'bridge token')}, written at block {config.layer}. "
    if config.trigger.mode == "prompt":
        return text + "The trigger reads the prompt alone, so refresh and β change nothing."
    return text + "The trigger follows the newest token."


class _Places:
    """The two columns and what is drawn in them while tokens arrive."""

    def __init__(self, pair: ResponsePair) -> None:
        columns = [st.container()] if pair.guided is None else st.columns(2, gap="large")
        self._tokens: list[DeltaGenerator] = []
        self.below: list[DeltaGenerator] = []
        for column, record in zip(columns, pair.records, strict=True):
            unguided = record.guidance == "none"
            with column:
                st.subheader(
                    "Unguided" if unguided else f"With {family_text(record.guidance)}",
                    anchor=False,
                )
                self._tokens.append(st.empty())
                self.below.append(st.container())

    def draw_tokens(self, pair: ResponsePair) -> None:
        """Draw the tokens so far."""
        for place, record in zip(self._tokens, pair.records, strict=True):
            place.html(tokens_html(record))


def _show(result: _Result, *, current: bool, possible: bool) -> None:
    """Show a result: of these settings, or of earlier ones and then labelled so."""
    pair, request = result.pair, result.request
    if not current and possible:
        st.info("The settings have changed since: press Generate for new answers.")
    label = "Answers to the prompt" if current else "Earlier answers, to the prompt"
    st.html(prompt_html(label, request.prompt))
    scored = any(record.scored for record in pair.records)
    if scored:
        st.html(legend_html())
    places = _Places(pair)
    places.draw_tokens(pair)
    for place, record in zip(places.below, pair.records, strict=True):
        with place:
            st.html(copy_html(record.text), unsafe_allow_javascript=True)
            _show_verdict(result.intent, record, request.max_new_tokens)
    st.caption(_made_with(result))
    if pair.guided is None:
        return
    _show_metrics(pair.guided)
    _show_traces(pair)


def _show_verdict(intent: Intent | None, record: ResponseRecord, limit: int) -> None:
    ending = (
        f"ended by itself after {counted(len(record.tokens), 'token')}"
        if record.finish == "stop"
        else f"cut at the limit of {counted(limit, 'token')}"
    )
    if intent is None:
        st.caption(f"No verdict: the request is not one of the embedded world. Reply {ending}.")
        return
    verdict = verdict_text(intent, judge(intent, record.text))
    st.badge(verdict.label, icon=_ICONS[verdict.tone], color=_COLOURS[verdict.tone])
    st.caption(f"Oracle: {verdict.reason} Reply {ending}.")


def _made_with(result: _Result) -> str:
    request, pair = result.request, result.pair
    how = (
        "greedy"
        if request.temperature == 0
        else f"T = {request.temperature:g}, top-p = {request.top_p:g}, seed {request.seed}"
    )
    if pair.guided is None:
        return (
            f"Made with {request.backbone} alone; {how}. Without guidance there are no harm scores "
            "and there is no bridge to show."
        )
    knobs = f"strength {request.strength:g}"
    if is_switch(request.guidance):
        knobs = "on" if request.strength else "off"
    if result.module is not None and result.module.trigger.mode == "current":
        knobs += f", refresh {_refresh_text(request.refresh)}, β = {request.momentum:g}"
    scores = (
        f"the harm score of both comes from the value module {result.observer}."
        if result.observer
        else "no value module ships for this backbone, so there are no harm scores."
    )
    return (
        f"Made with {request.backbone}, {pair.guided.guidance}: {knobs}; {how}. Both columns share "
        f"their random numbers, and {scores}"
    )


def _refresh_text(refresh: int | None) -> str:
    if refresh is None:
        return "never"
    return "every token" if refresh == 1 else f"every {refresh} tokens"


def _show_metrics(guided: ResponseRecord) -> None:
    """The numbers of the guided reply, as far as its guidance has them."""
    first = guided.tokens[0]
    shares = [s for token in guided.tokens if (s := token.mean_slot_attention) is not None]
    attention = sum(shares) / len(shares) if shares else None
    gate = None if first.open is None else ("open" if first.open else "closed")
    numbers = [
        (
            "Trigger score s (logit)", _number(first.trigger_score, "+.2f"),
            "Score of the prompt's value state; above 0 the module finds it harmful.",
        ),
        ("Gate", gate, "Closed: nothing is added and the model runs as if unguided."),
        (
            "Correction ‖Δz‖", _number(first.correction_norm, ".2f"),
            "Length of the step in value space that the guidance is made from.",
        ),
        (
            "Attention on slots", _number(attention, ".1%"),
            "Share of attention, mean over tokens, heads and the blocks above.",
        ),
    ]  # fmt: skip
    shown = [(label, value, help_) for label, value, help_ in numbers if value is not None]
    if shown:
        for column, (label, value, help_) in zip(st.columns(len(shown)), shown, strict=True):
            column.metric(label, value, border=True, help=help_)
    missing = [_PLAIN[label] for label, value, _ in numbers if value is None]
    if missing:
        st.caption(f"This guidance has no {', no '.join(missing)} to show.")


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def _show_traces(pair: ResponsePair) -> None:
    """Figures and table of what was measured along the replies."""
    assert pair.guided is not None
    drawn = [_show_harm] if any(record.scored for record in pair.records) else []
    drawn += [_show_attention] if pair.guided.attended else []
    if drawn:
        for column, show in zip(st.columns(len(drawn), gap="large"), drawn, strict=True):
            with column:
                show(pair)
    if pair.guided.attended:
        with st.expander("Which heads read the bridge", icon=":material/grid_on:"):
            _show_heads(pair.guided)
    with st.expander("Traces as a table", icon=":material/table:"):
        table = trace_frame(pair.records).dropna(axis="columns", how="all")
        table_block(table, key="trace", short=_SHORT)


def _show_harm(pair: ResponsePair) -> None:
    figure_block(
        harm_score_figure(pair.records), key="harm-score", title="Harm score along the reply",
        how_to_read=HARM_HELP,
    )  # fmt: skip


def _show_attention(pair: ResponsePair) -> None:
    figure_block(
        slot_attention_figure(pair.records), key="slot-attention",
        title="Attention on the bridge slots", how_to_read=ATTENTION_HELP,
    )  # fmt: skip


def _show_heads(guided: ResponseRecord) -> None:
    if not any(token.open for token in guided.tokens):
        st.write("The gate stayed closed: no head could see the slots.")
        return
    figure_block(
        slot_attention_heatmap(guided), key="slot-attention-heads",
        title="Attention on the slots by block and head", how_to_read=HEATMAP_HELP,
    )  # fmt: skip
