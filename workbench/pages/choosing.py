"""Boxes that several pages share (light): which backbone, which value module."""

import streamlit as st

from workbench.pages.catalogue import BACKBONES, FOLDER, config_names


def backbone_box() -> str:
    """Ask for a backbone: an embedded name or a checkpoint folder."""
    chosen = st.selectbox(
        "Backbone",
        BACKBONES,
        key="backbone",
        bind="query-params",
        help="The frozen language model: an embedded one, or the Hugging Face checkpoint folder "
        "of any decoder-only model with safetensors.",
    )
    if chosen != FOLDER:
        return str(chosen)
    return st.text_input("Checkpoint folder", key="folder", bind="query-params")


def module_box(backbone: str, *, without: str | None, help_: str) -> str:
    """Ask for a value module of a backbone.

    Args:
        backbone: What :func:`backbone_box` gave.
        without: How the choice of no module is called; None where one is needed.
        help_: What the module is for on this page.

    Returns:
        A shipped configuration, a folder, or ``without``.
    """
    names = config_names(backbone)
    options = (*names, *([] if without is None else [without]), FOLDER)  # the first: the default
    if st.session_state.get("config", options[0]) not in options:
        del st.session_state["config"]  # it belonged to another backbone
    chosen = st.selectbox(
        "Value module",
        options,
        key="config",
        bind="query-params",
        help=f"{help_} Your own: a folder as `workbench train` writes it.",
    )
    if not names:
        st.caption("No value module ships for this backbone: train one with `workbench train`.")
    if chosen != FOLDER:
        return str(chosen)
    return st.text_input("Value module folder", key="module", bind="query-params")
