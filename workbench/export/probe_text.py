"""Records of the probes in words, and how to find some among many."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from probes.records import Record
from workbench.export.probe_words import contrast_text, estimator_text, layer_text

_Value = TypeVar("_Value", bound=Hashable)

NOT_MEASURED = "–"


def is_steering_control(record: Record) -> bool:
    """Whether a reliability record is about random or permuted vectors, or random bridges."""
    return record.estimator.startswith(("random/", "permuted/"))


def intervention_text(record: Record) -> str:
    """What a reliability record steers by, in words."""
    kind, _, base = record.estimator.rpartition("/")
    if record.site == "bridge":
        name = f"bridge, {base}"
    else:
        contrast = contrast_text(record.contrast)
        name = f"{estimator_text(base)}, {layer_text(record.layer)}, {contrast}"
    return f"{kind}: {name}" if kind else name


def distinct(values: Iterable[_Value]) -> list[_Value]:
    """Every value once, in order of first appearance."""
    return list(dict.fromkeys(values))


def layers_of(records: Iterable[Record]) -> list[int]:
    """The layers that records speak of, in order."""
    return sorted({record.layer for record in records if record.layer is not None})


def chosen(records: Iterable[Record], **wanted: object) -> list[Record]:
    """Records whose fields have these values; a tuple or list allows any of its members."""
    return [
        record
        for record in records
        if all(
            getattr(record, name) in value
            if isinstance(value, tuple | list)
            else getattr(record, name) == value
            for name, value in wanted.items()
        )
    ]


@dataclass(frozen=True)
class Form:
    """How the numbers of a metric are written.

    Attributes:
        decimals: Behind the point.
        factor: From the stored number.
        signed: Whether a plus sign is written.
    """

    decimals: int = 2
    factor: float = 1.0
    signed: bool = False

    def number(self, value: float) -> str:
        """A number, a dash where it was not measured."""
        if math.isnan(value):
            return NOT_MEASURED
        rounded = round(value * self.factor, self.decimals) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if self.signed else ''}.{self.decimals}f}"

    def interval(self, record: Record) -> str:
        """``estimate [low, high]``."""
        if math.isnan(record.low) or math.isnan(record.high):
            return self.number(record.estimate)
        ends = f"[{self.number(record.low)}, {self.number(record.high)}]"
        return f"{self.number(record.estimate)} {ends}"


def evidence(record: Record, form: Form = Form()) -> str:
    """Everything that stands behind one number, for the label under the pointer."""
    lines = [form.interval(record)]
    if not math.isnan(record.ceiling):
        lines.append(f"noise ceiling {form.number(record.ceiling)}")
    if not math.isnan(record.null):
        lines.append(f"control {form.number(record.null)}")
    if not math.isnan(record.p_value):
        lines.append(f"p = {record.p_value:.2g}")
    lines.append(f"n = {record.n} groups, seed {record.seed}")
    if record.ci_method:
        lines.append(record.ci_method)
    if record.note:
        lines.append(record.note)
    return "<br>".join(lines)
