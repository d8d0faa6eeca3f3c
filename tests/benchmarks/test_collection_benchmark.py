"""The collection benchmark keeps its contract, and all contestants read the same states."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import load_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "collection.py"
RATIOS = {"collect_over_run_with_cache", "collect_over_filtered"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/collection.py")


@pytest.mark.slow
def test_last_line_is_one_json_object_with_the_agreed_ratios() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--small", "--repeats", "1"],
        check=True,
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["batch_size"] == 16
    for model in ("gpt2-small", "embedded"):
        assert all(0 < result[model][name] < 1000 for name in RATIOS)


def test_the_benchmarked_models_are_as_large_as_they_are_called(script: ModuleType) -> None:
    gpt2, embedded = script.full_sizes()
    with torch.device("meta"):
        model = script.GPT2LMHeadModel(gpt2.model)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert (embedded.model.n_layer, embedded.model.n_embd) == (6, 96)


def test_all_contestants_read_the_same_states(script: ModuleType) -> None:
    contestants = script.build(script.small_sizes()[0])
    plain = script.looped(contestants, filtered=False)
    assert plain.shape == (5, 24, 64)
    assert torch.equal(script.looped(contestants, filtered=True), plain)
    # relative to the largest state: batches of 16 sum in another order
    torch.testing.assert_close(
        script.collected(contestants), plain, rtol=0, atol=1e-5 * float(plain.abs().max())
    )
