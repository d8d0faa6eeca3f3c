"""Where the pages compute: what the environment says, what a session chooses, and who is told."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from workbench.errors import ConfigError
from workbench.evaluation.training_jobs import TrainingOrder
from workbench.pages import hardware
from workbench.pages.hardware import Hardware, hardware_from_environment

Open = Callable[..., AppTest]
Pretend = Callable[[int], None]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(str(element.value) for element in elements)


@pytest.fixture(autouse=True)
def _as_started(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (hardware.DEVICE_VARIABLE, hardware.DTYPE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    hardware.graphics_cards.cache_clear()
    yield
    hardware.graphics_cards.cache_clear()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Let torch see so many graphics cards."""

    def cards(n: int) -> None:
        monkeypatch.setattr(hardware, "_driver_is_there", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Pretended {number}")
        hardware.graphics_cards.cache_clear()

    return cards


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """How backbones are asked for; what is loaded lies on the processor."""
    from workbench.pages import loading

    asked: list[dict[str, object]] = []
    real = loading.load_backbone

    def load(name: str, **where: object) -> object:
        asked.append(where)
        return real(name)

    monkeypatch.setattr(loading, "load_backbone", load)
    return asked


@pytest.mark.parametrize(
    ("n_cards", "device", "expected"),
    [
        (0, "", "cpu"), (0, "auto", "cpu"), (1, "auto", "cuda:0"), (2, "auto", "auto"),
        (1, "", "cpu"), (1, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1"), (0, "mps", "mps"),
    ],
)  # fmt: skip
def test_the_environment_names_the_device(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, n_cards: int, device: str, expected: str
) -> None:
    pretend(n_cards)
    monkeypatch.setenv("SVGT_DEVICE", device)
    monkeypatch.setenv("SVGT_DTYPE", "bfloat16")
    assert hardware_from_environment() == Hardware(expected, "bfloat16")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SVGT_DEVICE", "gpu", "SVGT_DEVICE=gpu names no device: use auto, cpu, cuda"),
        ("SVGT_DEVICE", "cuda:x", "SVGT_DEVICE=cuda:x names no device"),
        ("SVGT_DTYPE", "fp16", "SVGT_DTYPE=fp16 names no number type: use float32, bfloat16, f"),
    ],
)
def test_what_the_environment_misspells_is_one_clear_line(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        hardware_from_environment()
    app = open_page("anchoring")
    assert not app.exception
    [error] = app.error
    assert told in error.value
    assert "\n" not in error.value


def test_a_device_that_is_not_there_is_told(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, pretend: Pretend
) -> None:
    pretend(0)
    monkeypatch.setenv("SVGT_DEVICE", "cuda")
    app = open_page("playground")
    assert not app.exception
    assert "this torch sees no cuda device" in said(app.error)


def test_without_a_card_nothing_is_asked(open_page: Open, pretend: Pretend) -> None:
    pretend(0)
    app = open_page("train")
    assert not app.exception
    assert {"device", "number_type"}.isdisjoint(box.key for box in app.selectbox)


def test_a_session_chooses_a_card_and_the_backbone_is_loaded_there(
    open_page: Open,
    pretend: Pretend,
    loads: list[dict[str, object]],
    backbone_folder: Path,
    module_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workbench.pages.catalogue import FOLDER

    pretend(2)
    monkeypatch.setenv("SVGT_DTYPE", "bfloat16")
    own = {"backbone": FOLDER, "folder": str(backbone_folder)}
    app = open_page("playground", **own, guidance=FOLDER, own=f"svgt:{module_folder}")
    assert not app.exception
    assert loads == [{"device": "cpu", "dtype": "bfloat16"}]
    box = app.selectbox(key="device")
    assert list(box.options) == [
        "the processor", "cuda:0, Pretended 0", "cuda:1, Pretended 1", "all 2 graphics cards",
    ]  # fmt: skip
    box.set_value("cuda:1")
    app.run()
    assert not app.exception
    assert loads[1:] == [{"device": "cuda:1", "dtype": "bfloat16"}]
    app.selectbox(key="device").set_value("cpu")
    app.run()
    assert len(loads) == 2  # both are kept, each under where it is


def test_the_training_is_ordered_where_the_session_computes(
    open_page: Open, pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from workbench import background

    started: list[list[str]] = []

    def start(arguments: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        started.append(arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(background, "start", start)
    pretend(1)
    monkeypatch.setenv("SVGT_DEVICE", "auto")
    app = open_page("train")
    assert app.selectbox(key="device").value == "cuda:0"
    app.selectbox(key="number_type").set_value("float16")
    app.run()
    app.button(key="start").click().run()
    assert not app.exception
    [words] = started
    assert words[-4:] == ["--device", "cuda:0", "--dtype", "float16"]


def test_an_order_for_the_processor_needs_no_more_words() -> None:
    words = TrainingOrder("testbed-llama", "workbench").arguments(Path("runs/mine"))
    assert {"--device", "--dtype"}.isdisjoint(words)


def test_memory_that_runs_out_names_what_the_app_can_lower(
    open_playground: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone import TransformerLensBackbone

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    app = open_playground()
    monkeypatch.setattr(TransformerLensBackbone, "_run", fail)
    app.button(key="generate").click().run()
    assert not app.exception
    assert "out of memory while running 1 rows of" in said(app.error)
    assert "ask for fewer new tokens or a shorter prompt" in said(app.error)
    assert "--batch-size" not in said(app.error)
