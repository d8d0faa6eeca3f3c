"""Run folders: everything one command produced, and enough to say how.

::

    run.json         kind, config, seed, status, provenance, and the hash of every finished file
    metrics.parquet  tidy long-form measurements, one row each
    summary.json     ``{"rows": [...]}``, the estimates a table is made of
    ...              whatever else the kind of run writes, checkpoints for example

One live process owns a folder at a time, see :mod:`workbench.folder_lock`; its files are whole or
not there, see :mod:`workbench.files`.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pandas as pd
import torch

from workbench.config import from_mapping, to_mapping
from workbench.errors import ConfigError, RunError, WorkbenchError, one_line
from workbench.files import (
    as_json,
    file_sha256,
    is_temporary,
    read_json,
    read_parquet,
    remove_temporary,
    temporary_name,
    write_json,
    write_parquet,
)
from workbench.folder_lock import LOCK_FILE, FolderLock
from workbench.provenance import now, provenance

RUN_FILE = "run.json"
METRICS_FILE = "metrics.parquet"
SUMMARY_FILE = "summary.json"
OUTPUT_FILE = ".output"
"""What a process in the background printed (:mod:`workbench.background`); no part of the run."""

Config = Mapping[str, object]
Grows = Callable[[Config, Config], bool]
"""Whether a run of the second config uses, as it is, all that one of the first has made."""


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

    def __init__(self, path: Path, record: RunRecord, lock: "FolderLock | None") -> None:
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

        A run that failed before it wrote a file besides ``run.json`` (its settings were refused,
        say) counts as none: whatever run wants its folder starts there anew.

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
            config=as_json(config),
            provenance=provenance(device),
        )
        _refuse_foreign_folder(path)
        lock = FolderLock.acquire(path)
        try:
            remove_temporary(path)
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
        return FolderLock.is_held(Path(path))

    @classmethod
    def _start_or_continue(
        cls, path: Path, wanted: RunRecord, *, resume: bool, grows: Grows
    ) -> RunRecord:
        found = _read_record(path) if (path / RUN_FILE).exists() else None
        if found is None or (found.status == "failed" and not _holds_work(path)):
            _write_record(path, wanted)
            return wanted
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
            self.record, status="finished", finished=now(), files=_hash_files(self.path)
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
            self.record = replace(self.record, status="failed", failure=kind + one_line(error))
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
    lock = FolderLock.acquire(folder)
    aside = folder.with_name(temporary_name(folder.name))
    try:
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise RunError(f"cannot delete {folder} ({error.strerror or error})") from error
    finally:
        lock.release()


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


def _is_bookkeeping(name: str) -> bool:
    return name in (LOCK_FILE, OUTPUT_FILE) or is_temporary(name)


def _holds_work(folder: Path) -> bool:
    """Whether a run's folder holds anything that the run made, at any depth."""
    made = (path for path in folder.rglob("*") if path != folder / RUN_FILE)
    return any(not (path.is_dir() or _is_bookkeeping(path.name)) for path in made)


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
