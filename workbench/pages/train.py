"""Train (light): order the three stages, then watch, stop, resume; the work needs no open page."""

from dataclasses import dataclass

import streamlit as st

from workbench.pages.catalogue import FOLDER, config_names
from workbench.pages.choosing import backbone_box, read_seed, seed_box
from workbench.pages.guard import told_in_words
from workbench.pages.widgets import tell_unknown

_OWN_FILE = "a YAML file"
_SIZES = {"1/50": 0.02, "1/10": 0.1, "1/4": 0.25, "1/2": 0.5, "all": 1.0}
_TESTBED = "testbed"
_FILES = "files"
_DATA = {_TESTBED: "the embedded world", _FILES: "files and benchmarks"}


@dataclass(frozen=True)
class TrainingForm:
    """What the widgets say.

    Attributes:
        backbone: An embedded name or a checkpoint folder.
        config: A named configuration or a YAML file.
        size: Share of the examples to learn from.
        seed: As typed.
        data: ``testbed``, or as ``workbench train --data`` takes it.
        name: Of the run; empty for one made from the rest.
    """

    backbone: str
    config: str
    size: float
    seed: str
    data: str
    name: str


def page() -> None:
    """Draw the page."""
    st.title("Train", anchor=False)
    st.markdown(
        "A value module is trained in three stages: on **texts**, on **pairs** of prompt and "
        "response, and the **bridge** on safe replies. The model itself stays frozen. A training "
        "runs on its own: close this page and come back to it."
    )
    form = _sidebar()
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Start training", type="primary", icon=":material/play_arrow:", key="start"
        )
        st.caption(
            "On an embedded backbone all examples take about four minutes of one core, 1/50 takes "
            "some seconds after loading."
        )
    with told_in_words():
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import train_output  # torch: after the first paint
        if pressed:
            with told_in_words():
                train_output.start(form, read_seed(form.seed))
        train_output.watch()


def _sidebar() -> TrainingForm:
    with st.sidebar:
        backbone = backbone_box()
        config = _config_box()
        st.subheader("Amount", anchor=False)
        tell_unknown("size", tuple(_SIZES), instead="all")
        size = st.select_slider(
            "Share of the examples", tuple(_SIZES), value="all", key="size", bind="query-params",
            help="Fewer examples are fewer steps. The validation set keeps its size.",
        )  # fmt: skip
        seed = seed_box("Decides initialisation, data and the order of batches.")
        data = _data_box()
        name = st.text_input(
            "Name of the run", key="name", placeholder="made from the settings",
            help="Of its folder in `runs`.",
        )  # fmt: skip
        return TrainingForm(backbone, config, _SIZES[size], seed, data, name)


def _config_box() -> str:
    recipes = (*config_names(FOLDER), _OWN_FILE)
    tell_unknown("recipe", recipes, instead=recipes[0])
    chosen = st.selectbox(
        "Configuration", recipes, key="recipe", bind="query-params",
        help="What is built and how it is trained. Your own: edit what `workbench train "
        "--print-config` writes.",
    )  # fmt: skip
    if chosen != _OWN_FILE:
        return str(chosen)
    return st.text_input(
        "YAML file", key="yaml", bind="query-params", placeholder="mine.yaml"
    ).strip()


def _data_box() -> str:
    tell_unknown("data", tuple(_DATA.values()), instead=_DATA[_TESTBED])
    chosen = st.selectbox(
        "Data", tuple(_DATA), key="data", bind="query-params", format_func=_DATA.__getitem__,
        help="The embedded world is made for the embedded backbones.",
    )  # fmt: skip
    if chosen == _TESTBED:
        return _TESTBED
    return st.text_input(
        "Sources", key="sources", bind="query-params",
        placeholder="wildguardmix:wg.parquet,mine.jsonl",
        help="As `workbench train --data` takes them: SOURCE:PATH or FILE.jsonl, by commas.",
    ).strip()  # fmt: skip
