"""Figures of anchoring and reliability records draw exactly the numbers in them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from probes.anchoring.interventions import INTERVENTIONS
from probes.records import Record
from workbench.export.palette import GUIDED, UNGUIDED
from workbench.export.probe_anchoring_figures import (
    DILUTION_METRICS,
    attention_course,
    attention_map,
    attribution_map,
    attribution_parts,
    dilution_figure,
    dilution_help,
    dose_figure,
    doses_help,
    effects_figure,
    effects_help,
    paths_figure,
    paths_help,
    prediction_figure,
    readers_figure,
    readers_help,
    trajectory_figure,
)
from workbench.export.probe_plots import GREY
from workbench.export.probe_reliability_figures import (
    comparison_figure,
    slopes_figure,
    steering_curve,
    wrong_sign_figure,
)


def record(metric: str, estimate: float, **more: object) -> Record:
    values: dict[str, Any] = {
        "probe": "anchoring", "backbone": "testbed-llama", "guidance": "svgt:workbench", "n": 30,
        "low": estimate - 0.1, "high": estimate + 0.2,
    }  # fmt: skip
    return Record(metric=metric, estimate=estimate, **{**values, **more})


def grid(trace: go.Heatmap) -> list[list[float]]:
    return [list(row) for row in trace.z]


def lines(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.name}


# ----------------------------------------------------------------------------------- attention


def attention() -> list[Record]:
    shares = {(4, 0): 0.1, (4, 1): 0.6, (5, 0): 0.3, (5, 1): 0.05}
    whole = [
        record(
            "attention_mass", share if site == "slots" else 0.2, site=site, estimator=weighting,
            layer=layer, head=head, null=share / 2,
        )
        for (layer, head), share in shares.items()
        for site in ("slots", "sink")
        for weighting in ("raw", "weighted")
    ]  # fmt: skip
    steps = [
        record(
            "attention_mass", share + step / 10, site="slots", estimator="raw", layer=layer,
            head=head, null=0.01 * step, x=float(step),
        )
        for (layer, head), share in shares.items()
        for step in (2, 0, 1)
    ]  # fmt: skip
    return [*whole, *steps]


def test_attention_stands_beside_noise_and_sink_on_one_scale() -> None:
    figure = attention_map(attention())
    slots, noise, sink = figure.data
    assert list(slots.y) == ["block 5", "block 4"]
    assert grid(slots) == [[0.3, 0.05], [0.1, 0.6]]
    assert grid(noise) == [[0.15, 0.025], [0.05, 0.3]]
    assert grid(sink) == [[0.2, 0.2], [0.2, 0.2]]
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(0.0, 0.6)}
    assert [trace.showscale for trace in figure.data] == [False, False, True]
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["bridge slots", "slots holding noise", "first token (sink)"]


def test_the_time_course_ranks_heads_and_keeps_the_order_of_tokens() -> None:
    drawn = lines(attention_course(attention()))
    assert next(iter(drawn)) == "block 4, head 1"
    assert list(drawn["block 4, head 1"].x) == [0.0, 1.0, 2.0]
    assert list(drawn["block 4, head 1"].y) == pytest.approx([0.6, 0.7, 0.8])
    assert list(drawn["block 4, head 1, noise"].y) == pytest.approx([0.0, 0.01, 0.02])
    assert len(drawn) == 5


def test_attribution_is_centred_at_zero() -> None:
    figure = attribution_map(
        [record("logit_attribution", -0.4, site="slots", layer=5, head=0, null=0.1)]
    )
    slots, noise = figure.data
    assert (slots.zmin, slots.zmax) == (-0.4, 0.4)
    assert slots.text[0][0] == "-0.400"
    assert grid(noise) == [[0.1]]


def test_parts_of_the_attribution_beside_noise() -> None:
    parts = [
        record("logit_attribution", 2.0, site="stream", null=0.5),
        record("logit_attribution", -0.5, site="rest", layer=4, null=math.nan),
        record("logit_attribution", 9.0, site="slots", layer=4, head=1),
    ]
    own, noise = attribution_parts(parts).data
    assert list(own.y) == ["stream: the last slot itself", "MLP and biases, block 4"]
    assert list(own.x) == [2.0, -0.5]
    assert list(noise.x) == [0.5, None]


# ------------------------------------------------------------------------------------- effects


def effects() -> list[Record]:
    return [
        record("margin_effect", 0.1, estimator="random"),
        record("margin_effect", 1.5, estimator="full"),
        record("margin_effect", 0.0, estimator="knock_out"),
        record("margin_effect", 9.0, estimator="full", context_a="fiction"),
        record("margin_effect", math.nan, estimator="context", note="no other context"),
        record("margin_effect", 7.0, estimator="onto_harmless"),
    ]


def test_bars_keep_the_order_of_the_interventions_and_their_intervals() -> None:
    figure = effects_figure(effects())
    (bars,) = figure.data
    names = ("full", "knock_out", "context", "random")
    assert list(bars.y) == [INTERVENTIONS[name] for name in names]
    assert list(bars.x) == [1.5, 0.0, None, 0.1]
    assert list(bars.error_x.array) == [
        pytest.approx(0.2),
        pytest.approx(0.2),
        None,
        pytest.approx(0.2),
    ]
    assert list(bars.error_x.arrayminus) == [
        pytest.approx(0.1),
        pytest.approx(0.1),
        None,
        pytest.approx(0.1),
    ]
    assert bars.marker.color[0] == bars.marker.color[1] != bars.marker.color[3]
    assert "no other context" in bars.customdata[2]
    missing = [(note.text, note.y) for note in figure.layout.annotations]
    assert missing == [("not measured", INTERVENTIONS["context"])]


def test_doses_are_drawn_in_order_against_the_plain_model() -> None:
    doses = [
        record("dose_margin", 0.2 * x, estimator="gate", x=x, null=-0.5) for x in (2.0, 0.0, 1.0)
    ]
    figure = dose_figure(doses, "gate", "dose_margin")
    drawn = lines(figure)["with bridge"]
    assert list(drawn.x) == [0.0, 1.0, 2.0]
    assert list(drawn.y) == pytest.approx([0.0, 0.2, 0.4])
    assert figure.layout.shapes[0].y0 == -0.5
    assert "nats" in figure.layout.yaxis.title.text


def test_written_once_is_the_weakest_refresh() -> None:
    doses = [record("dose_harm_rate", 0.5, estimator="refresh", x=x) for x in (0.0, 1.0, 5.0)]
    drawn = lines(dose_figure(doses, "refresh", "dose_harm_rate"))["with bridge"]
    assert list(drawn.x) == ["written once", "5", "1"]


def paths() -> list[Record]:
    heads = [
        record("path_share", share, estimator=name, site="head", layer=4, head=head)
        for name, shares in (("necessity", (0.8, 0.1)), ("sufficiency", (0.7, -0.2)))
        for head, share in enumerate(shares)
    ]
    groups = [
        record("path_share", 0.9, estimator=name, site=site, layer=layer)
        for name in ("necessity", "sufficiency")
        for site, layer in (("all", None), ("stream", None), ("layer", 4))
    ]
    return [*heads, *groups]


def test_paths_by_head_and_by_group() -> None:
    necessity, sufficiency = paths_figure(paths()).data
    assert grid(necessity) == [[0.8, 0.1]]
    assert grid(sufficiency) == [[0.7, -0.2]]
    bars = readers_figure(paths()).data
    assert [bar.name for bar in bars] == ["necessity", "sufficiency"]
    assert list(bars[0].y) == ["all readers", "stream", "block 4"]
    sampled = [record("path_harm_share", 0.4, estimator="sufficiency", site="heads")]
    (bars,) = readers_figure(sampled, "path_harm_share").data
    assert list(bars.x) == [0.4]


def bare(records: Sequence[Record]) -> list[Record]:
    """The same without intervals, as of a single prompt."""
    return [replace(r, low=math.nan, high=math.nan, n=1) for r in records]


def test_captions_speak_of_what_is_drawn_and_of_nothing_else() -> None:
    groups = [r for r in paths() if r.site != "head"]
    whole = readers_help(readers_figure(groups))
    assert "Necessity" in whole
    assert "Sufficiency" in whole
    assert "A block" in whole
    assert "95% intervals" in whole
    lone = [r for r in bare(groups) if (r.site, r.estimator) == ("stream", "necessity")]
    alone = readers_help(readers_figure(lone))
    assert "Necessity" in alone
    assert "The stream" in alone
    for absent in ("Sufficiency", "All heads", "A block", "interval"):
        assert absent not in alone
    necessity = [r for r in paths() if r.estimator == "necessity"]
    assert "Sufficiency" in paths_help(paths_figure(paths()))
    assert "Sufficiency" not in paths_help(paths_figure(necessity))

    doses = [record("dose_margin", x, estimator="gate", x=x, null=0.0) for x in (0.0, 1.0)]
    drawn = dose_figure(doses, "gate", "dose_margin")
    assert "95% interval" in doses_help(drawn)
    assert "dashed" in doses_help(drawn)
    plain = [replace(r, null=math.nan) for r in bare(doses)]
    assert "interval" not in doses_help(dose_figure(plain, "gate", "dose_margin"))
    assert "dashed" not in doses_help(dose_figure(plain, "gate", "dose_margin"))

    effects = [record("margin_effect", 1.0, estimator=name) for name in ("full", "random")]
    assert "Open bars" in effects_help(effects_figure(effects))
    assert "Open bars" not in effects_help(effects_figure(effects[:1]))


def test_prediction_against_measurement() -> None:
    records = [
        record(metric, value * x, x=x)
        for x in (0.5, 0.1)
        for metric, value in (("first_order_predicted", 2.0), ("first_order_measured", 1.0))
    ]
    marks, diagonal = prediction_figure(records).data
    assert list(marks.x) == pytest.approx([0.2, 1.0])
    assert list(marks.y) == pytest.approx([0.1, 0.5])
    assert list(marks.text) == ["0.1", "0.5"]
    assert list(diagonal.x) == list(diagonal.y)


def test_trajectories_with_and_without_the_bridge() -> None:
    records = [
        record("trajectory", base + t, estimator=name, site="score", x=float(t))
        for name, base in (("guided", -3.0), ("unguided", 1.0))
        for t in (1, 0)
    ]
    records.append(record("trajectory", 99.0, estimator="guided", site="score"))  # at the ends
    figure = trajectory_figure(records)
    drawn = lines(figure)
    assert list(drawn["guided"].y) == [-3.0, -2.0]
    assert list(drawn["unguided"].y) == [1.0, 2.0]
    assert drawn["guided"].line.color == GUIDED
    assert drawn["unguided"].line.color == UNGUIDED
    assert figure.layout.shapes[0].y0 == 0.0


def test_dilution_has_a_line_for_every_route_and_grey_controls() -> None:
    records = [
        record("dilution_margin", effect, estimator=f"{arm}/turn/full", x=x)
        for arm, effects in (("bridge", (1.0, 0.6)), ("random", (0.1, 0.0)))
        for x, effect in zip((64.0, 0.0), reversed(effects), strict=True)
    ]
    figure = dilution_figure(records)
    drawn = lines(figure)
    assert list(drawn["bridge, turn, full"].x) == ["0", "64"]
    assert list(drawn["bridge, turn, full"].y) == [1.0, 0.6]
    assert drawn["random bridge, turn, full"].line.color == GREY
    assert not figure.layout.annotations
    assert all("(" in text for text in DILUTION_METRICS.values())


def test_every_text_and_reach_of_dilution_has_a_panel_with_the_same_looks() -> None:
    arms, routes = ("bridge", "random", "bridge-random"), ("turn/full", "turn/window", "talk/full")
    records = [
        record("dilution_margin", column + x, estimator=f"{arm}/{route}", x=x)
        for column, route in enumerate(routes)
        for arm in arms
        for x in (0.0, 64.0)
    ]
    figure = dilution_figure(records)
    named = ("bridge", "random bridge", "bridge − random bridge")
    drawn = [trace for trace in figure.data if trace.name]
    assert [note.text for note in figure.layout.annotations] == [
        "turn, full", "turn, window", "talk, full",
    ]  # fmt: skip
    assert {(t.name, t.xaxis): t.y[0] for t in drawn} == {
        (arm, axis): float(column) for column, axis in enumerate(("x", "x2", "x3")) for arm in named
    }
    looks = {(t.name, t.line.color, t.line.dash, t.marker.symbol) for t in drawn}
    assert len(looks) == len({color for _, color, _, _ in looks}) == len(arms)
    assert [name for name, color, _, _ in looks if color == GREY] == ["random bridge"]
    assert [t.name for t in drawn if t.showlegend] == list(named)
    assert "Dashed: the bridge minus that." in dilution_help(figure)
    low, high = figure.layout.yaxis.range
    assert low < 0.0
    assert high > 66.0
    assert figure.layout.yaxis3.range == (low, high)


# --------------------------------------------------------------------------------- reliability


def steering() -> list[Record]:
    vector = {"site": "residual", "layer": 3, "contrast": "prompt"}
    return [
        *(
            record("steering_slope", slope, estimator="mean_difference", context_a=where, **vector)
            for where, slope in (("", 0.3), ("trained", 0.5), ("role_play", -0.1))
        ),
        record("steering_slope", 0.0, estimator="random/mean_difference", **vector),
        record("wrong_sign_share", 0.25, estimator="mean_difference", **vector),
        record("wrong_sign_share", 0.5, estimator="random/mean_difference", **vector),
        record("wrong_sign_share", 0.05, estimator="gate", site="bridge", layer=3),
        *(
            record("steering_margin", x / 2, estimator="mean_difference", x=x, **vector)
            for x in (1.0, -1.0)
        ),
        record(
            "wrong_sign_difference",
            -0.2,
            estimator="gate - mean_difference",
            layer=3,
            contrast="prompt",
        ),
    ]


def test_slopes_by_context_without_controls() -> None:
    (marks,) = slopes_figure(steering(), site="residual").data
    assert list(marks.x) == ["all contexts", "contexts fitted on", "role play"]
    assert list(marks.y) == [0.3, 0.5, -0.1]
    assert marks.name == "difference of means, block 3, harmful vs. harmless prompts"


def test_wrong_signs_beside_their_controls() -> None:
    figure = wrong_sign_figure(steering())
    made, control = figure.data
    assert list(made.x) == [0.25, 0.05]
    assert made.y[1] == "bridge, gate"
    assert list(control.x) == [0.5]
    assert control.y[0].startswith("random: difference of means")
    assert figure.layout.shapes[0].x0 == 0.5


def test_the_steering_curve_and_the_comparison() -> None:
    drawn = lines(steering_curve(steering(), site="residual"))
    (curve,) = drawn.values()
    assert list(curve.x) == [-1.0, 1.0]
    assert list(curve.y) == [-0.5, 0.5]
    (bars,) = comparison_figure(steering()).data
    assert list(bars.x) == [-0.2]
    assert bars.y[0] == "gate − difference of means, block 3, harmful vs. harmless prompts"


@pytest.mark.parametrize(
    "draw",
    [
        attention_map, attention_course, attribution_map, effects_figure, paths_figure,
        readers_figure, prediction_figure, trajectory_figure, dilution_figure, wrong_sign_figure,
        comparison_figure, lambda records: dose_figure(records, "gate", "dose_margin"),
        lambda records: slopes_figure(records, site="residual"),
        lambda records: steering_curve(records, site="bridge"),
    ],
)  # fmt: skip
def test_figures_of_nothing_say_so(draw: Callable[[Sequence[Record]], go.Figure]) -> None:
    figure = draw([])
    assert not figure.data
    text = figure.layout.annotations[0].text
    assert text.startswith("no ") or text.startswith("not measured")
