"""``workbench train``: a training from the command line, and one clear line for every mistake."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workbench.cli.main import run
from workbench.evaluation import testbed_training, value_training

Captured = pytest.CaptureFixture[str]
Settings = dict[str, dict[str, Any]]

STAGE = {"epochs": 1.0, "batch_size": 4, "learning_rate": 1e-3, "evaluations": 2}
TINY: Settings = {
    "module": {
        "name": "mine",
        "d_model": 16,
        "layer": 1,
        "n_bridge": 2,
        "d_value": 8,
        "encoder": {"n_heads": 2, "n_layers": 1},
        "trigger": {"kind": "windowed", "width": 8, "n_heads": 2},
        "bridge": {"n_heads": 2},
    },
    "curriculum": {
        "unconditional": STAGE,
        "conditional": STAGE,
        "bridge": STAGE,
        "trigger_weight": 1.0,
    },
    "data": {"n_prompts": 16, "n_pairs": 16, "n_targets": 8, "n_validation": 40},
}


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 1)
    monkeypatch.setattr(testbed_training, "_NEW_TOKENS", 4)


def changed(section: str, key: str, value: object) -> Settings:
    return {**TINY, section: {**TINY[section], key: value}}


@pytest.fixture
def config(tmp_path: Path) -> Callable[[Settings], str]:
    """Writes a recipe file and gives its path."""

    def write(settings: Settings) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def arguments(checkpoint: Path, tmp_path: Path) -> list[str]:
    return ["train", "--backbone", str(checkpoint), "--out", str(tmp_path / "out")]


def mistake(capsys: Captured, *given: str) -> str:
    """The one line on stderr of a command that must fail with exit code 2."""
    capsys.readouterr()
    assert run(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


# ---------------------------------------------------------------------------------- it trains


def test_a_training_writes_a_module_that_generate_uses(
    arguments: list[str],
    config: Callable[[Settings], str],
    checkpoint: Path,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    out = tmp_path / "out"
    assert run([*arguments, "--config", config(TINY), "--seed", "1"]) == 0
    said = capsys.readouterr()
    assert said.out == f"value module written to {out}; use it with --guidance svgt:{out}\n"
    lines = [line for line in said.err.splitlines() if "validation" in line]
    for stage, names in {
        "1 texts": ("accuracy", "f1", "auroc"),
        "2 pairs": ("accuracy", "f1", "auroc", "ambiguous_auroc", "trigger_auroc"),
        "3 bridge": ("ce", "safety", "norm", "harm_rate"),
    }.items():
        told = [line for line in lines if line.startswith(stage)]
        assert len(told) == 3  # before the first step, in the middle and at the end
        for line in told:
            assert all(re.search(rf" {name} (\d+\.\d{{3}}|nan)", line) for name in names), line
    assert "total" in said.err  # the bars show the losses
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["status"], record["seed"]) == ("train", "finished", 1)
    assert record["config"]["module"]["name"] == "mine"
    assert record["config"]["data"]["n_prompts"] == 16
    assert (out / "metrics.parquet").exists()
    assert (out / "summary.json").exists()
    guided = ["--guidance", f"svgt:{out}", "--prompt", "how do i bake my cake ?"]
    short = ["--max-new-tokens", "3", "--json"]
    assert run(["generate", "--backbone", str(checkpoint), *guided, *short]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == str(out)


def test_the_default_is_the_workbench_recipe(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        value_training, "train_into_folder", lambda *args, **_: given.append(args) or "trained"
    )
    assert run(arguments) == 0
    assert run([*arguments, "--config", "input-only"]) == 0
    assert [args[1].module.name for args in given] == ["workbench", "input-only"]
    assert [args[1].module.d_model for args in given] == [16, 16]
    assert given[0][3] == tmp_path / "out"


# ------------------------------------------------------------------------------ it goes on


def test_an_interrupted_training_goes_on_and_ends_the_same(
    arguments: list[str],
    config: Callable[[Settings], str],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workbench.cli import _training as command

    recipe = ["--config", config(TINY)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run([*arguments[:-1], str(whole), *recipe]) == 0
    show = command.StageBoard.show

    def interrupted(self: Any, event: Any) -> None:  # noqa: ANN401 - as the original
        show(self, event)
        if (event.stage, event.step) == ("conditional", 1):
            raise KeyboardInterrupt

    begin = [*arguments[:-1], str(cut), *recipe]
    with monkeypatch.context() as patch:
        patch.setattr(command.StageBoard, "show", interrupted)
        assert run(begin) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: interrupted; the same command with --resume goes on"
    assert not (cut / "svgt.json").exists()
    assert "resume it, or choose a new folder" in mistake(capsys, *begin)
    assert run([*begin, "--resume"]) == 0
    for name in ("svgt.safetensors", "metrics.parquet", "summary.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    capsys.readouterr()
    assert run([*begin, "--resume"]) == 0
    assert "nothing was left to resume" in capsys.readouterr().out
    other = mistake(capsys, *begin, "--resume", "--seed", "5")
    assert "seed was 0, now 5" in other
    changed_recipe = ["--config", config(changed("curriculum", "trigger_weight", 2.0))]
    line = mistake(capsys, *arguments[:-1], str(cut), *changed_recipe, "--resume")
    assert "curriculum.trigger_weight was 1.0, now 2.0" in line
    reseeded = tmp_path / "reseeded"
    assert run([*arguments[:-1], str(reseeded), *recipe, "--seed", "5"]) == 0
    weights = [(folder / "svgt.safetensors").read_bytes() for folder in (whole, reseeded)]
    assert weights[0] != weights[1]


def test_a_folder_of_other_things_is_left_alone(
    arguments: list[str], config: Callable[[Settings], str], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "thesis.tex" in mistake(capsys, *arguments, "--config", config(TINY))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


# --------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("module", "n_brigde", 2, "'module.n_brigde' (did you mean 'n_bridge'?)"),
        ("curriculum", "bridges", STAGE, "'curriculum.bridges' (did you mean 'bridge'?)"),
        ("data", "n_promts", 3, "'data.n_promts' (did you mean 'n_prompts'?)"),
        ("module", "n_bridge", 0, "n_bridge = 0: at least one bridge token is needed"),
        ("module", "n_bridge", "two", "'module.n_bridge' must be a whole number"),
        ("module", "layer", 2, "recipe.yaml: module.layer = 2 is out of range"),
        ("module", "layer", -1, "layer = -1: blocks count from 0"),
        ("module", "d_model", 96, "recipe.yaml: module.d_model = 96: "),
        ("module", "gate", "sometimes", "must be one of 'always', 'threshold'"),
        ("curriculum", "label_smoothing", 0.7, "label_smoothing must be in [0, 0.5)"),
        ("curriculum", "bridge", {"epochs": -1.0}, "epochs must be positive"),
        ("curriculum", "bridge", {"clip": -1.0}, "clip positive"),
        ("data", "n_pairs", 0, "n_pairs"),
        ("data", "composed", 2.0, "composed must be in [0, 1]"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(
    arguments: list[str],
    config: Callable[[Settings], str],
    tmp_path: Path,
    capsys: Captured,
    section: str,
    key: str,
    value: object,
    message: str,
) -> None:
    recipe = config(changed(section, key, value))
    assert message in mistake(capsys, *arguments, "--config", recipe)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_be_read_is_named(
    arguments: list[str], tmp_path: Path, capsys: Captured
) -> None:
    recipe = tmp_path / "recipe.yaml"
    assert "recipe.yaml" in mistake(capsys, *arguments, "--config", str(recipe))
    recipe.write_bytes(b"module:\n  name: caf\xe9\n")
    assert "not UTF-8" in mistake(capsys, *arguments, "--config", str(recipe))
    recipe.write_text("module: [", encoding="utf-8")
    assert "not valid YAML" in mistake(capsys, *arguments, "--config", str(recipe))
    recipe.write_text("", encoding="utf-8")
    assert "missing key 'module'" in mistake(capsys, *arguments, "--config", str(recipe))


def test_an_unknown_recipe_is_told_the_names(
    arguments: list[str], tmp_path: Path, capsys: Captured
) -> None:
    line = mistake(capsys, *arguments, "--config", "workbench-lsta")
    assert "unknown configuration 'workbench-lsta'" in line
    assert "workbench-lstar, paper, paper-fixed, input-only" in line
    assert not (tmp_path / "out").exists()


def test_unknown_and_damaged_backbones_are_named(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "testbed-lama" in mistake(capsys, "train", "--backbone", "testbed-lama", *out)
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "broken" in mistake(capsys, "train", "--backbone", str(broken), *out)
    weights.unlink()
    assert "broken" in mistake(capsys, "train", "--backbone", str(broken), *out)
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_says_what_to_do(
    arguments: list[str], config: Callable[[Settings], str], capsys: Captured
) -> None:
    wild = changed("curriculum", "bridge", {**STAGE, "learning_rate": 1e15})
    assert run([*arguments, "--config", config(wild)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # below the bars of what went before
    assert line.startswith("error: ")
    assert "stage bridge diverged at step" in line
    assert "lower the learning rate" in line


def test_missing_and_impossible_options(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    assert "--out" in mistake(capsys, "train", "--backbone", str(checkpoint))
    assert "--backbone" in mistake(capsys, "train", "--out", str(tmp_path / "out"))
    given = ["train", "--backbone", str(checkpoint), "--out", str(tmp_path / "out")]
    assert "--seed" in mistake(capsys, *given, "--seed", "-1")
    assert "--stepz" in mistake(capsys, *given, "--stepz", "3")


def test_help_teaches(capsys: Captured) -> None:
    assert run(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for taught in ("three stages", "frozen", "--resume", "--seed", "--config", "YAML", "Example"):
        assert taught in out, taught
    assert "workbench train --backbone testbed-llama --out runs/mine" in " ".join(out.split())


def test_a_printed_configuration_is_read_back(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.config import load_yaml
    from workbench.svgt.curriculum import Recipe
    from workbench.svgt.recipes import make_recipe

    asked = ["train", "--backbone", str(checkpoint), "--config", "paper-fixed", "--print-config"]
    assert run(asked) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_yaml(Recipe, path) == make_recipe("paper-fixed", d_model=16, n_layers=3)


def test_nothing_to_resume_and_nowhere_to_write(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ["train", "--backbone", str(checkpoint)]
    assert "nothing to resume" in mistake(
        capsys, *begin, "--out", str(tmp_path / "mistyped"), "--resume"
    )
    assert not (tmp_path / "mistyped").exists()
    assert "--out FOLDER" in mistake(capsys, *begin)
    assert "--seed" in mistake(capsys, *begin, "--out", str(tmp_path / "x"), "--seed", f"{2**63}")
