"""The benchmark of the two pathways: known scores have known AUROCs, and seeds count."""

from types import ModuleType

import numpy as np
import pytest
from scripts import load_script

from workbench.backbone import load_backbone
from workbench.data.example import Message
from workbench.data.training import LabelledPair
from workbench.guidance.registry import find_value_module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/discrimination.py")


def _pairs(n: int) -> list[LabelledPair]:
    asked = (Message("user", "how ?"),)
    return [
        LabelledPair(asked, "here is how .", bool(i % 2), ambiguous=True, group=f"g{i // 4}")
        for i in range(n)
    ]


def test_a_perfect_and_a_blind_pathway(script: ModuleType) -> None:
    pairs = _pairs(80)
    harmful = np.array([float(pair.harmful) for pair in pairs])
    blind, perfect = np.zeros((3, 80)), np.stack([harmful] * 3)
    found = script.estimates(blind, perfect, pairs, np.random.default_rng(0), n_resamples=50)
    assert [found[name].estimate for name in (script.ALONE, script.GIVEN_PROMPT)] == [0.5, 1.0]
    assert found[script.DIFFERENCE].estimate == 0.5
    assert (found[script.GIVEN_PROMPT].low, found[script.GIVEN_PROMPT].high) == (1.0, 1.0)
    assert (found[script.ALONE].n, found[script.ALONE].n_clusters) == (80, 20)


def test_seeds_that_disagree_widen_the_interval(script: ModuleType) -> None:
    pairs = _pairs(80)
    harmful = np.array([float(pair.harmful) for pair in pairs])
    noise = np.random.default_rng(0).normal(size=80)
    good, poor = harmful + 0.3 * noise, 0.5 * harmful + noise
    flat = np.zeros((2, 80))

    def width(*scores: np.ndarray) -> float:
        found = script.estimates(
            flat, np.stack(scores), pairs, np.random.default_rng(0), n_resamples=50
        )[script.GIVEN_PROMPT]
        return float(found.high - found.low)

    assert width(good, poor) > 2 * max(width(good, good), width(poor, poor))


def test_seed_0_is_what_ships_and_a_missing_seed_is_left_out(
    script: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backbone = load_backbone("testbed-llama")
    modules = tmp_path_factory.mktemp("modules")
    here = modules / "testbed-llama" / "paper" / "2"
    here.parent.mkdir(parents=True)
    here.symlink_to(find_value_module("paper", backbone))
    found = script.modules_of(backbone, "paper", modules, 4)
    assert len(found) == 2
    assert len(script.modules_of(backbone, "paper", modules, 1)) == 1


def test_the_table_has_a_line_for_every_three_rows(script: ModuleType) -> None:
    pairs = _pairs(40)
    scores = np.stack([np.array([float(pair.harmful) for pair in pairs])] * 2)
    found = script.estimates(scores, scores, pairs, np.random.default_rng(0), n_resamples=20)
    rows = [script.row_of("b", "c", what, each, 2) for what, each in found.items()]
    assert script.table(rows).splitlines()[2:] == [
        "| b | `c` | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] | 40 | 2 |"
    ]
