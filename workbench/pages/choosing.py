"""Boxes that several pages share (light): backbone, guidance, sampling, seed."""

import streamlit as st

from workbench.errors import ConfigError
from workbench.export.guidance_words import guidance_text
from workbench.pages.catalogue import BACKBONES, FOLDER, config_names, method_names
from workbench.pages.hardware import hardware_box
from workbench.pages.widgets import bound_slider, tell_unknown

NO_GUIDANCE = "none"
_GREATEST_SEED = 2**31 - 1


def backbone_box() -> str:
    """Ask for a backbone, an embedded name or a checkpoint folder, and where it computes."""
    tell_unknown("backbone", BACKBONES, instead=BACKBONES[0])
    chosen = st.selectbox(
        "Backbone",
        BACKBONES,
        key="backbone",
        bind="query-params",
        help="The frozen language model: an embedded one, or the Hugging Face checkpoint folder "
        "of any decoder-only model with safetensors.",
    )
    name = str(chosen)
    if chosen == FOLDER:
        name = st.text_input("Checkpoint folder", key="folder", bind="query-params")
    hardware_box()
    return name


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
    tell_unknown("config", options, instead=options[0])
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


def guidance_box(backbone: str) -> str:
    """Ask what guides a backbone: value modules first, then the other methods that ship.

    Returns:
        The guidance as :func:`workbench.guidance.registry.parse_guidance` reads it.
    """
    configs = tuple(f"svgt:{name}" for name in config_names(backbone))
    options = (*configs, *method_names(backbone), NO_GUIDANCE, FOLDER)
    shown = [_guidance_name(option) for option in options]
    tell_unknown("guidance", shown, instead=shown[0])
    if st.session_state.get("guidance", options[0]) not in options:
        del st.session_state["guidance"]  # it belonged to another backbone
    chosen = st.selectbox(
        "Guidance",
        options,
        format_func=_guidance_name,
        key="guidance",
        bind="query-params",
        help="What guides the right column: SVGT with one of its value modules, or another method "
        "that ships fitted. Your own: as `workbench train` or `workbench fit` writes it.",
    )
    if not configs:
        st.caption("No value module ships for this backbone: train one with `workbench train`.")
    if chosen != FOLDER:
        return str(chosen)
    return st.text_input(
        "METHOD:FOLDER", key="own", bind="query-params", placeholder="svgt:my-module",
        help="For example `svgt:my-module` or `caa:my-caa`.",
    )  # fmt: skip


def _guidance_name(option: str) -> str:
    if option == NO_GUIDANCE:
        return "none: the model alone"
    return option if option == FOLDER else guidance_text(option)


def seed_box(help_: str) -> str:
    """Ask for a seed, as text: a number box keeps an old seed when it cannot read a new one."""
    return st.text_input("Seed", value="0", key="seed", bind="query-params", help=help_)


def temperature_slider(value: float) -> float:
    """Ask what divides the logits."""
    return bound_slider(
        "Temperature", 0.0, 2.0, value=value, step=0.1, key="temperature",
        help_="0 takes the likeliest token at every step.",
    )  # fmt: skip


def top_p_slider(value: float, *, greedy: bool) -> float:
    """Ask which share of the likeliest tokens is sampled from; of no use where greedy."""
    return bound_slider(
        "Top-p", 0.05, 1.0, value=value, step=0.05, key="top_p", disabled=greedy,
        help_="Smallest set of likeliest tokens whose probability reaches this; 1 keeps all.",
    )  # fmt: skip


def read_seed(text: str) -> int:
    """The seed that was typed.

    Raises:
        ConfigError: No whole number in range.
    """
    typed = text.strip()
    if not (typed.isascii() and typed.isdigit()) or int(typed[:20]) > _GREATEST_SEED:
        raise ConfigError(
            f"seed '{typed}' is no whole number from 0 to {_GREATEST_SEED}: give one, for example 0"
        )
    return int(typed)
