"""Home (light): what this is, in four sentences and one picture, and where to begin."""

import streamlit as st

from workbench.pages.method_picture import METHOD_TEXT, method_picture

_WHAT = (
    "A language model carries values, such as *harmful* against *safe*, as directions of its "
    "hidden states, and those directions move with the context. **SVGT** leaves the model frozen "
    "and puts a small **value module** beside it, which reads the states into a value space of its "
    "own and, where it finds harm, writes a few **bridge tokens** behind the prompt, which the "
    "model's frozen blocks above then see. This workbench trains such modules, inserts them, shows "
    "what they do token by token, and measures it with intervals against rivals and controls. It "
    "ships three small models of a procedural world in which the truth of every text is known: "
    "they show mechanisms and test methods, and are no evidence about large models."
)


def page() -> None:
    """Draw the page."""
    from workbench.pages.navigation import PAGES, page_link  # which imports this page

    st.title("SVGT Workbench", anchor=False)
    st.markdown(_WHAT)
    st.image(method_picture(dark=st.context.theme.type == "dark"), width="stretch", alt=METHOD_TEXT)
    st.subheader("Start here", anchor=False)
    st.markdown(
        "Open the **Playground** and press *Generate*; every other page goes on from there."
    )
    first, *others = (entry for entry in PAGES if entry.line)
    for row in ([first], *(others[start : start + 3] for start in range(0, len(others), 3))):
        for column, entry in zip(st.columns(len(row)), row, strict=True):
            with column.container(border=True, height="stretch"):
                page_link(entry.path)
                st.caption(entry.line)
    st.caption(
        "The method: *Toward Stable Value Alignment*, ICML 2026, "
        "[arXiv:2605.11712](https://arxiv.org/abs/2605.11712)."
    )
