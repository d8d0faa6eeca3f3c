"""The benchmark of rivals: what its control is trained on, and what its commands ask for."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from workbench.backbone.protocol import Backbone
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.tuning import TuningConfig
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.recipes import make_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def board() -> ModuleType:
    return load_script("benchmarks/leaderboard.py")


def test_equal_data_is_the_default_recipe_on_the_data_of_the_rivals(board: ModuleType) -> None:
    usual = make_recipe("workbench", d_model=96, n_layers=6)
    equal = board.equal_data_recipe(d_model=96, n_layers=6)
    assert equal.data == TuningConfig().data
    assert (equal.data.n_prompts, equal.data.n_pairs, equal.data.n_targets) == (1600, 1600, 600)
    assert (equal.data.filler, equal.data.composed) == (False, 0.0)
    assert equal.module.name == "equal-data"
    back = replace(equal, module=replace(equal.module, name="workbench"), data=usual.data)
    assert back == usual
    assert equal != usual


def test_equal_data_is_trained_where_run_finds_it(
    board: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[object, ...]] = []

    def train(
        model: Backbone, recipe: Recipe, data: TestbedData, folder: Path, *, seed: int, resume: bool
    ) -> None:
        trained.append((recipe.module.name, data.config, folder, seed, resume))

    monkeypatch.setattr(board, "train_into_folder", train)
    board.equal_data("testbed-gpt2", 3, tmp_path)
    folder = tmp_path / "testbed-gpt2" / "equal-data" / "3"
    assert trained == [("equal-data", TuningConfig().data, folder, 3, True)]


def test_one_command_measures_as_many_prompts_as_the_page_says(board: ModuleType) -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    limit = inspect.signature(board.run).parameters["limit"].default
    said = re.findall(r"^(\d+) harmful, (\d+) look-alike and (\d+) benign prompts", page, re.M)
    assert set(said) == {(str(limit),) * 3}
