"""Files that are whole or not there: JSON, Parquet and tensors, each in one step.

Every file is written beside its final name, flushed to disk and moved into place at once, so that a
crash or a full disk never damages what was there before. A file that is missing or damaged is told
by name.
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import RunError, one_line

_TEMPORARY = ".writing-"


def _usual_mode() -> int:
    """What the process's mask leaves of read and write for all."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _usual_mode()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on a clean exit it becomes ``path`` in one step.

    The temporary file stands in the same folder (which is created) and keeps the suffix of
    ``path``. On any exception it is removed and an earlier ``path`` stays byte for byte as it was.

    Raises:
        RunError: the operating system refused, for example because the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(_FILE_MODE)  # some writers let nobody but the owner read
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror or error}); nothing already there was changed"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # the file is in place; not every file system flushes folders
        _flush_to_disk(path.parent)


def write_json(path: str | Path, obj: Mapping[str, object]) -> None:
    """Write a JSON object: UTF-8, indented, keys in the order given.

    NumPy scalars and arrays become plain numbers and lists; NaN, which means *not measured* and
    which JSON lacks, becomes ``null``.

    Raises:
        RunError: the file cannot be written.
        TypeError: ``obj`` holds something JSON cannot express, an infinity included.
    """
    text = json.dumps(_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is missing, unreadable, not UTF-8, not JSON, or not an object.
    """
    path = _existing(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not valid JSON ({error}); it may be truncated") from error
    except OSError as error:
        raise RunError(f"cannot read {path} ({error.strerror or error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__} where a JSON object belongs")
    return content


def write_parquet(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet, without its index.

    Raises:
        RunError: the file cannot be written, or a column mixes types.
    """
    with atomic_path(path) as temporary:
        try:
            frame.to_parquet(temporary, index=False)
        except (ValueError, TypeError) as error:  # pyarrow's own errors are subclasses of these
            raise RunError(f"cannot write {path} as a table ({one_line(error)})") from error


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises:
        RunError: the file is missing, truncated or no Parquet file.
    """
    path = _existing(path)
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is no readable Parquet table ({one_line(error)})") from error


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as safetensors; each is detached, moved to the CPU and stored apart.

    Raises:
        RunError: the file cannot be written.
    """
    apart = {
        name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:
            # Without tensors safetensors writes an empty mapping as a header that nothing reads.
            save_file(apart, temporary, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise OSError(one_line(error)) from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file, on the CPU.

    Raises:
        RunError: the file is missing, truncated or no safetensors file.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path} is no readable safetensors file ({one_line(error)}); it may be truncated"
        ) from error


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        RunError: the file is missing.
    """
    with _existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_name(name: str) -> str:
    """A new name for what is being written, or taken away, beside a file or folder."""
    return f"{_TEMPORARY}{secrets.token_hex(4)}-{name}"


def is_temporary(name: str) -> bool:
    """Whether a killed process was writing, or taking away, what is called so."""
    return name.startswith(_TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process was writing; nobody else may write there meanwhile."""
    for leftover in folder.rglob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def as_json(mapping: Mapping[str, object]) -> dict[str, object]:
    """The mapping as it will be read back, so that a resumed run compares like with like."""
    return {str(key): _jsonable(value) for key, value in mapping.items()}


def _jsonable(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return _jsonable(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise TypeError("JSON cannot express an infinity")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON cannot express a {type(value).__name__}")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise RunError(f"missing file {path}")
    return path


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
