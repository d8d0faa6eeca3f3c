"""Run folders under a root, the damaged ones named instead of hidden.

Reading only: what a page shows of a run is gathered into one record here.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.background import started_with
from workbench.errors import RunError
from workbench.export.summaries import SummaryRow, summary_rows
from workbench.runs import METRICS_FILE, RUN_FILE, SUMMARY_FILE, RunFolder

Status = Literal["finished", "running", "failed", "interrupted"]

_DEEPEST = 4


@dataclass(frozen=True)
class RunView:
    """What can be read of one run folder.

    Attributes:
        path: the folder.
        name: its path below the root.
        kind, seed: from its ``run.json``.
        status: ``interrupted`` where ``run.json`` says "running" but no live process owns it.
        failure: what ended a failed run, in one line; empty otherwise.
        config, provenance: from its ``run.json``.
        summary: the rows of ``summary.json``, empty where the run has none.
    """

    path: Path
    name: str
    kind: str
    status: Status
    failure: str
    seed: int
    config: Mapping[str, object]
    provenance: Mapping[str, object]
    summary: tuple[SummaryRow, ...]

    @property
    def resume_command(self) -> str:
        """What goes on with the run; empty where its record does not say how it was started."""
        words = started_with(self.provenance.get("argv"))
        resume = [] if "--resume" in words else ["--resume"]
        return shlex.join(["workbench", *words, *resume]) if words else ""


@dataclass(frozen=True)
class DamagedRun:
    """A folder that should be a run but cannot be read; the problem names the file."""

    name: str
    problem: str


def browse(root: Path) -> tuple[list[RunView], list[DamagedRun]]:
    """Every run under a root, newest first, and every damaged one.

    Raises:
        RunError: there is no such folder.
    """
    if not root.is_dir():
        raise RunError(f"there is no folder {root}: give one that holds run folders")
    runs: list[RunView] = []
    damaged: list[DamagedRun] = []
    for folder in _run_folders(root):
        name = folder.relative_to(root).as_posix()
        try:
            runs.append(_view(folder, name if name != "." else folder.resolve().name))
        except RunError as error:
            damaged.append(DamagedRun(name, str(error)))
    runs.sort(key=lambda run: str(run.provenance.get("time", "")), reverse=True)
    return runs, damaged


def _run_folders(root: Path) -> list[Path]:
    """Folders that hold any file of a run; what lies inside a run belongs to it."""
    found: list[Path] = []
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if any((folder / name).exists() for name in (RUN_FILE, METRICS_FILE, SUMMARY_FILE)):
            found.append(folder)
        elif depth < _DEEPEST:
            waiting.extend((child, depth + 1) for child in _children(folder))
    return sorted(found)


def _children(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError:
        return []  # a folder that may not be read holds nothing to show


def _view(folder: Path, name: str) -> RunView:
    run = RunFolder.open(folder)
    has_summary = run.file(SUMMARY_FILE).exists()
    return RunView(
        path=folder,
        name=name,
        kind=run.record.kind,
        status=_status(run),
        failure=run.record.failure or "",
        seed=run.record.seed,
        config=run.record.config,
        provenance=run.record.provenance,
        summary=summary_rows(run.read_summary()) if has_summary else (),
    )


def _status(run: RunFolder) -> Status:
    if run.record.status != "running":
        return run.record.status
    return "running" if RunFolder.is_owned(run.path) else "interrupted"
