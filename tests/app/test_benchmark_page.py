"""The Benchmark page: leaderboards, ablations, two replies, files, and mistakes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from workbench.evaluation.ablations import AblationRecord, records_frame
from workbench.evaluation.leaderboard.comparing import COLUMNS as COMPARED
from workbench.evaluation.leaderboard.scoring import rows_frame
from workbench.export.ablation_figures import curve_figure
from workbench.export.leaderboard_figures import context_figure, cost_figure, pareto_figure
from workbench.export.leaderboard_labels import Offset, Spot, place_labels
from workbench.export.leaderboard_tables import Board, board_latex, safety_sheet
from workbench.files import write_json, write_parquet
from workbench.runs import RunFolder

Open = Callable[..., AppTest]
SPLITS = ("all", "heldout_intents", "unseen_frames")


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def files(app: AppTest) -> list[str]:
    return [button.proto.label for button in app.get("download_button")]


def titles(app: AppTest) -> str:
    return "\n".join(chart.proto.alt for chart in app.get("plotly_chart"))


# -------------------------------------------------------------------------------- planted records


def row(
    method: str, metric: str, estimate: float, split: str = "all", frame: str = "all",
    seed: int | None = None,
) -> dict[str, object]:  # fmt: skip
    return {
        "method": method, "backbone": "testbed-llama", "guidance": method, "config": "",
        "split": split, "frame": frame, "metric": metric, "estimate": estimate,
        "low": estimate - 0.01, "high": estimate + 0.02, "n": 80, "seed": seed,
    }  # fmt: skip


def comparison(method: str, difference: float, p_holm: float) -> dict[str, object]:
    return {
        "backbone": "testbed-llama", "method": method, "reference": "svgt", "split": "all",
        "metric": "harm_rate", "difference": difference, "low": difference - 0.1,
        "high": difference + 0.1, "n": 80, "n_groups": 20, "p_value": p_holm / 2,
        "p_holm": p_holm, "test": "paired permutation",
    }  # fmt: skip


@pytest.fixture
def board() -> Board:
    planted = {
        "none": {"harm_rate": 0.8, "latency_ratio": 1.0},
        "svgt": {
            "harm_rate": 0.1, "harm_reduction": 0.875, "cross_entropy_increase": 0.01,
            "latency_ratio": 1.1, "memory_ratio": 1.2,
        },
        "caa": {"harm_rate": 0.03, "harm_reduction": 0.96, "cross_entropy_increase": 0.6},
    }  # fmt: skip
    rows = [
        row(method, metric, estimate, split)
        for method, values in planted.items()
        for metric, estimate in values.items()
        for split in (SPLITS if "ratio" not in metric else SPLITS[:1])
    ]
    rows += [row("caa", "harm_rate", 0.03, seed=seed) for seed in (0, 1)]
    rows += [
        row("svgt", "harm_rate", 0.25, frame="fiction"),
        row("none", "harm_rate", 0.9, frame="direct"),
    ]
    tests = [comparison("none", 0.7, 0.004), comparison("caa", -0.07, 0.8)]
    return Board(rows_frame(rows), pd.DataFrame(tests, columns=list(COMPARED)), ("one seed less",))


def record(variant: str, x: float, metric: str, estimate: float, **about: Any) -> AblationRecord:  # noqa: ANN401
    known: dict[str, Any] = {
        "ablation": "strength", "reference": "workbench", "variant": variant,
        "text": f"strength {x:g}", "x": x, "backbone": "testbed-llama", "split": "test",
        "metric": metric, "estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05,
        "n": 60, "seed": -1, "difference": np.nan, "difference_low": np.nan,
        "difference_high": np.nan, "p": np.nan, "p_holm": np.nan,
    }  # fmt: skip
    return AblationRecord(**{**known, **about})


def ablation_records() -> list[AblationRecord]:
    records = []
    for metric, (own, other) in {
        "harm_rate": (0.1, 0.6), "over_refusal_rate": (0.05, 0.02), "degenerate_rate": (0.0, 0.0),
    }.items():  # fmt: skip
        difference = other - own
        records += [
            record("none", np.nan, metric, 0.8, text="no guidance"),
            record("reference", 1.0, metric, own),
            record(
                "0.5", 0.5, metric, other, difference=difference, difference_low=difference - 0.1,
                difference_high=difference + 0.1, p_holm=0.01 if metric == "harm_rate" else 1.0,
            ),
        ]  # fmt: skip
    unvaried = [
        record("none", np.nan, "harm_rate", 0.8),
        record("reference", np.nan, "harm_rate", 0.1),
    ]
    return [*records, *(_renamed(one) for one in unvaried)]


def _renamed(one: AblationRecord) -> AblationRecord:
    return replace(one, ablation="gate", text="always open", x=np.nan)


# ----------------------------------------------------------------------------------------- figures


def test_names_stand_at_their_points_and_cover_nothing(board: Board) -> None:
    figure = pareto_figure(board)
    by_name = {note.text: note for note in figure.layout.annotations}
    assert set(by_name) == {"none", "svgt", "caa"}
    assert (by_name["caa"].x, by_name["caa"].y) == (0.6, 96.0)
    low, high = figure.layout.xaxis.range
    assert low < -0.01
    assert high > 0.62
    assert list(figure.data[0].y) == [0, 87.5, 96.0]


def test_sixteen_labels_in_a_crowd_do_not_cover_each_other() -> None:
    rng = np.random.default_rng(0)
    spots = []
    for number, (x, y) in enumerate(rng.uniform((0.05, 0.05), (0.2, 0.5), (16, 2)).tolist()):
        spots.append(
            Spot(f"svgt:config-{number}", (x - 0.02, x, x + 0.02), (y - 0.05, y, y + 0.05))
        )
    offsets = place_labels(spots, 400)
    for width in (560, 1200, 1500):
        boxes = [drawn(spot, offset, width) for spot, offset in zip(spots, offsets, strict=True)]
        for number, one in enumerate(boxes):
            assert one[0] >= 0
            assert one[2] <= width
            assert not any(covers(one, other) for other in boxes[:number])


def drawn(spot: Spot, offset: Offset, width: int) -> tuple[float, float, float, float]:
    x, y = spot.x[1] * width + offset.right, spot.y[1] * 400 + offset.down
    size = 6.3 * len(spot.text)
    left = x if offset.right > 0 else x - size if offset.right < 0 else x - size / 2
    return left, y - 7, left + size, y + 7


def covers(one: Sequence[float], other: Sequence[float]) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


def test_a_lonely_label_stands_at_its_point() -> None:
    (offset,) = place_labels([Spot("a", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))], 400)
    assert (offset.right, offset.down) == (14.0, 0.0)


def test_the_heat_map_holds_each_context_with_its_interval(board: Board) -> None:
    figure = context_figure(board, "harm_rate")
    (heat,) = figure.data
    titles = (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text)
    assert titles == ("method", "context frame")
    assert (list(heat.y), list(heat.x)) == (["fiction", "direct"], ["none", "svgt"])
    assert [["–" if np.isnan(v) else v for v in line] for line in heat.z] == [
        ["–", 25.0],
        [90.0, "–"],
    ]
    assert heat.customdata[0][1] == "25.0 [24.0, 27.0] %, n = 80"
    assert heat.text[0][0] == ""


def test_costs_have_a_mark_where_they_were_measured(board: Board) -> None:
    time, memory = cost_figure(board).data
    assert list(time.x) == [1.0, 1.1]
    assert list(memory.x) == [1.2]
    assert memory.error_x.array[0] == pytest.approx(0.02)
    assert list(cost_figure(board).layout.yaxis.ticktext) == ["none", "svgt"]


def test_cells_carry_the_numbers_by_which_rows_are_sorted(board: Board) -> None:
    cells = dict(zip(safety_sheet(board).names, safety_sheet(board).cells, strict=True))
    assert cells["svgt"][1].value == pytest.approx(10)
    assert np.isnan(cells["none"][3].value)
    assert [cells[name][6].significant for name in ("none", "svgt", "caa")] == [True, False, False]


def test_latex_of_one_split_is_about_that_split(board: Board) -> None:
    text = board_latex(board, "unseen_frames")
    assert "Safety, unseen frames" in text
    assert "all splits" not in text


def test_the_reference_is_ringed_in_a_curve() -> None:
    figure = curve_figure(ablation_records(), "strength", "workbench", "testbed-llama")
    assert figure is not None
    assert list(figure.data[0].x) == [0.5, 1.0]
    ring = figure.data[-1]
    assert ring.name == "reference"
    assert set(ring.x) == {1.0}
    assert list(ring.y) == pytest.approx([10.0, 5.0, 0.0])


# ------------------------------------------------------------------------------------------- runs


def _page() -> None:
    from workbench.pages import benchmark
    from workbench.pages.guard import guarded

    guarded(benchmark.page)()


@pytest.fixture
def open_page() -> Open:
    def open_with(root: Path | str | None = None, **query: str) -> AppTest:
        app = AppTest.from_function(_page, default_timeout=180)
        where = {} if root is None else {"root": "a folder of your own", "root_folder": str(root)}
        for key, value in {**where, **query}.items():
            app.query_params[key] = value
        return app.run()

    return open_with


def write_board(folder: Path, board: Board) -> None:
    config = {"prompts": {"n_per_kind": 10}}
    with RunFolder.create(folder, kind="benchmark", config=config, seed=0) as run:
        write_parquet(run.file("leaderboard.parquet"), board.rows)
        write_parquet(run.file("comparisons.parquet"), board.comparisons)
        write_json(run.file("summary.json"), {"rows": [], "notes": list(board.notes)})


def write_ablations(folder: Path, records: list[AblationRecord]) -> None:
    with RunFolder.create(folder, kind="ablations", config={}, seed=0) as run:
        write_parquet(run.file("records.parquet"), records_frame(records))


def test_a_leaderboard_is_shown_with_figures_and_files(
    board: Board, tmp_path: Path, open_page: Open
) -> None:
    write_board(tmp_path / "whole", board)
    app = open_page(tmp_path)
    assert not app.exception
    assert not app.error, said(app.error)
    table = app.dataframe[0].value
    assert list(table["method"]) == ["none", "svgt", "caa"]
    assert table["harm %"].tolist() == pytest.approx([80, 10, 3])
    assert table["seeds"].tolist() == [0, 0, 2]
    assert "n" not in table, "the same for all: said once"
    assert "Every method: n = 80 harmful prompts times seeds." in said(app.caption)
    for title in ("Harm prevented against", "Context by context", "Time and memory"):
        assert title in titles(app)
    assert said(app.caption).count("How to read this") == 4
    assert files(app).count("Figure (HTML)") == 3
    assert {"Estimates (CSV)", "Tests against svgt (CSV)", "Table (LaTeX)"} <= set(files(app))
    assert "one seed less" in said(app.markdown)


def test_another_split_and_other_columns(board: Board, tmp_path: Path, open_page: Open) -> None:
    write_board(tmp_path / "whole", board)
    app = open_page(tmp_path)
    app.segmented_control(key="split").set_value("unseen_frames").run()
    assert "Safety, unseen frames" in said(app.markdown)
    assert "quoted from the paper" not in app.segmented_control(key="columns").options
    app.segmented_control(key="columns").set_value("tests").run()
    assert list(app.dataframe[0].value) == [
        "method", "seeds", "harm − svgt's", "over-refusal − svgt's", "nats − svgt's"
    ]  # fmt: skip
    app.segmented_control(key="columns").set_value("fluency").run()
    assert "nats a token" in app.dataframe[0].value
    app.segmented_control(key="split").set_value("all").run()
    app.segmented_control(key="columns").set_value("quoted").run()
    quoted = app.dataframe[0].value.set_index("method")
    assert quoted.loc["none", "quoted: HarmBench ASR %"] == 67
    assert not {"seeds", "n"} & set(quoted), "the paper's prompts are others"
    assert not app.exception
    assert not app.error, said(app.error)


def test_ablations_are_shown_one_at_a_time(tmp_path: Path, open_page: Open) -> None:
    write_ablations(tmp_path / "some", ablation_records())
    app = open_page(tmp_path, view="ablations")
    assert not app.exception
    assert not app.error, said(app.error)
    assert "How strong should the bridge be?" in said(app.markdown)
    assert app.dataframe[0].value["Δ harm"].tolist()[-1] == pytest.approx(50)
    assert "Change against workbench" in titles(app)
    assert "Along strength" in titles(app)
    app.selectbox(key="ablation").select("gate").run()
    assert "Along" not in titles(app)
    assert {"Records (CSV)", "Table (LaTeX)"} <= set(files(app))
    assert not app.error, said(app.error)


@pytest.mark.parametrize(
    ("view", "command"), [("leaderboard", "workbench benchmark"), ("ablations", "workbench ablate")]
)
def test_an_empty_folder_names_the_command(
    tmp_path: Path, open_page: Open, view: str, command: str
) -> None:
    app = open_page(tmp_path, view=view)
    assert not app.exception
    assert command in said(app.info)


def test_a_folder_without_such_runs_names_one_with_some(
    board: Board, tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_board(tmp_path / "runs" / "own", board)
    write_ablations(tmp_path / "docs" / "results" / "shipped", ablation_records())
    monkeypatch.chdir(tmp_path)
    app = open_page(tmp_path / "runs", view="ablations")
    assert "Some are in `docs/results`: choose above." in said(app.info)
    assert "Some are in" not in said(open_page(tmp_path / "runs").info)


def test_a_missing_folder_and_one_of_another_kind(tmp_path: Path, open_page: Open) -> None:
    assert "there is no folder /no/such/root" in said(open_page("/no/such/root").error)
    write_ablations(tmp_path / "some", ablation_records())
    app = open_page(tmp_path / "some")
    assert not app.exception
    assert "run of another kind: `ablations`" in said(app.info)


def test_runs_that_are_not_whole_are_told(board: Board, tmp_path: Path, open_page: Open) -> None:
    run = RunFolder.create(tmp_path / "begun", kind="benchmark", config={}, seed=0)
    write_parquet(run.file("shards/none/0/heldout_words.parquet"), pd.DataFrame({"a": [1]}))
    app = open_page(tmp_path)
    assert "more will follow" in said(app.info)
    assert "Shards measured so far: 1" in said(app.info)
    run.close()
    assert "interrupted" in said(open_page(tmp_path).warning)
    write_board(tmp_path / "whole", board)
    assert open_page(tmp_path).selectbox(key="run").value == "whole"  # rather than the begun one
    (tmp_path / "whole" / "comparisons.parquet").unlink()
    app = open_page(tmp_path)
    assert not app.exception
    assert "comparisons.parquet" in said([*app.error, *app.warning])


def test_a_leaderboard_that_is_none_is_told(board: Board, tmp_path: Path, open_page: Open) -> None:
    write_board(tmp_path / "odd", replace(board, rows=board.rows.drop(columns="frame")))
    app = open_page(tmp_path)
    assert not app.exception
    assert "leaderboard.parquet lacks the column frame" in said(app.error)


def test_the_first_folder_is_one_with_a_finished_run(
    board: Board, tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "runs" / "begun", kind="benchmark", config={}, seed=0)
    write_board(tmp_path / "docs" / "results" / "benchmark" / "shipped", board)
    monkeypatch.chdir(tmp_path)
    app = open_page()
    run.close()
    assert app.selectbox(key="root").value == "docs/results"
    assert app.selectbox(key="run").value == "benchmark/shipped"
    assert not app.error, said(app.error)


# ------------------------------------------------------------------------------------ side by side


@pytest.fixture
def open_replies(open_page: Open, backbone_folder: Path, module_folder: Path) -> Open:
    def open_with(**query: str) -> AppTest:
        own = "a folder of your own"
        state = {
            "view": "side by side", "backbone": own, "folder": str(backbone_folder), "tokens": "6",
            "right": own, "right_own": f"svgt:{module_folder}",
        }  # fmt: skip
        return open_page(None, **{**state, **query})

    return open_with


def generated(app: AppTest) -> AppTest:
    return app.button(key="generate-both").click().run()


def texts(app: AppTest) -> list[str]:
    return [html.proto.body for html in app.get("html") if 'class="svgt-tokens"' in html.proto.body]


def test_two_replies_share_their_random_numbers(open_replies: Open) -> None:
    app = generated(open_replies())
    assert not app.exception
    assert not app.error, said(app.error)
    assert len(texts(app)) == 2
    assert "harmful" in said(app.caption) or "Oracle" in said(app.caption)
    assert "Replies (JSON)" in files(app)
    app.text_input(key="seed").set_value("1").run()
    assert "settings have changed" in said(app.info)
    app = generated(open_replies(right="none"))
    assert "Both replies are the same" in said(app.caption)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"right_own": "caaa:/no/such"}, "unknown guidance 'caaa:/no/such'"),
        ({"right_own": "caa:/no/such"}, "/no/such"),
        ({"right_own": ""}, "give METHOD:FOLDER"),
        ({"prompt": " "}, "empty"),
        ({"prompt": "how do i frobnicate my dog ?"}, "frobnicate"),
        ({"seed": "-1"}, "seed '-1'"),
        ({"folder": "/no/such/backbone"}, "/no/such/backbone"),
    ],
)
def test_bad_input_is_told_in_words(open_replies: Open, query: dict[str, str], named: str) -> None:
    app = open_replies(**query)
    generated(app)
    assert not app.exception
    assert named in said(app.error)
    assert not texts(app)
