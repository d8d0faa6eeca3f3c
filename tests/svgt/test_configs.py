"""The shipped configurations hold the published values and fit models of their families."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from families import write_checkpoint

from workbench.backbone import load_backbone
from workbench.cli.main import run
from workbench.config import load_yaml
from workbench.errors import ConfigError
from workbench.svgt import SVGTConfig, ValueModule
from workbench.svgt.curriculum import CurriculumConfig, Recipe
from workbench.svgt.slots import forward_with_slots

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Published:
    """A row of the paper's table, and the sizes that the backbone's config.json states."""

    family: str
    n_layers: int
    d_model: int
    d_value: int
    n_bridge: int
    layer: int
    value_heads: int
    bridge_heads: int
    pooled: bool


TABLE = {
    "gpt2": Published("gpt2", 12, 768, 128, 5, 7, 4, 8, False),
    "qwen2-1.5b": Published("qwen2", 28, 1536, 128, 5, 20, 4, 16, False),
    "llama-3.2-3b-instruct": Published("llama", 28, 3072, 256, 7, 20, 16, 16, True),
    "mistral-7b-instruct-v0.2": Published("mistral", 32, 4096, 256, 7, 22, 16, 16, True),
}


def test_these_are_all() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_values_are_the_published_ones(name: str) -> None:
    recipe, row = load_yaml(Recipe, CONFIGS / f"{name}.yaml"), TABLE[name]
    module = recipe.module
    assert (module.d_model, module.d_value, module.n_bridge, module.layer) == (
        row.d_model, row.d_value, row.n_bridge, row.layer,
    )  # fmt: skip
    assert (module.encoder.n_heads, module.bridge.n_heads) == (row.value_heads, row.bridge_heads)
    assert (module.encoder.readout == "encoder", module.encoder.pooling) == (row.pooled, row.pooled)
    assert module.response_layer == row.layer + 1
    assert (module.gate, module.trigger.kind, module.correction.max_norm) == (
        "always", "prompt-path", None,
    )  # fmt: skip
    # The defaults are the published curriculum, as the recipes' own test says number by number.
    assert recipe.curriculum == CurriculumConfig()
    module.validate_for(n_layers=row.n_layers, d_model=row.d_model, backbone=name)
    with pytest.raises(ConfigError, match="width"):
        module.validate_for(n_layers=row.n_layers, d_model=row.d_model + 1, backbone=name)


@pytest.mark.parametrize("name", TABLE)
def test_it_guides_a_small_model_of_its_family(name: str, tmp_path: Path) -> None:
    """All but the sizes as written; widths and depth of a small random model."""
    row = TABLE[name]
    backbone = load_backbone(write_checkpoint(row.family, tmp_path / row.family))
    written = load_yaml(Recipe, CONFIGS / f"{name}.yaml").module
    module = ValueModule(_scaled(written, backbone.n_layers, backbone.d_model)).eval()
    prompt, response = backbone.encode(["Help!"]), backbone.encode_responses(["the cat sat"])
    with torch.no_grad():
        guided = forward_with_slots(backbone, prompt, response, module).response_logits
        plain = forward_with_slots(backbone, prompt, response, None).response_logits
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-2 * plain.abs().max()


def _scaled(config: SVGTConfig, n_layers: int, d_model: int) -> SVGTConfig:
    layer = min(config.layer, n_layers - 2)
    return replace(config, d_model=d_model, layer=layer, d_value=32, score_layer=layer + 1)


def test_train_takes_it_and_names_a_backbone_it_does_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(CONFIGS / "gpt2.yaml")
    arguments = ["train", "--backbone", "testbed-gpt2", "--config", path]
    assert run([*arguments, "--print-config"]) == 0
    assert "layer: 7" in capsys.readouterr().out
    assert run([*arguments, "--out", "/nonexistent/never-written"]) == 2
    assert "width 768" in capsys.readouterr().err
