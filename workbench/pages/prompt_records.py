"""One typed prompt's analysis as records, so that it is drawn by the figures of whole runs.

Numbers of a single prompt have no interval; ``n`` is 1.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from probes.anchoring.attention import ATTENTION, KINDS, AttentionMass
from probes.anchoring.live import PromptAnchoring, PromptMargins
from probes.records import Record

_PLAIN = "no_slots"


def prompt_records(found: PromptAnchoring, *, backbone: str, guidance: str) -> list[Record]:
    """Everything measured of a prompt as records.

    Args:
        found: The analysis.
        backbone: Name of the model.
        guidance: Name of the guidance.
    """
    base = Record(
        probe="anchoring", backbone=backbone, metric="", estimate=math.nan, n=1, guidance=guidance,
        note="one prompt",
    )  # fmt: skip
    records = list(_trajectories(found, base))
    if found.attention is not None and found.control is not None:
        records += _attention(found.attention, found.control, base)
    if found.margins is not None:
        records += _margins(found.margins, found.layers, base)
    return records


def _trajectories(found: PromptAnchoring, base: Record) -> Iterator[Record]:
    for name, reply in (("guided", found.guided), ("unguided", found.unguided)):
        if reply.harm_score is None:
            continue
        record = replace(base, metric="trajectory", site="score", estimator=name)
        for token, score in enumerate(reply.harm_score.tolist()):
            yield replace(record, x=float(token), estimate=score)


def _attention(read: AttentionMass, control: AttentionMass, base: Record) -> Iterator[Record]:
    for keys, weighting in KINDS:
        own, noise = (mass.mass[keys, weighting][0] for mass in (read, control))
        for index, layer in enumerate(read.layers):
            for head in range(own.shape[1]):
                record = replace(
                    base, metric=ATTENTION, site=keys, estimator=weighting, layer=layer, head=head
                )
                mass, null = own[index, head], noise[index, head]
                yield replace(record, estimate=float(mass.nanmean()), null=float(null.nanmean()))
                for step, value in enumerate(mass.tolist()):
                    yield replace(record, x=float(step), estimate=value, null=float(null[step]))


def _margins(margins: PromptMargins, layers: tuple[int, ...], base: Record) -> Iterator[Record]:
    plain = margins.by_intervention[_PLAIN]
    for name, margin in margins.by_intervention.items():
        yield replace(base, metric="margin_effect", estimator=name, estimate=margin - plain)
    for gate, margin in zip(margins.gates, margins.by_gate, strict=True):
        record = replace(base, metric="dose_margin", estimator="gate", x=gate, null=plain)
        yield replace(record, estimate=margin)
    path = replace(base, metric="path_share", estimator="necessity")
    yield replace(path, site="stream", estimate=margins.stream)
    for index, layer in enumerate(layers):
        for head, share in enumerate(margins.heads[index].tolist()):
            yield replace(path, site="head", layer=layer, head=head, estimate=share)
