"""From what a person writes to a guidance: spellings, shipped modules, folders, clear errors."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from workbench.backbone import load_backbone
from workbench.errors import CheckpointError, ConfigError
from workbench.guidance import NoGuidance, SVGTBridge, registry
from workbench.guidance.artifact import save_artifact
from workbench.guidance.caa import CAAConfig
from workbench.guidance.registry import (
    GuidanceOptions,
    GuidanceSpec,
    identify_guidance,
    load_guidance,
    load_module,
    parse_guidance,
    parse_guidance_list,
    shipped_configs,
)
from workbench.svgt import (
    BridgeConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    ValueModule,
    save_value_module,
)
from workbench.testbed.pretraining import build_model
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> "TransformerLensBackbone":
    config = PretrainConfig(
        "gpt2", "fragile", width=16, n_layers=3, n_heads=2, n_kv_heads=2, feed_forward=32
    )
    folder = tmp_path_factory.mktemp("backbones") / "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config.n_ctx)
        build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_backbone(folder)


def module(name: str = "workbench", **changes: Any) -> ValueModule:  # noqa: ANN401
    return ValueModule(
        SVGTConfig(
            d_model=16,
            layer=1,
            name=name,
            n_bridge=2,
            d_value=8,
            encoder=EncoderConfig(n_heads=2, n_layers=1),
            bridge=BridgeConfig(n_heads=2),
            **changes,
        )
    )


@pytest.fixture
def trained(
    tiny_backbone: "TransformerLensBackbone", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A shipped folder with two configurations for the tiny backbone, under another name."""
    folder = tmp_path / "trained"
    for name in ("paper", "workbench"):
        save_value_module(folder / "some-name" / name, module(name), backbone=tiny_backbone)
    monkeypatch.setattr(registry, "_TRAINED", folder)
    return folder


@pytest.mark.parametrize(
    ("text", "spec", "written"),
    [
        ("none", GuidanceSpec("none"), "none"),
        (" svgt ", GuidanceSpec("svgt", "workbench"), "svgt:workbench"),
        ("svgt:paper", GuidanceSpec("svgt", "paper"), "svgt:paper"),
        ("svgt:./a/b", GuidanceSpec("svgt", "./a/b"), "svgt:./a/b"),
        ("svgt:C:/modules", GuidanceSpec("svgt", "C:/modules"), "svgt:C:/modules"),
    ],
)
def test_spellings(text: str, spec: GuidanceSpec, written: str) -> None:
    assert parse_guidance(text) == spec
    assert str(spec) == written
    assert parse_guidance(written) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svtg", "did you mean 'svgt'"),
        ("", "unknown guidance ''"),
        ("svgt:", "unknown guidance 'svgt:'"),
        ("none:paper", "unknown guidance 'none:paper': use none, svgt"),
    ],
)
def test_unknown_guidance_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_guidance(text)


def test_a_bare_path_to_a_guidance_is_told_its_spelling(
    tmp_path: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    mine, fitted = tmp_path / "mine", tmp_path / "fitted"
    save_value_module(mine, module("mine"), backbone=tiny_backbone)
    save_artifact(fitted, "caa", CAAConfig(layer=1), {}, backbone=tiny_backbone)
    for typed, use in (
        (mine, f"svgt:{mine}"),
        (mine / "svgt.json", f"svgt:{mine}"),
        (fitted, f"caa:{fitted}"),
        (f"{fitted}/", f"caa:{fitted}"),
    ):
        with pytest.raises(ConfigError, match=f"use {re.escape(use)}$"):
            parse_guidance(str(typed))
    assert isinstance(load_guidance(f"svgt:{mine}", tiny_backbone), SVGTBridge)
    with pytest.raises(ConfigError, match="unknown guidance"):
        parse_guidance(str(tmp_path))


def test_lists() -> None:
    assert parse_guidance_list("none,svgt, svgt:paper") == (
        GuidanceSpec("none"),
        GuidanceSpec("svgt", "workbench"),
        GuidanceSpec("svgt", "paper"),
    )
    with pytest.raises(ConfigError, match="svgt:workbench is named twice"):
        parse_guidance_list("svgt,svgt:workbench")
    with pytest.raises(ConfigError, match="unknown guidance"):
        parse_guidance_list("none,,svgt")


def test_shipped_modules_are_found_by_the_hash_of_the_weights(
    trained: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    assert shipped_configs(tiny_backbone) == ("workbench", "paper")
    guidance = load_guidance("svgt:paper", tiny_backbone)
    assert isinstance(guidance, SVGTBridge)
    assert guidance.name == "svgt:paper"
    assert load_module("workbench", tiny_backbone).config.name == "workbench"
    identity = identify_guidance(parse_guidance("svgt"), tiny_backbone)
    assert len(str(identity["weights_sha256"])) == 64
    assert identity["momentum"] == 0.8
    assert identify_guidance(GuidanceSpec("none"), tiny_backbone) == {}


def test_none_needs_nothing(tiny_backbone: "TransformerLensBackbone") -> None:
    assert isinstance(load_guidance("none", tiny_backbone), NoGuidance)


def test_a_folder_of_ones_own(tmp_path: Path, tiny_backbone: "TransformerLensBackbone") -> None:
    save_value_module(tmp_path / "mine", module("mine"), backbone=tiny_backbone)
    options = GuidanceOptions(strength=0.5, refresh=None, momentum=0.1)
    guidance = load_guidance(f"svgt:{tmp_path / 'mine'}", tiny_backbone, options)
    assert isinstance(guidance, SVGTBridge)
    assert (guidance.gate_scale, guidance.refresh, guidance.momentum) == (0.5, None, 0.1)
    assert guidance.closed_rows == "shifted"


def test_rows_with_a_closed_gate_are_plain_where_that_is_decided_once(
    tmp_path: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    for mode, expected in (("prompt", "plain"), ("current", "shifted")):
        gated = module("gated", gate="threshold", trigger=TriggerConfig(mode=mode))  # type: ignore[arg-type]
        save_value_module(tmp_path / mode, gated, backbone=tiny_backbone)
        guidance = load_guidance(f"svgt:{tmp_path / mode}", tiny_backbone)
        assert isinstance(guidance, SVGTBridge)
        assert guidance.closed_rows == expected


def test_a_missing_module_names_what_exists_and_how_to_train(
    trained: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    with pytest.raises(CheckpointError) as raised:
        load_guidance("svgt:papre", tiny_backbone)
    message = str(raised.value)
    assert "no value module 'papre'" in message
    assert "there are workbench, paper" in message
    assert f"workbench train --backbone {tiny_backbone.name} --out" in message


def test_a_backbone_without_modules(
    tmp_path: Path, tiny_backbone: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_TRAINED", tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workbench").mkdir()  # a folder called so by chance is not the module asked for
    assert shipped_configs(tiny_backbone) == ()
    with pytest.raises(CheckpointError, match="nor any other"):
        load_guidance("svgt:mine", tiny_backbone)
    command = f"workbench train --backbone {tiny_backbone.name} --config workbench --out my-module"
    with pytest.raises(CheckpointError, match=re.escape(command)):
        load_guidance("svgt", tiny_backbone)


def test_an_empty_folder_is_no_module(
    tmp_path: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    with pytest.raises(CheckpointError, match=r"svgt\.json"):
        load_guidance(f"svgt:{tmp_path}", tiny_backbone)


def test_a_module_of_another_backbone_is_refused(
    tmp_path: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    class Other:
        name, n_layers, d_model = "other", 3, 16
        weights_hash, tokenizer_hash = "0" * 64, tiny_backbone.tokenizer_hash

    save_value_module(tmp_path / "m", module(), backbone=Other())
    with pytest.raises(CheckpointError, match="trained for other"):
        load_guidance(f"svgt:{tmp_path / 'm'}", tiny_backbone)


def test_options_out_of_range_are_refused(
    trained: Path, tiny_backbone: "TransformerLensBackbone"
) -> None:
    for options in (GuidanceOptions(refresh=0), GuidanceOptions(momentum=1.0)):
        with pytest.raises(ConfigError):
            load_guidance("svgt", tiny_backbone, options)
