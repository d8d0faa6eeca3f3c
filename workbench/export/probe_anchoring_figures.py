"""Figures of anchoring records: are bridge tokens read, by which heads, and what do they cause?"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probes.anchoring.interventions import INTERVENTIONS, OFF_MANIFOLD
from probes.records import Record
from workbench.export.figures import dress
from workbench.export.palette import ATTENTION_SCALE, GUIDED, SERIES, UNGUIDED
from workbench.export.probe_plots import (
    AGREEMENT_SCALE,
    GREY,
    Cell,
    Grid,
    Look,
    Point,
    Scale,
    bar_figure,
    bars_with_intervals,
    caption,
    drawn_names,
    empty_figure,
    heat_traces,
    line_with_band,
    look,
    reference_line,
    shows_intervals,
    tidy_heat_map,
)
from workbench.export.probe_text import Form, chosen, distinct, evidence, layers_of
from workbench.export.probe_words import layer_text

ATTENTION_MAP_HELP = (
    "Share of its attention that the token being predicted pays to the bridge slots, mean over the "
    "reply. Compare with the same slots filled with noise of equal size (middle) and with the "
    "first token of the prompt, where attention goes to rest (right). Attention is not effect."
)
PREDICTION_HELP = (
    "One mark for each share of the bridge's signal taken away: horizontally the change of the "
    "safety margin that the gradient predicts, vertically the one measured. On the line, the "
    "bridge acts as a small push along a direction; off it, by switching attention."
)

EFFECT_METRICS: dict[str, str] = {
    "margin_effect": "change of the safety margin (nats a token)",
    "margin_lost": "share of the margin's change that is lost (1 all, 0 none)",
    "harm_rate": "harmful replies (share)",
    "harm_lost": "share of the harm reduction that is lost (1 all, 0 none)",
}
"""What the bars of interventions can show, with its unit."""

DOSE_AXES: dict[str, str] = {
    "gate": "gate scale (1 as trained)",
    "first": "bridge tokens kept, from the first (number)",
    "last": "bridge tokens kept, from the last (number)",
    "refresh": "new tokens between two writes of the bridge",
}
DOSE_METRICS: dict[str, str] = {
    "dose_margin": "safety margin (nats a token)",
    "dose_harm_rate": "harmful replies (share)",
}
DILUTION_METRICS: dict[str, str] = {
    "dilution_margin": "change of the safety margin (nats a token)",
    "dilution_kl": "KL from the plain model (nats)",
    "dilution_attention": "attention on the slots (share)",
    "dilution_control_loss": "loss of helpful replies (nats a token)",
}
_KEYS = {"slots": "bridge slots", "sink": "first token (sink)"}
_PARTS = {
    "stream": "stream: the last slot itself",
    "constant": "constant of the unembedding",
    "total": "all parts together",
    "difference": "the model's logits",
}
_NOISE = "slots holding noise"
_NO_SLOTS = "no slots"
_ALL_HEADS, _STREAM = "all heads", "stream"
_WRITTEN_ONCE = 0.0
_REPLY_AXIS = "token of the reply (index)"
_MOST_HEADS = 5
_CONTROL_LOOK = Look(GREY, "x", "dot")
_DILUTION_LOOKS = {
    "bridge": Look(GUIDED, "diamond"),
    "random": _CONTROL_LOOK,
    "bridge-random": Look(SERIES[3], "square", "dash"),
}
_DILUTION_ARMS = {"random": "random bridge", "bridge-random": "bridge − random bridge"}


# ------------------------------------------------------------------------------- how to read them


def attention_course_help(figure: go.Figure) -> str:
    """How to read :func:`attention_course`."""
    return caption(
        "The same share token by token of the reply, for the heads that read the slots most.",
        ("Bands: 95% intervals of the mean over replies.", shows_intervals(figure)),
        "Grey and dotted: the strongest of them on slots that hold noise.",
    )


def effects_help(figure: go.Figure) -> str:
    """How to read :func:`effects_figure`."""
    strange = drawn_names(figure) & {INTERVENTIONS[name] for name in OFF_MANIFOLD}
    return caption(
        "Each bar replaces the prompt's own bridge by something else. What the bridge causes must "
        "be gone when slots are hidden or at rest, and must not come with noise.",
        (
            "Open bars stand for bridges that the module never writes: an effect of theirs says "
            "less.",
            bool(strange),
        ),
        ("The thin lines are 95% intervals.", shows_intervals(figure)),
    )


def doses_help(figure: go.Figure) -> str:
    """How to read :func:`dose_figure`."""
    return caption(
        "More of the bridge from left to right. A cause shows a steady rise or fall.",
        ("The band is the 95% interval.", shows_intervals(figure)),
        ("The dashed line is the model without slots.", _NO_SLOTS in drawn_names(figure)),
    )


def paths_help(figure: go.Figure) -> str:
    """How to read :func:`paths_figure`."""
    drawn = {name.lower() for name in drawn_names(figure)}
    return caption(
        *_path_sentences(drawn, "this head alone"),
        "Shares need not add up: heads back each other up.",
    )


def readers_help(figure: go.Figure) -> str:
    """How to read :func:`readers_figure`."""
    drawn = drawn_names(figure)
    return caption(
        *_path_sentences(drawn, "this group of readers"),
        ("All heads: every head of every block above the bridge.", _ALL_HEADS in drawn),
        (
            "The stream is the last slot's own residual, which predicts the first token without "
            "any head reading the slots.",
            _STREAM in drawn,
        ),
        ("A block: its heads together.", any(name.startswith("block ") for name in drawn)),
        ("The thin lines are 95% intervals.", shows_intervals(figure)),
    )


def _path_sentences(drawn: set[str], reader: str) -> tuple[tuple[str, bool], ...]:
    return (
        (
            f"Necessity: the share of the effect that is lost when {reader} cannot read the slots.",
            "necessity" in drawn,
        ),
        (
            f"Sufficiency: the share that is there when only {reader} reads them.",
            "sufficiency" in drawn,
        ),
    )


def trajectory_help(figure: go.Figure) -> str:
    """How to read :func:`trajectory_figure`."""
    return caption(
        "The value module's score of the reply up to each token. Above the dashed line it calls "
        "the reply harmful.",
        (
            "Lines are means over replies, bands their 95% intervals; late tokens speak of the "
            "replies that are still running.",
            shows_intervals(figure),
        ),
    )


def dilution_help(figure: go.Figure) -> str:
    """How to read :func:`dilution_figure`."""
    names = drawn_names(figure)
    controls = any(name.startswith("random") for name in names)
    contrast = any(name.startswith("bridge −") for name in names)
    return caption(
        "What is left of the bridge after that many tokens of filler between slots and decision "
        "(the embedded world's openers and small talk, or a file's replies to prompts labelled "
        "harmless).",
        ("Bands: 95% intervals.", shows_intervals(figure)),
        ("Grey and dotted: a random bridge of equal size.", controls),
        ("Dashed: the bridge minus that.", contrast),
    )


def attribution_help(figure: go.Figure) -> str:
    """How to read :func:`attribution_map` and :func:`attribution_parts`."""
    by_head = any(trace.type == "heatmap" for trace in figure.data)
    return caption(
        "What is written directly towards the first safe word, as logit difference safe − harmful "
        "at the place where the two replies part:",
        ("by each head from the slots,", by_head),
        ("by each part of the model,", not by_head),
        "beside it the same for slots that hold noise.",
        ("The thin lines are 95% intervals.", shows_intervals(figure)),
    )


# ------------------------------------------------------------------------------------- attention


def attention_map(records: Iterable[Record], *, weighting: str = "raw") -> go.Figure:
    """Attention on the slots by block and head, beside its control and the sink.

    Args:
        records: Of one run.
        weighting: ``raw``, or ``weighted`` by the length of what each key adds to the residual.
    """
    whole = [
        record
        for record in chosen(records, metric="attention_mass", estimator=weighting)
        if math.isnan(record.x)
    ]
    slots, sink = chosen(whole, site="slots"), chosen(whole, site="sink")
    if not slots:
        return empty_figure("no attention in these records")
    noise = [replace(record, estimate=record.null, low=math.nan, high=math.nan) for record in slots]
    panels = {_KEYS["slots"]: slots, _NOISE: noise, _KEYS["sink"]: sink}
    top = max(_finite(record.estimate for record in (*slots, *noise, *sink)), default=1.0)
    scale = Scale("share of attention (0 to 1)", 0.0, top, ATTENTION_SCALE)
    return _head_panels(panels, scale, Form(2))


def attention_course(records: Iterable[Record], *, weighting: str = "raw") -> go.Figure:
    """Attention on the slots along the reply, for the heads that read them most."""
    slots = chosen(records, metric="attention_mass", estimator=weighting, site="slots")
    whole = [record for record in slots if math.isnan(record.x) and _measured(record)]
    ranked = sorted(whole, key=lambda record: -record.estimate)[:_MOST_HEADS]
    if not ranked:
        return empty_figure("no attention in these records")
    figure = go.Figure()
    for number, best in enumerate(ranked):
        course = _by_x(chosen(slots, layer=best.layer, head=best.head))
        points = [Point.of(record.x, record, Form(3)) for record in course]
        for trace in line_with_band(_head_name(best), points, look(number)):
            figure.add_trace(trace)
        if number == 0:
            noise = [_null_point(record) for record in course]
            figure.add_traces(line_with_band(f"{_head_name(best)}, noise", noise, _CONTROL_LOOK))
    dress(figure, x=_REPLY_AXIS, y="attention on slots (share)", height=420)
    figure.update_yaxes(rangemode="tozero")
    return figure


def attribution_map(records: Iterable[Record]) -> go.Figure:
    """What heads write from the slots towards the safe word, beside its control."""
    slots = chosen(records, metric="logit_attribution", site="slots")
    if not slots:
        return empty_figure("no logit attribution in these records")
    noise = [replace(record, estimate=record.null, low=math.nan, high=math.nan) for record in slots]
    reach = max(_finite(abs(r.estimate) for r in (*slots, *noise)), default=1.0)
    scale = Scale("logits towards safe", -reach, reach, AGREEMENT_SCALE)
    return _head_panels({_KEYS["slots"]: slots, _NOISE: noise}, scale, Form(3, signed=True))


# --------------------------------------------------------------------------------------- effects


def effects_figure(records: Iterable[Record], metric: str = "margin_effect") -> go.Figure:
    """What is left of the effect under every intervention, with intervals.

    Args:
        records: Of one run.
        metric: One of ``EFFECT_METRICS``.
    """
    found = {
        record.estimator: record
        for record in chosen(records, metric=metric, context_a="")
        if record.estimator in INTERVENTIONS
    }
    ordered = [found[name] for name in INTERVENTIONS if name in found]
    if not any(_measured(record) for record in ordered):
        return empty_figure("not measured in these records")
    points = [Point.of(INTERVENTIONS[r.estimator], r, Form(3, signed=True)) for r in ordered]
    figure = bar_figure("written bridges", points, x=EFFECT_METRICS[metric], y="")
    (bars,) = figure.data
    bars.marker.opacity = None
    bars.marker.color = [
        "rgba(127,127,127,0.15)" if record.estimator in OFF_MANIFOLD else "rgba(47,138,196,0.5)"
        for record in ordered
    ]
    bars.marker.line = {"color": GUIDED, "width": 1.5}
    return figure


def dose_figure(records: Iterable[Record], dose: str, metric: str) -> go.Figure:
    """Margin or harm rate against a dose of the bridge.

    Args:
        records: Of one run.
        dose: One of ``DOSE_AXES``.
        metric: One of ``DOSE_METRICS``.
    """
    found = _by_x(chosen(records, metric=metric, estimator=dose))
    if not any(_measured(record) for record in found):
        return empty_figure("not measured in these records")
    if dose == "refresh":  # once is the weakest dose and has no number of its own
        found = sorted(found, key=lambda record: -(record.x or math.inf))
    points = [Point.of(_dose_text(dose, record.x), record, Form(3)) for record in found]
    figure = go.Figure(line_with_band("with bridge", points, look(1)))
    plain = next(iter(_finite(record.null for record in found)), None)
    if plain is not None:
        reference_line(figure, plain, _NO_SLOTS)
    return dress(figure, x=DOSE_AXES[dose], y=DOSE_METRICS[metric], height=360)


def paths_figure(records: Iterable[Record]) -> go.Figure:
    """Necessity and sufficiency of every head as readers of the slots."""
    heads = chosen(records, metric="path_share", site="head")
    if not heads:
        return empty_figure("no path patching in these records")
    panels = {
        name.capitalize(): chosen(heads, estimator=name)
        for name in distinct(record.estimator for record in heads)
    }
    return _head_panels(panels, Scale("share of the effect", -1.0, 1.0), Form(2))


def readers_figure(records: Iterable[Record], metric: str = "path_share") -> go.Figure:
    """Necessity and sufficiency of groups of readers, with intervals.

    Args:
        records: Of one run.
        metric: ``path_share`` of the margin, or ``path_harm_share`` of the harm reduction.
    """
    groups = chosen(records, metric=metric, site=("all", "heads", "stream", "layer"))
    if not groups:
        return empty_figure("no path patching in these records")
    figure = go.Figure()
    for number, name in enumerate(distinct(record.estimator for record in groups)):
        points = [Point.of(_reader(r), r, Form(2)) for r in chosen(groups, estimator=name)]
        figure.add_trace(bars_with_intervals(name, points, look(number)))
    names = distinct(_reader(record) for record in groups)
    dress(figure, x="share of the effect (1 all of it)", y="", height=60 * len(names) + 120)
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    return figure


def attribution_parts(records: Iterable[Record]) -> go.Figure:
    """What the parts of the model write towards the safe word, beside slots that hold noise."""
    parts = [
        record
        for record in chosen(records, metric="logit_attribution", head=None)
        if _measured(record)
    ]
    if not parts:
        return empty_figure("no logit attribution in these records")
    own = [Point.of(_part(record), record, Form(3, signed=True)) for record in parts]
    noise = [
        Point(_part(r), r.null, math.nan, math.nan, evidence(r, Form(3, signed=True)))
        for r in parts
    ]
    figure = go.Figure(bars_with_intervals("bridge", own, look(1)))
    figure.add_trace(bars_with_intervals(_NOISE, noise, _CONTROL_LOOK))
    names = [_part(record) for record in parts]
    dress(figure, x="logits towards safe", y="", height=50 * len(names) + 120)
    figure.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    return figure


def prediction_figure(records: Iterable[Record]) -> go.Figure:
    """First-order change of the margin against the measured one, one mark a scale."""
    records = list(records)
    across = {r.x: r for r in chosen(records, metric="first_order_predicted") if _measured(r)}
    up = {r.x: r for r in chosen(records, metric="first_order_measured") if _measured(r)}
    slopes = {r.x: r for r in chosen(records, metric="first_order_slope")}
    shared = sorted(set(across) & set(up))
    if not shared:
        return empty_figure("not measured in these records")
    figure = go.Figure(
        go.Scatter(
            x=[across[scale].estimate for scale in shared],
            y=[up[scale].estimate for scale in shared],
            error_x=_both_ends([across[scale] for scale in shared]),
            error_y=_both_ends([up[scale] for scale in shared]),
            mode="markers+text",
            text=[f"{scale:g}" for scale in shared],
            textposition="top left",
            marker={"size": 10, "color": GUIDED, "symbol": "diamond"},
            customdata=[
                f"slope {Form(2).interval(slopes[scale])}" if scale in slopes else ""
                for scale in shared
            ],
            hovertemplate="share %{text} taken away: predicted %{x:.3f}, measured %{y:.3f}<br>"
            "%{customdata}<extra></extra>",
            name="share of the signal taken away",
        )
    )
    ends = [0.0, *(r.estimate for r in (*across.values(), *up.values()))]
    line = [min(ends), max(ends)]
    figure.add_trace(
        go.Scatter(
            x=line, y=line, mode="lines", name="measured = predicted",
            line={"color": GREY, "dash": "dash"}, hoverinfo="skip",
        )
    )  # fmt: skip
    return dress(
        figure, x="predicted change of the margin (nats a token)",
        y="measured change (nats a token)", height=420,
    )  # fmt: skip


def trajectory_figure(records: Iterable[Record], site: str = "score") -> go.Figure:
    """Harm score (or another projection) along replies, with and without the bridge.

    Args:
        records: Of one run.
        site: ``score`` or ``direction``.
    """
    found = chosen(records, metric="trajectory", site=site)
    looks = {
        "unguided": Look(UNGUIDED, "circle-open", "dot"),
        "guided": Look(GUIDED, "diamond"),
    }
    figure = go.Figure()
    for name, style in looks.items():
        course = _by_x(chosen(found, estimator=name))
        points = [Point.of(record.x, record, Form(2, signed=True)) for record in course]
        if points:
            figure.add_traces(line_with_band(name, points, style))
    if not figure.data:
        return empty_figure("no trajectories in these records")
    axis = "harm score s<sub>t</sub> (logit)" if site == "score" else "projection (residual units)"
    dress(figure, x=_REPLY_AXIS, y=axis, height=400)
    if site == "score":
        reference_line(figure, 0.0, "harmful above")
    return figure


def dilution_figure(records: Iterable[Record], metric: str = "dilution_margin") -> go.Figure:
    """What is left of the bridge after ever more tokens, one line an arm.

    Every kind of text and reach of attention has controls of its own, so each gets a panel; all
    panels share one vertical scale. Of a single one the lines name it instead.
    """
    found = [record for record in chosen(records, metric=metric) if _measured(record)]
    if not found:
        return empty_figure("no dilution in these records")
    routes = distinct(_route(record) for record in found)
    many = len(routes) > 1
    figure = make_subplots(
        1, len(routes), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[route.replace("/", ", ") for route in routes] if many else None,
    )  # fmt: skip
    named: set[str] = set()
    for column, route in enumerate(routes, start=1):
        panel = [record for record in found if _route(record) == route]
        for traces in _dilution_lines(panel, by_arm=many):
            line = traces[-1]
            line.showlegend = line.name not in named
            named.add(line.name)
            figure.add_traces(traces, 1, column)
    title = "tokens between slots<br>and decision (not to scale)"
    dress(figure, x=title if many else title.replace("<br>", " "), y="", height=460)
    figure.update_yaxes(range=_shared_range(found))
    figure.update_yaxes(title_text=DILUTION_METRICS[metric], col=1)
    order = sorted({record.x for record in found if not math.isnan(record.x)})
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=[f"{x:.0f}" for x in order]
    )
    if many:  # the legend stands above the headings of panels
        figure.update_layout(legend={"y": 1.08}, margin={"t": 64})
    return figure


# ----------------------------------------------------------------------------------------- pieces


def _head_panels(panels: dict[str, list[Record]], scale: Scale, form: Form) -> go.Figure:
    """Heat maps of block by head side by side, on one scale; the highest block on top."""
    everything = [record for records in panels.values() for record in records]
    layers = sorted(layers_of(everything), reverse=True)
    heads = sorted({record.head for record in everything if record.head is not None})
    figure = make_subplots(
        1, len(panels), shared_yaxes=True, subplot_titles=list(panels), horizontal_spacing=0.04
    )
    for column, records in enumerate(panels.values(), start=1):
        found = {(record.layer, record.head): record for record in records}
        cells = [[Cell.of(found.get((layer, head)), form) for head in heads] for layer in layers]
        rows = [layer_text(layer) for layer in layers]
        grid = Grid(rows, [str(head) for head in heads], cells, form)
        last = column == len(panels)
        for trace in heat_traces(grid, scale, show_scale=last):
            figure.add_trace(trace, 1, column)
    dress(figure, x="head", y="", height=46 * len(layers) + 150)
    figure.update_xaxes(type="category")
    return tidy_heat_map(figure)


def _route(record: Record) -> str:
    """Kind of text and reach of attention: what follows the arm in ``bridge/turn/full``."""
    return record.estimator.partition("/")[2]


def _dilution_lines(records: Sequence[Record], *, by_arm: bool) -> Iterable[list[go.Scatter]]:
    """Line and band of every arm, in the look that the arm has in every panel."""
    for estimator in distinct(record.estimator for record in records):
        arm, *route = estimator.split("/")
        course = _by_x(chosen(records, estimator=estimator))
        points = [Point.of(f"{record.x:.0f}", record, Form(3)) for record in course]
        name = ", ".join([_DILUTION_ARMS.get(arm, arm), *([] if by_arm else route)])
        yield line_with_band(name, points, _DILUTION_LOOKS.get(arm, look(0)))


def _shared_range(records: Iterable[Record]) -> list[float]:
    """From the lowest to the highest end of all intervals, with a little room."""
    ends = _finite(end for r in records for end in (r.estimate, r.low, r.high))
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    return [min(ends) - room, max(ends) + room]


def _by_x(records: Sequence[Record]) -> list[Record]:
    """Those that have a place on the horizontal axis, in order."""
    return sorted((r for r in records if not math.isnan(r.x)), key=lambda record: record.x)


def _head_name(record: Record) -> str:
    return f"block {record.layer}, head {record.head}"


def _null_point(record: Record) -> Point:
    return Point(record.x, record.null, math.nan, math.nan, evidence(record, Form(3)))


def _dose_text(dose: str, x: float) -> str | float:
    if dose != "refresh":
        return x
    return "written once" if x == _WRITTEN_ONCE else f"{x:.0f}"


def _reader(record: Record) -> str:
    if record.site == "layer":
        return layer_text(record.layer)
    return {"all": "all readers", "heads": _ALL_HEADS, "stream": _STREAM}[record.site]


def _part(record: Record) -> str:
    if record.site == "rest":
        return f"MLP and biases, {layer_text(record.layer)}"
    return _PARTS.get(record.site, record.site)


def _both_ends(records: Sequence[Record]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [r.high - r.estimate for r in records],
        "arrayminus": [r.estimate - r.low for r in records],
        "color": GUIDED,
    }


def _measured(record: Record) -> bool:
    return not math.isnan(record.estimate)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
