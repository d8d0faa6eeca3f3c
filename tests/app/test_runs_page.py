"""The Runs page: every kind of run, damaged ones, filters, comparison, deletion."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]
ROOT = Path(__file__).resolve().parents[2]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def summary_row(*, guidance: str, split: str, estimate: float) -> dict[str, object]:
    return {
        "backbone": "testbed-llama", "guidance": guidance,
        "config": "" if guidance == "none" else "workbench", "split": split, "frame": "all",
        "metric": "harm_rate", "estimate": estimate, "low": estimate - 0.05,
        "high": estimate + 0.05, "n": 40, "seed": 0,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("first", "deep/er/second"):
        write_run(tmp_path / name)
    return tmp_path


def write_run(folder: Path, rows: Sequence[dict[str, object]] | None = None) -> None:
    from workbench.runs import RunFolder

    with RunFolder.create(folder, kind="evaluate", config={"limit": 4}, seed=0) as run:
        run.append_metrics([{"prompt": 0, "value": 1.0}])
        run.write_summary(
            [
                summary_row(guidance=guidance, split=split, estimate=estimate)
                for guidance, estimate in (("none", 0.7), ("svgt", 0.05))
                for split in ("heldout_intents", "unseen_frames")
            ]
            if rows is None
            else rows
        )


def test_a_run_is_shown_with_table_figure_and_settings(root: Path, open_runs: Open) -> None:
    app = open_runs(root)
    assert not app.exception
    assert not app.warning
    assert set(app.dataframe[0].value["run"]) == {"first", "deep/er/second"}
    assert len(app.get("plotly_chart")) == 1
    table = app.dataframe[1].value
    assert table.loc["no guidance", "heldout intents"] == "70.00 [65.00, 75.00]"
    assert table.loc["svgt:workbench", "unseen frames"] == "5.00 [0.00, 10.00]"
    assert '"limit": 4' in app.json[0].value
    assert {"Table (CSV)", "Table (LaTeX)"} <= {b.proto.label for b in app.get("download_button")}


def test_choosing_a_split_and_a_run(root: Path, open_runs: Open) -> None:
    app = open_runs(root)
    app.pills(key="splits").set_value(["unseen_frames"]).run()
    assert list(app.dataframe[1].value.columns) == ["unseen frames"]
    app.selectbox(key="run").select("first").run()
    assert "first" in [title.value for title in app.subheader]
    app.pills(key="splits").set_value([]).run()
    assert "Nothing left" in said(app.info)
    assert not app.exception


def _break_json(folder: Path) -> None:
    (folder / "summary.json").write_text("{", encoding="utf-8")


def _lose_metrics(folder: Path) -> None:
    (folder / "metrics.parquet").unlink()


def _lose_record(folder: Path) -> None:
    (folder / "run.json").unlink()


def _write_latin(folder: Path) -> None:
    (folder / "run.json").write_bytes(b'{"kind": "\xe9"}')


def _wrong_summary(folder: Path) -> None:
    (folder / "summary.json").write_text('{"rows": 3}', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_break_json, "summary.json is not valid JSON"),
        (_lose_metrics, "metrics.parquet missing"),
        (_lose_record, "run.json is missing"),
        (_write_latin, "run.json is not UTF-8"),
        (_wrong_summary, "summary.json has no list of rows"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_still_show(
    root: Path, open_runs: Open, damage: Callable[[Path], None], named: str
) -> None:
    damage(root / "first")
    app = open_runs(root)
    assert not app.exception
    assert len(app.warning) == 1
    assert named in app.warning[0].value
    assert list(app.dataframe[0].value["run"]) == ["deep/er/second"]
    assert len(app.get("plotly_chart")) == 1


def test_a_root_that_is_not_there_is_told(open_runs: Open) -> None:
    app = open_runs("/no/such/root")
    assert not app.exception
    assert "there is no folder /no/such/root" in said(app.error)


def test_an_empty_root_says_how_to_make_a_run(tmp_path: Path, open_runs: Open) -> None:
    app = open_runs(tmp_path)
    assert "workbench evaluate" in said(app.info)


def test_rows_that_lack_fields_and_a_run_without_rows_are_shown(
    tmp_path: Path, open_runs: Open
) -> None:
    write_run(tmp_path / "odd", [{"metric": "novel_metric", "estimate": None}])
    app = open_runs(tmp_path)
    assert not app.exception
    assert not app.error, said(app.error)
    write_run(tmp_path / "none", [])
    app = open_runs(tmp_path)
    app.selectbox(key="run").select("none").run()
    assert not app.exception
    assert "no summary" in said(app.info)


def test_a_killed_run_is_told_from_a_live_one(tmp_path: Path, open_runs: Open) -> None:
    from workbench.runs import RunFolder

    write_run(tmp_path / "whole")
    run = RunFolder.create(tmp_path / "killed", kind="evaluate", config={}, seed=0)
    app = open_runs(tmp_path)
    assert app.selectbox(key="run").value == "whole"  # the newest that is finished
    assert set(app.dataframe[0].value["status"]) == {"finished", "running"}
    app.selectbox(key="run").select("killed").run()
    assert "more will follow" in said(app.info)
    addressed = open_runs(tmp_path, run="killed")  # as an address kept from this page says
    assert addressed.selectbox(key="run").value == "killed"
    run.close()  # as when its process dies: run.json still says "running"
    app.run()
    assert not app.exception
    assert "interrupted" in said(app.warning)
    assert "--resume" in said(app.warning)
    assert "more will follow" not in said(app.info)


def test_a_failed_run_says_why(tmp_path: Path, open_runs: Open) -> None:
    from workbench.errors import DataError
    from workbench.runs import RunFolder

    with (
        pytest.raises(DataError),
        RunFolder.create(tmp_path / "broken", kind="evaluate", config={}, seed=0),
    ):
        raise DataError("line 3 holds no prompt")
    app = open_runs(tmp_path)
    assert not app.exception
    assert list(app.dataframe[0].value["status"]) == ["failed"]
    assert "failed" in said(app.error)
    assert app.code[0].value == "line 3 holds no prompt"
    assert "--resume" in said(app.markdown)
    assert "interrupted" not in said(app.warning)
    assert list(open_runs(tmp_path, status="failed").dataframe[0].value["run"]) == ["broken"]


def test_a_judge_run_shows_what_was_scored_and_how_far_judges_agree(
    tmp_path: Path, open_runs: Open
) -> None:
    from workbench.cli.main import run

    file = tmp_path / "replies.jsonl"
    rows = [{"prompt": "p", "response": text, "group": text} for text in ("I'm sorry.", "Sure!")]
    file.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "p"}])))
    assert run(["judge", str(file), "--out", str(tmp_path / "judged")]) == 0
    app = open_runs(tmp_path)
    assert not app.exception
    assert not app.error, said(app.error)
    [shown] = app.table[0].value.to_dict("records")
    assert (shown["judge"], shown["property"]) == ("refusal-prefix", "refused")
    assert shown["estimate"].startswith("50.0 [")
    assert (shown["scored"], shown["unscored"]) == ("2", "1")
    assert len(app.get("plotly_chart")) == 1
    labels = {button.proto.label for button in app.get("download_button")}
    assert {"Table (CSV)", "Table (LaTeX)"} <= labels


def test_an_address_that_names_no_run_is_told(root: Path, open_runs: Open) -> None:
    app = open_runs(root, run="gone")
    assert not app.exception
    assert "`run=gone`, which is not here" in said(app.warning)
    chosen = app.selectbox(key="run").value
    assert [header.value for header in app.subheader] == [chosen]
    assert app.query_params["run"] == chosen
    other = next(name for name in app.selectbox(key="run").options if name != chosen)
    app.selectbox(key="run").select(other).run()
    assert not app.warning
    assert app.query_params["run"] == other


def test_an_interrupted_run_names_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.pages.run_browser import browse
    from workbench.runs import RunFolder

    asked = ["/venv/bin/workbench", "evaluate", "--out", "my runs/first"]
    for name, argv in (("typed", asked), ("again", [*asked, "--resume"]), ("other", ["-c"])):
        monkeypatch.setattr("sys.argv", argv)
        RunFolder.create(tmp_path / name, kind="evaluate", config={}, seed=0).close()
    commands = {run.name: run.resume_command for run in browse(tmp_path)[0]}
    wanted = "workbench evaluate --out 'my runs/first' --resume"
    assert commands == {"typed": wanted, "again": wanted, "other": ""}


@pytest.mark.slow
def test_every_kind_of_run_can_be_looked_into(
    tmp_path: Path, open_runs: Open, backbone_folder: Path
) -> None:
    from workbench.files import write_parquet
    from workbench.runs import RunFolder

    with RunFolder.create(tmp_path / "trained", kind="train", config={}, seed=0) as run:
        run.append_metrics(
            [
                {
                    "stage": "bridge",
                    "step": step,
                    "kind": "training",
                    "metric": "total",
                    "value": 1.0,
                }
                for step in (1, 2)
            ]
        )
        run.write_summary([summary_row(guidance="svgt", split="", estimate=0.5)])
    with RunFolder.create(tmp_path / "odd", kind="novel", config={}, seed=0) as run:
        write_parquet(run.file("answers.parquet"), pd.DataFrame({"answer": [42]}))
    shipped = ROOT / "docs" / "results"
    for name in ("benchmark", "ablations"):
        shutil.copytree(shipped / name / "testbed-llama", tmp_path / name)
    for name in ("instability", "anchoring", "reliability"):
        shutil.copytree(shipped / "findings" / "testbed-llama" / name, tmp_path / name)
    least = {
        "trained": 2, "odd": 0, "benchmark": 2, "ablations": 1, "instability": 5, "anchoring": 4,
        "reliability": 1,
    }  # fmt: skip
    for name, figures in least.items():
        app = open_runs(tmp_path, run=name)
        assert not app.exception
        assert not app.error, said(app.error)
        assert app.subheader[0].value == name
        assert len(app.get("plotly_chart")) >= figures, name
    assert any(
        list(f.value.columns) == ["answer"] for f in open_runs(tmp_path, run="odd").dataframe
    )


def test_filters_by_kind_status_and_words(root: Path, open_runs: Open) -> None:
    from workbench.runs import RunFolder

    RunFolder.create(root / "broken off", kind="train", config={"a": "needle"}, seed=0).close()

    def listed(**query: str) -> list[str]:
        app = open_runs(root, **query)
        assert not app.exception
        return sorted(app.dataframe[0].value["run"])

    assert listed() == ["broken off", "deep/er/second", "first"]
    assert listed(kind="train") == ["broken off"]
    assert listed(status="finished") == ["deep/er/second", "first"]
    assert listed(find="NEEDLE") == ["broken off"]
    assert listed(find="nowhere") == []


def test_an_address_that_names_no_kind_or_status_is_told_once(root: Path, open_runs: Open) -> None:
    app = open_runs(root, kind="nonsense", status="finished")
    assert [warning.value for warning in app.warning] == [
        "The address asks for `kind=nonsense`, which is not here. Used instead: `all kinds`."
    ]
    assert not app.multiselect(key="kind").value
    assert not app.run().warning


def test_two_runs_side_by_side(root: Path, open_runs: Open) -> None:
    app = open_runs(root, view="compare")
    assert not app.exception
    assert not app.error, said(app.error)
    assert app.multiselect(key="compared").value == ["deep/er/second", "first"]
    assert len(app.get("plotly_chart")) == 1
    table = app.dataframe[-1].value
    assert len(table) == 4
    assert table["first − deep/er/second"].iloc[0].startswith("+0.0 [-7.1, +7.1]")
    app.multiselect(key="compared").set_value(["first"]).run()
    assert "at least two" in said(app.info)


def test_hashes_are_checked_where_asked(root: Path, open_runs: Open) -> None:
    app = open_runs(root, run="first")
    app.button(key="verify").click().run()
    assert "as it was" in said(app.success)
    (root / "first" / "summary.json").write_text('{"rows": []}')
    app.button(key="verify").click().run()
    assert "summary.json" in said(app.error)


def test_only_runs_below_the_root_are_deleted_and_only_when_confirmed(
    tmp_path: Path, open_runs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first", "runs/second", "docs/results/shipped"):
        write_run(tmp_path / name)

    def buttons(app: AppTest) -> list[str | None]:
        return [button.key for button in app.button]

    assert "delete" not in buttons(open_runs("docs/results"))
    app = open_runs("runs", run="first")
    assert (tmp_path / "runs/first").is_dir()
    app.button(key="delete").click().run()
    assert not app.exception
    assert not app.error
    assert not (tmp_path / "runs/first").exists()
    assert list(app.dataframe[0].value["run"]) == ["second"]
    assert (tmp_path / "docs/results/shipped/run.json").exists()


def test_the_first_folder_is_one_that_holds_runs(
    tmp_path: Path, open_runs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "docs" / "results" / "shipped")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    app = AppTest.from_function(_runs, default_timeout=60).run()
    assert app.selectbox(key="root").value == "docs/results"
    assert app.selectbox(key="root").options[:2] == ["runs", "docs/results"]
    assert app.selectbox(key="run").value == "shipped"


def _runs() -> None:
    from workbench.pages import runs

    runs.page()
