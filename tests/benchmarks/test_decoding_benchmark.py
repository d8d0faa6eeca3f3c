"""The decoding benchmark keeps its contract, and its two-pass loop is the method it stands for."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import load_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "decoding.py"
RATIOS = {
    "guided_over_unguided_r1",
    "guided_over_unguided_r5",
    "two_pass_over_guided",
    "peak_memory_over_unguided",
    "batch16_tokens_per_s_over_batch1",
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/decoding.py")


def test_last_line_is_one_json_object_with_the_agreed_ratios() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--small", "--repeats", "1"],
        check=True,
        capture_output=True,
        text=True,
        cwd=SCRIPT.parents[1],
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(result) >= RATIOS
    assert all(0 < result[name] < 1000 for name in RATIOS)


def test_the_benchmarked_model_is_as_large_as_gpt2_small(script: ModuleType) -> None:
    size = script.full_size()
    with torch.device("meta"):
        model = script.GPT2LMHeadModel(size.model)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert (size.n_prompt, size.n_new) == (64, 48)


def test_both_ways_generate_the_same_tokens_while_the_bridge_is_constant(
    script: ModuleType,
) -> None:
    """Up to the first refresh they are the same method."""
    import copy

    from workbench.guidance import GREEDY, SVGTBridge, generate

    size = script.small_size()
    model, module = script.build(size)
    published = copy.deepcopy(model)
    batch = script.prompts(size, 1)
    theirs = script.decode_in_two_passes(published, module, batch.ids, 5)
    backbone = script.wrapped(model)
    [ours] = generate(
        backbone,
        batch,
        SVGTBridge(module, refresh=None),
        max_new_tokens=5,
        sampling=GREEDY,
        stop=(),
    )
    assert theirs[0].tolist() == list(ours.ids)
