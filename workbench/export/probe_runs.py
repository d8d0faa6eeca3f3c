"""The run folder of a probe: its records, and the projected states where it has any.

records.parquet     every record, see ``probes.records``
projection.parquet  states on their main axes, see ``probes.projection`` (instability only)
summary.json        the headline
states/             collected states, see ``probes.collection`` (they may be left out in a copy)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from probes.records import Record, frame_records, records_frame
from workbench.errors import RunError
from workbench.export.probe_tables import summary_rows
from workbench.files import read_parquet, write_parquet
from workbench.runs import RunFolder

RECORDS_FILE = "records.parquet"
PROJECTION_FILE = "projection.parquet"
STATES_FOLDER = "states"
PROBES: tuple[str, ...] = ("instability", "anchoring", "reliability")
_PREFIX = "probe-"


@dataclass(frozen=True, eq=False)
class ProbeRun:
    """What one probe found.

    Attributes:
        name: The folder's.
        probe: Which one.
        config: What was asked.
        provenance: When and with which versions.
        records: Everything found.
        projection: States on their main axes; empty where the run has none.
    """

    name: str
    probe: str
    config: Mapping[str, object]
    provenance: Mapping[str, object]
    records: tuple[Record, ...]
    projection: pd.DataFrame


def run_kind(probe: str) -> str:
    """What ``run.json`` calls a run of this probe."""
    return f"{_PREFIX}{probe}"


def save_probe(
    run: RunFolder, records: Sequence[Record], projection: pd.DataFrame | None = None
) -> None:
    """Write records, projected states and headline into a run folder that this process owns.

    Raises:
        RunError: A file cannot be written.
    """
    write_parquet(run.file(RECORDS_FILE), records_frame(records))
    if projection is not None:
        write_parquet(run.file(PROJECTION_FILE), projection)
    run.write_summary(summary_rows(records))


def open_probe(folder: str | Path) -> ProbeRun:
    """Read what a finished probe wrote.

    Raises:
        RunError: No run folder, one of another command, an unfinished or a damaged one.
    """
    run = RunFolder.open(folder)
    probe = run.record.kind.removeprefix(_PREFIX)
    if probe not in PROBES or run.record.kind == probe:
        raise RunError(
            f"{folder} holds a run of kind '{run.record.kind}', no probe; give a folder that "
            "`workbench probe` wrote"
        )
    if run.record.status != "finished":
        raise RunError(
            f"the probe in {folder} is not finished: run the same command again with --resume"
        )
    drawn = run.file(PROJECTION_FILE)
    return ProbeRun(
        name=Path(folder).resolve().name,
        probe=probe,
        config=run.record.config,
        provenance=run.record.provenance,
        records=tuple(frame_records(read_parquet(run.file(RECORDS_FILE)))),
        projection=read_parquet(drawn) if drawn.exists() else pd.DataFrame(),
    )
