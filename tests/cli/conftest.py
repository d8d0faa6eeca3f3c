"""A tiny checkpoint of the embedded world's kind, and a value module for it, for all commands."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from workbench.testbed.pretraining import build_model
    from workbench.testbed.pretraining_config import PretrainConfig
    from workbench.testbed.tokenizer import build_tokenizer

    config = PretrainConfig(
        "llama", "fragile", width=16, n_layers=3, n_heads=2, n_kv_heads=1, feed_forward=32
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config.n_ctx)
        build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def value_module(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from workbench.backbone import load_backbone
    from workbench.svgt import (
        BridgeConfig,
        EncoderConfig,
        SVGTConfig,
        ValueModule,
        save_value_module,
    )

    folder = tmp_path_factory.mktemp("modules") / "mine"
    config = SVGTConfig(
        d_model=16,
        layer=1,
        name="mine",
        n_bridge=2,
        d_value=8,
        encoder=EncoderConfig(n_heads=2, n_layers=1),
        bridge=BridgeConfig(n_heads=2),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_value_module(folder, ValueModule(config), backbone=load_backbone(checkpoint))
    return folder
