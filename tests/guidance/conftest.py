from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

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
