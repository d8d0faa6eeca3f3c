"""Figures of probe records draw exactly the numbers in them, and dashes where there are none."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from probes.records import Record
from workbench.export import palette
from workbench.export.probe_instability_figures import (
    controls_figure,
    cosine_heatmap,
    difference_figure,
    index_figure,
    layer_drift_figure,
    site_look,
    stability_figure,
    step_drift_figure,
    transfer_heatmap,
)
from workbench.export.probe_plots import AGREEMENT_SCALE, look
from workbench.export.probe_state_figures import projection_figure
from workbench.export.probe_text import chosen, evidence
from workbench.export.probe_words import estimator_text, site_text

CONTEXTS = ("direct", "role_play", "fiction")


def record(metric: str, estimate: float, **more: object) -> Record:
    values: dict[str, Any] = {
        "probe": "instability", "backbone": "testbed-llama", "contrast": "prompt",
        "site": "prompt_last", "layer": 3, "estimator": "mean_difference", "n": 40,
        "ci_method": "clustered bootstrap",
    }  # fmt: skip
    return Record(metric=metric, estimate=estimate, **{**values, **more})


def with_interval(metric: str, estimate: float, **more: object) -> Record:
    return record(metric, estimate, low=estimate - 0.1, high=estimate + 0.2, **more)


def pairs() -> Iterator[tuple[str, str, float]]:
    yield "direct", "role_play", 0.5
    yield "direct", "fiction", -0.25
    yield "role_play", "fiction", math.nan


def titles(figure: go.Figure) -> str:
    return f"{figure.layout.xaxis.title.text} {figure.layout.yaxis.title.text}"


# ------------------------------------------------------------------------------------------ cosines


def cosines() -> list[Record]:
    return [
        *(record("cosine_corrected", c, context_a=a, context_b=b) for a, b, c in pairs()),
        *(record("cosine", c / 2, context_a=a, context_b=b) for a, b, c in pairs()),
        *(record("reliability", 0.9, context_a=context) for context in CONTEXTS),
    ]


def test_cosines_stand_in_a_symmetric_matrix_with_the_ceiling_beside_it() -> None:
    figure = cosine_heatmap(cosines())
    matrix = figure.data[0]
    assert list(matrix.x) == list(matrix.y) == ["direct", "role play", "fiction"]
    assert [list(row) for row in matrix.z] == [
        [1.0, 0.5, -0.25], [0.5, 1.0, None], [-0.25, None, 1.0],
    ]  # fmt: skip
    assert matrix.text[0][2] == "-0.25"
    ceiling = figure.data[2]
    assert [row[0] for row in ceiling.z] == [0.9, 0.9, 0.9]
    assert list(ceiling.x) == ["ceiling"]


def test_what_was_not_measured_is_a_dash_and_not_a_colour() -> None:
    dashes = cosine_heatmap(cosines()).data[1]
    assert set(zip(dashes.x, dashes.y, strict=True)) == {
        ("role play", "fiction"), ("fiction", "role play"),
    }  # fmt: skip
    assert set(dashes.text) == {"–"}


def test_raw_cosines_are_drawn_when_asked_for() -> None:
    assert cosine_heatmap(cosines(), corrected=False).data[0].z[0][1] == 0.25


def test_colours_stop_at_one_but_numbers_do_not() -> None:
    beyond = record("cosine_corrected", 1.07, context_a="direct", context_b="fiction")
    matrix = cosine_heatmap([beyond]).data[0]
    assert (matrix.zmin, matrix.zmax) == (-1.0, 1.0)
    assert matrix.text[0][1] == "1.07"


def test_agreement_runs_from_brown_over_white_to_blue() -> None:
    assert [at for at, _ in AGREEMENT_SCALE] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert AGREEMENT_SCALE[-1][1] == palette.harm_colour(0.0)
    assert AGREEMENT_SCALE[2][1] == palette.harm_colour(0.5)


def test_transfer_is_read_from_row_to_column() -> None:
    figure = transfer_heatmap(
        [
            record("transfer_auroc", 0.99, context_a="direct", context_b="direct"),
            record("transfer_auroc", 0.61, context_a="direct", context_b="fiction"),
            record("transfer_auroc", 0.42, context_a="fiction", context_b="direct"),
        ]
    )
    assert [list(row) for row in figure.data[0].z] == [[0.99, 0.61], [0.42, None]]
    assert titles(figure) == "tested in context fitted in context"
    assert "AUROC" in figure.data[0].colorbar.title.text


# ---------------------------------------------------------------------------------------- stability


def indices() -> list[Record]:
    return [
        *(with_interval("instability_index", 0.1 * layer, layer=layer) for layer in (0, 1, 2)),
        with_interval("instability_index", 0.05, layer=None, site="z:workbench"),
        with_interval("instability_index", 0.9, layer=None, site="z:untrained"),
    ]


def test_lines_that_coincide_are_told_apart_by_marks_and_dashes() -> None:
    names = ("z:workbench", "delta_z:workbench", "bridge:workbench", "z:untrained")
    same = [with_interval("instability_index", 0.0, layer=None, site=name) for name in names]
    figure = stability_figure([*indices()[:3], *same])
    flat = [trace for trace in figure.data if trace.name and isinstance(trace.marker.size, tuple)]
    assert len(flat) == len(names)
    marked = [
        x for trace in flat for x, size in zip(trace.x, trace.marker.size, strict=True) if size
    ]
    assert len(set(marked)) == len(marked) == 2 * len(names)  # between each two of three layers
    assert len({(trace.line.color, trace.line.dash) for trace in flat}) == len(names)
    assert len({trace.line.dash for trace in flat[:3]}) == 3


def test_with_one_layer_flat_values_stand_beside_it() -> None:
    names = ("z:workbench", "bridge:workbench")
    same = [with_interval("instability_index", 0.0, layer=None, site=name) for name in names]
    figure = stability_figure([indices()[0], *same])
    places = [trace.x[0] for trace in figure.data if trace.name and trace.name != "unrelated"]
    assert len(set(places)) == 3


def test_stability_is_one_minus_the_index_with_its_band() -> None:
    figure = stability_figure(indices())
    lines = {trace.name: trace for trace in figure.data if trace.name}
    residual = lines["residual, last prompt token"]
    assert list(residual.x) == [0, 1, 2]
    assert list(residual.y) == pytest.approx([1.0, 0.9, 0.8])
    value = lines["value state z, workbench"]
    assert set(value.y) == {0.95}  # drawn across all layers
    assert (value.x[0], value.x[-1]) == (0, 2)
    band = figure.data[0]
    assert list(band.y) == pytest.approx([1.1, 1.0, 0.9, 0.6, 0.7, 0.8])  # there and back
    assert "corrected cosine" in titles(figure)


def test_controls_look_like_controls_everywhere() -> None:
    assert site_look("z:untrained").dash == "dot"
    assert site_look("z:workbench").dash == "solid"
    assert site_look("prompt_last") == site_look("response_mean")
    assert len({site_look(s).colour for s in ("prompt_last", "z:a", "bridge:a", "delta_z:a")}) == 4


def test_index_bars_carry_their_intervals() -> None:
    bars = index_figure(indices()).data[0]
    assert list(bars.x) == pytest.approx([0.0, 0.1, 0.2, 0.05, 0.9])
    assert list(bars.error_x.array) == pytest.approx([0.2] * 5)
    assert list(bars.error_x.arrayminus) == pytest.approx([0.1] * 5)
    assert bars.y[3] == "value state z, workbench"
    assert "n = 40 groups, seed 0" in bars.customdata[0]
    assert bars.marker.color[0] == site_look("prompt_last").colour != bars.marker.color[3]


def test_an_unmeasured_index_keeps_its_name_and_has_no_bar() -> None:
    bars = index_figure([record("instability_index", math.nan, note="too unreliable")]).data[0]
    assert list(bars.x) == [None]
    assert "too unreliable" in bars.customdata[0]
    assert list(bars.error_x.array) == [None]


def test_drift_along_layers_and_along_the_reply() -> None:
    layers = [
        with_interval("layer_cosine", value, layer=layer, context_a=context)
        for context, start in (("direct", 0.9), ("fiction", 0.5))
        for layer, value in ((1, start), (0, start - 0.1))
    ]
    figure = layer_drift_figure(layers)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(line.x) for line in lines] == [[0, 1], [0, 1]]
    assert [list(line.y) for line in lines] == [
        pytest.approx([0.8, 0.9]),
        pytest.approx([0.4, 0.5]),
    ]
    steps = [record("step_cosine", 1 - t / 10, x=float(t), context_a="direct") for t in range(4)]
    line = step_drift_figure(steps).data[-1]
    assert list(line.y) == pytest.approx([1.0, 0.9, 0.8, 0.7])


def test_controls_stand_beside_the_same_contexts_result() -> None:
    figure = controls_figure(
        [
            record("transfer_auroc", 0.95, context_a="direct", context_b="direct"),
            record("transfer_auroc", 0.55, context_a="direct", context_b="fiction"),
            record("permutation_auroc", 0.5, context_a="direct"),
            record("length_auroc", 0.58, context_a="direct"),
            record("random_direction_auroc", 0.6, context_a="direct", estimator="random"),
            record("random_direction_auroc", 0.7, context_a="direct", estimator="random_matched"),
        ]
    )
    drawn = {trace.name: list(trace.y) for trace in figure.data}
    assert drawn == {
        "direction, same context": [0.95], "length alone": [0.58], "labels permuted": [0.5],
        "random direction": [0.6], "random, spread as the states": [0.7],
    }  # fmt: skip
    assert all(list(trace.x) == ["direct"] for trace in figure.data)
    assert (figure.layout.shapes[0].y0, figure.layout.shapes[0].name) == (0.5, "chance")


@pytest.mark.parametrize(
    "draw",
    [
        cosine_heatmap, transfer_heatmap, index_figure, difference_figure, layer_drift_figure,
        step_drift_figure, controls_figure,
    ],
)  # fmt: skip
def test_figures_of_nothing_say_so(draw: Callable[[Sequence[Record]], go.Figure]) -> None:
    figure = draw([])
    assert not figure.data
    assert "no " in figure.layout.annotations[0].text


# ------------------------------------------------------------------------------------------- states


def states() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "contrast": "prompt",
            "context": ["direct", "direct", "fiction", "fiction"],
            "harmful": [True, False, True, False],
            "group": ["a", "b", "c", "d"],
            "pc1": [1.0, -1.0, 0.5, -0.5], "pc2": [0.0, 0.1, 0.2, 0.3], "pc3": [4.0, 3.0, 2.0, 1.0],
            "explained1": 0.61, "explained2": 0.2, "explained3": 0.1,
        }
    )  # fmt: skip


@pytest.mark.parametrize("dimensions", [2, 3])
def test_states_show_context_by_colour_and_harm_by_filling(dimensions: int) -> None:
    figure = projection_figure(states(), dimensions=dimensions)
    marks = {trace.name: trace for trace in figure.data}
    harmful, harmless = marks["direct, harmful"], marks["direct, harmless"]
    assert list(harmful.x) == [1.0]
    assert list(marks["fiction, harmless"].y) == [0.3]
    assert harmful.marker.color == harmless.marker.color
    assert harmless.marker.symbol == f"{harmful.marker.symbol}-open"
    assert marks["fiction, harmful"].marker.color != harmful.marker.color
    axis = figure.layout.xaxis if dimensions == 2 else figure.layout.scene.xaxis
    assert axis.title.text == "PC 1 (61% of the variance)"
    if dimensions == 3:
        assert list(harmful.z) == [4.0]


def test_replies_are_harmful_or_safe() -> None:
    names = {trace.name for trace in projection_figure(states().assign(contrast="response")).data}
    assert names == {
        "direct, harmful", "direct, safe", "fiction, harmful", "fiction, safe",
    }  # fmt: skip


def test_states_of_too_few_dimensions_are_told() -> None:
    narrow = states().drop(columns=["pc3", "explained3"])
    assert "fewer than 3" in projection_figure(narrow, dimensions=3).layout.annotations[0].text


# -------------------------------------------------------------------------------------------- words


def test_twelve_series_look_different() -> None:
    assert len({(style.colour, style.marker) for style in map(look, range(12))}) == 12


def test_words_for_sites() -> None:
    assert site_text("z:untrained") == "value state z, untrained"
    assert site_text("response_tokens@5") == "residual, reply tokens, token 5"
    assert site_text("novel_site") == "novel site"
    assert estimator_text("random/lda") == "random: LDA"


def test_the_label_under_the_pointer_tells_all_there_is() -> None:
    text = evidence(with_interval("cosine", 0.5, ceiling=0.9, null=0.1, p_value=0.004, seed=7))
    for part in ("0.50 [0.40, 0.70]", "ceiling 0.90", "control 0.10", "p = 0.004", "seed 7"):
        assert part in text


def test_choosing() -> None:
    records = indices()
    assert len(chosen(records, site=["z:workbench", "z:untrained"])) == 2
    assert chosen(records, layer=1) == [records[1]]
    assert chosen(records, layer=None, site="z:workbench") == [records[3]]
