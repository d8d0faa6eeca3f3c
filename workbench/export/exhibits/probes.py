"""What the exhibits of all probes share."""

from collections.abc import Callable, Sequence

from probes.records import Record, frame_records
from workbench.export.exhibits.exhibit import Exhibits, PaperFigure
from workbench.export.paper_tables import parts_of
from workbench.export.probe_runs import RECORDS_FILE
from workbench.export.probe_tables import headline_tables
from workbench.files import read_parquet
from workbench.runs import RunFolder


def probe_exhibits(
    run: RunFolder, figures: Callable[[Sequence[Record]], tuple[PaperFigure, ...]]
) -> Exhibits:
    """Tables of a probe's headline, and its figures; nothing where it has no records yet."""
    path = run.file(RECORDS_FILE)
    if not path.exists():
        return Exhibits()
    records = frame_records(read_parquet(path))
    tables = tuple(part for table in headline_tables(records) for part in parts_of(table))
    return Exhibits(tables, figures(records))
