from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from two_passes import two_passes as published

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session", params=("tiny-gpt2", "tiny-llama"))
def tiny_folder(request: pytest.FixtureRequest) -> Path:
    """Folder of a random 4-block model: learned positions, or rotary ones with grouped queries."""
    return FIXTURES / str(request.param)


@pytest.fixture(scope="session")
def backbone(tiny_folder: Path) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(tiny_folder)


@pytest.fixture(scope="session")
def plain(tiny_folder: Path) -> PreTrainedModel:
    """The same model as plain Hugging Face code runs it."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def two_passes(plain: PreTrainedModel) -> Callable[..., tuple[Tensor, Tensor]]:
    """The published procedure on one unpadded row."""
    return partial(published, plain)
