"""Fitted guidance on disk: ``guidance.safetensors`` (tensors) and ``guidance.json`` (about them).

The JSON keeps the method, its configuration, the hash of the tensors, the backbone and tokenizer
they were fitted on (by hash), the versions that made them, and what was measured. An artefact that
does not hold this, or belongs to another backbone, is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from workbench.backbone.protocol import Backbone
from workbench.config import from_mapping, to_mapping
from workbench.errors import CheckpointError, ConfigError, RunError
from workbench.files import atomic_path, file_sha256, read_json, write_json, write_tensors
from workbench.svgt.checkpoint import (
    read_finite,
    recorded_versions,
    require_described,
    require_finite,
)
from workbench.svgt.origin import BackboneRecord, identify, require_made_for

TENSORS_FILE = "guidance.safetensors"
ARTIFACT_FILE = "guidance.json"
FORMAT = 1

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class ArtifactRecord:
    """The content of ``guidance.json``.

    Attributes:
        format: Version of this layout.
        method: The method's name in the registry.
        config: Its configuration.
        tensors_sha256: Hash of ``guidance.safetensors``.
        backbone: What it was fitted on.
        versions: Package versions, Python, git revision and device at the time of saving.
        about: Seed, data and whatever was measured.
    """

    format: int
    method: str
    config: Mapping[str, object]
    tensors_sha256: str
    backbone: BackboneRecord
    versions: Mapping[str, object]
    about: Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Artifact:
    """What was read back: the record and the tensors, on the CPU."""

    record: ArtifactRecord
    tensors: dict[str, Tensor]


def save_artifact(
    folder: str | Path,
    method: str,
    config: object,
    tensors: Mapping[str, Tensor],
    *,
    backbone: Backbone,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write a fitted guidance, both files or neither.

    Args:
        folder: Where; created when missing.
        method: Its name in the registry.
        config: A frozen configuration record.
        tensors: What was fitted; may be empty.
        backbone: What it was fitted on.
        about: Seed, data, measurements; JSON-able.

    Raises:
        CheckpointError: A tensor is NaN or infinite; nothing is written.
        RunError: The files cannot be written.
    """
    folder = Path(folder)
    require_finite(tensors, f"refusing to save {method}")
    with (
        atomic_path(folder / ARTIFACT_FILE) as record,
        atomic_path(folder / TENSORS_FILE) as weights,
    ):
        write_tensors(
            weights, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        write_json(
            record,
            {
                "format": FORMAT,
                "method": method,
                "config": to_mapping(config),
                "tensors_sha256": file_sha256(weights),
                "backbone": to_mapping(identify(backbone)),
                "versions": recorded_versions(backbone.device),
                "about": dict(about or {}),
            },
        )


def read_artifact_record(folder: str | Path) -> ArtifactRecord:
    """Read what is known about a fitted guidance, without its tensors.

    Raises:
        CheckpointError: ``guidance.json`` is missing, damaged, or of another format.
    """
    path = Path(folder) / ARTIFACT_FILE
    try:
        record = from_mapping(ArtifactRecord, read_json(path), where=str(path))
    except (RunError, ConfigError) as error:
        raise CheckpointError(f"no fitted guidance in {folder}: {error}") from error
    if record.format != FORMAT:
        raise CheckpointError(
            f"{path} has format {record.format}, this version reads {FORMAT}; update the workbench"
        )
    return record


def load_artifact(folder: str | Path, method: str, backbone: Backbone) -> Artifact:
    """Read a fitted guidance for a backbone.

    Raises:
        CheckpointError: A file is missing or damaged, a tensor is NaN, or the artefact is of
            another method, backbone or tokenizer.
    """
    folder = Path(folder)
    record = read_artifact_record(folder)
    if record.method != method:
        raise CheckpointError(
            f"{folder} holds {record.method}, not {method}: use {record.method}:{folder}"
        )
    require_made_for(
        record.backbone,
        backbone,
        made=f"{method} in {folder} was fitted on",
        otherwise="fit it on this one",
    )
    path = folder / TENSORS_FILE
    tensors = read_finite(path)
    require_described(path, record.tensors_sha256, ARTIFACT_FILE, again="fit again")
    return Artifact(record, tensors)


def read_config(artifact: Artifact, config_type: type[ConfigT], folder: str | Path) -> ConfigT:
    """The artefact's configuration as its record.

    Raises:
        CheckpointError: It has an unknown key or a value out of range.
    """
    where = f"{Path(folder) / ARTIFACT_FILE}: config"
    try:
        config: Any = from_mapping(config_type, artifact.record.config, where=where)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    assert isinstance(config, config_type)
    return config


def take_tensors(
    artifact: Artifact, shapes: Mapping[str, tuple[int, ...]], folder: str | Path
) -> dict[str, Tensor]:
    """The artefact's tensors, if they are exactly those expected.

    Raises:
        CheckpointError: One is missing, unknown, or of another shape.
    """
    found = {name: tuple(tensor.shape) for name, tensor in artifact.tensors.items()}
    if found != dict(shapes):
        raise CheckpointError(
            f"{Path(folder) / TENSORS_FILE} does not fit its configuration: it holds {found}, "
            f"expected {dict(shapes)}"
        )
    return artifact.tensors
