"""Budgets are those of the records that a run measured, and edges those of the grid."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from workbench.config import to_mapping
from workbench.evaluation.leaderboard.budgets import Budget, Choice, edges, read_budgets
from workbench.export.leaderboard_budgets import budgets_markdown
from workbench.guidance.artifact import read_artifact_record
from workbench.runs import RunFolder
from workbench.svgt.checkpoint import read_checkpoint_record, save_value_module
from workbench.svgt.curriculum.recipe import DataConfig

if TYPE_CHECKING:
    from conftest import TinyModel

GIVEN = DataConfig(n_prompts=8, n_pairs=9, n_targets=4)
MORE = DataConfig(n_prompts=12000, n_pairs=6000, n_targets=1600, filler=True, composed=0.3)


def test_edges_of_a_grid() -> None:
    grid = [
        {"layer": layer, "strength": 1.0, "tokens": "all", "training": {"updates": updates}}
        for layer in (1, 2, 5)
        for updates in (100, 200)
    ]

    def at(layer: int, updates: int) -> tuple[str, ...]:
        return edges({**grid[0], "layer": layer, "training": {"updates": updates}}, grid)

    assert at(2, 200) == ("training.updates: largest of 2",)
    assert at(1, 150) == ("layer: smallest of 3",)
    assert at(5, 100) == ("layer: largest of 3", "training.updates: smallest of 2")
    assert at(2, 150) == ()


@pytest.fixture
def run(
    tiny: "TinyModel", planted: ModuleType, make_module: Callable[..., Any], tmp_path: Path
) -> dict[str, Any]:
    """What a run keeps of a tuned method and of a value module that was trained into a folder."""
    place = Path(tiny.backbone.name).name
    tuning = {"rule": "the rule", "candidates": 5, "prompts_a_candidate": 12, "splits": ["s"]}
    about = {"seed": 0, "data": to_mapping(GIVEN), "tuning": tuning}
    fitted = planted.Planted(planted.PlantedConfig("wise", 2.0), tiny.embedding)
    fitted.save(tmp_path / "tuned" / place / "planted", tiny.backbone, about=about)
    module = tmp_path / "modules" / place / "workbench" / "1"
    with RunFolder.create(module, kind="train", config={"data": to_mapping(MORE)}, seed=1):
        save_value_module(module, make_module(name="workbench"), backbone=tiny.backbone)
    record = read_artifact_record(tmp_path / "tuned" / place / "planted")
    weights = read_checkpoint_record(module).weights_sha256
    identity = {"tensors_sha256": record.tensors_sha256, "config": dict(record.config)}
    refit = {"config": dict(record.config), "fit_seed": 1}
    return {
        "data": to_mapping(GIVEN),
        "methods": {
            "none": {"seeds": [0], "0": {}},
            "planted": {"seeds": [0, 1], "0": identity, "1": refit},
            "svgt": {"seeds": [1], "1": {"weights_sha256": weights}},
        },
    }


def test_budgets_are_read_from_what_the_run_measured(
    tiny: "TinyModel", run: dict[str, Any], tmp_path: Path
) -> None:
    places = {"tuned": tmp_path / "tuned", "modules": tmp_path / "modules"}
    rival, svgt = read_budgets(run, tiny.backbone, **places)
    assert rival == Budget(
        "planted",
        GIVEN,
        choice=Choice("the rule", 5, 12),
        config={"behaviour": "wise", "strength": 2.0},
        edges=("strength: largest of 4",),
    )
    assert svgt == Budget("svgt", MORE, fixed=True)
    page = budgets_markdown((rival, svgt))
    assert "| planted | 8 / 9 / 4 | – | 5 | 12 | behaviour wise, strength 2.0 | strength: " in page
    assert (
        "| svgt | 12,000 / 6,000 / 1,600 | half between filler words, 30% composed | not tuned | – "
        "| fixed beforehand | – |"
    ) in page
    assert page.endswith("Chosen by the rule: `planted`.\n")


def test_other_weights_than_those_measured_tell_nothing(
    tiny: "TinyModel", run: dict[str, Any], tmp_path: Path
) -> None:
    run["methods"]["planted"]["0"]["tensors_sha256"] = "other"
    run["methods"]["svgt"]["1"]["weights_sha256"] = "other"
    rival, svgt = read_budgets(
        run, tiny.backbone, tuned=tmp_path / "tuned", modules=tmp_path / "modules"
    )
    assert (rival.choice, rival.data) == (None, GIVEN)  # the run itself says what it fitted on
    assert (svgt.data, svgt.fixed) == (None, True)
    assert "| planted | 8 / 9 / 4 | – | not recorded | not recorded |" in budgets_markdown([rival])


def test_a_method_built_on_a_module_shows_both() -> None:
    budget = Budget("svgt-inject", GIVEN, MORE, Choice("r", 15, 192), config={"module": "m"})
    page = budgets_markdown([budget, replace(budget, method="other")])
    assert "| svgt-inject | 8 / 9 / 4; its value module 12,000 / 6,000 / 1,600 |" in page
    assert page.count("Chosen by r: `svgt-inject`, `other`.") == 1
