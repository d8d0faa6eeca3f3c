"""Run folders and damage-proof files.

A run folder holds everything one command produced, and enough to say how:

    run.json         kind, config, seed, status, provenance, and the hash of every finished file
    metrics.parquet  tidy long-form measurements, one row each
    summary.json     ``{"rows": [...]}``, the estimates a table is made of
    ...              whatever else the kind of run writes, checkpoints for example

Every file is written beside its final name, flushed to disk and moved into place in one step, so
a crash or a full disk never damages what was there before. One live process owns a folder at a
time: the lock belongs to the operating system, which frees it when its owner dies, so a killed
run never has to be unlocked by hand.
"""

import fcntl
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.config import from_mapping, to_mapping
from workbench.errors import ConfigError, FolderInUseError, RunError, WorkbenchError

RUN_FILE = "run.json"
METRICS_FILE = "metrics.parquet"
SUMMARY_FILE = "summary.json"
LOCK_FILE = ".lock"
OUTPUT_FILE = ".output"
"""What a process in the background printed (:mod:`workbench.background`); no part of the run."""

Config = Mapping[str, object]
Grows = Callable[[Config, Config], bool]
"""Whether a run of the second config uses, as it is, all that one of the first has made."""

_TEMPORARY = ".writing-"
_RECORDED_PACKAGES = (
    "svgt-workbench",
    "torch",
    "transformers",
    "tokenizers",
    "transformer-lens",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "statsmodels",
)


def _usual_mode() -> int:
    """What the process's mask leaves of read and write for all."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _usual_mode()


# ------------------------------------------------------------------ files, written all or nothing


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on a clean exit it becomes ``path`` in one step.

    The temporary file stands in the same folder (which is created) and keeps the suffix of
    ``path``. On any exception it is removed and an earlier ``path`` stays byte for byte as it was.

    Raises:
        RunError: the operating system refused, for example because the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
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
            raise RunError(f"cannot write {path} as a table ({_one_line(error)})") from error


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises:
        RunError: the file is missing, truncated or no Parquet file.
    """
    path = _existing(path)
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is no readable Parquet table ({_one_line(error)})") from error


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
            raise OSError(_one_line(error)) from error


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
            f"{path} is no readable safetensors file ({_one_line(error)}); it may be truncated"
        ) from error


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        RunError: the file is missing.
    """
    with _existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------- where it came from


def provenance(device: torch.device | str | None = None) -> dict[str, object]:
    """What it takes to say how a number was made.

    Args:
        device: Where the model computes; None where none is involved.

    Returns:
        ``packages`` (name to version, null where absent), ``python``, ``platform``, ``git``
        (``revision`` and ``dirty``; null outside a checkout of this project), ``device`` (see
        :func:`describe_device`; null where none is involved), ``argv`` and ``time`` (UTC, ISO
        8601).
    """
    return {
        "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git_state(Path(__file__).resolve().parent.parent),
        "device": None if device is None else describe_device(device),
        "argv": list(sys.argv),
        "time": _now(),
    }


def describe_device(device: torch.device | str) -> dict[str, str]:
    """``name`` as torch calls it, ``cuda:0`` for example, and the ``hardware`` behind it."""
    asked = torch.device(device)
    if asked.type == "cuda":
        return {"name": str(asked), "hardware": torch.cuda.get_device_name(asked)}
    return {"name": str(asked), "hardware": _processor()}


def _processor() -> str:
    """The processor's name, which Linux keeps in a file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(project: Path) -> dict[str, object] | None:
    # An installed copy may lie inside somebody else's repository: that revision says nothing.
    if _git(project, "rev-parse", "--show-toplevel") != str(project):
        return None
    revision = _git(project, "rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": _git(project, "status", "--porcelain") != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


# --------------------------------------------------------------------------------------- the folder


@dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``.

    Attributes:
        kind: what made the folder, for example "train".
        seed: the seed every generator of the run was derived from.
        status: "running" until :meth:`RunFolder.finish`; "failed" where an error ended the run,
            until it is resumed; a killed or interrupted run stays "running".
        config: the full configuration, as JSON.
        provenance: see :func:`provenance`, at creation.
        resumed: the provenance of every later process that continued the run.
        finished: UTC time of the end, null before.
        files: relative file name to SHA-256, of everything in the folder at the end.
        failure: what ended a failed run, in one line; null otherwise.
    """

    kind: str
    seed: int
    status: Literal["running", "finished", "failed"]
    config: Mapping[str, object]
    provenance: Mapping[str, object]
    resumed: tuple[Mapping[str, object], ...] = ()
    finished: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that worked on the run, the first first; old records name none."""
        named = (made.get("device") for made in (self.provenance, *self.resumed))
        said = [f"{d['name']} ({d['hardware']})" for d in named if isinstance(d, Mapping)]
        return tuple(dict.fromkeys(said))


class RunFolder:
    """One folder with what one command produced; see the module's docstring for its content.

    Made by :meth:`create` (owns the folder until closed) or :meth:`open` (reads only). As a
    context manager it marks the run finished on a clean exit, failed (with the reason) on an
    error, leaves it "running" on an interrupt, and gives the folder free in all cases. What is not
    finished can be resumed::

        with RunFolder.create(out, kind="train", config=to_mapping(config), seed=0) as run:
            run.append_metrics([{"step": 1, "metric": "loss", "value": 0.7}])
    """

    def __init__(self, path: Path, record: RunRecord, lock: "_FolderLock | None") -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        kind: str,
        config: Mapping[str, object],
        seed: int,
        resume: bool = False,
        grows: Grows = lambda old, new: False,
        device: torch.device | str | None = None,
    ) -> "RunFolder":
        """Take a new or empty folder, or, with ``resume``, continue the same run in an old one.

        With ``resume`` an absent run is started, so a script may always pass it; a finished one
        is given back as it is (see ``record.status``). A run may go on on another device: the
        provenance of each process that worked on it names its own. Where ``grows`` says that the
        old config grows into the new one (more seeds, say), the run takes the new one and is
        running again, finished or not.

        Raises:
            FolderInUseError: another live process owns the folder.
            RunError: it holds something else; it holds a run and ``resume`` is off; or the run in
                it has another kind, seed or config (the differing keys are named).
        """
        path = Path(path)
        wanted = RunRecord(
            kind=kind,
            seed=seed,
            status="running",
            config=_as_json(config),
            provenance=provenance(device),
        )
        _refuse_foreign_folder(path)
        lock = _FolderLock.acquire(path)
        try:
            _remove_leftovers(path)
            record = cls._start_or_continue(path, wanted, resume=resume, grows=grows)
        except BaseException:
            lock.release()
            raise
        return cls(path, record, lock)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open a run folder for reading.

        Raises:
            RunError: no such folder; no or a damaged ``run.json``; or a finished run lacks a
                file that it wrote (all missing ones are named).
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"no run folder at {path}")
        if not (path / RUN_FILE).is_file():
            raise RunError(f"{path} is not a run folder: {RUN_FILE} is missing")
        record = _read_record(path)
        missing = [name for name in record.files if not (path / name).is_file()]
        if missing:
            raise RunError(
                f"run folder {path} is incomplete: {', '.join(missing)} missing; "
                "restore from a copy or run again into a new folder"
            )
        return cls(path, record, lock=None)

    @staticmethod
    def is_owned(path: str | Path) -> bool:
        """Whether a live process owns the folder; a run that says "running" without is dead.

        Asks the operating system, so a killed owner counts as none at once, whatever ``.lock``
        still says. Nothing is written, and a copy of a folder without its lock has no owner.

        Raises:
            RunError: the lock cannot be read.
        """
        return _FolderLock.is_held(Path(path))

    @classmethod
    def _start_or_continue(
        cls, path: Path, wanted: RunRecord, *, resume: bool, grows: Grows
    ) -> RunRecord:
        if not (path / RUN_FILE).exists():
            _write_record(path, wanted)
            return wanted
        found = _read_record(path)
        if not resume:
            raise RunError(
                f"{path} already holds a run ({found.kind}, {found.status}); "
                "resume it, or choose a new folder"
            )
        if found.kind != wanted.kind:
            raise RunError(
                f"{path} holds a run of another kind ({found.kind}, not {wanted.kind}); choose "
                "another folder"
            )
        differences = _differences(found, wanted)
        grown = found.seed == wanted.seed and grows(found.config, wanted.config)
        if differences and not grown:
            raise RunError(
                f"cannot resume {path}, its run was started differently: {'; '.join(differences)}"
            )
        if differences or found.status != "finished":
            found = replace(
                found,
                status="running",
                config=wanted.config,
                finished=None,
                files={},
                failure=None,
                resumed=(*found.resumed, wanted.provenance),
            )
            _write_record(path, found)
        return found

    def append_metrics(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Add measurements to ``metrics.parquet``; it is complete again when this returns.

        Raises:
            RunError: see :func:`write_parquet`.
        """
        new = pd.DataFrame([dict(row) for row in rows])
        if new.empty:
            return
        exists = self.file(METRICS_FILE).exists()
        frames = [self.read_metrics(), new] if exists else [new]
        self.write_metrics(pd.concat(frames, ignore_index=True))

    def write_metrics(self, frame: pd.DataFrame) -> None:
        """Replace ``metrics.parquet``; a resumed run so drops what its checkpoint has not seen.

        Raises:
            RunError: see :func:`write_parquet`.
        """
        self._require_ownership()
        write_parquet(self.file(METRICS_FILE), frame)

    def read_metrics(self) -> pd.DataFrame:
        """Read ``metrics.parquet``.

        Raises:
            RunError: it is missing or damaged.
        """
        return read_parquet(self.file(METRICS_FILE))

    def write_summary(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write ``summary.json`` = ``{"rows": [...]}``; NaN becomes null.

        Raises:
            RunError: see :func:`write_json`.
        """
        self._require_ownership()
        write_json(self.file(SUMMARY_FILE), {"rows": list(rows)})

    def read_summary(self) -> list[dict[str, Any]]:
        """Read the rows of ``summary.json``; null means *not measured*.

        Raises:
            RunError: it is missing or damaged.
        """
        rows = read_json(self.file(SUMMARY_FILE)).get("rows")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RunError(f"{self.file(SUMMARY_FILE)} has no list of rows")
        return rows

    def file(self, name: str) -> Path:
        """The path of a file of this folder, whether or not it exists."""
        return self.path / name

    def finish(self) -> None:
        """Mark the run finished and record the hash of every file in it; a second call is idle.

        Raises:
            RunError: the folder is open for reading only, or ``run.json`` cannot be written.
        """
        self._require_ownership()
        if self.record.status == "finished":
            return
        self.record = replace(
            self.record, status="finished", finished=_now(), files=_hash_files(self.path)
        )
        _write_record(self.path, self.record)

    def reopen(self, device: torch.device | str | None = None) -> None:
        """Take up a finished run again, to add to it; it says "running" until it is finished anew.

        Raises:
            RunError: the folder is open for reading only, or ``run.json`` cannot be written.
        """
        self._require_ownership()
        self.record = replace(
            self.record,
            status="running",
            finished=None,
            files={},
            resumed=(*self.record.resumed, provenance(device)),
        )
        _write_record(self.path, self.record)

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._lock is not None:
                self.finish()
            elif isinstance(error, Exception) and self._lock is not None:
                self._fail(error)
        finally:
            self.close()

    def altered_files(self) -> list[str]:
        """Files that no longer have the hash they had when the run finished.

        Raises:
            RunError: one is missing.
        """
        kept = self.record.files.items()
        return [name for name, sha256 in kept if file_sha256(self.file(name)) != sha256]

    def _fail(self, error: Exception) -> None:
        """Say why the run ended; an error met on the way there must not hide the first one."""
        kind = "" if isinstance(error, WorkbenchError) else f"{type(error).__name__}: "
        if self.record.status == "running":
            self.record = replace(self.record, status="failed", failure=kind + _one_line(error))
            with suppress(RunError):
                _write_record(self.path, self.record)

    def _require_ownership(self) -> None:
        if self._lock is None:
            raise RunError(f"run folder {self.path} is open for reading only")


def delete_run(folder: str | Path, *, root: str | Path) -> None:
    """Delete a run folder for good, and nothing that is no run or lies elsewhere.

    The folder is owned meanwhile, so no run starts in it, and is moved aside in one step: what is
    only half deleted is never taken for a run.

    Args:
        folder: What to delete.
        root: The folder with runs that it must lie in, at any depth.

    Raises:
        RunError: it lies outside ``root``, holds no run, is in use, or cannot be removed.
    """
    folder, root = Path(folder), Path(root)
    inside = root.resolve() in folder.resolve().parents
    if folder.is_symlink() or not inside:
        raise RunError(f"{folder} does not lie in {root}: only runs in it are deleted from here")
    if not (folder / RUN_FILE).is_file():
        raise RunError(f"{folder} holds no run ({RUN_FILE} is missing): delete it by hand")
    lock = _FolderLock.acquire(folder)
    aside = folder.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{folder.name}")
    try:
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(f"cannot delete {folder} ({error.strerror or error})") from error
    finally:
        lock.release()


class _FolderLock:
    """An advisory lock of the operating system on ``.lock``, which also names its owner.

    The file stays when the lock is released: removing it would let two processes lock two files
    of the same name. What counts is the lock, not the file, so one left by a dead process (or
    naming a process number that was given out again) is simply taken over.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> "_FolderLock":
        path = folder / LOCK_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(
                f"cannot use {folder} as a run folder ({error.strerror or error}); "
                "choose a folder that can be made and written"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} is in use by another run (process {owner}); "
                "wait for it, or choose a new folder"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise RunError(f"cannot lock {path} ({error.strerror or error})") from error
        return cls(descriptor)

    @staticmethod
    def is_held(folder: Path) -> bool:
        path = folder / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunError(f"cannot read {path} ({error.strerror or error})") from error
        try:
            if not os.pread(descriptor, 1, 0):
                return False  # an owner writes its number; so nobody who starts is ever disturbed
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


# ------------------------------------------------------------------------------------------ helpers


def _write_record(folder: Path, record: RunRecord) -> None:
    write_json(folder / RUN_FILE, to_mapping(record))


def _read_record(folder: Path) -> RunRecord:
    path = folder / RUN_FILE
    try:
        return from_mapping(RunRecord, read_json(path), where=str(path))
    except ConfigError as error:
        raise RunError(
            f"{error}; this is no run of the workbench, or the file is damaged"
        ) from error


def _refuse_foreign_folder(path: Path) -> None:
    """Never lock, clean or write in a folder that holds something else than a run."""
    if not path.is_dir() or (path / RUN_FILE).exists():
        return
    others = sorted(item.name for item in path.iterdir() if not _is_bookkeeping(item.name))
    if others:
        raise RunError(
            f"{path} is not empty and holds no run ({others[0]} is in it); choose a new folder"
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing; the caller holds the lock, so nobody else is."""
    for leftover in folder.rglob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def _is_bookkeeping(name: str) -> bool:
    return name in (LOCK_FILE, OUTPUT_FILE) or name.startswith(_TEMPORARY)


def _hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RUN_FILE and not _is_bookkeeping(path.name)
    }


def _differences(found: RunRecord, wanted: RunRecord) -> list[str]:
    old = _flatten({"kind": found.kind, "seed": found.seed, **found.config})
    new = _flatten({"kind": wanted.kind, "seed": wanted.seed, **wanted.config})
    return [
        f"{key} was {old.get(key, 'absent')!r}, now {new.get(key, 'absent')!r}"
        for key in dict.fromkeys([*old, *new])
        if (key in old) != (key in new) or old[key] != new[key]
    ]


def _flatten(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


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


def _as_json(mapping: Mapping[str, object]) -> dict[str, object]:
    """The mapping as it will be read back, so that a resumed run compares like with like."""
    return {str(key): _jsonable(value) for key, value in mapping.items()}


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
