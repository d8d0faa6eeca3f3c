"""Without a network, what would be fetched from the hub is refused in seconds and in one line."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from workbench import hub
from workbench.cli.main import run
from workbench.errors import CheckpointError, DataError

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
    assert not hub.can_be_fetched("org/model", "model")
    monkeypatch.setattr(constants, "ENDPOINT", server)
    assert hub.hub_answers()
    assert hub.can_be_fetched("org/set", "dataset")


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


def test_what_is_cached_or_said_to_be_offline_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hub" / "models--org--model" / "snapshots").mkdir(parents=True)
    assert hub.can_be_fetched("org/model", "model")
    assert not hub.can_be_fetched("org/model", "dataset")
    (tmp_path / "datasets" / "Org___set").mkdir(parents=True)
    assert hub.can_be_fetched("org/set", "dataset")
    assert not hub.can_be_fetched("org/other", "dataset")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.can_be_fetched("org/other", "dataset")
