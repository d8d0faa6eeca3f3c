"""Value directions (light): do directions of harm turn with context, and does the value space?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from workbench.export.probe_words import context_text, contrast_text, estimator_text
from workbench.pages.choosing import backbone_box, module_box, read_seed, seed_box
from workbench.pages.guard import told_in_words
from workbench.pages.probe_runs import chosen_run, source_box
from workbench.pages.widgets import bound_slider, tell_unknown
from workbench.testbed.frames import FRAMES

RESIDUAL_ONLY = "residual stream only"
SITES: dict[str, str] = {
    "z": "value states z",
    "delta_z": "corrections Δz",
    "bridge": "bridge tokens B",
    "untrained": "untrained module",
}
_CONTRASTS = ("prompt", "response")
_ESTIMATORS = ("mean_difference", "mass_mean", "lda", "logistic", "lat", "ccs")


@dataclass(frozen=True)
class DirectionsRequest:
    """Everything that determines a live analysis.

    Attributes:
        backbone: An embedded name or a checkpoint folder.
        config: A shipped configuration, a value module's folder, or ``RESIDUAL_ONLY``.
        contrast: Which two classes.
        estimator: How directions are fitted.
        contexts: Which are compared.
        sites: Which of ``SITES`` are compared with the residual stream.
        n_intents: Harmful intents in every context, and as many harmless.
        seed: Of prompts, controls and intervals.
    """

    backbone: str
    config: str
    contrast: str = "prompt"
    estimator: str = "mean_difference"
    contexts: tuple[str, ...] = tuple(FRAMES)
    sites: tuple[str, ...] = tuple(SITES)
    n_intents: int = 20
    seed: int = 0


def page() -> None:
    """Draw the page."""
    st.title("Value directions", anchor=False)
    st.markdown(
        "The same requests, harmful and harmless, stand in many **context frames**. In each, a "
        "direction that tells them apart is fitted. Does one direction serve all contexts, or does "
        "it turn, beyond what noise allows? And in the value space of a value module?"
    )
    if source_box("a small analysis of the embedded world, in less than a minute"):
        _live()
    else:
        with told_in_words():
            run = chosen_run("instability", "reliability")
            if run is not None:
                from workbench.pages import directions_output

                directions_output.show_run(run)


def _live() -> None:
    request, seed = _sidebar()
    pressed = st.button("Analyse", type="primary", icon=":material/play_arrow:", key="analyse")
    with told_in_words():
        with st.spinner("Starting the model library … (once, some seconds)"):
            from workbench.pages import directions_output  # torch: after the first paint
        directions_output.answer(replace(request, seed=read_seed(seed)), analyse=pressed)


def _sidebar() -> tuple[DirectionsRequest, str]:
    with st.sidebar:
        backbone = backbone_box()
        config = module_box(backbone, without=RESIDUAL_ONLY, help_="Whose value space is compared.")
        return _design(DirectionsRequest(backbone, config))


def _design(plain: DirectionsRequest) -> tuple[DirectionsRequest, str]:
    _tell_unknown("contrast", _CONTRASTS, contrast_text, instead=_CONTRASTS[:1])
    contrast = st.selectbox(
        "Contrast", _CONTRASTS, format_func=contrast_text, key="contrast", bind="query-params",
        help="Which two classes a direction tells apart.",
    )  # fmt: skip
    _tell_unknown("estimator", _ESTIMATORS, estimator_text, instead=_ESTIMATORS[:1])
    estimator = st.selectbox(
        "Estimator", _ESTIMATORS, format_func=estimator_text, key="estimator",
        bind="query-params", help="How a direction is fitted. The first is by far the fastest.",
    )  # fmt: skip
    _tell_unknown("contexts", tuple(FRAMES), context_text, instead=plain.contexts)
    contexts = st.pills(
        "Contexts", tuple(FRAMES), selection_mode="multi", default=plain.contexts, key="contexts",
        bind="query-params", format_func=context_text, help="At least two are compared.",
    )  # fmt: skip
    _tell_unknown("sites", tuple(SITES), SITES.__getitem__, instead=plain.sites)
    sites = st.pills(
        "Compared with the residual stream", tuple(SITES), selection_mode="multi",
        default=plain.sites, key="sites", bind="query-params", format_func=SITES.__getitem__,
        disabled=plain.config == RESIDUAL_ONLY,
        help="The untrained module is a control: the same reading with weights drawn at random.",
    )  # fmt: skip
    n_intents = bound_slider(
        "Requests of each class in a context", 8, 60, value=plain.n_intents, key="intents",
        help_="More: narrower intervals, and more seconds.",
    )  # fmt: skip
    seed = seed_box("Of prompts, controls and intervals.")
    request = replace(
        plain, contrast=contrast, estimator=estimator, contexts=tuple(contexts),
        sites=() if plain.config == RESIDUAL_ONLY else tuple(sites), n_intents=n_intents,
    )  # fmt: skip
    return request, seed


def _tell_unknown(
    key: str, options: Sequence[str], shown: Callable[[str], str], *, instead: Sequence[str]
) -> None:
    tell_unknown(key, [shown(option) for option in options], instead=", ".join(map(shown, instead)))
