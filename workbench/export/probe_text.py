"""How sites, estimators, contexts and metrics of the probes are written in axes and tables."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from probes.records import Record

_Value = TypeVar("_Value", bound=Hashable)

NOT_MEASURED = "–"
UNTRAINED = "untrained"
"""Name under which a freshly initialised value module reads along as a control."""

_SITES = {
    "prompt_last": "residual, last prompt token",
    "response_mean": "residual, mean of the reply",
    "response_tokens": "residual, reply tokens",
    "z": "value state z",
    "delta_z": "correction Δz",
    "bridge": "bridge tokens B",
    "score": "harm score",
    "open": "gate",
    "z_response": "value state z of the reply",
}
_ESTIMATORS = {
    "mean_difference": "difference of means",
    "mass_mean": "mass-mean",
    "lda": "LDA",
    "logistic": "logistic regression",
    "lat": "PCA of paired differences (LAT)",
    "ccs": "CCS",
}
POOLED = ("", "trained", "unseen")
"""What stands for many contexts where a context belongs."""

_SCOPES = {"": "all contexts", "trained": "contexts fitted on", "unseen": "other contexts"}
_CONTRASTS = {
    "prompt": "harmful vs. harmless prompts",
    "response": "harmful vs. safe replies",
}


def site_text(site: str) -> str:
    """A site in words; ``z:untrained`` becomes *value state z, untrained*."""
    place, step = (site.partition("@")[0], site.partition("@")[2])
    name, _, reader = place.partition(":")
    words = _SITES.get(name, name.replace("_", " "))
    if reader:
        words += f", {reader}"
    return f"{words}, token {step}" if step else words


def family(site: str) -> str:
    """What kind of site this is: ``residual`` for all places in the residual stream."""
    name = site.partition("@")[0].partition(":")[0]
    residual = ("prompt_last", "response_mean", "response_tokens", "residual")
    return "residual" if name in residual else name


def is_control(site: str) -> bool:
    """Whether an untrained module reads this site."""
    return site.partition(":")[2].partition("@")[0].startswith(UNTRAINED)


def estimator_text(name: str) -> str:
    """An estimator in words; ``random/lda`` becomes *random: LDA*."""
    kind, _, base = name.rpartition("/")
    words = _ESTIMATORS.get(base, base.replace("_", " "))
    return f"{kind}: {words}" if kind else words


def contrast_text(name: str) -> str:
    """A contrast in words."""
    return _CONTRASTS.get(name, name.replace("_", " "))


def context_text(name: str) -> str:
    """A context frame in words; two at once are joined by ``+``."""
    return name.replace("_", " ")


def scope_text(context: str) -> str:
    """A context, or what stands for many, in words."""
    return _SCOPES.get(context, context_text(context))


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


def layer_text(layer: int | None) -> str:
    """A layer in words; -1 stands for the embeddings."""
    if layer is None:
        return "no layers"
    return "embeddings" if layer == -1 else f"block {layer}"


def place_text(site: str, layer: int | None) -> str:
    """A site and its layer, if it has one, in words."""
    return site_text(site) if layer is None else f"{site_text(site)}, {layer_text(layer)}"


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
