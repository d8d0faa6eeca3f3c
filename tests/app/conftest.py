"""A random backbone that speaks the embedded language, and a value module for it.

The pages' tests need words and shapes, not good answers; so they depend on nothing trained.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest


def _app(first: str) -> None:
    from workbench.pages import navigation

    navigation.run(first)


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """Open a page of the whole app, by its path."""

    def open_with(path: str, **query: str | list[str]) -> AppTest:
        app = AppTest.from_function(_app, default_timeout=120, args=(path,))
        for key, value in query.items():
            app.query_params[key] = value
        return app.run()

    return open_with


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from workbench.testbed.pretraining import build_model
    from workbench.testbed.pretraining_config import PretrainConfig
    from workbench.testbed.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = build_tokenizer(96)
    torch.manual_seed(0)
    config = PretrainConfig(
        "llama", "fragile", width=32, n_layers=3, n_heads=4, n_kv_heads=2, feed_forward=48, n_ctx=96
    )
    model = build_model(config, tokenizer)
    assert sum(p.numel() for p in model.parameters()) < 100_000
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def module_folder(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from workbench.backbone import load_backbone
    from workbench.svgt.checkpoint import save_value_module
    from workbench.svgt.config import BridgeConfig, EncoderConfig, SVGTConfig, TriggerConfig
    from workbench.svgt.value_module import ValueModule

    folder = tmp_path_factory.mktemp("module")
    torch.manual_seed(1)
    config = SVGTConfig(
        d_model=32, layer=1, name="planted", n_bridge=3, d_value=16,
        encoder=EncoderConfig(n_heads=2, n_layers=1), trigger=TriggerConfig(mode="current"),
        bridge=BridgeConfig(n_heads=4),
    )  # fmt: skip
    backbone = load_backbone(str(backbone_folder))
    save_value_module(folder, ValueModule(config), backbone=backbone)
    return folder


@pytest.fixture(scope="session")
def method_folders(
    backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two other methods for the random backbone: one edits states, one rewrites the prompt."""
    import torch

    from workbench.backbone import load_backbone
    from workbench.guidance.caa import CAA, CAAConfig
    from workbench.guidance.system_prompt import SystemPrompt, SystemPromptConfig
    from workbench.testbed.corpus import SYSTEM_CAREFUL

    backbone = load_backbone(str(backbone_folder))
    made = {
        "caa": CAA(CAAConfig(1, 2.0), torch.linspace(-1.0, 1.0, 32)),
        "system-prompt": SystemPrompt(SystemPromptConfig(SYSTEM_CAREFUL[0])),
    }
    folders = {name: tmp_path_factory.mktemp(name) / name for name in made}
    for name, method in made.items():
        method.save(folders[name], backbone)
    return folders


@pytest.fixture
def open_playground(
    backbone_folder: Path, module_folder: Path, open_page: Callable[..., AppTest]
) -> Callable[..., AppTest]:
    """Open the Playground, with the random backbone unless told otherwise."""

    def open_with(**query: str) -> AppTest:
        state = {
            "backbone": "a folder of your own", "folder": str(backbone_folder),
            "guidance": "a folder of your own", "own": f"svgt:{module_folder}", "tokens": "8",
        }  # fmt: skip
        return open_page("playground", **{**state, **query})

    return open_with


def _runs() -> None:
    from workbench.pages import runs
    from workbench.pages.guard import guarded

    guarded(runs.page)()


@pytest.fixture
def open_runs() -> Callable[..., AppTest]:
    def open_at(root: Path | str, **query: str) -> AppTest:
        app = AppTest.from_function(_runs, default_timeout=60)
        app.query_params["root"] = "a folder of your own"
        app.query_params["root_folder"] = str(root)
        for key, value in query.items():
            app.query_params[key] = value
        return app.run()

    return open_at


@pytest.fixture(scope="session", autouse=True)
def _no_models_left() -> None:
    st.cache_resource.clear()
