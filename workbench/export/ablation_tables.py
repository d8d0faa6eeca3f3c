"""Tables of ablation records: a row a variant, the reference first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RunError
from workbench.evaluation.ablations import ALL_SEEDS, AblationRecord, Dependence
from workbench.evaluation.ablations.catalogue import REFERENCE
from workbench.evaluation.ablations.comparing import UNGUIDED
from workbench.export.paper_tables import Cell, PaperTable, marks_text, table_latex
from workbench.files import read_parquet

TEST = "test"
VALIDATION = "validation"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Column:
    """One column: a metric on a split, its own estimate or its difference to the reference."""

    heading: str
    metric: str
    split: str = TEST
    difference: bool = True
    factor: float = 100.0
    decimals: int = 1


COLUMNS: tuple[Column, ...] = (
    Column("harm, %", "harm_rate", difference=False),
    Column("Δ harm", "harm_rate"),
    Column("Δ over-refusal", "over_refusal_rate"),
    Column("Δ degenerate", "degenerate_rate"),
    Column("Δ cross-entropy", "cross_entropy", factor=1.0, decimals=4),
    Column("utility, validation", "utility", VALIDATION, difference=False),
)


@dataclass(frozen=True)
class TableRow:
    """One variant: its text, the cells of ``COLUMNS``, and their numbers (NaN: none)."""

    variant: str
    text: str
    cells: tuple[str, ...]
    values: tuple[float, ...]


def read_records(path: Path) -> list[AblationRecord]:
    """Read ``records.parquet``.

    Raises:
        RunError: It is missing or damaged.
    """
    frame = read_parquet(path)
    try:
        return [
            AblationRecord(**{str(k): v for k, v in row.items()})
            for row in frame.to_dict("records")
        ]
    except TypeError as error:
        raise RunError(f"{path} holds no records of an ablation: {error}") from error


def comparisons_in(records: Sequence[AblationRecord]) -> list[tuple[str, str, str]]:
    """Ablation, reference and backbone of everything compared, in the order of the records."""
    return list(dict.fromkeys((r.ablation, r.reference, r.backbone) for r in records))


def selected(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> dict[tuple[str, str, str], AblationRecord]:
    """Records over all seeds of one comparison, by variant, split and metric."""
    return {
        (r.variant, r.split, r.metric): r
        for r in records
        if (r.ablation, r.reference, r.backbone) == (ablation, reference, backbone)
        and r.seed == ALL_SEEDS
    }


def best_on_validation(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> str:
    """The variant (or ``reference``) with the highest utility on the validation splits."""
    found = selected(records, ablation, reference, backbone)
    utilities = {
        variant: record.estimate
        for (variant, split, metric), record in found.items()
        if (split, metric) == (VALIDATION, "utility") and variant != UNGUIDED
    }
    known = {variant: value for variant, value in utilities.items() if not math.isnan(value)}
    return max(known, key=lambda variant: known[variant], default="")


def table_rows(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> list[TableRow]:
    """Rows of one comparison: no guidance, the reference, then the variants.

    Each cell: estimate [95% interval]; a star on a difference: Holm's p below 0.05. The variant
    that the validation splits choose is marked with ``←``.
    """
    found = selected(records, ablation, reference, backbone)
    variants = dict.fromkeys(variant for variant, _, _ in found)
    best = best_on_validation(records, ablation, reference, backbone)
    rows = []
    for variant in variants:
        text = next(r.text for (name, _, _), r in found.items() if name == variant)
        named = f"{text} (reference)" if variant == REFERENCE else text
        records_of = [(found.get((variant, c.split, c.metric)), c) for c in COLUMNS]
        rows.append(
            TableRow(
                variant,
                f"{named} ←" if variant == best else named,
                tuple(_cell(record, column) for record, column in records_of),
                tuple(
                    column.factor * _interval(record, column)[0] for record, column in records_of
                ),
            )
        )
    return rows


def _interval(record: AblationRecord | None, column: Column) -> tuple[float, float, float]:
    """Estimate and ends of the interval that a column shows."""
    if record is None:
        return math.nan, math.nan, math.nan
    if column.difference:
        return record.difference, record.difference_low, record.difference_high
    return record.estimate, record.low, record.high


def _cell(record: AblationRecord | None, column: Column) -> str:
    estimate, low, high = _interval(record, column)
    if record is None or math.isnan(estimate):
        return "–"
    sign = "+" if column.difference else ""

    def number(value: float) -> str:
        return f"{column.factor * value:{sign}.{column.decimals}f}"

    star = "*" if column.difference and record.p_holm < SIGNIFICANT else ""
    return f"{number(estimate)}{star} [{number(low)}, {number(high)}]"


def markdown_table(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| variant | " + " | ".join(column.heading for column in COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for row in table_rows(records, ablation, reference, backbone):
        lines.append(f"| {row.text} | " + " | ".join(row.cells) + " |")
    return "\n".join(lines)


_DEPENDENCE: dict[str, str] = {
    "corrected": "corrected, %",
    "step": "‖Δz‖",
    "without_step": "B without Δz, %",
    "other_step": "B with another Δz, %",
    "other_state": "B with another h, %",
}


def dependence_table(found: Sequence[Dependence]) -> str:
    """What bridges depend on, a row a module, as a Markdown table."""
    lines = [
        "| backbone | module | " + " | ".join(_DEPENDENCE.values()) + " | n harmful |",
        "|---|---|" + "---:|" * (len(_DEPENDENCE) + 1),
    ]
    for backbone, config in dict.fromkeys((row.backbone, row.config) for row in found):
        by_name = {r.quantity: r for r in found if (r.backbone, r.config) == (backbone, config)}
        cells = [_dependence_cell(by_name[name]) for name in _DEPENDENCE]
        n = by_name["corrected"].n
        lines.append(f"| {backbone} | `{config}` | " + " | ".join(cells) + f" | {n} |")
    return "\n".join(lines)


def _dependence_cell(row: Dependence) -> str:
    if math.isnan(row.estimate):
        return "–"
    factor = 1.0 if row.quantity == "step" else 100.0
    return f"{factor * row.estimate:.2f} [{factor * row.low:.2f}, {factor * row.high:.2f}]"


def paper_table(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> PaperTable:
    """The rows as a table for a paper; the caption states n, seeds and test."""
    found = selected(records, ablation, reference, backbone)
    rows = table_rows(records, ablation, reference, backbone)
    return PaperTable(
        f"ablation-{ablation}-{reference}-{Path(backbone).name}",
        f"Ablation {ablation} of {reference} on {Path(backbone).name}: "
        f"{comparison_evidence(records, ablation, reference, backbone)}",
        ("variant",),
        tuple(column.heading for column in COLUMNS),
        tuple(
            (
                (row.text,),
                tuple(_paper_cell(found.get((row.variant, c.split, c.metric)), c) for c in COLUMNS),
            )
            for row in rows
        ),
    )


def latex(records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str) -> str:
    """The rows as a LaTeX table."""
    return table_latex(paper_table(records, ablation, reference, backbone))


def _paper_cell(record: AblationRecord | None, column: Column) -> Cell:
    value, low, high = (column.factor * number for number in _interval(record, column))
    p_value = record.p_holm if record is not None and column.difference else math.nan
    form = f"{'+' if column.difference else ''}.{column.decimals}f"
    return Cell.of(value, low, high, form, p_value)


def comparison_evidence(
    records: Sequence[AblationRecord], ablation: str, reference: str, backbone: str
) -> str:
    """What stands behind the numbers of one comparison, for a caption."""
    place = (ablation, reference, backbone)
    found = selected(records, *place)
    harmful = [r.n for (_, s, m), r in found.items() if (s, m) == (TEST, "harm_rate")]
    own = (r.seed for r in records if (r.ablation, r.reference, r.backbone) == place)
    seeds = sorted({seed for seed in own if seed != ALL_SEEDS})
    pooled = f"seed {', '.join(map(str, seeds))}" if seeds else "all seeds together"
    return (
        "test splits, estimate and 95% interval (bootstrap clustered by intent group, with the "
        "variance between seeds where there are several); differences to the "
        "reference in percentage points, cross-entropy in nats a token; "
        f"{max(harmful, default=0)} harmful prompts times seeds a variant, {pooled}. "
        + marks_text("paired sign-flip permutation of intent groups, Holm-corrected over variants")
        + " ←: the variant that the validation splits choose."
    )
