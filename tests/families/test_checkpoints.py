"""The small checkpoints that stand for the model families are what they claim to be."""

from pathlib import Path

import pytest
from families import CONTEXT, FAMILIES, WINDOW, write_checkpoint

TEXT = "Tell me how to bake bread, Zoë!"


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = str(request.param)
    return write_checkpoint(family, tmp_path_factory.mktemp("families") / family)


def test_the_tokenizer_reads_any_text(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert len(ids) < len(TEXT), "pairs were learned"


def test_the_checkpoint_is_small_and_complete(folder: Path) -> None:
    from transformers import AutoConfig

    assert (folder / "model.safetensors").stat().st_size < 700_000
    config = AutoConfig.from_pretrained(folder)
    assert config.max_position_embeddings == CONTEXT
    slides = {"mistral", "gemma2", "gemma3", "phi3"}
    assert (getattr(config, "sliding_window", None) == WINDOW) == (folder.name in slides)


def test_the_same_family_gets_the_same_weights(folder: Path, tmp_path: Path) -> None:
    again = write_checkpoint(folder.name, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
