"""Bridge anchoring (light): are bridge tokens read, by which heads, and are they the cause?"""

from dataclasses import dataclass, replace

import streamlit as st

from workbench.pages.choosing import (
    backbone_box,
    module_box,
    read_seed,
    seed_box,
    temperature_slider,
)
from workbench.pages.composing import FIRST_PROMPT
from workbench.pages.guard import told_in_words
from workbench.pages.probe_runs import chosen_run, source_box
from workbench.pages.widgets import bound_slider, start_with


@dataclass(frozen=True)
class AnchoringRequest:
    """Everything that determines the analysis of one prompt.

    Attributes:
        prompt: The text box, see :mod:`workbench.pages.conversation_text`.
        backbone: An embedded name or a checkpoint folder.
        config: A shipped configuration or a value module's folder.
        temperature: Of sampling; 0 takes the likeliest token.
        max_new_tokens: Limit of both replies.
        seed: Of sampling and controls.
    """

    prompt: str
    backbone: str
    config: str
    temperature: float = 0.7
    max_new_tokens: int = 40
    seed: int = 0


def page() -> None:
    """Draw the page."""
    st.title("Bridge anchoring", anchor=False)
    st.markdown(
        "A value module writes a few **bridge tokens** behind the prompt. Does the model read "
        "them, with which heads, and are they what changes the reply? Take them away, replace "
        "them, give more of them, and see."
    )
    if source_box("one prompt of your own, in some seconds"):
        _live()
    else:
        with told_in_words():
            run = chosen_run("anchoring")
            if run is not None:
                from workbench.pages import anchoring_output

                anchoring_output.show_run(run)


def _live() -> None:
    request, seed = _sidebar()
    start_with("prompt", FIRST_PROMPT)
    prompt = st.text_area(
        "Prompt", key="prompt", bind="query-params", height="content",
        help="The analysis compares the reply with bridge and the reply without. For several "
        "turns begin a line with `user:`, `assistant:` or `system:`.",
    )  # fmt: skip
    pressed = st.button("Analyse", type="primary", icon=":material/play_arrow:", key="analyse")
    with told_in_words():
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import anchoring_output  # torch: after the first paint
        asked = replace(request, prompt=prompt, seed=read_seed(seed))
        anchoring_output.answer(asked, analyse=pressed)


def _sidebar() -> tuple[AnchoringRequest, str]:
    with st.sidebar:
        backbone = backbone_box()
        config = module_box(backbone, without=None, help_="Whose bridge tokens are examined.")
        plain = AnchoringRequest("", backbone, config)
        st.subheader("Replies", anchor=False)
        temperature = temperature_slider(plain.temperature)
        tokens = bound_slider("Most new tokens", 1, 120, value=plain.max_new_tokens, key="tokens")
        seed = seed_box("Both replies share random numbers; the controls are drawn from it too.")
        return AnchoringRequest("", backbone, config, temperature, tokens), seed
