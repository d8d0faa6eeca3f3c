"""Value modules survive the disk, and nothing damaged or foreign is loaded."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench import files
from workbench.errors import CheckpointError, ConfigError, RunError
from workbench.svgt import (
    BridgeConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    ValueModule,
    load_value_module,
    read_checkpoint_record,
    save_value_module,
)
from workbench.svgt.checkpoint import RECORD_FILE, WEIGHTS_FILE
from workbench.svgt.trigger import WindowedTrigger


@dataclass(frozen=True)
class Identity:
    name: str = "tiny"
    weights_hash: str = "a" * 64
    tokenizer_hash: str = "b" * 64
    n_layers: int = 4
    d_model: int = 16


BACKBONE = Identity()
CONFIG = SVGTConfig(
    16,
    2,
    name="workbench",
    n_bridge=3,
    d_value=8,
    encoder=EncoderConfig(n_heads=2, readout="encoder", pooling=True),
    trigger=TriggerConfig(kind="windowed", layers=(-1, 0, 2), width=8, n_heads=2, p_token=0.1),
    bridge=BridgeConfig(kind="offset", gain_init="residual-norm"),
    gate="threshold",
)


@pytest.fixture
def module() -> ValueModule:
    torch.manual_seed(0)
    module = ValueModule(CONFIG)
    assert isinstance(module.trigger, WindowedTrigger)
    module.trigger.fit_standardiser(torch.randn(3, 16), torch.rand(3, 16) + 0.5)
    module.bridge.initialise(torch.randn(9, 16) * 7)
    return module


@pytest.fixture
def folder(tmp_path: Path, module: ValueModule) -> Path:
    path = tmp_path / "module"
    save_value_module(path, module, backbone=BACKBONE, metrics={"auroc": 0.93})
    return path


def edit_record(folder: Path, **changes: object) -> None:
    path = folder / RECORD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(folder: Path, module: ValueModule) -> None:
    loaded = load_value_module(folder, BACKBONE)
    assert loaded.config == module.config
    assert set(loaded.state_dict()) == set(module.state_dict())
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    states = {layer: torch.randn(2, 5, 16) for layer in module.capture_layers}
    mask = torch.ones(2, 5, dtype=torch.bool)
    first, second = loaded.write_bridge(states, mask), module.eval().write_bridge(states, mask)
    assert torch.equal(first.bridge, second.bridge)
    assert torch.equal(first.score, second.score)


def test_loaded_modules_are_frozen(folder: Path) -> None:
    loaded = load_value_module(folder, BACKBONE).train()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.trigger.training


def test_record(folder: Path) -> None:
    record = read_checkpoint_record(folder)
    assert record.metrics == {"auroc": 0.93}
    assert record.backbone == {
        "name": "tiny",
        "weights_hash": "a" * 64,
        "tokenizer_hash": "b" * 64,
    }
    assert "torch" in json.dumps(record.versions)
    assert "argv" not in record.versions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_hash": "c" * 64}, "whose weights differ"),
        ({"tokenizer_hash": "c" * 64}, "whose tokenizer differ"),
    ],
)
def test_another_backbone_is_refused(folder: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"trained for tiny, {message}"):
        load_value_module(folder, replace(BACKBONE, name="other", **changes))


def test_a_backbone_of_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="width 32"):
        load_value_module(folder, replace(BACKBONE, d_model=32))
    with pytest.raises(ConfigError, match="layer = 2 is out of range"):
        load_value_module(folder, replace(BACKBONE, n_layers=3))


def test_a_loaded_module_knows_its_backbone_wherever_it_is_used(folder: Path) -> None:
    module = load_value_module(folder, None)
    module.require_backbone(BACKBONE)
    with pytest.raises(CheckpointError, match="'workbench' was trained for tiny, whose weights"):
        module.require_backbone(replace(BACKBONE, name="other", weights_hash="c" * 64))


def test_an_imported_module_has_no_backbone_to_compare(tmp_path: Path, module: ValueModule) -> None:
    save_value_module(tmp_path, module, backbone=None)
    other = replace(BACKBONE, weights_hash="d" * 64)
    load_value_module(tmp_path, other).require_backbone(other)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, RECORD_FILE])
def test_missing_and_truncated_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=name):
        load_value_module(folder, BACKBONE)
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load_value_module(folder, BACKBONE)


def test_nan_in_weights_is_named(folder: Path, module: ValueModule) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    weights["discriminator.out.bias"][0] = float("nan")
    save_file(weights, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in discriminator\.out\.bias"):
        load_value_module(folder, BACKBONE)


def test_nan_is_not_saved_over_a_good_checkpoint(folder: Path, module: ValueModule) -> None:
    with torch.no_grad():
        module.discriminator.out.bias[0] = float("inf")
    before = (folder / WEIGHTS_FILE).read_bytes()
    with pytest.raises(CheckpointError, match=r"refusing to save.*discriminator\.out\.bias"):
        save_value_module(folder, module, backbone=BACKBONE)
    assert (folder / WEIGHTS_FILE).read_bytes() == before


def test_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    weights["extra"] = weights.pop("bridge.base")
    weights["trigger.mean"] = torch.zeros(1)
    save_file(weights, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError) as caught:
        load_value_module(folder, BACKBONE)
    for name in ("missing ['bridge.base']", "unknown ['extra']", "shape ['trigger.mean']"):
        assert name in str(caught.value)


def test_weights_of_another_training_are_refused(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_value_module(tmp_path / "other", ValueModule(CONFIG), backbone=BACKBONE)
    (folder / WEIGHTS_FILE).write_bytes((tmp_path / "other" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(CheckpointError, match=r"is not the file that svgt\.json describes"):
        load_value_module(folder, BACKBONE)


def test_bad_configurations_are_named(folder: Path) -> None:
    config = json.loads((folder / RECORD_FILE).read_text())["config"]
    for changes, message in (
        ({"n_bridges": 3}, "n_bridge"),
        ({"n_bridge": 0}, "n_bridge = 0"),
        ({"layer": "two"}, "layer"),
    ):
        edit_record(folder, config=config | changes)
        with pytest.raises(ConfigError, match=message):
            load_value_module(folder, BACKBONE)
    edit_record(folder, config=config, format=2)
    with pytest.raises(CheckpointError, match="format 2"):
        load_value_module(folder, BACKBONE)


@pytest.mark.parametrize("fails_on", [WEIGHTS_FILE, RECORD_FILE])
def test_a_full_disk_leaves_the_old_checkpoint_whole(
    folder: Path, module: ValueModule, monkeypatch: pytest.MonkeyPatch, fails_on: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flush = files._flush_to_disk

    def full(path: Path) -> None:
        if path.name.endswith(fails_on):
            raise OSError(28, "No space left on device")
        flush(path)

    monkeypatch.setattr(files, "_flush_to_disk", full)
    with torch.no_grad():
        module.discriminator.out.bias += 1
    with pytest.raises(RunError, match="No space left on device"):
        save_value_module(folder, module, backbone=BACKBONE)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_value_module(folder, BACKBONE)
