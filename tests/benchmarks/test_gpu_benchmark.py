"""The graphics card's benchmark runs on a CPU in small, and counts what it says it counts."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/gpu.py")


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
    for line in found["libraries"]:
        assert line["failure"] is None or line["failure"] == "the time was used up"

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu:begin -->\n<!-- gpu:end -->\nafter\n")
    (tmp_path / "results").mkdir()
    script.report(tmp_path / "gpu.json", page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert f"| tiny | 1 | {first['tokens_per_s']['unguided']:.1f} |" in text
    assert text.endswith("after\n")
    made = found["provenance"]
    assert f"torch {made['packages']['torch']}, " in text
    assert f"nnsight {made['packages']['nnsight']}." in text
    if made["git"] is not None:
        assert f"Measured by: revision `{made['git']['revision'][:10]}`" in text


def test_the_libraries_are_measured_beside_the_bare_model(script: ModuleType) -> None:
    preset, line = script.tiny(), script.Libraries("tiny", 2)
    shape = preset.shapes["tiny"]
    models = script.open_everywhere(shape, "cpu", torch.float32)
    module = script.build_module(script.recipe_for(shape), "cpu")
    script.measure_libraries(line, models, module, shape, preset, "cpu", until=0.0)
    assert (line.rounds, line.cycles) == (1, 2)
    assert tuple(line.tokens_per_s) == script.LIBRARIES
    assert all(speed > 0 for speed in line.tokens_per_s.values())
    assert line.ratio["Hugging Face"] == (1.0, 1.0, 1.0)
    assert line.ratio["TransformerLens"][0] > 1.0  # twice, at this size
    assert set(line.guided_ratio) == {"r = 5", "r = 1"}
    row = script._library_row(script.asdict(line))
    assert row.startswith(f"| tiny | 2 | {line.tokens_per_s['Hugging Face']:.1f} | ")
    assert "–" not in row


def test_the_bare_model_decodes_the_tokens_that_both_libraries_decode(script: ModuleType) -> None:
    """What is compared does the same work."""
    shape = script.tiny().shapes["tiny"]
    models = script.open_everywhere(shape, "cpu", torch.float32)
    batch = script.prompts(shape, 2, 8, "cpu")
    bare = torch.stack(list(script.plain_tokens(models.plain, batch, 6)))
    for backbone in (models.lens, models.traced):
        steps = script.tokens(backbone, batch, script.NoGuidance(), 6)
        assert torch.equal(torch.stack([step.ids for step in steps]), bare)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in models.plain.modules()]
    assert sum(hooks) == 0


def test_an_older_record_shows_dashes_and_says_what_it_does_not_know(script: ModuleType) -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / "gpu.json"
    found = json.loads(path.read_text())
    for name in ("provenance", "libraries"):
        found.pop(name, None)
    text = script.page_section({**found, "versions": {"torch": "2.11.0", "transformers": "5.17.0"}})
    assert (
        "Measured by: revision not recorded; torch 2.11.0, transformers 5.17.0; transformer-lens "
        "and nnsight not recorded." in text
    )
    rows = text.split("Libraries: ")[1].split("Operations")[0]
    assert rows.count("| – | – | – | – | – | – | – | – |") == len(found["cells"])


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
