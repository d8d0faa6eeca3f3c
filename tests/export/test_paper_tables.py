"""LaTeX cells, marks and captions with known answers; what they print compiles."""

import math

import pytest

from tests.export.conftest import (
    comparisons_frame,
    evaluation_rows,
    instability_records,
    leaderboard_frame,
)
from workbench.export.latex import escape
from workbench.export.leaderboard_tables import Board, board_tables
from workbench.export.paper_tables import (
    Cell,
    PaperTable,
    cell_latex,
    mark,
    parts_of,
    table_latex,
)
from workbench.export.probe_tables import headline_tables
from workbench.export.summaries import metric_latex, summary_rows


@pytest.mark.parametrize(
    ("numbers", "form", "p_value", "latex"),
    [
        ((67.04, 58.5, 75.5), ".1f", math.nan, r"$67.0$ $\pm$ $8.5$"),
        ((67.04, 58.5, 76.0), ".1f", math.nan, "$67.0$ $[58.5, 76.0]$"),
        ((-0.34, -0.9, 0.1), "+.1f", 0.0005, "$-0.3^{***}$ $[-0.9, +0.1]$"),
        ((5.0, 4.0, 6.0), ".0f", 0.02, r"$5^{*}$ $\pm$ $1$"),
        ((1.0, math.nan, math.nan), ".2f", math.nan, "$1.00$"),
        ((math.nan, 0.0, 1.0), ".2f", math.nan, "--"),
        ((-0.0001, -0.0002, 0.0), "+.2f", math.nan, r"$+0.00$ $\pm$ $0.00$"),
    ],
)
def test_cells(numbers: tuple[float, float, float], form: str, p_value: float, latex: str) -> None:
    assert cell_latex(Cell.of(*numbers, form, p_value), plus_minus=True) == latex


def test_a_column_with_one_lopsided_interval_has_brackets_throughout() -> None:
    rows = (
        (("a",), (Cell.of(5.0, 4.0, 6.0, ".0f"), Cell.of(5.0, 4.0, 6.0, ".0f"))),
        (("b",), (Cell.of(5.0, 4.0, 8.0, ".0f"), Cell.of(7.0, 4.0, 10.0, ".0f"))),
    )
    text = table_latex(PaperTable("t", "c", ("",), ("x", "y"), rows))
    assert r"{a} & {$5$ $[4, 6]$} & {$5$ $\pm$ $1$} \\" in text
    assert r"{b} & {$5$ $[4, 8]$} & {$7$ $\pm$ $3$} \\" in text


@pytest.mark.parametrize(
    ("p", "stars"),
    [(0.0009, "***"), (0.001, "**"), (0.0099, "**"), (0.01, "*"), (0.05, ""), (math.nan, "")],
)
def test_marks(p: float, stars: str) -> None:
    assert mark(p) == stars


def test_wide_tables_put_intervals_below_and_long_ones_go_on() -> None:
    cells = tuple(Cell.of(12.5, 10.25, 15.0, ".2f") for _ in range(7))
    table = PaperTable("wide", "c", ("method",), ("a heading",) * 7, ((("m",), cells),) * 61)
    text = table_latex(table)
    assert text.count(r"\svgtcell{$12.50$}{$[10.25, 15.00]$}") == 7 * 61
    assert r"\providecommand{\svgtcell}" in text
    parts = parts_of(table)
    assert [len(part.rows) for part in parts] == [30, 30, 1]
    assert [part.name for part in parts] == ["wide-1", "wide-2", "wide-3"]
    assert parts[2].caption == "c Part 3 of 3."


def test_names_that_repeat_are_left_out() -> None:
    rows = tuple((names, (Cell("1"),)) for names in (("a", "x"), ("a", "y"), ("b", "y")))
    text = table_latex(PaperTable("t", "c", ("p", "q"), ("n",), rows))
    assert "{a} & {x} & {$1$}" in text
    assert "{} & {y} & {$1$}" in text
    assert "{b} & {y} & {$1$}" in text


def test_escaping() -> None:
    assert escape("50 % of a_b & #1 {x} ~^\\") == (
        r"50 \% of a\_b \& \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape("Δ − é ≥ ‖漢") == r"$\Delta$ $-$ \'{e} $\geq$ $\|$[U+6F22]"


def test_the_leaderboard_marks_what_holm_leaves_and_says_which_test() -> None:
    table = board_tables(Board(leaderboard_frame(), comparisons_frame()))[0]
    text = table_latex(table)
    assert r"\svgtcell{$+30.0^{**}$}{$[+20.0, +40.0]$}" in text or (
        r"$+30.0^{**}$ $\pm$ $10.0$" in text
    )
    assert "100 harmful prompts" in table.caption
    assert "paired permutation, exchanging whole intent groups, Holm-corrected" in table.caption
    assert "bootstrap clustered by intent group" in table.caption


def test_an_evaluation_states_n_seed_interval_and_that_nothing_was_tested() -> None:
    rows = [row for row in summary_rows(evaluation_rows()) if row.frame == "all"]
    text = metric_latex(rows, "harm_rate")
    assert r"{no guidance} & {$60.0$ $\pm$ $10.0$}" not in text  # the other row is lopsided
    assert r"{no guidance} & {$60.0$ $[50.0, 70.0]$}" in text
    assert r"{svgt:workbench} & {$10.0$ $[5.0, 20.0]$}" in text
    assert "n = 40 a cell; seed 0. No test was made." in text
    assert r"95\% interval by bootstrap clustered by group" in text


def test_probes_are_corrected_over_their_table() -> None:
    tables = {table.name: table for table in headline_tables(instability_records())}
    difference = tables["instability-instability-difference"]
    found = [cells[0].p_value for _, cells in difference.rows]
    assert found == pytest.approx([0.008, 0.03])  # Holm: 0.004 x 2, then max(0.008, 0.03 x 1)
    assert "sign flips, against the control; Holm-corrected over the 2 tests" in difference.caption
    assert "n = 12 groups; seed 0" in difference.caption
    index = tables["instability-instability-index"]
    assert [cells[0].figure for _, cells in index.rows] == ["0.100", "0.250", "0.500"]
    assert index.caption.endswith("No test was made.")
