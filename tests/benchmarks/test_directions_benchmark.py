"""The directions benchmark keeps its contract, and its loop fits what the batches fit."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "directions.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/directions.py")


def test_last_line_is_one_json_object_with_the_agreed_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--small"],
        check=True,
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["loop_over_batched"] > 0
    assert 0 < result["peak_memory_gib"] < 2
    names = ["mean_difference", "mass_mean", "lda", "logistic", "lat", "ccs"]
    assert list(result["estimators"]) == names
    cells = 2 * 2 * 5
    for timing in result["estimators"].values():
        assert 0 < timing["looped_cells"] <= 5
        extrapolated = timing["looped_seconds"] * cells / timing["looped_cells"]
        assert timing["loop"] == pytest.approx(extrapolated)
        assert timing["ratio"] == pytest.approx(timing["loop"] / timing["batched"])


def test_the_full_size_is_the_one_announced(script: ModuleType) -> None:
    size = script.Size()
    assert (size.layers, size.contexts, size.resamples, size.width) == (12, 10, 200, 768)
    assert size.contexts * size.examples == 2000
    assert size.cells == 24_000
    assert set(script.LOOPS) == set(script.LOOPED_CELLS) == set(script.ESTIMATORS)


@pytest.mark.parametrize("name", ["mean_difference", "mass_mean", "lda", "logistic", "lat", "ccs"])
def test_both_ways_fit_the_same_directions(script: ModuleType, name: str) -> None:
    """To single precision; scikit-learn's logistic regression to its own tolerance."""
    context = script.draw_context(script.SMALL, 1)
    options = script.options_for(context)
    batched = script.fit_batched(name, context, options).numpy()
    tolerance = 1e-2 if name == "logistic" else 1e-3
    for layer in range(2):
        for resample in range(5):
            one = script.fit_one(name, context, options, layer=layer, resample=resample)
            assert abs(one - batched[layer, resample]).max() < tolerance
