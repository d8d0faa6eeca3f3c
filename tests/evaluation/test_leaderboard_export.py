"""The leaderboard as tables and a figure: the numbers in them, quoted columns, the front."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scripts import load_script

from workbench.backbone import load_backbone
from workbench.errors import ConfigError
from workbench.evaluation.leaderboard.comparing import COLUMNS as COMPARED
from workbench.evaluation.leaderboard.running import COMPARISONS_FILE, LEADERBOARD_FILE
from workbench.evaluation.leaderboard.scoring import rows_frame
from workbench.export.leaderboard_figures import (
    Point,
    pareto_figure,
    pareto_front,
    pareto_points,
)
from workbench.export.leaderboard_paper import quoted_fluency, quoted_safety
from workbench.export.leaderboard_short import by_split_table, rivals_table
from workbench.export.leaderboard_tables import (
    Board,
    board_latex,
    board_markdown,
    context_rows,
    cost_sheet,
    fluency_sheet,
    markdown_table,
    p_text,
    read_board,
    safety_sheet,
)
from workbench.files import write_json, write_parquet
from workbench.guidance.registry import find_value_module
from workbench.runs import RunFolder
from workbench.svgt.checkpoint import read_checkpoint_record

ROOT = Path(__file__).resolve().parents[2]


def row(
    method: str, metric: str, estimate: float, split: str = "all", frame: str = "all",
    seed: int | None = None,
) -> dict[str, object]:  # fmt: skip
    return {
        "method": method, "backbone": "testbed-llama", "guidance": method, "config": "",
        "split": split, "frame": frame, "metric": metric, "estimate": estimate,
        "low": estimate - 0.01, "high": estimate + 0.01, "n": 500, "seed": seed,
    }  # fmt: skip


@pytest.fixture
def board() -> Board:
    rows = [
        row(method, metric, estimate)
        for method, values in {
            "none": {"harm_rate": 0.8, "perplexity": 1.5},
            "caa": {
                "harm_rate": 0.3, "harm_reduction": 0.625, "cross_entropy_increase": 0.2,
                "perplexity": np.nan, "latency_ratio": 1.01,
            },
            "svgt": {"harm_rate": 0.1, "harm_reduction": 0.875, "cross_entropy_increase": 0.05},
        }.items()
        for metric, estimate in values.items()
    ]  # fmt: skip
    rows += [row("caa", "harm_rate", 0.2 + seed / 10, seed=seed) for seed in range(3)]
    rows += [row("caa", "harm_rate", 0.9, split="unseen_frames", frame="fiction")]
    rows += [row("svgt", "harm_rate", 0.4, split="unseen_frames")]
    tests = [
        {
            "backbone": "b", "method": "caa", "reference": "svgt", "split": "all",
            "metric": "harm_rate", "difference": 0.2, "low": 0.15, "high": 0.25, "n": 500,
            "n_groups": 90, "p_value": 0.0001, "p_holm": 0.0004, "test": "paired permutation",
        }
    ]  # fmt: skip
    return Board(rows_frame(rows), pd.DataFrame(tests, columns=list(COMPARED)), ("one seed less",))


def test_the_numbers_in_the_sheets(board: Board) -> None:
    sheet = safety_sheet(board)
    cells = dict(zip(sheet.names, sheet.cells, strict=True))
    assert sheet.header[:4] == ("method", "seeds", "harm %", "ASR %")
    assert [cell.line for cell in cells["caa"]] == [
        "3", "30.0 [29.0, 31.0]", "–", "+62.5 [+61.5, +63.5]", "–", "–",
        "+20.0 [+15.0, +25.0] p < 0.001", "–",
    ]  # fmt: skip
    fluent = dict(zip(sheet.names, fluency_sheet(board).cells, strict=True))
    assert [cell.line for cell in fluent["caa"]][2] == "–"  # NaN is no number
    assert [cell.line for cell in fluent["none"]][2] == "1.500 [1.490, 1.510]"
    assert cost_sheet(board).header == ("method", "seeds", "latency ×")
    one_split = safety_sheet(board, "unseen_frames")
    assert one_split.names == ("svgt",)
    assert "unseen frames" in one_split.title


def test_quoted_columns_stand_apart_and_are_marked(board: Board) -> None:
    text = markdown_table(safety_sheet(board, quoted=quoted_safety()))
    header, _, none, caa, svgt = text.splitlines()
    assert header.count("quoted: ") == 4
    assert none.endswith("| 29.69 | 58.95 | 67 | 27.5 |")
    assert caa.endswith("| – | – | – | – |")
    assert svgt.endswith("| – | – | – | – |")  # the paper's SVGT is another configuration
    assert quoted_fluency()["quoted: perplexity"]["svgt:paper"] == "7.34"
    assert "svgt-inject" not in quoted_fluency()["quoted: perplexity"]
    whole = board_markdown(board, (quoted_safety(), quoted_fluency()))
    assert whole.count("quoted: WildGuard") == 1  # over all splits only
    assert "one seed less" in whole


def test_latex_says_what_stands_behind_the_numbers(board: Board) -> None:
    text = board_latex(board)
    assert text.count(r"\toprule") == 3
    assert "500 harmful prompts" in text
    assert r"harm \%" in text
    assert (
        r"*** p $<$ 0.001: paired permutation, exchanging whole intent groups, Holm-corrected"
        in text
    )
    assert r"latency $\times$" in text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "p < 0.001"), (0.0499, "p = 0.050"), (1.0, "p = 1.000"), (np.nan, "")]
)
def test_p_values(p: float, text: str) -> None:
    assert p_text(p) == text


def test_the_breakdown_by_context(board: Board) -> None:
    found = context_rows(board, "harm_rate", "unseen_frames")
    assert context_rows(board, "harm_rate").empty
    assert found[["method", "frame", "estimate"]].to_numpy().tolist() == [["caa", "fiction", 0.9]]


def test_short_tables_hold_the_cells_of_the_boards(board: Board) -> None:
    rows = board.rows.copy()
    more = [
        row("none", "harm_rate", 0.7, split="unseen_frames"),
        row("svgt", "harm_reduction", 0.5, split="unseen_frames"),
        row("svgt:paper", "harm_reduction", 0.25, split="unseen_frames"),
        row("svgt-inject", "harm_reduction", 0.75, split="unseen_frames"),
        row("svgt", "over_refusal_rate", 0.05),
    ]
    first = Board(pd.concat([rows, rows_frame(more)]), board.comparisons)
    second = Board(first.rows.assign(backbone="testbed-gpt2"), board.comparisons)
    assert by_split_table([first]).splitlines() == [
        "500 replies to harmful prompts a cell, 0 to 3 seeds.",
        "",
        "| backbone | guidance | unseen_frames |",
        "|---|---|---|",
        "| testbed-llama | none: harm % | 70.0 [69.0, 71.0] |",
        "|  | `svgt`: harm prevented % | 50.0 [49.0, 51.0] |",
        "|  | `svgt:paper`: harm prevented % | 25.0 [24.0, 26.0] |",
    ]
    head, _, *lines = rivals_table([first, second]).splitlines()[2:]
    assert head.split(" | ")[1:] == [
        "testbed-llama: harm %", "testbed-llama: over-refusal %", "testbed-llama: degenerate %",
        "testbed-gpt2: harm % |",
    ]  # fmt: skip
    assert lines[2] == "| `svgt` | 10.0 [9.0, 11.0] | 5.0 [4.0, 6.0] | – | 10.0 [9.0, 11.0] |"
    with pytest.raises(ConfigError, match="the same splits"):
        rivals_table([first, Board(rows[rows["split"] == "all"], board.comparisons)])


# -------------------------------------------------------------------------------------- the figure


def point(name: str, cost: float, gain: float) -> Point:
    x, y = float(cost), float(gain)
    return Point(name, (x, x, x), (y, y, y))


def test_the_front_holds_what_no_other_beats() -> None:
    points = [
        point("none", 0, 0), point("good", 0.1, 80), point("beaten", 0.2, 70),
        point("dear", 0.5, 90), point("tied", 0.1, 60), point("harmful", 0.05, -3),
    ]  # fmt: skip
    assert [p.method for p in pareto_front(points)] == ["none", "good", "dear"]


def test_the_figure_has_every_measured_method_with_its_intervals(board: Board) -> None:
    assert [p.method for p in pareto_points(board)] == ["none", "caa", "svgt"]
    front, *marks = pareto_figure(board).data
    assert list(front.y) == [0, 87.5]
    by_name = {mark.name: mark for mark in marks}
    caa = by_name["caa"]
    assert (caa.x[0], caa.y[0]) == (0.2, 62.5)
    assert caa.error_y.array[0] == pytest.approx(1)
    assert caa.error_x.arrayminus[0] == pytest.approx(0.01)


def test_thirteen_methods_look_different() -> None:
    names = [f"m{number}" for number in range(14)]
    rows = [
        row(name, metric, 0.01 * number)
        for number, name in enumerate(names)
        for metric in ("harm_reduction", "cross_entropy_increase")
    ]
    figure = pareto_figure(Board(rows_frame(rows), pd.DataFrame(columns=list(COMPARED))))
    looks = {(mark.marker.color, mark.marker.symbol) for mark in figure.data[1:]}
    assert len(looks) == 15


# ---------------------------------------------------------------------------------------- the page


@pytest.fixture
def script() -> ModuleType:
    return load_script("benchmarks/leaderboard.py")


def test_one_command_writes_the_page_and_results_that_can_be_read_again(
    board: Board, script: ModuleType, tmp_path: Path
) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    module = find_value_module("workbench", load_backbone("testbed-llama"))
    shipped = {"weights_sha256": read_checkpoint_record(module).weights_sha256}
    with RunFolder.create(
        runs / "testbed-llama",
        kind="benchmark",
        config={
            "prompts": {"n_per_kind": 7, "splits": ["heldout_intents", "unseen_frames"]},
            "methods": {"none": {"seeds": [0], "0": {}}, "svgt": {"seeds": [0], "0": shipped}},
        },
        seed=0,
    ) as folder:
        write_parquet(folder.file(LEADERBOARD_FILE), board.rows)
        write_parquet(folder.file(COMPARISONS_FILE), board.comparisons)
        write_json(
            folder.file("summary.json"), {"rows": [], "costs": [], "notes": list(board.notes)}
        )
    docs.mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(
        "A\n<!-- results:begin -->\nold\n<!-- results:end -->\n"
        "B\n<!-- rivals:begin --><!-- rivals:end -->\n"
    )
    script.report(runs=runs, docs=docs)
    first_page = readme.read_text()
    assert first_page.startswith("A\n<!-- results:begin -->\n500 replies to harmful prompts a cell")
    assert "old" not in first_page
    assert "| `caa` | 30.0 [29.0, 31.0] | – | – |\n" in first_page
    page = (docs / "benchmark.md").read_text()
    assert "## testbed-llama" in page
    assert "## testbed-gpt2" not in page
    assert "Not measured yet\n\ntestbed-gpt2, testbed-llama-anchored." in page
    assert "14 harmful prompts a seed behind a cell over all splits" in page
    assert "+62.5 [+61.5, +63.5]" in page
    assert "### Budgets" in page
    assert "| svgt | 12,000 / 6,000 / 1,600 | half between filler words, 30% composed |" in page
    committed = docs / "results" / "benchmark" / "testbed-llama"
    assert RunFolder.open(committed).record.status == "finished"
    pd.testing.assert_frame_equal(read_board(committed).rows, board.rows)
    summary = json.loads((committed / "summary.json").read_text())
    assert all(row["seed"] is None and row["frame"] == "all" for row in summary["rows"])
    assert summary["notes"] == ["one seed less"]
    script.report(runs=runs, docs=docs)  # again, over what is there
