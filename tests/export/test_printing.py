"""Print draws what the records say, with embedded fonts, and the same bytes every time."""

import math
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from tests.export.conftest import instability_records, leaderboard_frame
from workbench.errors import ExportError
from workbench.export import probe_instability_figures as instability
from workbench.export.figures import dress
from workbench.export.leaderboard_figures import pareto_figure, rates_figure
from workbench.export.leaderboard_tables import Board
from workbench.export.palette import SERIES
from workbench.export.printing import (
    DOUBLE,
    SINGLE,
    fitting_width,
    print_figure,
    write_print,
)
from workbench.export.printing.style import colour, plain


@pytest.fixture(scope="module")
def board() -> Board:
    import pandas as pd

    from workbench.evaluation.leaderboard.comparing import COLUMNS

    return Board(leaderboard_frame(), pd.DataFrame(columns=list(COLUMNS)))


def test_rates_and_their_intervals_are_those_of_the_records(board: Board) -> None:
    [axes] = print_figure(rates_figure(board), SINGLE).axes
    [marks] = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(marks.get_xdata(), [80.0, 40.0, 10.0])
    np.testing.assert_allclose(marks.get_ydata(), [0, 1, 2])
    [bars] = axes.containers
    ends = [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[70, 90], [30, 52], [5, 15]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "caa", "svgt"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first method on top
    assert axes.get_xlabel() == "harmful compliance (%)"


def test_pareto_points_stand_where_the_records_say(board: Board) -> None:
    [axes] = print_figure(pareto_figure(board), DOUBLE).axes
    marks = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_linestyle() == "None" and line.get_marker() not in ("_", "|")
    }
    assert marks == {(0.0, 0.0), (0.02, 50.0), (0.005, 87.5)}
    assert {text.get_text() for text in axes.texts} == {"none", "caa", "svgt"}


def test_bands_span_the_intervals_and_lines_go_through_the_estimates() -> None:
    [axes] = print_figure(instability.stability_figure(instability_records()), SINGLE).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    for line in lines:  # the line and its marks
        np.testing.assert_allclose(line.get_ydata(), [0.9, 0.75, 0.5])
    [band] = axes.patches
    corners = {(float(x), round(float(y), 9)) for x, y in band.get_xy()}
    assert corners == {(0, 0.95), (1, 0.8), (2, 0.55), (0, 0.85), (1, 0.7), (2, 0.45)}
    assert "block" in axes.get_xlabel()


def test_heat_map_cells_are_those_of_the_records() -> None:
    axes = print_figure(instability.transfer_heatmap(instability_records()), DOUBLE).axes[0]
    [mesh] = axes.collections
    np.testing.assert_allclose(mesh.get_array(), [[0.9, 0.7], [0.6, 0.8]])
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.70", "0.60", "0.80"]


def test_what_was_not_measured_leaves_a_gap() -> None:
    figure = go.Figure(go.Bar(y=["a", "b"], x=[1.0, None], orientation="h"))
    [axes] = print_figure(figure, SINGLE).axes
    assert [bar.get_width() for bar in axes.patches] == [1.0]


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(board: Board, tmp_path: Path, suffix: str) -> None:
    first, second = (
        write_print(print_figure(rates_figure(board), SINGLE), tmp_path / f"{n}.{suffix}")
        for n in (1, 2)
    )
    assert first.read_bytes() == second.read_bytes()


def test_pdf_fonts_are_embedded_as_truetype_at_column_width(board: Board, tmp_path: Path) -> None:
    drawn = print_figure(rates_figure(board), SINGLE)
    content = write_print(drawn, tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/FontFile2" in content
    [box] = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
    assert float(box[0]) == pytest.approx(72 * 3.25)


def test_svg_needs_no_font_and_png_has_300_dots_an_inch(board: Board, tmp_path: Path) -> None:
    from PIL import Image

    drawn = print_figure(rates_figure(board), SINGLE)
    assert "<text" not in write_print(drawn, tmp_path / "a.svg").read_text()
    with Image.open(write_print(drawn, tmp_path / "a.png")) as image:
        assert image.width == 975


def test_other_files_and_unknown_series_are_refused(board: Board, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pdf, svg, png, not as 'eps'"):
        write_print(print_figure(rates_figure(board), SINGLE), tmp_path / "a.eps")
    with pytest.raises(ExportError, match="'pie' cannot be printed"):
        print_figure(go.Figure(go.Pie(values=[1, 2])), SINGLE)


def test_crowded_figures_take_both_columns(board: Board) -> None:
    assert fitting_width(rates_figure(board)) == SINGLE
    many = [f"context {number}" for number in range(9)]
    assert fitting_width(go.Figure(go.Heatmap(x=many, y=["a"], z=[[0] * 9]))) == DOUBLE


def test_a_figure_without_series_says_what_it_says_on_the_screen() -> None:
    figure = dress(go.Figure(), x="", y="")
    figure.add_annotation(text="nothing here", showarrow=False, xref="paper", yref="paper")
    [axes] = print_figure(figure, SINGLE).axes
    assert [text.get_text() for text in axes.texts] == ["nothing here"]


def test_texts_and_colours_of_the_screen_become_those_of_print() -> None:
    assert plain("s<sub>t</sub> (<b>5 $</b>)") == r"s$_{t}$ (5 \$)"
    assert colour("rgba(255,0,0,0.5)") == (1.0, 0.0, 0.0, 0.5)
    assert colour(SERIES[2]) == pytest.approx((0.0, 158 / 255, 115 / 255, 1.0))
    assert math.isclose(colour("#000000", 0.25)[3], 0.25)
