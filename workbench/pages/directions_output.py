"""What the page on value directions shows: a live analysis, or the records of a run.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from probes.collection import collect
from probes.contrasts import CONTRASTS, Contrast, ContrastSet
from probes.instability import Effort, InstabilityConfig, run_instability
from probes.projection import project_all
from probes.records import Record
from probes.survey import UNTRAINED, require_classes, survey_modules, survey_sets, survey_sites
from workbench.errors import ConfigError
from workbench.export import probe_instability_figures as figures
from workbench.export import probe_reliability_figures as steering
from workbench.export.probe_runs import ProbeRun
from workbench.export.probe_state_figures import PROJECTION_HELP, projection_figure
from workbench.export.probe_text import chosen, distinct, layers_of
from workbench.export.probe_words import (
    contrast_text,
    estimator_text,
    family,
    is_control,
    layer_text,
    site_text,
)
from workbench.pages.directions import RESIDUAL_ONLY, DirectionsRequest
from workbench.pages.loading import LoadedBackbone, get_backbone, get_module
from workbench.pages.probe_output import Panel, choice, record_tables, run_facts, show_panels
from workbench.pages.remembering import remembered
from workbench.pages.widgets import tell_unknown
from workbench.testbed.crossed import crossed_examples

_RESULT = "directions-result"
_LEAST_CONTEXTS = 2
_QUICK = {
    "cheap": Effort(60, 2), "costly": Effort(10, 1), "transfer": Effort(20, 1),
    "controls": Effort(10, 1), "angles": Effort(10, 1), "permutations": 39,
    "costly_permutations": 19, "random_directions": 40,
}  # fmt: skip
"""Fewer resamples than a run on the command line: intervals are rougher, estimates nearly alike."""

_RANDOM = ("", "random", "random_matched")
"""Estimators of what has no estimator of its own: lengths and random directions."""


@dataclass(frozen=True, eq=False)
class _Result:
    """What one analysis gave."""

    request: DirectionsRequest
    records: tuple[Record, ...]
    projection: pd.DataFrame


def answer(request: DirectionsRequest, *, analyse: bool) -> None:
    """Analyse if wanted, and show the last result.

    Raises:
        ConfigError: Fewer than two contexts are chosen.
    """
    if len(request.contexts) < _LEAST_CONTEXTS:
        raise ConfigError("choose at least two contexts: a direction turns between two")
    if analyse:
        st.session_state.pop(_RESULT, None)  # should this fail, no earlier numbers stand for it
        st.session_state[_RESULT] = _analysed(request)
    result = st.session_state.get(_RESULT)
    if not isinstance(result, _Result):
        st.info(
            "Press Analyse: prompts of the embedded world are read by the model, then directions "
            "are fitted and compared."
        )
        return
    if result.request != request:
        st.info("The settings have changed since: press Analyse for new numbers.")
    st.caption(
        f"{result.request.n_intents} requests of each class in each of "
        f"{len(result.request.contexts)} contexts, with few resamples: for a claim use "
        "`workbench probe instability`."
    )
    _show(result.records, result.projection, stem="live")


def show_run(run: ProbeRun) -> None:
    """Show all records of an instability or a reliability run."""
    run_facts(run)
    if run.probe == "reliability":
        show_panels(_steering_panels(run.records, stem=run.name), run.records)
        record_tables(run.records, stem=run.name)
    else:
        _show(run.records, run.projection, stem=run.name)


# --------------------------------------------------------------------------------------- analysis


def _analysed(request: DirectionsRequest) -> _Result:
    with st.spinner(f"Loading {request.backbone} … (once, some seconds)"):
        loaded = get_backbone(request.backbone)
    bar = st.progress(0.0, "Reading states …")
    try:
        sets = remembered(
            _states_key(request, loaded), lambda: _sets(request, loaded, bar.progress)
        )
        return remembered(
            ("directions", request, loaded.stamp), lambda: _compared(request, sets, bar.progress)
        )
    finally:
        bar.empty()


def _states_key(request: DirectionsRequest, loaded: LoadedBackbone) -> tuple[object, ...]:
    return (
        "states", request.backbone, loaded.stamp, request.config, request.contrast,
        request.contexts, request.n_intents, request.seed,
    )  # fmt: skip


def _sets(
    request: DirectionsRequest, loaded: LoadedBackbone, show: Callable[[float, str], object]
) -> tuple[ContrastSet, ...]:
    """States of all sites, read through a folder that is gone afterwards."""
    bridge = (
        None if request.config == RESIDUAL_ONLY else get_module(request.config, loaded).guidance
    )
    contrast: Contrast = next(name for name in CONTRASTS if name == request.contrast)
    replies = contrast == "response"
    examples = crossed_examples(
        request.contexts, n_per_class=request.n_intents, seed=request.seed, with_responses=replies
    )
    require_classes(examples, (contrast,))

    def tell(done: int, total: int) -> None:
        show(done / total, f"Reading states: {done} of {total} prompts")

    with TemporaryDirectory(prefix="svgt-states-") as folder, loaded.lock:
        store = collect(
            loaded.backbone, examples, folder, sites=survey_sites((contrast,), steps=replies),
            readers=survey_modules(bridge, seed=request.seed), on_progress=tell,
        )  # fmt: skip
        return tuple(survey_sets(store, (contrast,)))


def _compared(
    request: DirectionsRequest,
    sets: Sequence[ContrastSet],
    show: Callable[[float, str], object],
) -> _Result:
    wanted = [given for given in sets if _is_wanted(given.site, request.sites)]
    config = InstabilityConfig(estimators=(request.estimator,), **_QUICK)  # type: ignore[arg-type]

    def tell(done: int, total: int) -> None:
        show(done / total, f"Comparing directions: {done} of {total} parts")

    records = run_instability(
        wanted, config, backbone=request.backbone, seed=request.seed, on_progress=tell
    )
    return _Result(request, tuple(records), project_all(wanted))


def _is_wanted(site: str, wanted: Sequence[str]) -> bool:
    kind = family(site)
    if kind == "residual":
        return True
    if is_control(site) and UNTRAINED not in wanted:
        return False
    return ("z" if kind == "z_response" else kind) in wanted


# ---------------------------------------------------------------------------------------- figures


def _show(records: Sequence[Record], projection: pd.DataFrame, *, stem: str) -> None:
    indices = chosen(records, metric="instability_index")
    if not indices:
        st.info("These records hold no instability index.")
        return
    left, right = st.columns(2, gap="large")
    with left:
        contrasts = distinct(record.contrast for record in indices)
        contrast = choice("Contrast", {c: contrast_text(c) for c in contrasts}, "shown-contrast")
    with right:
        estimators = distinct(record.estimator for record in indices)
        estimator = choice(
            "Estimator", {e: estimator_text(e) for e in estimators}, "shown-estimator"
        )
    of_contrast = chosen(records, contrast=contrast)
    shown = chosen(of_contrast, estimator=(estimator, *_RANDOM))
    st.subheader("How far directions turn", anchor=False)
    show_panels(_overview(shown, stem=stem), shown)
    st.subheader("At one place", anchor=False)
    site, layer = _place(shown)
    states = _states_at(projection, contrast, site, layer)
    show_panels(_panels_at(shown, states, site, layer, stem), shown)
    st.subheader("Along layers and tokens", anchor=False)
    show_panels(_drift_panels(shown, layer, stem=stem), shown)
    record_tables(shown, stem=stem)


def _place(records: Sequence[Record]) -> tuple[str, int | None]:
    """Ask for a site and, where it has layers, for one of them."""
    left, right = st.columns(2, gap="large")
    found = chosen(records, metric="reliability")
    sites = distinct(record.site for record in found)
    with left:
        tell_unknown("site", [site_text(site) for site in sites], instead=site_text(sites[0]))
        if st.session_state.get("site") not in sites:
            st.session_state.pop("site", None)  # it belonged to other records
        site = st.selectbox("Site", sites, format_func=site_text, key="site", bind="query-params")
    layers = layers_of(chosen(found, site=site))
    if not layers:
        return site, None
    if st.session_state.get("layer") not in layers:
        st.session_state.pop("layer", None)
    with right:
        shown = [layer_text(layer) for layer in layers]
        tell_unknown("layer", shown, instead=shown[-1])
        layer = st.select_slider(
            "Layer", layers, value=layers[-1], format_func=layer_text, key="layer",
            bind="query-params",
        )  # fmt: skip
    return site, int(layer)


def _overview(records: Sequence[Record], *, stem: str) -> list[Panel]:
    return [
        Panel(
            f"{stem}-stability", "Stability by layer", figures.stability_help,
            lambda: figures.stability_figure(records),
        ),
        Panel(
            f"{stem}-index", "Instability index", figures.index_help,
            lambda: figures.index_figure(records),
        ),
        Panel(
            f"{stem}-difference", "Residual stream against value space and bridge",
            figures.DIFFERENCE_HELP, lambda: _differences(records), ("instability_difference",),
        ),
    ]  # fmt: skip


def _differences(records: Sequence[Record]) -> go.Figure:
    """Against one block at a time; the last one first."""
    compared = chosen(records, metric="instability_difference")
    layers = layers_of(r for r in compared if not math.isnan(r.estimate))
    names = {str(layer): layer_text(layer) for layer in reversed(layers)}
    layer = int(choice("Residual stream at", names, "against"))
    return figures.difference_figure(chosen(compared, layer=layer))


def _panels_at(
    records: Sequence[Record], states: pd.DataFrame, site: str, layer: int | None, stem: str
) -> list[Panel]:
    there = chosen(records, site=site, layer=layer)
    where = site_text(site) if layer is None else f"{site_text(site)}, {layer_text(layer)}"
    panels = [
        Panel(
            f"{stem}-cosines", f"Cosines between contexts: {where}", figures.cosine_help,
            lambda: figures.cosine_heatmap(
                there,
                corrected=choice("Cosine", {"yes": "corrected", "no": "raw"}, "corrected") == "yes",
            ),
        ),
        Panel(
            f"{stem}-transfer", f"Transfer between contexts: {where}", figures.TRANSFER_HELP,
            lambda: figures.transfer_heatmap(
                there, choice("Shown", figures.TRANSFER_METRICS, "transfer")
            ),
        ),
    ]  # fmt: skip
    panels.append(
        Panel(
            f"{stem}-controls", f"Controls: {where}", figures.controls_help,
            lambda: figures.controls_figure([*there, *chosen(records, metric="length_auroc")]),
            ("permutation_auroc",),
        )
    )  # fmt: skip
    if not states.empty:
        panels += [
            Panel(
                f"{stem}-states-{dimensions}d", f"States in {dimensions} dimensions: {where}",
                PROJECTION_HELP, _drawer(states, dimensions),
            )
            for dimensions in (2, 3)
        ]  # fmt: skip
    return panels


def _drawer(states: pd.DataFrame, dimensions: int) -> Callable[[], go.Figure]:
    return lambda: projection_figure(states, dimensions=dimensions)


def _states_at(
    projection: pd.DataFrame, contrast: str, site: str, layer: int | None
) -> pd.DataFrame:
    if projection.empty:
        return projection
    there = (projection["contrast"] == contrast) & (projection["site"] == site)
    in_layer = projection["layer"].isna() if layer is None else projection["layer"] == layer
    return projection[there & in_layer.fillna(False)]


def _drift_panels(records: Sequence[Record], layer: int | None, *, stem: str) -> list[Panel]:
    steps = chosen(records, metric="step_cosine", layer=layer)
    panels = [
        Panel(
            f"{stem}-layer-drift", "From block to block", figures.LAYER_DRIFT_HELP,
            lambda: figures.layer_drift_figure(_residual(records)), ("layer_cosine",),
        )
    ]  # fmt: skip
    if steps:
        panels.append(
            Panel(
                f"{stem}-step-drift", f"Along the reply, {layer_text(layer)}",
                figures.STEP_DRIFT_HELP, lambda: figures.step_drift_figure(steps),
            )
        )  # fmt: skip
    return panels


def _residual(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if family(record.site) == "residual"]


def _steering_panels(records: Sequence[Record], *, stem: str) -> list[Panel]:
    of_bridge = chosen(records, site="bridge", metric=("steering_slope", "steering_margin"))
    panels = [
        Panel(
            f"{stem}-slopes", "Steering slope by context: vectors", steering.slopes_help,
            lambda: steering.slopes_figure(records, site="residual"), ("steering_slope",),
        ),
        Panel(
            f"{stem}-wrong-signs", "Prompts pushed the wrong way", steering.wrong_sign_help,
            lambda: steering.wrong_sign_figure(records), ("wrong_sign_share",),
        ),
        Panel(
            f"{stem}-curve", "Dose and response: vectors", steering.curve_help,
            lambda: steering.steering_curve(records, site="residual"), ("steering_margin",),
        ),
        Panel(
            f"{stem}-comparison", "Wrong signs, bridge against vectors",
            steering.COMPARISON_HELP, lambda: steering.comparison_figure(records),
            ("wrong_sign_difference",),
        ),
    ]  # fmt: skip
    if of_bridge:
        panels += [
            Panel(
                f"{stem}-bridge-slopes", "Steering slope by context: bridge",
                steering.slopes_help, lambda: steering.slopes_figure(records, site="bridge"),
            ),
            Panel(
                f"{stem}-bridge-curve", "Dose and response: bridge", steering.curve_help,
                lambda: steering.steering_curve(records, site="bridge"),
            ),
        ]  # fmt: skip
    return panels
