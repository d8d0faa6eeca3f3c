"""Every named configuration builds, fits, survives a file, and is what its description says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.config import dump_yaml, from_mapping, to_mapping
from workbench.errors import ConfigError
from workbench.svgt import ValueModule, recipes
from workbench.svgt.config import EMBEDDING_LAYER
from workbench.svgt.curriculum import CurriculumConfig, Recipe, StageConfig
from workbench.svgt.objectives import BridgeLossWeights
from workbench.svgt.recipes import (
    DEFAULT_RECIPE,
    RECIPES,
    default_layer,
    make_recipe,
    named_recipe,
    require_fit,
)

SIZES = [(96, 6), (90, 5), (768, 12), (1536, 28), (2304, 26)]
WIDTHS_AND_DEPTHS = [pytest.param(*size, id=f"{size[0]}x{size[1]}") for size in SIZES]


def small(name: str) -> Recipe:
    return make_recipe(name, d_model=96, n_layers=6)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("d_model", "n_layers"), WIDTHS_AND_DEPTHS)
def test_every_recipe_fits_every_size(name: str, d_model: int, n_layers: int) -> None:
    recipe = make_recipe(name, d_model=d_model, n_layers=n_layers)
    recipe.module.validate_for(n_layers=n_layers, d_model=d_model, backbone="a backbone")
    assert recipe.module.name == name
    assert recipe.module.d_model == d_model
    module = ValueModule(recipe.module)
    states = {layer: torch.randn(2, 4, d_model) for layer in module.capture_layers}
    with torch.no_grad():
        write = module.write_bridge(states, torch.ones(2, 4, dtype=torch.bool))
    assert write.bridge.shape == (2, recipe.module.n_bridge, d_model)
    assert write.bridge.isfinite().all()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("d_model", "n_layers"), WIDTHS_AND_DEPTHS)
def test_a_recipe_written_to_a_file_is_read_back(name: str, d_model: int, n_layers: int) -> None:
    recipe = make_recipe(name, d_model=d_model, n_layers=n_layers)
    assert from_mapping(Recipe, to_mapping(recipe), where="test") == recipe


@pytest.mark.parametrize("name", ["workbnech", "", "PAPER", "none"])
def test_an_unknown_recipe_is_told_the_names(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_recipe(name, d_model=96, n_layers=6)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in RECIPES)


def test_the_default_is_a_recipe_and_all_are_described() -> None:
    assert DEFAULT_RECIPE in RECIPES
    assert len(set(RECIPES)) == len(RECIPES)
    assert recipes.__doc__ is not None
    assert all(f"``{name}``" in recipes.__doc__ for name in RECIPES)


def test_the_default_layer_ends_the_second_third_and_leaves_a_block_above_it() -> None:
    for n_layers in range(2, 81):
        layer = default_layer(n_layers)
        assert 0 <= layer <= n_layers - 2
        assert abs(layer + 1 - 2 * n_layers / 3) <= 1


def test_the_default_layer_of_gpt2_is_the_published_one() -> None:
    assert default_layer(12) == 7


# -------------------------------------------------------------------- what each promises to be


def test_paper_trains_as_published() -> None:
    """AdamW 1e-4, 5e-4 and 1e-5, 5e-4; five epochs; batches of 8, 8, 4; (0.5, 2, 0.1)."""
    published = StageConfig(
        epochs=5.0, learning_rate=1e-4, batch_size=8, weight_decay=1e-5, clip=1.0,
        schedule="constant",
    )  # fmt: skip
    assert small("paper").curriculum == CurriculumConfig(
        unconditional=published,
        conditional=replace(published, learning_rate=5e-4, old_rate=1e-5),
        bridge=replace(published, learning_rate=5e-4, batch_size=4),
        trigger_weight=0.0,
        label_smoothing=0.0,
        bridge_loss=BridgeLossWeights(ce=0.5, safety=2.0, norm=0.1),
    )


def test_paper_keeps_the_published_faults() -> None:
    module = small("paper").module
    assert (module.trigger.kind, module.trigger.mode) == ("prompt-path", "prompt")
    assert module.trigger_layers == (module.layer,)
    assert module.correction.max_norm is None
    assert module.correction.step_size == 1.0
    assert (module.gate, module.bridge.kind) == ("always", "attention")
    assert module.response_layer == module.encoder_layer + 1 == module.layer + 1
    assert module.n_bridge == 5


def test_paper_fixed_mends_just_what_it_says() -> None:
    one, other = (flat(to_mapping(small(name))) for name in ("paper", "paper-fixed"))
    assert {key for key in one | other if one.get(key) != other.get(key)} == {
        "module.name",
        "module.encoder.layer",
        "module.trigger.kind",
        "module.trigger.mode",
        "module.correction.max_norm",
        "curriculum.trigger_weight",
    }
    mended = small("paper-fixed").module
    assert (mended.trigger.kind, mended.trigger.mode) == ("both-paths", "current")
    assert mended.response_layer == mended.encoder_layer
    assert mended.correction.max_norm is not None


def test_the_workbench_recipes_differ_in_what_their_triggers_read() -> None:
    layer = default_layer(6)
    assert small("workbench").module.trigger_layers == (EMBEDDING_LAYER, *range(layer + 1))
    assert small("workbench-lstar").module.trigger_layers == (layer,)
    assert small("input-only").module.trigger_layers == (EMBEDDING_LAYER,)


def test_the_control_is_the_default_but_for_what_its_trigger_reads() -> None:
    one, other = (flat(to_mapping(small(name))) for name in ("workbench", "input-only"))
    assert {key for key in one | other if one.get(key) != other.get(key)} == {
        "module.name",
        "module.trigger.layers",
    }


@pytest.mark.parametrize("name", ["workbench", "workbench-lstar", "input-only"])
def test_the_workbench_recipes_train_the_trigger_that_decides(name: str) -> None:
    recipe = small(name)
    assert recipe.curriculum.trigger_weight > 0
    assert recipe.module.trigger.kind == "windowed"
    assert recipe.module.gate == "threshold"
    assert recipe.module.correction.max_norm is not None


def flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


@pytest.mark.parametrize(
    ("d_model", "n_layers", "expected"),
    [
        (768, 12, (128, 5, 4, 8, "last-mlp")),
        (1536, 28, (128, 5, 4, 16, "last-mlp")),
        (3072, 28, (256, 7, 16, 16, "encoder")),
        (4096, 32, (256, 7, 16, 16, "encoder")),
    ],
)
def test_paper_takes_the_published_sizes(
    d_model: int, n_layers: int, expected: tuple[object, ...]
) -> None:
    """Of GPT-2, Qwen2-1.5B, Llama-3.2-3B and Mistral-7B; their layers are in ``configs``."""
    module = make_recipe("paper", d_model=d_model, n_layers=n_layers).module
    heads = module.encoder.n_heads, module.bridge.n_heads
    assert (module.d_value, module.n_bridge, *heads, module.encoder.readout) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_heads_divide_any_width(name: str) -> None:
    for d_model in (50, 97, 896, 1152, 2560, 3584, 5120):
        module = make_recipe(name, d_model=d_model, n_layers=24).module
        assert d_model % module.bridge.n_heads == 0 or module.bridge.kind != "attention"
        assert module.d_value % module.encoder.n_heads == 0
        assert 24 / 2 <= module.layer < 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 768}, "module.d_model = 768: "),
        ({"layer": 5}, "module.layer = 5 is out of range for tiny with 6 blocks"),
        ({"encoder": {"n_heads": 4, "layer": 6}}, "module.encoder.layer = 6 is out of range"),
        ({"score_layer": 6}, "module.score_layer = 6 is out of range"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_key_and_remedy(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    written = small("workbench")
    module = from_mapping(
        type(written.module), {**to_mapping(written.module), **changes}, where="here"
    )
    file = tmp_path / "mine.yaml"
    file.write_text(dump_yaml(replace(written, module=module)))
    size = {"d_model": 96, "n_layers": 6}
    recipe = named_recipe(str(file), **size)
    with pytest.raises(ConfigError) as caught:
        require_fit(recipe, str(file), **size, backbone="tiny")
    assert f"{file}: {message}" in str(caught.value)
    assert "`workbench train --backbone tiny --print-config > mine.yaml`" in str(caught.value)
    file.write_text(dump_yaml(written))
    for wanted in (str(file), "workbench"):
        assert named_recipe(wanted, **size) == written
        require_fit(written, wanted, **size, backbone="tiny")
