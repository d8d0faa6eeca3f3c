"""Scripts in benchmarks/: what they train, what they refuse, how their tables read."""

import contextlib
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import typer
from scripts import load_script

from workbench.runs import RunFolder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def embedded() -> ModuleType:
    return load_script("benchmarks/embedded.py")


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return load_script("benchmarks/findings.py")


def test_a_training_passes_over_what_another_process_trains(
    embedded: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(**chosen: object) -> str:
        embedded.train(backbone="testbed-llama", runs=tmp_path, **chosen)
        return capsys.readouterr().err

    with contextlib.ExitStack() as owned:
        for name in ("paper", "input-only"):
            for seed in (1, 2):
                folder = tmp_path / "train" / "testbed-llama" / name / str(seed)
                owned.enter_context(RunFolder.create(folder, kind="train", config={}, seed=seed))
        said = train(only="paper,input-only", from_seed=1, seeds=3)
    assert [line.split(" is in use")[0] for line in said.splitlines()] == [
        f"passed over: {tmp_path}/train/testbed-llama/{name}/{seed}"
        for seed in (1, 2)
        for name in ("paper", "input-only")
    ]
    assert not (tmp_path / "train" / "testbed-llama" / "workbench").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["train", "--backbone", "testbed-lama"], "error: unknown backbone 'testbed-lama'"),
        (["ship", "--runs", "nowhere"], "error: no trained module at nowhere/train/testbed-llama"),
    ],
)
def test_a_mistake_is_one_line(
    embedded: ModuleType,
    asked: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["embedded.py", *asked])
    with pytest.raises(SystemExit) as ended:
        embedded.run_script(embedded.app)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"only": "papre"}, "unknown configuration papre"),
        ({"from_seed": 3, "seeds": 3}, "leaves none of --seeds 3"),
    ],
)
def test_a_training_of_nothing_is_a_mistake(
    embedded: ModuleType, tmp_path: Path, chosen: dict[str, object], message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        embedded.train(backbone="testbed-llama", runs=tmp_path, **chosen)
    assert not list(tmp_path.iterdir())


def _records(**changes: object) -> pd.DataFrame:
    row = {
        "backbone": "testbed-llama", "metric": "m", "context_a": "", "site": "z", "layer": 3,
        "estimate": 0.5, "low": 0.25, "high": 0.75, "null": 1.0, "n": 7,
    }  # fmt: skip
    other = {**row, "backbone": "testbed-gpt2", "estimate": float("nan")}
    in_one_context = {**row, "context_a": "direct", "estimate": 9.0}
    return pd.DataFrame([row, other, in_one_context, {**row, "layer": 4, **changes}])


def test_a_table_of_findings_holds_the_numbers_over_all_contexts(findings: ModuleType) -> None:
    wanted = findings.TableSpec("instability", "metric == 'm'", ("site", "layer"))
    assert findings.table(_records(estimate=0.125, null=float("nan")), wanted) == (
        "| site | layer | testbed-llama | testbed-gpt2 |\n"
        "|---|---|---|---|\n"
        "| z | 3 | 0.500 [0.250, 0.750], control 1.00 (n 7) | – |\n"
        "| z | 4 | 0.125 [0.250, 0.750] (n 7) | – |"
    )


def test_two_records_for_one_cell_are_refused(findings: ModuleType) -> None:
    from workbench.errors import RunError

    wanted = findings.TableSpec("instability", "metric == 'm'", ("site", "layer"))
    with pytest.raises(RunError, match="several for one cell"):
        findings.table(_records(layer=3), wanted)


def test_every_metric_of_the_shipped_records_is_explained() -> None:
    found = sorted((ROOT / "docs" / "results" / "findings").glob("*/*/records.parquet"))
    assert len(found) == 9  # three backbones, three probes
    metrics = set().union(*(set(pd.read_parquet(path)["metric"]) for path in found))
    explained = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
    assert [name for name in sorted(metrics) if f"`{name}`" not in explained] == []
