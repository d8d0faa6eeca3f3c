"""Does more bridge do more? Margin and harm rate against the dose.

=========== =========================================================================
estimator   dose x
=========== =========================================================================
``gate``    gate scale: 0 the bridge at rest, 1 as trained
``first``   k: the first k bridge tokens, the response right behind them; 0: no slots
``last``    k: the last k bridge tokens, likewise
``refresh`` r: new tokens between two writes of the bridge; 0: written once
=========== =========================================================================

The margin is teacher-forced with the bridge as first written, so refreshing shows in generations
alone. A bridge whose trigger reads the prompt never changes: there the dose r is flat by
construction, which is said and not measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from probes.anchoring.edits import (
    BridgeEdit,
    first_tokens,
    last_tokens,
    replaced,
    write_bridges,
)
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.generations import UNJUDGED, Speaker, rate_of
from probes.anchoring.scene import Scene
from probes.records import Record

DOSE_MARGIN, DOSE_HARM = "dose_margin", "dose_harm_rate"
TOKEN_ENDS: Mapping[str, Callable[[int], BridgeEdit]] = MappingProxyType(
    {"first": first_tokens, "last": last_tokens}
)
WRITTEN_ONCE = 0.0
FLAT = "flat by construction: the trigger reads the prompt alone, so the bridge never changes"


def gate_margin_records(
    scene: Scene, gates: Sequence[float], plain: Values, estimates: Estimates
) -> list[Record]:
    """Margin by gate scale; the null is the plain model's."""
    record = replace(estimates.base, metric=DOSE_MARGIN, estimator="gate", null=float(plain.mean()))
    return [
        estimates.mean(
            replace(record, x=float(gate)), as_values(scene.margins(_at_gate(scene, gate)))
        )
        for gate in gates
    ]


def token_margin_records(scene: Scene, plain: Values, estimates: Estimates) -> list[Record]:
    """Margin by the number of bridge tokens, from none to all K, counted from either end."""
    record = replace(estimates.base, metric=DOSE_MARGIN, null=float(plain.mean()))
    return [
        estimates.mean(
            replace(record, estimator=end, x=float(count)),
            plain if count == 0 else as_values(scene.margins(kept(count))),
        )
        for end, kept in TOKEN_ENDS.items()
        for count in range(scene.n_slots + 1)
    ]


@dataclass(frozen=True, eq=False)
class KnownHarm:
    """Harm of replies that were drawn before.

    Attributes:
        plain: Unguided.
        guided: By the bridge as it is.
    """

    plain: Values
    guided: Values


def gate_harm_records(
    scene: Scene, gates: Sequence[float], speaker: Speaker, known: KnownHarm, estimates: Estimates
) -> list[Record]:
    """Harm rate by gate scale."""
    doses = {
        float(gate): known.guided
        if gate == scene.guidance.gate_scale
        else speaker.harm(scene.backbone, scene.pairs, replace(scene.guidance, gate_scale=gate))
        for gate in gates
    }
    return _harm_records("gate", doses, known, estimates)


def token_harm_records(
    scene: Scene, speaker: Speaker, known: KnownHarm, estimates: Estimates
) -> list[Record]:
    """Harm rate by the number of bridge tokens, counted from either end."""
    records = []
    for end, kept in TOKEN_ENDS.items():
        doses = {0.0: known.plain}
        for count in range(1, scene.n_slots):
            guidance = scene.guided_by(kept(count))
            doses[float(count)] = speaker.harm(scene.backbone, scene.pairs, guidance)
        doses[float(scene.n_slots)] = known.guided
        records += _harm_records(end, doses, known, estimates)
    return records


def refresh_harm_records(
    scene: Scene,
    refreshes: Sequence[int | None],
    speaker: Speaker,
    known: KnownHarm,
    estimates: Estimates,
) -> list[Record]:
    """Harm rate by the tokens between two writes; None writes once."""
    follows = scene.guidance.writer.config.trigger.mode == "current"
    doses = {
        float(refresh or WRITTEN_ONCE): speaker.harm(
            scene.backbone, scene.pairs, replace(scene.guidance, refresh=refresh)
        )
        if follows
        else known.guided
        for refresh in refreshes
    }
    return _harm_records("refresh", doses, known, estimates, note="" if follows else FLAT)


def _at_gate(scene: Scene, gate: float) -> BridgeEdit:
    guidance, prompts = scene.guidance, scene.pairs.prompts
    return replaced(write_bridges(scene.backbone, prompts, guidance.writer, gate).bridge)


def _harm_records(
    estimator: str,
    doses: Mapping[float, Values],
    known: KnownHarm,
    estimates: Estimates,
    note: str = "",
) -> list[Record]:
    record = replace(
        estimates.base,
        metric=DOSE_HARM,
        estimator=estimator,
        null=rate_of(known.plain),
        note=note if np.isfinite(known.plain).any() else UNJUDGED,
    )
    return [estimates.rate(replace(record, x=dose), harm) for dose, harm in doses.items()]
