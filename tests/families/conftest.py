"""A small random model of every family, as the workbench sees it and as Hugging Face runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from families import FAMILIES, write_checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(family, tmp_path_factory.mktemp("families") / family)


@pytest.fixture(scope="session")
def plain(folder: Path) -> PreTrainedModel:
    """The same model as plain Hugging Face code runs it."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def shared(folder: Path) -> object:
    from workbench.backbone import load_backbone

    return load_backbone(folder)


@pytest.fixture
def backbone(shared: "TransformerLensBackbone") -> Iterator["TransformerLensBackbone"]:
    """The wrapped model; after the test its weights, its numbers and its hooks are as before."""
    batch = shared.encode(["mend a lock"])
    before = shared.logits(batch)
    yield shared
    assert shared.current_weights_hash() == shared.weights_hash
    assert torch.equal(shared.logits(batch), before)
    points = shared._bridge.hook_dict.values()
    assert not any(point.fwd_hooks or point._forward_hooks for point in points)
