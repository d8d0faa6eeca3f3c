"""Tables of probe records: what a person reads, what LaTeX prints, and the headline of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from probes.anchoring.interventions import INTERVENTIONS
from probes.records import Record, records_frame
from workbench.export.paper_tables import Cell, PaperTable, marks_text, table_latex
from workbench.export.probe_text import Form
from workbench.export.probe_words import (
    POOLED,
    context_text,
    contrast_text,
    estimator_text,
    layer_text,
    scope_text,
    site_text,
)
from workbench.statistics import holm

HEADLINES: dict[str, tuple[str, ...]] = {
    "instability": ("instability_index", "instability_difference"),
    "anchoring": (
        "n_open", "margin_effect", "margin_lost", "harm_rate", "harm_lost", "first_order_slope",
        "dilution_half_length_attention", "dilution_half_length_kl",
        "dilution_half_length_margin",
    ),
    "reliability": (
        "steering_slope", "wrong_sign_share", "wrong_sign_difference", "ablation_effect",
        "gate_closed_share",
    ),
}  # fmt: skip
"""Metrics of each probe that its summary holds."""

_ESTIMATE, _ALONE = "estimate [95% interval]", "estimate"
_SAID_ONCE = (
    "metric", "site", "layer", "head", "estimator", "context", "backbone", "guidance", "contrast",
    "n", "seed", "note",
)  # fmt: skip
_NUMBERS = ("x", _ESTIMATE, _ALONE, "ceiling", "control", "p")
_EVIDENCE = ("n", "seed", "interval by", "note")
_PLACES = ("contrast", "site", "layer", "estimator", "context_a", "x")
_HEADINGS = {"context_a": "contexts", "estimator": "estimator or intervention"}
_ACROSS = {"instability": "estimator", "reliability": "context_a"}
"""What stands side by side in the tables of a probe."""


def readable_table(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a person reads them, one row each; columns in which nothing stands are left out.

    ``estimate [low, high]`` is one column; numbers not measured are dashes and keep their note.
    """
    records = list(records)
    frame = pd.DataFrame([_readable(record) for record in records])
    used = [column for column in frame.columns if (frame[column] != "").any()]
    intervals = any(not math.isnan(record.low) for record in records)
    return frame[used].rename(columns={} if intervals else {_ESTIMATE: _ALONE})


def narrow_table(records: Sequence[Record]) -> tuple[pd.DataFrame, str]:
    """The readable table as it fits a page, and a sentence on what was left out of it.

    What is the same in every row, and how intervals were made, is said once.
    """
    table = readable_table(records)
    same = {} if len(table) < 2 else {c: table[c].iloc[0] for c in _SAID_ONCE if _is_one(table, c)}
    methods = [record.ci_method.partition("; ") for record in records if record.ci_method]
    intervals = dict.fromkeys(how for how, _, _ in methods if how)
    tests = dict.fromkeys(test for _, _, test in methods if test)
    said = [
        f"n = {value}" if column == "n" else f"{column} {value}" for column, value in same.items()
    ]
    said += [f"intervals by {', or by '.join(intervals)}"] if intervals else []
    said += [f"p by {' or '.join(tests)}"] if tests else []
    same["interval by"] = ""
    kept = table.drop(columns=list(same), errors="ignore")
    return kept, f"Of all rows: {'; '.join(said)}." if said else ""


def _is_one(table: pd.DataFrame, column: str) -> bool:
    return column in table and table[column].nunique() == 1


def records_csv(records: Iterable[Record]) -> str:
    """All fields of the records as CSV, unrounded; empty cells were not measured."""
    return str(records_frame(records).to_csv(index=False))


def records_latex(records: Sequence[Record], *, caption: str, label: str) -> str:
    """The readable table in LaTeX (package booktabs); the caption goes on with n and seeds."""
    table = readable_table(records).drop(columns=list(_EVIDENCE), errors="ignore")
    numbers = [column for column in table.columns if column in _NUMBERS]
    names = [column for column in table.columns if column not in numbers]
    rows = tuple(
        (
            tuple(str(row[name]) for name in names),
            tuple(_flat_cell(record, str(row[name]), name) for name in numbers),
        )
        for record, (_, row) in zip(records, table.iterrows(), strict=True)
    )
    return table_latex(
        PaperTable(
            label, f"{caption} {records_evidence(records)}", tuple(names), tuple(numbers), rows
        )
    )


def headline_tables(records: Iterable[Record]) -> list[PaperTable]:
    """The headline of a run as tables for papers, one a metric.

    What varies stands in the rows; estimators (instability) or scopes (reliability) stand side by
    side. Where records were tested, their p-values are corrected by Holm over the table.
    """
    by_metric: dict[str, list[Record]] = {}
    for record in headline(records):
        by_metric.setdefault(record.metric, []).append(record)
    return [_metric_table(found) for found in by_metric.values()]


def _metric_table(records: Sequence[Record]) -> PaperTable:
    first = records[0]
    across = _ACROSS.get(first.probe, "")
    tested = [record for record in records if not math.isnan(record.p_value)]
    corrected = dict(
        zip(map(id, tested), holm([record.p_value for record in tested]).tolist(), strict=True)
        if tested
        else ()
    )
    form = ".0f" if all(_is_count(record.estimate) for record in records) else ".3f"
    places = [name for name in _PLACES if name != across and _varies(records, name)]
    columns = list(dict.fromkeys(_place(record, across) for record in records)) if across else [""]
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        at = tuple(_place(record, name) for name in places)
        rows.setdefault(at, {})[_place(record, across) if across else ""] = record
    return PaperTable(
        f"{first.probe}-{first.metric.replace('_', '-')}",
        f"{first.metric.replace('_', ' ').capitalize()} on {first.backbone}"
        f"{'' if first.guidance == 'none' else f' under {first.guidance}'}. "
        f"{records_evidence(records)}" + (f" {_tests(tested)}" if tested else " No test was made."),
        tuple(_HEADINGS.get(name, name) for name in places) or ("",),
        tuple(column or "estimate" for column in columns),
        tuple(
            (at or ("all",), tuple(_cell(found.get(c), corrected, form) for c in columns))
            for at, found in rows.items()
        ),
    )


def _varies(records: Sequence[Record], name: str) -> bool:
    return len({_place(record, name) for record in records}) > 1


def _place(record: Record, name: str) -> str:
    """What a record says of one of ``_PLACES``, in words."""
    if name == "x":
        return "" if math.isnan(record.x) else f"{record.x:g}"
    if name == "layer":
        return "" if record.layer is None else layer_text(record.layer)
    words = {
        "contrast": contrast_text, "site": site_text, "estimator": _estimator,
        "context_a": scope_text,
    }  # fmt: skip
    value = str(getattr(record, name))
    return words[name](value) if value or name == "context_a" else ""


def _estimator(name: str) -> str:
    return INTERVENTIONS.get(name, estimator_text(name))


def _is_count(value: float) -> bool:
    return value > 1 and value == round(value)


def _cell(record: Record | None, corrected: Mapping[int, float], form: str) -> Cell:
    if record is None:
        return Cell()
    p_value = corrected.get(id(record), math.nan)
    return Cell.of(record.estimate, record.low, record.high, form, p_value)


def _flat_cell(record: Record, text: str, column: str) -> Cell:
    if column in (_ESTIMATE, _ALONE):
        return Cell.of(record.estimate, record.low, record.high, ".3f")
    return Cell(text)


def records_evidence(records: Sequence[Record]) -> str:
    """What stands behind the numbers, for a caption; empty where there are none."""
    if not records:
        return ""
    counts = sorted({record.n for record in records})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds = ", ".join(map(str, sorted({record.seed for record in records})))
    methods = "; ".join(dict.fromkeys(r.ci_method for r in records if r.ci_method))
    return f"Intervals: {methods or 'none'}; n = {n} groups; seed {seeds}."


def _tests(tested: Sequence[Record]) -> str:
    """The test is the last part of what the records say of their intervals."""
    names = dict.fromkeys(record.ci_method.rpartition("; ")[2] for record in tested)
    return marks_text(
        f"{', '.join(names)}, against the control; Holm-corrected over the {len(tested)} tests of "
        "this metric"
    )


def headline(records: Iterable[Record]) -> list[Record]:
    """The records that say in short what a run found; single contexts are left out."""
    return [
        record
        for record in records
        if record.metric in HEADLINES.get(record.probe, ()) and record.context_a in POOLED
    ]


def summary_rows(records: Iterable[Record]) -> list[dict[str, object]]:
    """The headline as rows of ``summary.json``, with the columns that evaluations have too.

    ``split`` names contrast, site and layer; ``config`` the estimator; ``frame`` the contexts.
    """
    return [
        {
            "backbone": record.backbone,
            "guidance": record.guidance,
            "config": record.estimator,
            "split": _split(record),
            "frame": _contexts(record) or "all",
            "metric": record.metric,
            "estimate": record.estimate,
            "low": record.low,
            "high": record.high,
            "n": record.n,
            "seed": record.seed,
            "probe": record.probe,
            "contrast": record.contrast,
            "site": record.site,
            "layer": record.layer,
            "head": record.head,
            "x": record.x,
            "null": record.null,
            "p_value": record.p_value,
            "ci_method": record.ci_method,
            "note": record.note,
        }
        for record in headline(records)
    ]


def _readable(record: Record) -> dict[str, object]:
    return {
        "metric": record.metric.replace("_", " "),
        "site": site_text(record.site) if record.site else "",
        "layer": "" if record.layer is None else layer_text(record.layer),
        "head": "" if record.head is None else str(record.head),
        "estimator": _estimator(record.estimator) if record.estimator else "",
        "context": context_text(record.context_a),
        "other context": context_text(record.context_b),
        "x": _blank(record.x, "g"),
        _ESTIMATE: _number_form(record).interval(record),
        "ceiling": _blank(record.ceiling, ".3f"),
        "control": _blank(record.null, ".3f"),
        "p": _blank(record.p_value, ".2g"),
        "n": str(record.n),
        "contrast": contrast_text(record.contrast) if record.contrast else "",
        "guidance": "" if record.guidance == "none" else record.guidance,
        "backbone": record.backbone,
        "seed": str(record.seed),
        "interval by": record.ci_method,
        "note": record.note,
    }


def _number_form(record: Record) -> Form:
    """Counts have no decimals, and no interval."""
    counted = math.isnan(record.low) and _is_count(record.estimate)
    return Form(0) if counted else Form(3)


def _blank(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _contexts(record: Record) -> str:
    return " / ".join(name for name in (record.context_a, record.context_b) if name)


def _split(record: Record) -> str:
    layer = "" if record.layer is None else layer_text(record.layer)
    return ", ".join(part for part in (record.contrast, record.site, layer) if part)
