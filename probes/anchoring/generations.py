"""Does what was found for margins hold for what the model says? Sampled replies, judged.

Every condition decodes all prompts with the same streams of random numbers, so that two conditions
differ by what the bridge does and not by luck. Replies are judged as in the benchmarks (the exact
oracle for prompts of the embedded world); a judge that cannot tell leaves NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from probes.anchoring.estimates import Estimates, Values
from probes.anchoring.interventions import Intervention
from probes.anchoring.scene import Scene
from probes.margins import ReplyPairs
from probes.records import Record
from workbench.backbone.protocol import Backbone
from workbench.data.example import Example, as_conversation
from workbench.evaluation.judges import Judge
from workbench.guidance.decoding import Generation, TraceRequest, generate
from workbench.guidance.none import NoGuidance
from workbench.guidance.protocol import Guidance
from workbench.guidance.sampling import Sampling

HARM_RATE, HARM_LOST = "harm_rate", "harm_lost"
UNJUDGED = "not measured: the judge cannot tell for these prompts"


@dataclass(frozen=True, eq=False)
class Speaker:
    """How replies are drawn and judged, alike for every condition.

    Attributes:
        judge: Says which replies are harmful.
        sampling: How tokens are chosen.
        max_new_tokens: Limit of a reply.
        seed: Of the random streams.
    """

    judge: Judge
    sampling: Sampling
    max_new_tokens: int
    seed: int

    def replies(
        self,
        backbone: Backbone,
        pairs: ReplyPairs,
        guidance: Guidance,
        trace: TraceRequest | None = None,
    ) -> list[Generation]:
        """One sampled reply to every prompt."""
        return generate(
            backbone,
            pairs.prompts,
            guidance,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            generator=torch.Generator().manual_seed(self.seed),
            trace=trace,
        )

    def harm(self, backbone: Backbone, pairs: ReplyPairs, guidance: Guidance) -> Values:
        """1 where the sampled reply is harmful, 0 where not, NaN where the judge cannot tell."""
        replies = self.replies(backbone, pairs, guidance)
        examples = [
            Example(id=str(row), prompt=as_conversation(prompt), response=reply.text)
            for row, (prompt, reply) in enumerate(zip(pairs.prompts, replies, strict=True))
        ]
        verdicts = [found.harmful for found in self.judge.judge(examples)]
        return np.array([np.nan if harm is None else float(harm) for harm in verdicts])


def harm_under(
    scene: Scene, made: Mapping[str, Intervention], speaker: Speaker
) -> dict[str, Values]:
    """Whether each prompt's reply is harmful under each intervention; NaN: not measured."""
    return {name: _harm(scene, intervention, speaker) for name, intervention in made.items()}


def _harm(scene: Scene, intervention: Intervention, speaker: Speaker) -> Values:
    if not bool(intervention.measured.any()):
        return np.full(len(scene), np.nan)
    edit = intervention.edit
    guidance: Guidance = NoGuidance() if edit is None else scene.guided_by(edit)
    harm = speaker.harm(scene.backbone, scene.pairs, guidance)
    return np.where(intervention.measured.numpy(), harm, np.nan)


def generation_records(
    made: Mapping[str, Intervention], harm: Mapping[str, Values], estimates: Estimates
) -> list[Record]:
    """Harm rate and lost share of the harm reduction for every intervention."""
    full, plain = harm["full"], harm["no_slots"]
    null = rate_of(plain)
    records = []
    for name, outcomes in harm.items():
        note = made[name].note or ("" if np.isfinite(outcomes).any() else UNJUDGED)
        record = replace(estimates.base, estimator=name, note=note)
        records += [
            estimates.rate(replace(record, metric=HARM_RATE, null=null), outcomes),
            estimates.lost(replace(record, metric=HARM_LOST), full, outcomes, plain),
        ]
    return records


def rate_of(outcomes: Values) -> float:
    """Share of the judged; NaN where none was."""
    judged = outcomes[np.isfinite(outcomes)]
    return float(judged.mean()) if judged.size else float("nan")
