"""The graphics card's benchmark runs on a CPU in small, and counts what it says it counts."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_a_small_run_measures_every_cell_and_its_report_fills_the_page(
    script: ModuleType, tmp_path: Path
) -> None:
    script.run(tmp_path, device="cpu", preset="tiny", seconds=6.0)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [cell["batch"] for cell in found["cells"]] == [1, 2]
    for cell in found["cells"]:
        assert cell["failure"] is None or cell["failure"] == "the time was used up"
    first = found["cells"][0]
    assert first["failure"] is None
    assert set(first["ratio"]) == {"unguided", "unguided again", "r = 5", "r = 1"}
    assert first["ratio"]["unguided"] == [1.0, 1.0, 1.0]
    assert all(speed > 0 for speed in first["tokens_per_s"].values())

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu:begin -->\n<!-- gpu:end -->\nafter\n")
    (tmp_path / "results").mkdir()
    script.report(tmp_path / "gpu.json", page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert f"| tiny | 1 | {first['tokens_per_s']['unguided']:.1f} |" in text
    assert text.endswith("after\n")


@pytest.mark.parametrize(
    ("name", "millions"), [("Qwen2-1.5B", 1544), ("Llama-3.2-3B", 3213), ("Mistral-7B", 7242)]
)
def test_the_shapes_are_those_of_the_models(script: ModuleType, name: str, millions: int) -> None:
    with torch.device("meta"):
        model = script.AutoModelForCausalLM.from_config(script.paper().shapes[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_a_cycle_holds_one_refresh_and_leftovers_are_dropped(script: ModuleType) -> None:
    steps = [1.0, 1.0, 1.0, 1.0, 3.0] * 2 + [100.0]
    assert script.in_cycles(steps) == [7.0, 7.0]
    assert script.spread([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.1, 2.9))


def test_bytes_of_a_step_are_weights_and_keys_and_values(script: ModuleType) -> None:
    shape = script.tiny().shapes["tiny"]
    built = script.build(shape, "cpu", torch.bfloat16)
    one, two = (script.step_bytes(built, rows, 10) for rows in (1, 2))
    assert two - one == 10 * 2 * 4 * 2 * 16 * 2  # columns, k and v, blocks, heads, width, bytes
    weights = built.n_parameters - 256 * 64  # the embedding is looked up
    assert one == 2 * weights + two - one


def test_a_cell_that_fails_says_why_and_the_rest_goes_on(script: ModuleType) -> None:
    cell = script.Cell("a", 1)
    with script.guarded(cell):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
    assert cell.failure == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
