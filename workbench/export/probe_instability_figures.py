"""Figures of instability records: do value directions turn, and does the value space turn less?"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probes.records import Record
from workbench.export.figures import dress
from workbench.export.palette import HARM_SCALE
from workbench.export.probe_plots import (
    GREY,
    Cell,
    Grid,
    Look,
    Point,
    Scale,
    bar_figure,
    caption,
    dots_with_intervals,
    drawn_names,
    empty_figure,
    heat_map,
    heat_traces,
    line_with_band,
    look,
    reference_line,
    shows_intervals,
    tidy_heat_map,
)
from workbench.export.probe_text import NOT_MEASURED, Form, chosen, distinct, evidence, layers_of
from workbench.export.probe_words import (
    context_text,
    family,
    is_control,
    layer_text,
    place_text,
    site_text,
)

TRANSFER_HELP = (
    "A direction is fitted in the context of the row and tested on held-out prompts in the context "
    "of the column. AUROC 1: it tells harm apart perfectly; 0.5 (white): chance; below: reversed. "
    "The diagonal is the same context, other prompts."
)
DIFFERENCE_HELP = (
    "How much less the second site turns than the residual stream, on the same resamples of the "
    "same prompts. An interval that leaves out 0 is a difference that the prompts drawn do not "
    "explain."
)
LAYER_DRIFT_HELP = (
    "Cosine between the direction of a block and that of the block before, in the same context. "
    "Low: the model represents harm anew in that block."
)
STEP_DRIFT_HELP = (
    "Cosine between the direction at a token of the reply and that at its first token. Falling: "
    "the direction moves while the reply is written."
)
Place: TypeAlias = Callable[[Record], float]

LAYER_AXIS = "block (−1: embeddings)"
_CORRECTED = Scale("corrected cosine (1 same, 0 unrelated)", -1.0, 1.0)
_RAW = Scale("raw cosine (1 same, 0 unrelated)", -1.0, 1.0)
_TRANSFER = {
    "transfer_auroc": Scale("AUROC (0.5 chance)", 0.0, 1.0),
    "transfer_accuracy": Scale("accuracy (share, 0.5 chance)", 0.0, 1.0),
    "transfer_drop": Scale("AUROC lost (0 none)", -0.5, 0.5, HARM_SCALE),
}
TRANSFER_METRICS: dict[str, str] = {
    "transfer_auroc": "AUROC",
    "transfer_accuracy": "accuracy",
    "transfer_drop": "AUROC lost",
}
"""What the transfer matrix can show."""

_CONTROLS: dict[str, dict[str, object]] = {
    "direction, same context": {"metric": "transfer_auroc"},
    "length alone": {"metric": "length_auroc"},
    "labels permuted": {"metric": "permutation_auroc"},
    "random direction": {"metric": "random_direction_auroc", "estimator": "random"},
    "random, spread as the states": {
        "metric": "random_direction_auroc", "estimator": "random_matched",
    },
}  # fmt: skip
"""Name to the records that it stands for."""

_DASHES = {"residual": "solid", "z": "solid", "bridge": "dash", "delta_z": "dot"}
_FAMILY_LOOKS = {
    name: replace(look(i), dash=dash) for i, (name, dash) in enumerate(_DASHES.items())
}
_FAMILY_LOOKS["z_response"] = _FAMILY_LOOKS["z"]
_OTHER_LOOK = look(4)


def site_look(site: str) -> Look:
    """Colour, marker and dash of a site, the same in every figure; controls are grey."""
    if is_control(site):
        markers = {"z": "diamond-open", "bridge": "square-open", "delta_z": "triangle-up-open"}
        dashes = {"bridge": "dashdot", "delta_z": "longdash"}
        return Look(GREY, markers.get(family(site), "x"), dashes.get(family(site), "dot"))
    return _FAMILY_LOOKS.get(family(site), _OTHER_LOOK)


def cosine_help(figure: go.Figure) -> str:
    """How to read :func:`cosine_heatmap`."""
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    corrected = any(trace.colorbar.title.text == _CORRECTED.title for trace in maps)
    missing = any(NOT_MEASURED in row for trace in maps for row in trace.text)
    return caption(
        "Each cell compares the value directions of two contexts: 1 (blue) the same direction, 0 "
        "(white) unrelated, below 0 (brown) reversed.",
        ("They are divided by what noise alone allows:", corrected),
        ("Noise alone pulls them towards 0; how far, says", not corrected),
        "the column on the right, the noise ceiling (split-half reliability).",
        ("A dash: the ceiling is too low to say anything.", corrected and missing),
    )


def stability_help(figure: go.Figure) -> str:
    """How to read :func:`stability_figure`."""
    flat = any(isinstance(trace.marker.size, tuple) for trace in figure.data)
    return caption(
        "Mean corrected cosine over all pairs of contexts, layer by layer: 1 means that one "
        "direction serves all contexts.",
        ("Bands: 95% intervals.", shows_intervals(figure)),
        ("Sites without layers are drawn across and marked between the blocks.", flat),
    )


def index_help(figure: go.Figure) -> str:
    """How to read :func:`index_figure`."""
    return caption(
        "Instability index: 1 − mean corrected cosine over pairs of contexts. 0: one direction for "
        "all contexts; 1: unrelated directions.",
        ("The thin lines are 95% intervals.", shows_intervals(figure)),
    )


def controls_help(figure: go.Figure) -> str:
    """How to read :func:`controls_figure`."""
    drawn = drawn_names(figure)
    meant = {"length alone": "the length of the text alone", "labels permuted": "labels permuted"}
    beside = [text for name, text in meant.items() if name in drawn]
    at_random = any(name.startswith("random") for name in drawn)
    beside += ["random directions"] if at_random else []
    return caption(
        "What the direction reaches on held-out prompts of its own context"
        + (f", beside what it should not reach: {', '.join(beside)}." if beside else "."),
        (
            "A random direction far from chance says that harm is written all over the states, "
            "not that it stands for harm.",
            at_random,
        ),
    )


def cosine_heatmap(records: Iterable[Record], *, corrected: bool = True) -> go.Figure:
    """Cosines of the directions of all pairs of contexts, with the noise ceiling beside them.

    Args:
        records: Of one contrast, site, layer and estimator.
        corrected: Divided by the ceiling, or raw.
    """
    records = list(records)
    metric, scale = ("cosine_corrected", _CORRECTED) if corrected else ("cosine", _RAW)
    cosines = chosen(records, metric=metric)
    ceilings = {record.context_a: record for record in chosen(records, metric="reliability")}
    contexts = _contexts([*cosines, *ceilings.values()])
    if not contexts:
        return empty_figure("no cosines in these records")
    found = {frozenset((r.context_a, r.context_b)): r for r in cosines}
    names = [context_text(context) for context in contexts]
    form = Form(2)
    matrix = Grid(
        names,
        names,
        [[_cosine_cell(found, a, b, form) for b in contexts] for a in contexts],
    )
    ceiling = Grid(names, ["ceiling"], [[Cell.of(ceilings.get(a), form)] for a in contexts])
    figure = make_subplots(
        1, 2, shared_yaxes=True, column_widths=[0.9, 0.1], horizontal_spacing=0.02
    )
    for trace in heat_traces(matrix, scale):
        figure.add_trace(trace, 1, 1)
    for trace in heat_traces(ceiling, scale, show_scale=False):
        figure.add_trace(trace, 1, 2)
    dress(figure, x="context", y="context", height=34 * len(contexts) + 170)
    figure.update_xaxes(title_text="", row=1, col=2)
    figure.update_yaxes(title_text="", row=1, col=2)
    tidy_heat_map(figure)
    figure.update_xaxes(tickangle=-35)
    figure.update_layout(margin={"t": 16})
    return figure


def transfer_heatmap(records: Iterable[Record], metric: str = "transfer_auroc") -> go.Figure:
    """How directions do in other contexts; rows: where they were fitted, columns: tested.

    Args:
        records: Of one contrast, site, layer and estimator.
        metric: One of ``TRANSFER_METRICS``.
    """
    found = {(r.context_a, r.context_b): r for r in chosen(records, metric=metric)}
    contexts = _contexts(found.values())
    if not contexts:
        return empty_figure("no transfer in these records")
    form = Form(2)
    names = [context_text(context) for context in contexts]
    cells = [[Cell.of(found.get((a, b)), form) for b in contexts] for a in contexts]
    figure = heat_map(
        Grid(names, names, cells), _TRANSFER[metric], x="tested in context", y="fitted in context"
    )
    figure.update_xaxes(tickangle=-35)
    return figure


def stability_figure(records: Iterable[Record]) -> go.Figure:
    """Mean corrected cosine over pairs of contexts, by layer, one line a site.

    Args:
        records: Of one contrast and estimator; sites with and without layers.
    """
    indices = chosen(records, metric="instability_index")
    layers = layers_of(indices)
    figure = go.Figure()
    layerless = distinct(record.site for record in chosen(indices, layer=None))
    for site in distinct(record.site for record in indices):
        of_site = {record.layer: record for record in chosen(indices, site=site)}
        flat = of_site.get(None)
        if flat is None:
            points = [
                _stability(of_site[layer], float(layer)) for layer in layers if layer in of_site
            ]
            figure.add_traces(line_with_band(site_text(site), points, site_look(site)))
        else:
            place = (layerless.index(site) + 1) / (len(layerless) + 1)
            figure.add_traces(_across(flat, layers or [0], place))
        if all(math.isnan(record.estimate) for record in of_site.values()):
            figure.data[-1].name += " (not measured)"
    reference_line(figure, 0.0, "unrelated")
    dress(figure, x=LAYER_AXIS, y="stability across contexts (mean corrected cosine)", height=420)
    figure.update_xaxes(dtick=1)
    return _legend_above(figure)


def index_figure(records: Iterable[Record]) -> go.Figure:
    """Instability index of every site and layer given, with intervals."""
    form = Form(3)
    found = chosen(records, metric="instability_index")
    if not found:
        return empty_figure("no instability index in these records")
    points = [Point.of(place_text(record.site, record.layer), record, form) for record in found]
    figure = bar_figure("instability index", points, x="instability index (0 to 1)", y="")
    (bars,) = figure.data
    bars.marker.color = [site_look(record.site).colour for record in found]
    bars.error_x.color = GREY
    return figure


def difference_figure(records: Iterable[Record]) -> go.Figure:
    """How much less value space and bridge turn than the residual stream, with intervals."""
    form = Form(3, signed=True)
    points = [
        Point.of(_comparison(record), record, form)
        for record in chosen(records, metric="instability_difference")
    ]
    if not points:
        return empty_figure("no comparison of sites in these records")
    return bar_figure("difference", points, x="instability index, difference", y="", style=look(2))


def layer_drift_figure(records: Iterable[Record]) -> go.Figure:
    """Cosine between the directions of neighbouring layers, one line a context."""
    return _drift(chosen(records, metric="layer_cosine"), _layer_of, LAYER_AXIS)


def step_drift_figure(records: Iterable[Record]) -> go.Figure:
    """Cosine between the directions at tokens of the reply, one line a context."""
    return _drift(
        chosen(records, metric="step_cosine"), lambda r: r.x, "token of the reply (index)"
    )


def controls_figure(records: Iterable[Record]) -> go.Figure:
    """AUROC in the same context beside what controls reach, context by context.

    Args:
        records: Of one contrast, site, layer and estimator, with those of random directions there
            and of lengths.
    """
    records = list(records)
    figure = go.Figure()
    for number, (name, wanted) in enumerate(_CONTROLS.items()):
        found = [
            record
            for record in chosen(records, **wanted)
            if record.context_b in ("", record.context_a)
        ]
        points = [Point.of(context_text(r.context_a), r, Form(3)) for r in found if r.context_a]
        if points:
            figure.add_trace(dots_with_intervals(name, points, look(number)))
    if not figure.data:
        return empty_figure("no controls in these records")
    figure.update_layout(scattermode="group", scattergap=0.3)
    reference_line(figure, 0.5, "chance")
    dress(figure, x="context", y="AUROC (0.5 is chance)", height=440)
    figure.update_xaxes(tickangle=-35)
    return _legend_above(figure)


def _cosine_cell(found: dict[frozenset[str], Record], first: str, second: str, form: Form) -> Cell:
    if first == second:
        return Cell(1.0, "the same context")
    return Cell.of(found.get(frozenset((first, second))), form)


def _contexts(records: Iterable[Record]) -> list[str]:
    records = list(records)
    return distinct([c for r in records for c in (r.context_a, r.context_b) if c])


def _across(record: Record, layers: Sequence[int], place: float) -> list[go.Scatter]:
    """A value without layers as a line across them, marked between each two.

    Lines that lie on one another are told apart by marks at places of their own (as a share of the
    way from layer to layer) and by dashes, through which the lower line shows.
    """
    marks = [low + place * (high - low) for low, high in pairwise(layers)]
    # Marks stand at the ends only where there is no room between them.
    sizes = [0, *[8] * len(marks), 0] if marks else [8]
    ends = [layers[0], *marks, layers[-1]] if marks else [layers[0] + (place - 0.5) / 2]
    points = [_stability(record, float(x)) for x in ends]
    *bands, line = line_with_band(site_text(record.site), points, site_look(record.site))
    return [*bands, line.update(marker_size=sizes)]


def _stability(record: Record, layer: float) -> Point:
    """1 - index, so that high is stable; the ends of the interval change places."""
    return Point(
        layer, 1 - record.estimate, 1 - record.high, 1 - record.low,
        "instability index " + evidence(record, Form(3)),
    )  # fmt: skip


def _drift(records: Sequence[Record], place: Place, axis: str) -> go.Figure:
    if not records:
        return empty_figure("no drift in these records")
    figure = go.Figure()
    for number, context in enumerate(distinct(record.context_a for record in records)):
        of_context = sorted(chosen(records, context_a=context), key=place)
        points = [Point.of(place(record), record, Form(3)) for record in of_context]
        for trace in line_with_band(context_text(context) or "all", points, look(number)):
            figure.add_trace(trace)
    dress(figure, x=axis, y="cosine (1: unchanged)", height=400)
    figure.update_xaxes(dtick=1)
    return _legend_above(figure)


def _layer_of(record: Record) -> float:
    return math.nan if record.layer is None else float(record.layer)


def _comparison(record: Record) -> str:
    where = "" if record.layer is None else f", {layer_text(record.layer)}"
    return f"residual stream{where} − {site_text(record.site)}"


def _legend_above(figure: go.Figure) -> go.Figure:
    """Room for a legend of several rows above the figure."""
    n_entries = sum(trace.showlegend is not False for trace in figure.data)
    figure.update_layout(margin={"t": 36 + 22 * (n_entries // 4)})
    return figure
