"""``workbench benchmark`` and ``workbench fit``: folders, tables, and mistakes."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from workbench.backbone import load_backbone
from workbench.cli.main import run
from workbench.guidance.artifact import read_artifact_record
from workbench.guidance.caa import CAA, CAAConfig
from workbench.runs import RunFolder
from workbench.testbed.splits import TEST_SPLITS

Captured = pytest.CaptureFixture[str]
ROW = {
    "method", "backbone", "guidance", "config", "split", "frame", "metric", "estimate", "low",
    "high", "n", "seed",
}  # fmt: skip
METRICS = {
    "harm_rate", "refusal_rate", "benign_refusal_rate", "lookalike_refusal_rate",
    "over_refusal_rate", "attack_success_rate", "degenerate_rate", "perplexity", "cross_entropy",
    "distinct_1", "distinct_2", "distinct_3", "latency_ratio", "memory_ratio",
}  # fmt: skip


def quick(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        "benchmark", "--backbone", str(checkpoint), "--out", str(out), "--limit", "2", "--seeds",
        "2", "--max-new-tokens", "4", "--cost-rounds", "1", "--examples", "22", *more,
    ]  # fmt: skip


def mistake(capsys: Captured, arguments: list[str]) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


@pytest.fixture(scope="module")
def folder(checkpoint: Path, value_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark of the plain model and a value module that takes part as it is.

    Its costs were added afterwards; what stood there before is in ``before``.
    """
    out = tmp_path_factory.mktemp("runs") / "run"
    command = quick(checkpoint, out, "--methods", f"svgt:{value_module}")
    assert run([*command, "--no-costs"]) == 0
    shutil.copytree(out, out.parent / "before")
    assert run([*command, "--resume"]) == 0
    return out


def test_costs_can_be_added_to_a_finished_run(folder: Path) -> None:
    before, after = RunFolder.open(folder.parent / "before"), RunFolder.open(folder)
    assert before.record.status == after.record.status == "finished"
    assert before.record.devices == after.record.devices
    assert [name.partition(" (")[0] for name in after.record.devices] == ["cpu"]
    assert (len(before.record.resumed), len(after.record.resumed)) == (0, 1)
    assert not before.file("costs.parquet").exists()
    boards = [pd.read_parquet(run.file("leaderboard.parquet")) for run in (before, after)]
    costs = boards[1]["metric"].isin(["latency_ratio", "memory_ratio"])
    assert costs.sum() == 4
    pd.testing.assert_frame_equal(boards[0], boards[1][~costs].reset_index(drop=True))
    notes = [json.loads(run.file("summary.json").read_text())["notes"] for run in (before, after)]
    assert set(notes[0]) - set(notes[1]) == {
        "latency and memory were not measured; the same command with --resume --costs adds them"
    }
    assert "latency" in before.file("leaderboard.md").read_text()


def test_costs_that_are_there_are_not_measured_again(
    checkpoint: Path, folder: Path, value_module: Path
) -> None:
    record = folder.joinpath("run.json").read_bytes()
    for costs in ("--costs", "--no-costs"):
        again = quick(checkpoint, folder, "--methods", f"svgt:{value_module}", "--resume", costs)
        assert run(again) == 0
    assert folder.joinpath("run.json").read_bytes() == record


def test_the_folder_has_everything(folder: Path) -> None:
    opened = RunFolder.open(folder)
    assert (opened.record.kind, opened.record.status) == ("benchmark", "finished")
    assert set(opened.record.files) >= {
        "leaderboard.parquet", "comparisons.parquet", "costs.parquet", "metrics.parquet",
        "replies.parquet", "summary.json", "leaderboard.md", "leaderboard.tex", "pareto.html",
    }  # fmt: skip
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert all(set(row) == ROW for row in rows)
    for method, seeds in (("none", {None, 0, 1}), ("svgt:mine", {None, 0})):
        mine = [row for row in rows if row["method"] == method and row["frame"] == "all"]
        assert {row["seed"] for row in mine} == seeds
        assert {row["split"] for row in mine} == {"all", *TEST_SPLITS}
        assert {row["metric"] for row in mine if row["split"] == "all"} >= METRICS
    assert len(pd.read_parquet(folder / "leaderboard.parquet")) == len(rows)


def test_what_is_missing_is_said_wherever_the_leaderboard_stands(
    checkpoint: Path, folder: Path, value_module: Path, capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "100")
    again = quick(checkpoint, folder, "--methods", f"svgt:{value_module}", "--resume")
    assert run(again) == 0
    out = capsys.readouterr().out
    for text in (out, (folder / "leaderboard.md").read_text()):
        assert "1 of 2 seeds is there (seed 0); a difference compares only" in text
        assert "svgt takes no part" in text
    assert max(len(line) for line in out.splitlines()) <= 100
    for word in ("ASR", "over-refusal", "perplexity", "distinct-2", "latency", "svgt:mine"):
        assert word in out


def test_the_latex_table_is_whole(folder: Path) -> None:
    text = (folder / "leaderboard.tex").read_text()
    opened: list[str] = []
    n_tables = 0
    for verb, environment in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if verb == "begin":
            opened.append(environment)
            n_tables += environment.startswith("table")
        else:
            assert opened.pop() == environment
    assert not opened
    assert n_tables == text.count(r"\toprule") == text.count(r"\bottomrule") == 3
    assert "svgt:mine" in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--methods", "svgd", "unknown guidance 'svgd'"),
        ("--methods", "none,none", "named twice"),
        ("--methods", "svgt", "no value module 'workbench' ships"),
        ("--methods", "caa", "caa was not tuned"),
        ("--engine", "dask", "unknown engine 'dask'"),
        ("--splits", "train", "unknown split 'train'"),
        ("--modules", "nowhere", "does not exist"),
        ("--temperature", "0", "temperature = 0.0: it must be positive"),
        ("--seeds", "0", "greater than or equal to 1"),
        ("--backbone", "testbed-lama", "unknown backbone 'testbed-lama'"),
    ],
)
def test_mistakes(
    option: str, value: str, message: str, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert message in mistake(capsys, quick(checkpoint, tmp_path / "run", option, value))
    assert not (tmp_path / "run").exists()


def test_weights_of_another_method_or_backbone_are_refused_before_anything_is_measured(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    backbone = load_backbone(checkpoint)
    guidance = CAA(CAAConfig(1), torch.ones(backbone.d_model))
    guidance.save(tmp_path / "caa", backbone)
    other = quick(checkpoint, tmp_path / "run", "--methods", f"iti:{tmp_path / 'caa'}")
    assert "holds caa, not iti" in mistake(capsys, other)
    elsewhere = quick(checkpoint, tmp_path / "run", "--methods", f"caa:{tmp_path / 'caa'}")
    elsewhere[elsewhere.index(str(checkpoint))] = "testbed-llama"
    assert "was fitted on" in mistake(capsys, elsewhere)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------- fit


def fitting(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        "fit", "planted", "--backbone", str(checkpoint), "--out", str(out), "--examples", "22",
        "--limit", "1", "--max-new-tokens", "3", *more,
    ]  # fmt: skip


def test_a_tuned_method_enters_the_benchmark_at_every_seed(
    checkpoint: Path, planted: ModuleType, tmp_path: Path, capsys: Captured
) -> None:
    tuned = tmp_path / "tuned" / checkpoint.name / "planted"
    assert run(fitting(checkpoint, tuned, "--tune")) == 0
    out = capsys.readouterr().out
    assert out.count("behaviour") == 5
    assert out.count("← chosen") == 1
    assert out.count("chosen by: best mean utility on the validation splits") == 1
    record = read_artifact_record(tuned)
    assert record.about["seed"] == 0
    assert record.about["tuning"]["candidates"] == 5
    assert len(planted.FITS) == 5  # the chosen one is at hand already
    assert run(fitting(checkpoint, tuned, "--tune", "--resume")) == 0
    assert len(planted.FITS) == 5
    board = tmp_path / "board"
    options = ("--methods", "planted", "--tuned", str(tmp_path / "tuned"))
    assert run([*quick(checkpoint, board, *options), "--splits", "unseen_frames"]) == 0
    assert planted.FITS[5:] == [(record.config["behaviour"], 1)]
    assert read_artifact_record(board / "fitted" / "planted" / "1").config == record.config


def test_a_configuration_can_be_given(
    checkpoint: Path, planted: ModuleType, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "mine.yaml").write_text("behaviour: refuse\nstrength: 3\n")
    out = tmp_path / "out"
    assert run(fitting(checkpoint, out, "--config", str(tmp_path / "mine.yaml"))) == 0
    assert read_artifact_record(out).config == {"behaviour": "refuse", "strength": 3.0}
    assert not (out / "tuning.parquet").exists()
    capsys.readouterr()
    (tmp_path / "bad.yaml").write_text("behavior: refuse\n")
    bad = fitting(checkpoint, tmp_path / "bad", "--config", str(tmp_path / "bad.yaml"))
    assert "did you mean 'behaviour'" in mistake(capsys, bad)
    (tmp_path / "deep.yaml").write_text("layer: 77\n")
    deep = ["fit", "caa", "--backbone", str(checkpoint), "--out", str(tmp_path / "deep")]
    line = mistake(capsys, [*deep, "--examples", "22", "--config", str(tmp_path / "deep.yaml")])
    assert f"{tmp_path / 'deep.yaml'}: layer = 77: {checkpoint} has blocks 0 to 2" in line
    assert "planted does not ship" in mistake(capsys, fitting(checkpoint, tmp_path / "none"))
    both = fitting(checkpoint, tmp_path / "both", "--tune", "--config", str(tmp_path / "mine.yaml"))
    assert "leave one of them out" in mistake(capsys, both)
    line = mistake(capsys, ["fit", "planed", "--out", str(tmp_path / "x")])
    assert "unknown method 'planed'" in line


def test_help_teaches(capsys: Captured) -> None:
    for command in ("benchmark", "fit"):
        assert run([command, "--help"]) == 0
        assert "Example" in capsys.readouterr().out
