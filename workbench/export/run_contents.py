"""A run folder as an export takes it: its records, its exhibits, and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.errors import ExportError
from workbench.export.exhibits import Exhibits, exhibits_of
from workbench.files import read_json, read_parquet
from workbench.runs import SUMMARY_FILE, RunFolder, RunRecord

FINISHED = "finished"


@dataclass(frozen=True, eq=False)
class RunContents:
    """One run.

    Attributes:
        name: Of its folder in the export; unlike every other's.
        path: The run folder, as it was given.
        record: Content of its ``run.json``.
        records: Its tables by name: every Parquet file, and the rows of ``summary.json``.
        exhibits: Tables and figures for a paper.
        measured: Of a copy that knows: where and with what its run was measured; else nothing.
    """

    name: str
    path: Path
    record: RunRecord
    records: Mapping[str, pd.DataFrame]
    exhibits: Exhibits
    measured: Mapping[str, object]

    @property
    def finished(self) -> bool:
        """Whether the run has finished; if not, captions say so."""
        return self.record.status == FINISHED


def read_runs(paths: Sequence[Path], *, partial: bool) -> list[RunContents]:
    """Read runs of any kind.

    Args:
        paths: Run folders.
        partial: Take unfinished runs too, as far as they are.

    Raises:
        ExportError: No run, one named twice, one unfinished (without ``partial``), one of a kind
            without exhibits, or one that holds nothing yet.
        RunError: No run folder, or a damaged one.
    """
    if not paths:
        raise ExportError("name at least one run folder to export")
    resolved = [path.expanduser().resolve() for path in paths]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise ExportError(f"{path} is named twice; name every run once")
    names = distinct_names(resolved)
    return [_read(path, name, partial) for path, name in zip(paths, names, strict=True)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of their parents' names as it takes to tell them apart."""
    longest = max((len(path.parts) for path in paths), default=0)
    for depth in range(1, longest + 1):
        names = ["-".join(path.parts[1:][-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"run-{number}" for number in range(1, len(paths) + 1)]


def _read(path: Path, name: str, partial: bool) -> RunContents:
    run = RunFolder.open(path.expanduser())
    if run.record.status != FINISHED and not partial:
        raise ExportError(
            f"the run in {path} is not finished: go on with it (its command with --resume), or "
            "export what it has so far with --partial"
        )
    exhibits = exhibits_of(run)
    records = {
        file.stem: read_parquet(file)
        for file in sorted(run.path.glob("*.parquet"))
        if file.is_file()
    }
    measured: object = None
    if run.file(SUMMARY_FILE).exists():
        measured = read_json(run.file(SUMMARY_FILE)).get("measured")
        records["summary"] = pd.DataFrame(run.read_summary())
    records = {name: frame for name, frame in records.items() if not frame.empty}
    if not records and not exhibits.tables and not exhibits.figures:
        raise ExportError(f"{path} holds no records: there is nothing to export")
    known = measured if isinstance(measured, Mapping) else {}
    return RunContents(name, path, run.record, records, exhibits, known)
