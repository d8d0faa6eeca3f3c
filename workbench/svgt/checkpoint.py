"""Value modules on disk: ``svgt.safetensors`` (weights) beside ``svgt.json`` (all about them).

The JSON keeps the configuration, the hash of the weights, the backbone and tokenizer they were
trained for (by the hash of their weights and vocabulary), the versions that made them, and their
metrics. A module read back is refused where any of this does not hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workbench.config import from_mapping, to_mapping
from workbench.errors import CheckpointError, ConfigError, RunError
from workbench.files import (
    atomic_path,
    file_sha256,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from workbench.provenance import provenance
from workbench.svgt.config import SVGTConfig
from workbench.svgt.origin import BackboneIdentity, BackboneRecord, identify, require_made_for
from workbench.svgt.value_module import ValueModule

WEIGHTS_FILE = "svgt.safetensors"
RECORD_FILE = "svgt.json"
FORMAT = 1


@dataclass(frozen=True)
class CheckpointRecord:
    """The content of ``svgt.json``.

    Attributes:
        format: Version of this layout.
        config: The value module's configuration.
        weights_sha256: Hash of ``svgt.safetensors``.
        backbone: What it was trained for; None for imported modules, which never recorded it.
        versions: Package versions, Python, git revision and device at the time of saving.
        metrics: Whatever training measured.
    """

    format: int
    config: Mapping[str, object]
    weights_sha256: str
    backbone: Mapping[str, object] | None
    versions: Mapping[str, object]
    metrics: Mapping[str, object]


def save_value_module(
    folder: str | Path,
    module: ValueModule,
    *,
    backbone: BackboneIdentity | None,
    metrics: Mapping[str, object] | None = None,
) -> None:
    """Write a value module, both files or neither.

    Args:
        folder: Where; created when missing.
        module: What.
        backbone: The backbone it was trained for; None only for imported modules.
        metrics: Measurements to keep beside it, JSON-able.

    Raises:
        CheckpointError: A weight is NaN or infinite; nothing is written.
        ConfigError: The module does not fit the backbone.
        RunError: The files cannot be written; an earlier checkpoint stays as it was.
    """
    folder = Path(folder)
    state = module.state_dict()
    require_finite(state, "refusing to save")
    if backbone is not None:
        _require_fit(module.config, backbone)
    with (
        atomic_path(folder / RECORD_FILE) as record,
        atomic_path(folder / WEIGHTS_FILE) as weights,
    ):
        write_tensors(weights, state)
        write_json(
            record,
            {
                "format": FORMAT,
                "config": to_mapping(module.config),
                "weights_sha256": file_sha256(weights),
                "backbone": None if backbone is None else to_mapping(identify(backbone)),
                "versions": recorded_versions(next(module.parameters()).device),
                "metrics": dict(metrics or {}),
            },
        )


def read_checkpoint_record(folder: str | Path) -> CheckpointRecord:
    """Read what is known about a saved value module, without its weights.

    Raises:
        CheckpointError: ``svgt.json`` is missing, damaged, or of a newer format.
    """
    path = Path(folder) / RECORD_FILE
    try:
        record = from_mapping(CheckpointRecord, read_json(path), where=str(path))
    except (RunError, ConfigError) as error:
        raise CheckpointError(f"no value module in {folder}: {error}") from error
    if record.format != FORMAT:
        raise CheckpointError(
            f"{path} has format {record.format}, this version reads {FORMAT}; update the workbench"
        )
    return record


def load_value_module(folder: str | Path, backbone: BackboneIdentity | None) -> ValueModule:
    """Read a value module, ready for use: frozen, in eval mode. `unfreeze` it to train on.

    Args:
        folder: Where it was saved.
        backbone: The backbone it will guide, which must be the one it was trained for; None leaves
            that check to whoever uses it, for looking at a module on its own.

    Raises:
        CheckpointError: A file is missing or damaged, a tensor is missing, unknown, misshapen, NaN
            or infinite, or the module belongs to another backbone or tokenizer.
        ConfigError: The configuration has an unknown key or a value out of range.
    """
    folder = Path(folder)
    record = read_checkpoint_record(folder)
    config = from_mapping(SVGTConfig, record.config, where=f"{folder / RECORD_FILE}: config")
    made_for = _trained_for(record, folder)
    if backbone is not None:
        _require_fit(config, backbone)
    if backbone is not None and made_for is not None:
        require_made_for(
            made_for,
            backbone,
            made=f"the value module in {folder} was trained for",
            otherwise="train a module for this one",
        )
    module = ValueModule(config)
    module.made_for = made_for
    module.load_state_dict(_read_weights(folder, record, module.state_dict()))
    return module.freeze()


def _read_weights(
    folder: Path, record: CheckpointRecord, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    weights = read_finite(path)
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    misshapen = sorted(
        name for name in set(expected) & set(weights) if weights[name].shape != expected[name].shape
    )
    if missing or unknown or misshapen:
        raise CheckpointError(
            f"{path} does not fit its configuration: missing {missing or 'none'}, "
            f"unknown {unknown or 'none'}, of another shape {misshapen or 'none'}"
        )
    require_described(path, record.weights_sha256, RECORD_FILE, again="train again")
    return weights


def read_finite(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        CheckpointError: It is missing or damaged, or one is NaN or infinite.
    """
    try:
        tensors, _ = read_tensors(path)
    except RunError as error:
        raise CheckpointError(str(error)) from error
    require_finite(tensors, str(path))
    return tensors


def require_described(path: Path, sha256: str, record_file: str, *, again: str) -> None:
    """Make sure that a file is the one its record speaks of.

    Raises:
        CheckpointError: Its hash differs; ``again`` says how to make a new one.
    """
    if file_sha256(path) != sha256:
        raise CheckpointError(
            f"{path} is not the file that {record_file} describes: one of the two was replaced or "
            f"damaged; copy the folder again, or {again}"
        )


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors with a NaN or an infinity.

    Raises:
        CheckpointError: Some have one; ``what`` and the first few are named.
    """
    bad = sorted(name for name, value in weights.items() if not bool(value.isfinite().all()))
    if bad:
        named, more = ", ".join(bad[:3]), len(bad) - 3
        rest = f" and {more} more" if more > 0 else ""
        raise CheckpointError(f"{what}: NaN or infinity in {named}{rest}")


def _require_fit(config: SVGTConfig, backbone: BackboneIdentity) -> None:
    config.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )


def _trained_for(record: CheckpointRecord, folder: Path) -> BackboneRecord | None:
    if record.backbone is None:
        return None
    return from_mapping(BackboneRecord, record.backbone, where=f"{folder / RECORD_FILE}")


def recorded_versions(device: torch.device) -> dict[str, object]:
    """Package versions, Python, git revision, device and time, as a record keeps them."""
    made = provenance(device)
    return {key: made[key] for key in ("packages", "python", "git", "device", "time")}
