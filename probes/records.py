"""One record, one measured number: what every probe returns and every figure is a function of.

Records are tidy and long. A column that does not apply is empty (``""``, None or NaN); NaN in
``estimate`` means *not measured*, with the reason in ``note``. Every estimate carries what it takes
to judge it: how many examples, the interval and its method, the ceiling that noise alone allows,
the null that no effect would give, and the seed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import pandas as pd

from workbench.errors import RunError
from workbench.statistics import Interval

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Record:
    """One estimate of one quantity at one place.

    Attributes:
        probe: ``instability``, ``anchoring`` or ``reliability``.
        backbone: Name of the frozen model.
        metric: What is estimated, for example ``cosine`` or ``slot_attention``.
        estimate: The number; NaN where it was not measured.
        low, high: Ends of its interval; NaN where there is none.
        n: Independent units behind it: groups (clusters) of examples.
        seed: Seed of everything random behind it.
        guidance: What steered the model, as a person writes it.
        contrast: Which two classes a direction tells apart.
        site: Where it was read: ``residual``, ``z``, ``delta_z``, ``bridge``, ...
        layer: Block; -1 stands for the embeddings, None for sites without one.
        head: Attention head.
        context_a, context_b: Context frames; one of them, or a pair.
        estimator: How a direction was fitted, or which intervention was made.
        x: The number on the horizontal axis where there is one: a step, a dose, a coefficient.
        ceiling: What a perfectly stable quantity would reach with this much noise.
        null: What the control without any effect gives.
        p_value: Of the test named in ``ci_method``.
        ci_method: How interval (and test) were made.
        note: Why something was not measured, or what to mind.
    """

    probe: str
    backbone: str
    metric: str
    estimate: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    seed: int = 0
    guidance: str = "none"
    contrast: str = ""
    site: str = ""
    layer: int | None = None
    head: int | None = None
    context_a: str = ""
    context_b: str = ""
    estimator: str = ""
    x: float = math.nan
    ceiling: float = math.nan
    null: float = math.nan
    p_value: float = math.nan
    ci_method: str = ""
    note: str = ""

    def measured(self, interval: Interval) -> "Record":
        """The record with estimate, interval and its method filled in; ``n`` counts clusters."""
        return replace(
            self,
            estimate=interval.estimate,
            low=interval.low,
            high=interval.high,
            n=interval.n_clusters,
            ci_method=interval.method,
            note=self.note or (NOT_MEASURED if math.isnan(interval.estimate) else ""),
        )


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Record))
_COUNTS = ("layer", "head")


def records_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a table with fixed columns and types; ``layer`` and ``head`` may be missing."""
    frame = pd.DataFrame([asdict(record) for record in records], columns=list(COLUMNS))
    numbers = dict.fromkeys(
        ["estimate", "low", "high", "x", "ceiling", "null", "p_value"], "float64"
    )
    return frame.astype({**numbers, **dict.fromkeys(_COUNTS, "Int64"), "n": int, "seed": int})


def frame_records(frame: pd.DataFrame) -> list[Record]:
    """The records of a table that :func:`records_frame` made.

    Raises:
        RunError: A column is missing; it is named.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise RunError(
            f"the records lack the columns {', '.join(missing)}; they were not written by this "
            "version of the probes: run the probe again"
        )
    rows: Sequence[dict[str, object]] = frame[list(COLUMNS)].to_dict("records")  # type: ignore[assignment]
    return [_record(row) for row in rows]


def _record(row: dict[str, object]) -> Record:
    counts = {name: None if pd.isna(row[name]) else int(row[name]) for name in _COUNTS}  # type: ignore[call-overload]
    return Record(**{**row, **counts})  # type: ignore[arg-type]
