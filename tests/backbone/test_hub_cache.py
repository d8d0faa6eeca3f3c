"""A hub id is read from the local cache, and what is wrong there is named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from families import write_checkpoint
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

REPOSITORY = "nobody/tiny-qwen2"
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached files of a model in two shards; there is no network."""
    import json

    from transformers.utils import hub

    commit = "0" * 40
    store = tmp_path / "hub" / "models--nobody--tiny-qwen2"
    folder = write_checkpoint("qwen2", store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: SHARDS[number % 2] for number, key in enumerate(weights)}
    for shard in SHARDS:
        part = {key: weights[key] for key, place in places.items() if place == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for module in (constants, hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def says() -> Callable[[], str]:
    """The one line that loading the repository fails with."""
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    def message() -> str:
        with pytest.raises(BackboneError) as caught:
            load_backbone(REPOSITORY)
        text = str(caught.value)
        assert "\n" not in text
        return text

    return message


def test_a_complete_cache_is_read(snapshot: Path, tmp_path: Path) -> None:
    """The control: the pretended cache is one."""
    from workbench.backbone import load_backbone

    folder = Path(shutil.copytree(snapshot, tmp_path / "copy"))
    assert load_backbone(REPOSITORY).weights_hash == load_backbone(folder).weights_hash


def test_a_shard_that_was_not_fetched_is_named(snapshot: Path, says: Callable[[], str]) -> None:
    (snapshot / SHARDS[1]).unlink()
    message = says()
    assert f"{REPOSITORY} lacks 1 of the 2 files" in message
    assert SHARDS[1] in message
    assert SHARDS[0] not in message
    assert f"run `hf download {REPOSITORY}" in message
    assert "pickled" not in message


def test_a_broken_shard_is_named(snapshot: Path, says: Callable[[], str]) -> None:
    shard = snapshot / SHARDS[0]
    shard.write_bytes(shard.read_bytes()[:5000])
    message = says()
    assert f"{SHARDS[0]} of {REPOSITORY} cannot be read, it is truncated or damaged" in message
    assert f"run `hf download {REPOSITORY} --force-download`" in message


def test_a_cache_without_any_weights(snapshot: Path, says: Callable[[], str]) -> None:
    for name in (*SHARDS, "model.safetensors.index.json"):
        (snapshot / name).unlink()
    message = says()
    assert "HF_HUB_OFFLINE is set" in message
    assert "pickled" not in message
