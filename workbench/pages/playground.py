"""Playground (light): one prompt, two answers, without and with a value module, side by side."""

import secrets
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.export.guidance_words import is_switch
from workbench.pages.catalogue import why_no_refresh
from workbench.pages.choosing import (
    NO_GUIDANCE,
    backbone_box,
    guidance_box,
    read_seed,
    seed_box,
    temperature_slider,
    top_p_slider,
)
from workbench.pages.composing import (
    FIRST_CHOICE,
    FIRST_PROMPT,
    KIND_NAMES,
    NO_FRAME,
    Choice,
    compose,
    nearest_choice,
    objects_for,
    owners_for,
    surprise,
    verbs_for,
)
from workbench.pages.guard import told_in_words
from workbench.pages.request import PlaygroundRequest
from workbench.pages.widgets import bound_slider, start_with, tell_no_truth, tell_unknown
from workbench.testbed.frames import FRAMES
from workbench.testbed.lexicon import OBJECTS, OWNERS, VERBS
from workbench.testbed.registry import EMBEDDED
from workbench.testbed.splits import SPLITS, TEST_SPLITS

_REFRESH = {"never": None, "1": 1, "2": 2, "5": 5, "10": 10, "20": 20}
_REFRESH_STEPS = tuple(_REFRESH.values())
_ANY_KIND = "any kind"


def page() -> None:
    """Draw the page."""
    st.title("Playground", anchor=False)
    st.markdown(
        "The same frozen model answers twice: **as it is**, and **guided**: by a value module, "
        "which reads the prompt and, where it finds harm, writes a few bridge tokens behind it, or "
        "by another method."
    )
    request, seed, notes = _sidebar()
    if request.backbone in EMBEDDED:
        _composer()
    start_with("prompt", FIRST_PROMPT)
    prompt = st.text_area(
        "Prompt",
        key="prompt",
        bind="query-params",
        height="content",
        help="Write freely. For several turns begin a line with `user:`, `assistant:` or "
        "`system:`. The embedded models know about 900 words.",
    )
    checked = st.empty()
    with st.container(horizontal=True):
        pressed = st.button(
            "Generate", type="primary", icon=":material/play_arrow:", key="generate"
        )
        if request.backbone in EMBEDDED:
            _words()
    with told_in_words():
        with checked, st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import playground_output  # torch: after the first paint
        playground_output.answer(
            replace(request, prompt=prompt, seed=read_seed(seed)),
            generate=pressed,
            checked=checked,
            notes=notes,
        )


def _sidebar() -> tuple[PlaygroundRequest, str, DeltaGenerator]:
    """The knobs; answers what they say, the seed as typed, and a place for a note on them."""
    with st.sidebar:
        backbone = backbone_box()
        request = PlaygroundRequest("", backbone, guidance_box(backbone))
        notes = st.empty()
        request = _guidance_knobs(request)
        request, seed = _sampling_knobs(request)
        return request, seed, notes


def _guidance_knobs(request: PlaygroundRequest) -> PlaygroundRequest:
    st.subheader("Guidance", anchor=False)
    strength = _strength_knob(request)
    useless = why_no_refresh(request.backbone, request.guidance)
    steps, first = tuple(_REFRESH), _REFRESH_STEPS.index(request.refresh)
    tell_unknown("refresh", steps, instead=steps[first])
    refresh = st.selectbox(
        "Refresh every r tokens",
        steps,
        index=first,
        key="refresh",
        bind="query-params",
        disabled=useless is not None,
        help=useless or "How often the bridge is written anew while the reply grows.",
    )
    beta = bound_slider(
        "Momentum β", 0.0, 0.95, value=request.momentum, step=0.05, key="beta",
        disabled=useless is not None,
        help_=useless or "Share of the old bridge that a refresh keeps.",
    )  # fmt: skip
    if useless is not None:  # what has no effect is no other request
        return replace(request, strength=strength)
    return replace(request, strength=strength, refresh=_REFRESH[refresh], momentum=beta)


def _strength_knob(request: PlaygroundRequest) -> float:
    """The factor on the guidance: a switch where it is there or not, else a slider."""
    if is_switch(request.guidance):
        tell_no_truth("switch", instead=request.strength != 0)
        on = st.toggle(
            "System message",
            value=request.strength != 0,
            key="switch",
            bind="query-params",
            help="On or off: a message has no strength between. For shades of it, fit another "
            "text with `workbench fit system-prompt --config`.",
        )
        return float(on)
    return bound_slider(
        "Strength", 0.0, 3.0, value=request.strength, step=0.1, key="strength",
        disabled=request.guidance == NO_GUIDANCE,
        help_="1 as trained or fitted, 0 none; for SVGT, 0 is the bridge at rest.",
    )  # fmt: skip


def _sampling_knobs(request: PlaygroundRequest) -> tuple[PlaygroundRequest, str]:
    st.subheader("Sampling", anchor=False)
    temperature = temperature_slider(request.temperature)
    top_p = top_p_slider(request.top_p, greedy=temperature == 0)
    tokens = bound_slider("Most new tokens", 1, 200, value=request.max_new_tokens, key="tokens")
    seed = seed_box("The same seed gives the same replies; both columns share random numbers.")
    request = replace(request, temperature=temperature, top_p=top_p, max_new_tokens=tokens)
    return request, seed


def _composer() -> None:
    """Boxes for frame and intent; a change of any of them writes the prompt anew."""
    if "compose-verb" not in st.session_state:
        _put_choice(FIRST_CHOICE)
    choice = _choice()
    with st.expander("Compose a prompt of the embedded world", expanded=True):
        frame, inner, kind, *_ = st.columns(3)
        _box(frame, "Context frame", tuple(FRAMES), "frame")
        others = tuple(name for name in FRAMES if name != choice.frames[0])
        _box(inner, "Second frame, inside the first", (NO_FRAME, *others), "inner")
        _box(kind, "Kind of request", tuple(KIND_NAMES), "kind")
        verb, owner, object_ = st.columns(3)
        _box(verb, "Verb", verbs_for(choice.kind), "verb")
        _box(owner, "Owner", owners_for(choice.kind, choice.verb, choice.object), "owner")
        _box(object_, "Object", objects_for(choice.kind, choice.verb), "object")
        reword, draw, split, wanted = st.columns(4, vertical_alignment="bottom")
        reword.button(
            "Another wording", on_click=_write_prompt, icon=":material/refresh:", width="stretch"
        )
        draw.button(
            "Surprise me", on_click=_surprise, icon=":material/casino:", width="stretch",
            help="Draws frame, request and wording from the split on the right.",
        )  # fmt: skip
        split.selectbox(
            "Surprise from split", tuple(SPLITS), index=tuple(SPLITS).index(TEST_SPLITS[0]),
            key="surprise-split", persist_state="session", format_func=_split_name,
        )  # fmt: skip
        wanted.selectbox(
            "of kind", (_ANY_KIND, *KIND_NAMES), key="surprise-kind", persist_state="session",
            format_func=_kind_name,
        )  # fmt: skip


def _box(column: DeltaGenerator, label: str, options: Sequence[str], name: str) -> None:
    column.selectbox(
        label, options, key=f"compose-{name}", on_change=_write_prompt, persist_state="session",
        format_func=_kind_name,
    )  # fmt: skip


def _kind_name(option: str) -> str:
    return next((name for kind, name in KIND_NAMES.items() if kind == option), option)


def _split_name(split: str) -> str:
    return split.replace("_", " ")


def _choice() -> Choice:
    """What the boxes say, settled: words that no longer combine are replaced, in the boxes too."""
    state = st.session_state
    outer, inner = state["compose-frame"], state["compose-inner"]
    frames = (outer,) if inner in (NO_FRAME, outer) else (outer, inner)
    wanted = Choice(
        frames, state["compose-kind"], state["compose-verb"], state["compose-owner"],
        state["compose-object"],
    )  # fmt: skip
    settled = nearest_choice(wanted)
    if settled != wanted or inner == outer:
        _put_choice(settled)
    return settled


def _put_choice(choice: Choice) -> None:
    outer, inner = (*choice.frames, NO_FRAME)[:2]
    values = {
        "frame": outer, "inner": inner, "kind": choice.kind, "verb": choice.verb,
        "owner": choice.owner, "object": choice.object,
    }  # fmt: skip
    for name, value in values.items():
        st.session_state[f"compose-{name}"] = value


def _write_prompt() -> None:
    st.session_state["prompt"] = compose(_choice(), seed=secrets.randbelow(2**31))


def _surprise() -> None:
    wanted = st.session_state["surprise-kind"]
    choice, text = surprise(
        st.session_state["surprise-split"],
        None if wanted == _ANY_KIND else wanted,
        seed=secrets.randbelow(2**31),
    )
    _put_choice(choice)
    st.session_state["prompt"] = text


def _words() -> None:
    with (
        st.popover("Words the model knows", icon=":material/menu_book:"),
        st.container(height=380, border=False),
    ):
        st.markdown("**Verbs** " + ", ".join(VERBS))
        st.markdown("**Owners** " + ", ".join(OWNERS))
        for name, words in OBJECTS.items():
            st.markdown(f"**{name.capitalize()}** " + ", ".join(words))
