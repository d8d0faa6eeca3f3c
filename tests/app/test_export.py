"""Figures, tables and tokens say exactly what their records say."""

import math
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.export import palette
from workbench.export.responses import ResponseRecord, TokenRecord, added_texts, trace_frame
from workbench.export.summaries import (
    METRICS,
    SummaryRow,
    interval_text,
    metric_figure,
    metric_latex,
    metric_table,
    summary_rows,
)
from workbench.export.token_html import copy_html, legend_html, prompt_html, tokens_html
from workbench.export.trace_figures import (
    harm_score_figure,
    slot_attention_figure,
    slot_attention_heatmap,
)

PLAIN = ResponseRecord(
    "none",
    (TokenRecord("sure", 2.0), TokenRecord(",", -2.0), TokenRecord("<eos>", 0.0)),
    "sure ,",
    "stop",
)
GUIDED = ResponseRecord(
    "svgt:workbench",
    (
        TokenRecord("i", -1.0, 3.0, 0.5, True, ((0.1, 0.3), (0.5, 0.7))),
        TokenRecord("<eos>", -3.0, 3.0, 0.5, True, ((0.3, 0.1), (0.1, 0.1))),
    ),
    "i",
    "stop",
    (4, 5),
)


def row(**changes: object) -> SummaryRow:
    values: dict[str, object] = {
        "backbone": "b", "guidance": "svgt", "config": "workbench", "split": "unseen_frames",
        "frame": "all", "metric": "harm_rate", "estimate": 0.05, "low": 0.01, "high": 0.1,
        "n": 40, "seed": 0,
    }  # fmt: skip
    return SummaryRow(**{**values, **changes})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ colours


def test_contrast_is_that_of_the_standard() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@given(st.floats(-0.5, 1.5))
def test_token_text_is_readable_on_every_colour_of_the_scale(probability: float) -> None:
    background = palette.harm_colour(probability)
    assert palette.contrast(palette.text_colour(background), background) >= 4.5


@pytest.mark.parametrize("background", [palette.LIGHT_BACKGROUND, palette.DARK_BACKGROUND])
def test_series_stand_out_in_both_themes(background: str) -> None:
    assert all(palette.contrast(colour, background) >= 3.0 for colour in palette.SERIES)
    assert len(set(palette.SERIES)) == len(palette.SERIES)


def test_harm_scale_runs_from_blue_over_near_white_to_brown() -> None:
    assert palette.harm_colour(0.0) == "#2166ac"
    assert palette.harm_colour(0.5) == "#f7f7f7"
    assert palette.harm_colour(1.0) == "#b35806"
    assert palette.harm_colour(0.125) == "#5a96c5"  # half way between two stops


# ------------------------------------------------------------------------------------------- tokens


def test_tokens_carry_value_colour_and_a_sign_beside_colour() -> None:
    chips = re.findall(r'<span class="svgt-token[^>]*>', tokens_html(PLAIN))
    assert len(chips) == 3
    assert "harmful" in chips[0]
    assert "s = +2.00, harm probability 0.88" in chips[0]
    assert palette.harm_colour(1 / (1 + math.exp(-2.0))) in chips[0]
    assert "harmful" not in chips[1].split("style=")[0]
    assert all('tabindex="0"' in chip for chip in chips)
    assert "harmful" in legend_html()


def read_aloud(html: str) -> str:
    """What a selection or a screen reader takes from the chips."""
    seen = html.split("</style>")[1]
    seen = re.sub(r'<span class="svgt-token[^"]* silent"[^>]*>[^<]*</span>', "", seen)
    return unescape(re.sub(r"<[^>]*>", "", seen))


def test_chips_read_as_the_reply_does() -> None:
    assert read_aloud(tokens_html(PLAIN)) == "sure ,"
    assert "&lt;eos&gt;" in tokens_html(PLAIN)  # still to be seen


@pytest.mark.parametrize(
    ("pieces", "text", "parts"),
    [
        (["i", "am", ",", "<eos>"], "i am ,", ["i", " am", " ,", ""]),  # words joined by spaces
        ([" a", "b", "<eos>", " c"], " ab c", [" a", "b", "", " c"]),  # the token keeps its space
        (["Hi", "\n\n", "you"], "Hi\n\nyou", ["Hi", "", "\n\nyou"]),
        (["caf", "\ufffd", "\ufffd", " au"], "café au", ["caf", "", "é", " au"]),  # two bytes
        (["\ufffd", "\ufffd"], "é", ["", "é"]),
        (["a", "c", "d"], "abc d", ["a", "bc", " d"]),  # one that reads otherwise alone
        (["the", "the"], "the the", ["the", " the"]),
        ([], "", []),
    ],
)
def test_every_token_adds_its_part_of_the_text(
    pieces: list[str], text: str, parts: list[str]
) -> None:
    assert list(added_texts(pieces, text)) == parts


@given(
    st.lists(st.sampled_from(["a", " b", "ab", "<eos>", "\ufffd", "\n", "é"])), st.text("ab \né")
)
def test_parts_are_the_text_whatever_the_tokens(pieces: list[str], text: str) -> None:
    parts = added_texts(pieces, text)
    assert len(parts) == len(pieces)
    assert "".join(parts) == (text if pieces else "")


def test_tokens_are_escaped() -> None:
    record = ResponseRecord("none", (TokenRecord('<script>"x"&'),), '<script>"x"&')
    html = tokens_html(record) + prompt_html("<b>", "<script>")
    assert 'data-text="&lt;script&gt;&quot;x&quot;&amp;"' in copy_html(record.text)
    assert "<script>" not in html
    assert "&lt;script&gt;&quot;x&quot;&amp;" in html


@given(st.floats(-1e4, 1e4))
def test_probability_is_the_logistic_function_without_overflow(score: float) -> None:
    p = TokenRecord("a", score).harm_probability
    assert p is not None
    assert 0.0 <= p <= 1.0
    if abs(score) < 30:
        assert p == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-12)


# ------------------------------------------------------------------------------------------- traces


def test_trace_table_has_one_row_a_token() -> None:
    frame = trace_frame([PLAIN, GUIDED])
    assert list(frame["token"]) == ["sure", ",", "<eos>", "i", "<eos>"]
    assert list(frame["token_index"]) == [0, 1, 2, 0, 1]
    assert frame["slot_attention"].isna().tolist() == [True, True, True, False, False]
    assert frame["slot_attention"].iloc[3] == pytest.approx(0.4)


def test_harm_figure_draws_the_scores_and_the_threshold() -> None:
    figure = harm_score_figure([PLAIN, GUIDED])
    assert [list(line.y) for line in figure.data] == [[2.0, -2.0, 0.0], [-1.0, -3.0], [0, 0]]
    assert list(figure.data[0].customdata) == ["sure", ",", "<eos>"]
    assert "logit" in figure.layout.yaxis.title.text
    assert "token" in figure.layout.xaxis.title.text
    assert figure.data[0].line.dash != figure.data[1].line.dash


def test_attention_figures_draw_means_over_heads_and_over_tokens() -> None:
    line = slot_attention_figure([PLAIN, GUIDED])
    assert len(line.data) == 1
    assert list(line.data[0].y) == pytest.approx([0.4, 0.15])
    assert line.layout.xaxis.range == harm_score_figure([PLAIN, GUIDED]).layout.xaxis.range
    heat = slot_attention_heatmap(GUIDED).data[0]
    assert [value for line in heat.z for value in line] == pytest.approx([0.2, 0.2, 0.3, 0.4])
    assert list(heat.y) == ["block 4", "block 5"]


def test_figures_of_nothing_are_empty_not_broken() -> None:
    assert len(harm_score_figure([]).data) == 1  # the threshold alone
    assert len(slot_attention_figure([PLAIN]).data) == 0


# ---------------------------------------------------------------------------------------- summaries


def test_rows_that_lack_fields_are_not_measured() -> None:
    (lacking,) = summary_rows([{"metric": "harm_rate", "estimate": None, "n": 3.0}])
    assert math.isnan(lacking.estimate)
    assert lacking.n == 3
    assert lacking.seed is None
    assert interval_text(lacking) == "–"


def test_interval_text() -> None:
    assert interval_text(row(), 100.0) == "5.00 [1.00, 10.00]"
    assert interval_text(row(low=math.nan), 100.0) == "5.00"


def test_figure_scales_rates_and_keeps_intervals() -> None:
    figure = metric_figure([row(), row(guidance="none", config="", estimate=0.7)], "harm_rate")
    guided = figure.data[0]
    assert list(guided.y) == pytest.approx([5.0])
    assert list(guided.error_y.array) == pytest.approx([5.0])
    assert list(guided.error_y.arrayminus) == pytest.approx([4.0])
    assert [trace.name for trace in figure.data] == ["svgt:workbench", "no guidance"]
    assert figure.layout.yaxis.title.text == METRICS["harm_rate"].title


def test_table_tells_seeds_and_backbones_apart_only_where_there_are_several() -> None:
    table = metric_table([row(), row(split="heldout_words")], "harm_rate")
    assert list(table.index) == ["svgt:workbench"]
    assert list(table.columns) == ["unseen frames", "heldout words"]
    assert list(metric_table([row(), row(seed=1)], "harm_rate").index) == [
        "svgt:workbench, seed 0",
        "svgt:workbench, seed 1",
    ]
    assert "a: no guidance" in metric_table(
        [row(), row(backbone="a", guidance="none", config="")], "harm_rate"
    ).index  # fmt: skip


def test_latex_escapes_and_its_caption_states_unit_n_and_seed() -> None:
    latex = metric_latex([row(split="a_b%"), row(split="c", n=80)], "harm_rate")
    assert r"\toprule" in latex
    assert r"{a b\%}" in latex
    assert r"n = 40 to 80 a cell; seed 0." in latex
    assert r"(\%, lower is better)" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    body = metric_latex([row(), row(guidance="none", config="")], "harm_rate")
    text = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
        f"{body}\\end{{document}}"
    )
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_the_numbers_of_a_figure_are_those_it_draws() -> None:
    import numpy as np
    import plotly.graph_objects as go

    from workbench.export.figures import figure_frame

    dots = go.Scatter(
        x=["a", "b"], y=np.array([1.0, 2.0]), name="dots",
        error_y={"type": "data", "array": [0.5, 0.25], "arrayminus": [0.125, 1.0]},
    )  # fmt: skip
    bars = go.Bar(x=[1], y=[3], name="bars", error_y={"type": "data", "array": [1.0]})
    found = figure_frame(go.Figure([dots, bars]))
    assert found.to_dict("records") == [
        {"series": "dots", "x": "a", "y": 1.0, "low": 0.875, "high": 1.5},
        {"series": "dots", "x": "b", "y": 2.0, "low": 1.0, "high": 2.25},
        {"series": "bars", "x": 1, "y": 3, "low": 2.0, "high": 4.0},
    ]
    grid = figure_frame(go.Figure(go.Heatmap(z=[[1, 2]], x=["p", "q"], y=["r"])))
    assert grid["value"].tolist() == [1, 2]
    assert grid["x"].tolist() == ["p", "q"]
    assert figure_frame(go.Figure()).empty
