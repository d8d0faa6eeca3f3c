import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = ("tiny-gpt2", "tiny-llama")


@pytest.fixture(scope="session", params=TINY)
def tiny_folder(request: pytest.FixtureRequest) -> object:
    """Folder of a random 4-block model: learned positions, or rotary ones with grouped queries."""
    return FIXTURES / request.param


@pytest.fixture(scope="session")
def backbone(tiny_folder: Path) -> object:
    from workbench.backbone import load_backbone

    return load_backbone(tiny_folder)


@pytest.fixture(scope="session")
def plain(tiny_folder: Path) -> object:
    """The same model as plain Hugging Face code runs it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager").eval()


@pytest.fixture
def copy_folder(tmp_path: Path) -> object:
    """A checkpoint folder that may be damaged."""

    def copy(name: str = "tiny-llama") -> object:
        target = tmp_path / name
        shutil.copytree(FIXTURES / name, target)
        return target

    return copy
