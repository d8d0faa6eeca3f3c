"""Without a network, what would be fetched from the hub is refused in seconds and in one line."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from workbench import hub
from workbench.cli.main import run
from workbench.errors import CheckpointError, DataError, WorkbenchWarning

Captured = pytest.CaptureFixture[str]
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that refuses every connection, empty caches, and nobody who said *offline*."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def server() -> Iterator[str]:
    """Something that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_model_and_a_judge_and_a_data_set_fail_in_seconds(
    capsys: Captured, tmp_path: Path
) -> None:
    from workbench.data.sources.hub import HubSet, hub_rows
    from workbench.evaluation.judges import judge_named

    started = time.monotonic()
    assert run(["generate", "--backbone", "org/model", "--prompt", "hello"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'org/model' is neither an embedded backbone" in err
    assert "the network does not answer" in err
    with pytest.raises(CheckpointError, match=r"hf download org/judge .*hub does not answer"):
        judge_named("wildguard:org/judge")
    with pytest.raises(DataError, match=r"hub does not answer\): check the connection"):
        hub_rows(HubSet("org/set", "train"), "")
    assert time.monotonic() - started < 20  # with what must be imported; their libraries: minutes


def test_an_answer_decides(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hub.hub_answers()
    assert hub.reachable_model("org/model") is None
    monkeypatch.setattr(constants, "ENDPOINT", server)
    assert hub.hub_answers()
    assert hub.reachable_model("org/model") == "org/model"
    assert hub.why_no_dataset("org/set") is None


def test_behind_a_proxy_the_proxy_must_answer(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    assert not hub.hub_answers()
    monkeypatch.setenv("https_proxy", server)
    assert hub.hub_answers()
    monkeypatch.setenv("https_proxy", server.removeprefix("http://"))
    assert hub.hub_answers()
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert not hub.hub_answers()


def test_a_name_that_nobody_resolves_is_waited_for_no_longer_than_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    def silent(*_: object, **__: object) -> None:
        over.wait(60)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    started = time.monotonic()
    assert not hub.hub_answers(patience=0.2)
    assert time.monotonic() - started < 5
    over.set()


def test_what_is_said_to_be_offline_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.reachable_model("org/model") == "org/model"
    assert hub.why_no_dataset("org/set") is None


def test_a_cached_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "Org___set").mkdir(parents=True)
    (tmp_path / "hub" / "datasets--org--raw" / "snapshots").mkdir(parents=True)
    for held in ("org/set", "org/raw"):
        assert "does not answer; the cache holds" in (hub.why_no_dataset(held) or "")
    assert hub.why_no_dataset("org/other") == "the Hugging Face hub does not answer"


def test_a_cached_model_is_read_from_its_folder_and_this_is_said(tmp_path: Path) -> None:
    from workbench.backbone import load_backbone
    from workbench.testbed.registry import embedded_path

    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "hub" / "models--org--model"
    shutil.copytree(embedded_path("testbed-llama"), kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    started = time.monotonic()
    with pytest.warns(WorkbenchWarning, match="org/model is read from the cache as it is"):
        backbone = load_backbone("org/model")
    assert time.monotonic() - started < 20  # by its id: minutes
    assert backbone.name == "org/model"
    assert backbone.weights_hash == load_backbone("testbed-llama").weights_hash
