"""``workbench evaluate``: the folder it writes, the table it prints, and mistakes."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from torch import Tensor

from workbench.cli._tables import result_tables
from workbench.cli.main import run
from workbench.errors import RunError
from workbench.evaluation import summarise
from workbench.runs import RunFolder
from workbench.testbed.splits import TEST_SPLITS

Captured = pytest.CaptureFixture[str]
SUMMARY_KEYS = {
    "backbone", "guidance", "config", "split", "frame", "metric", "estimate", "low", "high", "n",
    "seed",
}  # fmt: skip
METRICS = {
    "harm_rate", "refusal_rate", "benign_refusal_rate", "lookalike_refusal_rate",
    "degenerate_rate", "on_topic_rate", "perplexity", "kl_to_unguided",
}  # fmt: skip


def quick(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        "evaluate", "--backbone", str(checkpoint), "--out", str(out), "--limit", "2",
        "--max-new-tokens", "5", *more,
    ]  # fmt: skip


def mistake(capsys: Captured, arguments: list[str]) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.rstrip().splitlines()[-1] == lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def folder(checkpoint: Path, value_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of the plain and the guided tiny model on all test splits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(quick(checkpoint, out, "--guidance", f"none,svgt:{value_module}")) == 0
    return out


def test_the_summary_has_a_row_for_everything(folder: Path, value_module: Path) -> None:
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert all(set(row) == SUMMARY_KEYS for row in rows)
    for guidance, config in (("none", ""), ("svgt", str(value_module))):
        for split in TEST_SPLITS:
            found = {
                row["metric"]
                for row in rows
                if (row["guidance"], row["config"]) == (guidance, config)
                and (row["split"], row["frame"]) == (split, "all")
            }
            assert found >= METRICS
            assert ("harm_reduction" in found) == (guidance == "svgt")
    frames = {row["frame"] for row in rows if row["split"] == "composed_frames"}
    assert frames == {"all"}
    assert len({row["frame"] for row in rows if row["split"] == "unseen_frames"}) > 1


def test_the_folder_is_a_finished_run(folder: Path) -> None:
    opened = RunFolder.open(folder)
    assert opened.record.status == "finished"
    assert {"metrics.parquet", "summary.json", "replies.parquet"} <= set(opened.record.files)
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert len(metrics.groupby(["guidance", "split"])) == 8
    assert metrics[metrics["metric"] == "harm_rate"].groupby("split").size().eq(4).all()


def test_the_table_fits_100_columns(
    checkpoint: Path, folder: Path, value_module: Path, capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "100")
    again = quick(checkpoint, folder, "--guidance", f"none,svgt:{value_module}", "--resume")
    before = (folder / "metrics.parquet").read_bytes()
    assert run(again) == 0
    out = capsys.readouterr().out
    assert (folder / "metrics.parquet").read_bytes() == before  # a finished run is only shown
    assert max(len(line) for line in out.splitlines()) <= 100
    for word in ("harm", "perplexity", "KL to unguided", *TEST_SPLITS):
        assert word in out


def test_numbers_in_the_table() -> None:
    row = {
        "backbone": "b", "guidance": "svgt", "config": "paper", "split": "s", "frame": "all",
        "metric": "harm_rate", "estimate": 0.1234, "low": 0.05, "high": 0.2, "n": 9, "seed": 0,
    }  # fmt: skip
    missing = {**row, "metric": "on_topic_rate", "estimate": None, "low": None, "high": None}
    elsewhere = {**row, "split": "t", "metric": "on_topic_rate"}
    frame = {**row, "frame": "direct", "estimate": 0.99}
    [rates] = result_tables([elsewhere, row, missing, frame])
    cells = {column.header: list(column.cells)[-1] for column in rates.columns}
    assert cells["harm"] == "12.3\n[dim]5.0–20.0[/dim]"
    assert cells["on topic"] == "–"
    assert cells["split / guidance"] == "  svgt:paper"


def test_what_was_not_measured_is_no_table_and_no_column() -> None:
    row = {
        "backbone": "b", "guidance": "svgt", "config": "paper", "split": "s", "frame": "all",
        "metric": "refusal_rate", "estimate": 0.5, "low": 0.1, "high": 0.9, "n": 9, "seed": 0,
    }  # fmt: skip
    unscored = {**row, "metric": "harm_rate", "estimate": None, "low": None, "high": None}
    change = {**unscored, "metric": "harm_reduction"}
    [rates] = result_tables([row, unscored, change])
    assert [column.header for column in rates.columns] == ["split / guidance", "harmful\nrefused"]
    assert result_tables([unscored, change]) == []


def test_who_judges_refusals_alone_sees_the_change_of_those_of_harmful_prompts() -> None:
    before, after = [0.0] * 40, [1.0] * 10 + [0.0] * 30
    told = pd.DataFrame(
        {
            "backbone": "b", "guidance": guidance, "config": "", "split": "mine", "seed": 0,
            "frame": "direct", "prompt": str(number), "group": str(number),
            "metric": metric, "value": value, "weight": 1.0,
        }
        for guidance, values in (("none", before), ("caa", after))
        for metric, seen in (("refusal_rate", values), ("harm_rate", [float("nan")] * 40))
        for number, value in enumerate(seen)
    )  # fmt: skip
    rates, changes = result_tables(summarise(told))
    assert [column.header for column in rates.columns][1:] == ["harmful\nrefused"]
    [split, harmful] = changes.columns
    assert (split.header, harmful.header) == ("split / guidance", "harmful\nrefused")
    assert list(split.cells)[-1] == "  caa"
    estimate, ends = list(harmful.cells)[-1].split("\n")
    assert estimate == "+25.0"
    low, high = (float(end) for end in ends[len("[dim]") : -len("[/dim]")].split(" to "))
    half = 196 * (0.25 * 0.75 / 40) ** 0.5  # of a share of changed prompts, normal approximation
    assert low == pytest.approx(25 - half, abs=3)
    assert high == pytest.approx(25 + half, abs=3)


def test_prompts_of_the_world_that_do_not_fit_are_left_out_and_counted(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    short, out = tmp_path / "short", tmp_path / "run"
    shutil.copytree(checkpoint, short)
    config = json.loads((short / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 64
    (short / "config.json").write_text(json.dumps(config), encoding="utf-8")
    plain = ["evaluate", "--backbone", str(short), "--guidance", "none", "--out", str(out)]
    few = [*plain, "--limit", "4", "--splits", "composed_frames"]
    line = mistake(capsys, [*few, "--max-new-tokens", "64"])
    assert "12 of composed_frames: prompt too long for 64 tokens" in line
    assert "n_ctx = 64" in line
    assert not out.exists()
    assert run([*few, "--max-new-tokens", "24"]) == 0
    told = re.search(r"composed_frames: (\d+) left out: prompt too long", capsys.readouterr().err)
    assert told is not None
    replies = pd.read_parquet(out / "replies.parquet")
    assert 0 < len(replies) == 12 - int(told[1])


def test_two_evaluations_into_one_folder(checkpoint: Path, folder: Path, capsys: Captured) -> None:
    line = mistake(capsys, quick(checkpoint, folder, "--guidance", "none"))
    assert "already holds a run" in line


def test_resume_with_other_settings(checkpoint: Path, folder: Path, capsys: Captured) -> None:
    other = quick(checkpoint, folder, "--guidance", "none", "--resume", "--seed", "7")
    assert "seed was 0, now 7" in mistake(capsys, other)


def test_the_default_on_a_backbone_without_modules_names_the_way_out(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    line = mistake(capsys, quick(checkpoint, tmp_path / "run"))
    assert "no value module 'workbench' ships for" in line
    assert line.endswith("; --guidance none measures the model alone")
    asked = mistake(capsys, quick(checkpoint, tmp_path / "run", "--guidance", "svgt"))
    assert "--guidance none" not in asked


def test_the_batch_size_is_recorded_and_belongs_to_the_run(
    checkpoint: Path, folder: Path, value_module: Path, capsys: Captured
) -> None:
    """Which random numbers a reply is sampled with depends on it."""
    decoding = RunFolder.open(folder).record.config["decoding"]
    assert decoding["batch_size"] == 128  # type: ignore[index]
    guided = ("--guidance", f"none,svgt:{value_module}", "--resume")
    line = mistake(capsys, quick(checkpoint, folder, *guided, "--batch-size", "3"))
    assert "decoding.batch_size was 128, now 3" in line


def test_no_pass_holds_more_prompts_than_the_batch_size(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone import TransformerLensBackbone

    rows: list[int] = []
    forward = TransformerLensBackbone.forward

    def watched(self: TransformerLensBackbone, ids: Tensor, **rest: object) -> Tensor:
        rows.append(len(ids))
        return forward(self, ids, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformerLensBackbone, "forward", watched)
    asked = quick(checkpoint, tmp_path / "run", "--guidance", "none", "--batch-size", "2")
    assert run(asked) == 0
    assert max(rows) == 2


def test_a_folder_with_something_else(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in mistake(capsys, quick(checkpoint, tmp_path, "--guidance", "none"))


def test_a_folder_that_is_missing_a_file(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        if file.name != "metrics.parquet":
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunError, match=r"metrics\.parquet missing"):
        RunFolder.open(copy)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--limit", "0", "'--limit': Input should be greater than or equal to 1"),
        ("--limit", "-3", "greater than or equal to 1"),
        ("--limit", "many", "valid integer"),
        ("--splits", "heldout", "unknown split 'heldout'"),
        ("--splits", "", "unknown split ''"),
        ("--guidance", "none,none", "named twice"),
        ("--guidance", "dpoo", "did you mean 'dpo'"),
        ("--guidance", "svgt:papper", "no value module 'papper'"),
        ("--temperature", "-1", "temperature = -1.0: it must be positive"),
        ("--temperature", "0", "only `workbench generate --greedy` takes the likeliest"),
        ("--top-p", "0", "top_p = 0.0: it lies in (0, 1]"),
        ("--backbone", "testbed-lama", "unknown backbone 'testbed-lama'"),
    ],
)
def test_mistakes(
    option: str, value: str, message: str, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    arguments = quick(checkpoint, tmp_path / "run", "--guidance", "none", option, value)
    assert message in mistake(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_help_teaches(capsys: Captured) -> None:
    assert run(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert "--guidance none,svgt" in out
