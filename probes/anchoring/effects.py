"""Does the bridge cause the effect, and which part of it? Margins under every intervention.

    effect(i) = margin(i) - margin(no slots)          nats a token, paired by prompt
    lost(i)   = 1 - effect(i) / effect(full)          ratio of means over prompts

The bridge carries the effect if ``knock_out``, ``resting`` and ``harmless`` lose it; it is specific
to the prompt if ``resample`` loses it too; it does not depend on the context frame if ``context``
loses nothing. ``random`` and ``untrained`` are the negative controls: any slots at all.

Behind *harmless* prompts a harmful prompt's bridge (``onto_harmless``) shows the effect where the
prompt itself gives no reason for it; its null is the bridge that the harmless prompt would get.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from probes.anchoring.edits import replaced
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.interventions import Intervention, matched
from probes.anchoring.scene import Scene
from probes.records import Record

MARGIN, MARGIN_EFFECT, MARGIN_LOST = "margin", "margin_effect", "margin_lost"


def margins_under(scene: Scene, made: Mapping[str, Intervention]) -> dict[str, Values]:
    """Safety margin of every prompt under each intervention; NaN where it cannot be made."""
    return {name: _margins(scene, intervention) for name, intervention in made.items()}


def _margins(scene: Scene, intervention: Intervention) -> Values:
    if not bool(intervention.measured.any()):
        return np.full(len(scene), np.nan)
    margins = as_values(scene.margins(intervention.edit))
    return np.where(intervention.measured.numpy(), margins, np.nan)


def effect_records(
    scene: Scene,
    made: Mapping[str, Intervention],
    margins: Mapping[str, Values],
    estimates: Estimates,
) -> list[Record]:
    """Margin, effect and lost share of every intervention; effects also by context."""
    full, plain = margins["full"], margins["no_slots"]
    records = []
    for name, values in margins.items():
        record = replace(estimates.base, estimator=name, note=made[name].note)
        records += [
            estimates.mean(replace(record, metric=MARGIN), values),
            estimates.change(replace(record, metric=MARGIN_EFFECT, null=0.0), plain, values),
            estimates.lost(replace(record, metric=MARGIN_LOST), full, values, plain),
        ]
        records += _by_context(scene, record, plain, values, estimates)
    return records


def _by_context(
    scene: Scene, record: Record, plain: Values, values: Values, estimates: Estimates
) -> list[Record]:
    contexts = tuple(dict.fromkeys(scene.pairs.contexts))
    if len(contexts) < 2:
        return []
    rows = {
        context: [i for i, where in enumerate(scene.pairs.contexts) if where == context]
        for context in contexts
    }
    return [
        estimates.of_rows(index).change(
            replace(record, metric=MARGIN_EFFECT, context_a=context, null=0.0),
            plain[index],
            values[index],
        )
        for context, index in rows.items()
    ]


def onto_harmless_record(
    scene: Scene, harmless: Scene, estimates: Estimates, *, seed: int
) -> Record:
    """What a harmful prompt's bridge does behind a harmless prompt, matched where possible.

    Args:
        scene: Harmful prompts with open gates.
        harmless: Harmless prompts.
        estimates: Of the harmless prompts.
        seed: Decides the donors.
    """
    rng = np.random.default_rng([seed, *b"onto_harmless"])
    donor = matched(harmless, scene, rng)
    plain = as_values(harmless.margins(None))
    given = as_values(harmless.margins(replaced(scene.write.bridge[donor])))
    own_bridge = as_values(harmless.margins(replaced(harmless.write.bridge)))
    record = replace(
        estimates.base,
        metric=MARGIN_EFFECT,
        estimator="onto_harmless",
        null=float((own_bridge - plain).mean()),
    )
    return estimates.change(record, plain, given)
