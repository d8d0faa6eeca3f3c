"""What the anchoring page shows: one prompt's analysis, or the records of a run.

Kept apart from the page because it needs torch; the page is on the screen before this is imported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from probes.anchoring.live import PromptAnchoring, Reply, anchor_prompt
from probes.records import Record
from workbench.errors import ConfigError
from workbench.export import probe_anchoring_figures as figures
from workbench.export.probe_runs import ProbeRun
from workbench.export.probe_text import chosen, distinct
from workbench.export.responses import ResponseRecord, TokenRecord
from workbench.export.token_html import copy_html, legend_html, prompt_html, tokens_html
from workbench.guidance import GREEDY, Sampling
from workbench.pages.anchoring import AnchoringRequest
from workbench.pages.conversation_text import parse_conversation
from workbench.pages.loading import Stamp, get_backbone, get_module
from workbench.pages.probe_output import Panel, choice, record_tables, run_facts, show_panels
from workbench.pages.prompt_records import prompt_records
from workbench.pages.remembering import remembered

_RESULT = "anchoring-result"
_WEIGHTINGS = {"raw": "share of attention", "weighted": "weighted by what a key adds"}
_EFFECTS = {
    "margin_effect": "change of the margin",
    "margin_lost": "lost share of it",
    "harm_rate": "harmful replies",
    "harm_lost": "lost share of the reduction",
}
_DOSES = {
    "gate": "gate scale",
    "first": "first tokens",
    "last": "last tokens",
    "refresh": "refresh",
}
_PATHS = {"path_share": "safety margin", "path_harm_share": "sampled replies"}
_ATTRIBUTIONS = {"parts": "all parts", "heads": "heads"}
_DOSE_METRICS = {"dose_margin": "safety margin", "dose_harm_rate": "harmful replies"}
_TEXTS = {"turn": "one long turn", "dialogue": "small talk"}
_REACHES = {
    "full": "all of it read", "window": "a sliding window read", "parallel": "read in parallel",
}  # fmt: skip
_DILUTIONS = {
    "dilution_margin": "change of the margin",
    "dilution_kl": "KL",
    "dilution_attention": "attention",
    "dilution_control_loss": "damage of length alone",
}


@dataclass(frozen=True)
class _Result:
    """What one press of the button gave, kept in the session it belongs to."""

    request: AnchoringRequest
    found: PromptAnchoring
    records: tuple[Record, ...]


def answer(request: AnchoringRequest, *, analyse: bool) -> None:
    """Load what is asked for, analyse the prompt if wanted, and show the last result."""
    if analyse:
        st.session_state.pop(_RESULT, None)  # should this fail, no earlier numbers stand for it
        st.session_state[_RESULT] = _analysed(request)
    result = st.session_state.get(_RESULT)
    if not isinstance(result, _Result):
        st.info("Press Analyse: both replies are drawn, then the bridge is taken apart.")
        return
    current = result.request == request
    if not current:
        st.info("The settings have changed since: press Analyse for new numbers.")
    label = "Analysis of the prompt" if current else "Earlier analysis, of the prompt"
    st.html(prompt_html(label, result.request.prompt))
    _show_prompt(result)


def show_run(run: ProbeRun) -> None:
    """Show all records of an anchoring run."""
    run_facts(run)
    show_panels(_panels(run.records, stem=run.name), run.records)
    record_tables(run.records, stem=run.name)


def _analysed(request: AnchoringRequest) -> _Result:
    if not request.config:
        raise ConfigError("give the folder of a value module, or choose a shipped configuration")
    with st.spinner(f"Loading {request.backbone} … (once, some seconds)"):
        loaded = get_backbone(request.backbone)
        module = get_module(request.config, loaded)

    def analyse() -> _Result:
        with st.spinner("Analysing the prompt …"), loaded.lock:
            found = anchor_prompt(
                loaded.backbone,
                module.guidance,
                parse_conversation(request.prompt),
                max_new_tokens=request.max_new_tokens,
                seed=request.seed,
                sampling=_sampling(request.temperature),
            )
        records = prompt_records(
            found, backbone=loaded.backbone.name, guidance=module.guidance.name
        )
        return _Result(request, found, tuple(records))

    key: tuple[object, AnchoringRequest, Stamp] = ("anchoring", request, loaded.stamp)
    return remembered(key, analyse)


def _sampling(temperature: float) -> Sampling:
    return GREEDY if temperature == 0 else Sampling(temperature=temperature, top_p=0.9)


def _show_prompt(result: _Result) -> None:
    found = result.found
    st.html(legend_html())
    for column, title, reply in zip(
        st.columns(2, gap="large"),
        ("Unguided", "With bridge"),
        (found.unguided, found.guided),
        strict=True,
    ):
        with column:
            st.subheader(title, anchor=False)
            st.html(tokens_html(_response(reply)))
            st.html(copy_html(reply.text), unsafe_allow_javascript=True)
    trigger, gate, effect = st.columns(3)
    trigger.metric(
        "Trigger score s (logit)", f"{found.trigger_score:+.2f}", border=True,
        help="Score of the prompt's value state; above 0 the module finds it harmful.",
    )  # fmt: skip
    gate.metric(
        "Gate", "open" if found.open else "closed", border=True,
        help="Closed: the slots are hidden and the model runs as if unguided.",
    )  # fmt: skip
    effect.metric(
        "Margin effect (nats a token)", _margin_text(result.records), border=True,
        help="How much likelier a token of the guided reply becomes with the bridge, against the "
        "unguided reply. 0: the bridge changes nothing.",
    )  # fmt: skip
    if found.note:
        st.info(f"{found.note[:1].upper()}{found.note[1:]}.")
    st.caption(
        "One prompt, so no intervals: effects are measured on its own two replies, the guided one "
        "in the place of the safe one. For a claim use a run of `workbench probe anchoring`."
    )
    show_panels(_panels(result.records, stem="prompt"), result.records)
    record_tables(result.records, stem="prompt")


def _response(reply: Reply) -> ResponseRecord:
    scores: Sequence[float | None] = (
        [None] * len(reply.tokens) if reply.harm_score is None else reply.harm_score.tolist()
    )
    tokens = tuple(
        TokenRecord(text, score) for text, score in zip(reply.tokens, scores, strict=True)
    )
    return ResponseRecord("reply", tokens, reply.text)


def _margin_text(records: Sequence[Record]) -> str:
    full = [r for r in records if r.metric == "margin_effect" and r.estimator == "full"]
    return f"{full[0].estimate:+.2f}" if full else "not measured"


# ---------------------------------------------------------------------------------------- figures


def _panels(records: Sequence[Record], *, stem: str) -> list[Panel]:
    return [
        Panel(
            f"{stem}-attention-map", "Which heads read the bridge", figures.ATTENTION_MAP_HELP,
            lambda: figures.attention_map(
                records, weighting=choice("Attention as", _WEIGHTINGS, "weighting")
            ),
            ("attention_mass",),
        ),
        Panel(
            f"{stem}-attention-course", "Attention along the reply",
            figures.attention_course_help,
            lambda: figures.attention_course(
                records, weighting=st.session_state.get("weighting", "raw")
            ),
            ("attention_mass",),
        ),
        Panel(
            f"{stem}-effects", "What the bridge causes: take it away or replace it",
            figures.effects_help, lambda: _effects(records), tuple(_EFFECTS),
        ),
        Panel(
            f"{stem}-doses", "Dose and response", figures.doses_help, lambda: _doses(records),
            tuple(_DOSE_METRICS),
        ),
        Panel(
            f"{stem}-paths", "Through which heads the bridge acts", figures.paths_help,
            lambda: figures.paths_figure(records), ("path_share",),
        ),
        Panel(
            f"{stem}-readers", "Through which groups of readers", figures.readers_help,
            lambda: figures.readers_figure(
                records, choice("Effect on", _there(records, _PATHS), "readers")
            ),
            tuple(_PATHS),
        ),
        Panel(
            f"{stem}-trajectory", "Harm score along the reply", figures.trajectory_help,
            lambda: figures.trajectory_figure(records), ("trajectory",),
        ),
        Panel(
            f"{stem}-prediction", "Predicted and measured change", figures.PREDICTION_HELP,
            lambda: figures.prediction_figure(records), ("first_order_predicted",),
        ),
        Panel(
            f"{stem}-attribution", "What is written towards the safe word",
            figures.attribution_help, lambda: _attribution(records),
            ("logit_attribution",),
        ),
        Panel(
            f"{stem}-dilution", "Dilution: the bridge after many more tokens",
            figures.dilution_help, lambda: _dilution(records), tuple(_DILUTIONS),
        ),
    ]  # fmt: skip


def _effects(records: Sequence[Record]) -> go.Figure:
    return figures.effects_figure(records, choice("Shown", _there(records, _EFFECTS), "effect"))


def _doses(records: Sequence[Record]) -> go.Figure:
    there = {record.estimator for record in records if record.metric in _DOSE_METRICS}
    dose = choice("Dose", {k: v for k, v in _DOSES.items() if k in there}, "dose")
    of_dose = [record for record in records if record.estimator == dose]
    metric = choice("Response", _there(of_dose, _DOSE_METRICS), "dose-metric")
    return figures.dose_figure(records, dose, metric)


def _attribution(records: Sequence[Record]) -> go.Figure:
    shown = choice("Shown by", _ATTRIBUTIONS, "attribution")
    draw = figures.attribution_map if shown == "heads" else figures.attribution_parts
    return draw(records)


def _dilution(records: Sequence[Record]) -> go.Figure:
    """One metric along one kind of text, as every kind has its own controls."""
    metric = choice("Shown", _there(records, _DILUTIONS), "dilution")
    found = chosen(records, metric=metric)
    routes = distinct(record.estimator.partition("/")[2] for record in found)
    route = choice("Text in between", {name: _route_text(name) for name in routes}, "route")
    return figures.dilution_figure(
        [record for record in found if record.estimator.endswith(f"/{route}")], metric
    )


def _route_text(route: str) -> str:
    """What stands between bridge and decision, and which of it is read."""
    text, _, reach = route.partition("/")
    return f"{_TEXTS.get(text, text)}, {_REACHES.get(reach, reach)}"


def _there(records: Sequence[Record], names: dict[str, str]) -> dict[str, str]:
    found = {record.metric for record in records if not math.isnan(record.estimate)}
    return {name: text for name, text in names.items() if name in found}
