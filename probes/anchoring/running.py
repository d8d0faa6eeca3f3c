"""Ask all the anchoring questions of one guidance, and record the answers with their controls."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from probes.anchoring.attention import attention_mass, attention_records
from probes.anchoring.attribution import ATTRIBUTION, attribute, attribution_records
from probes.anchoring.doses import (
    KnownHarm,
    gate_harm_records,
    gate_margin_records,
    refresh_harm_records,
    token_harm_records,
    token_margin_records,
)
from probes.anchoring.edits import BridgeEdit
from probes.anchoring.effects import effect_records, margins_under, onto_harmless_record
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.first_order import first_order_records
from probes.anchoring.generations import Speaker, generation_records, harm_under
from probes.anchoring.interventions import Intervention, interventions, random_bridges
from probes.anchoring.paths import path_harm_records, path_records
from probes.anchoring.scene import Scene, set_scene
from probes.anchoring.trajectories import (
    NO_OBSERVER,
    TRAJECTORY,
    ResidualDirection,
    draw_replies,
    harm_scores,
    projections,
    trajectory_records,
)
from probes.margins import BATCH_SIZE, ReplyPairs
from probes.records import Record
from workbench.arguments import Count, Seed, require_field_types, typed_arguments
from workbench.backbone.protocol import Backbone
from workbench.errors import ConfigError
from workbench.evaluation.judges import Judge, OracleJudge
from workbench.guidance.decoding import HarmObserver
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge

PROBE = "anchoring"
N_OPEN = "n_open"
Question = Literal[
    "effects",
    "generations",
    "attention",
    "doses",
    "attribution",
    "paths",
    "first_order",
    "trajectories",
]
QUESTIONS: tuple[Question, ...] = get_args(Question)


@dataclass(frozen=True)
class AnchoringConfig:
    """What is asked, and how closely.

    Attributes:
        questions: Which modules of this package to run.
        n_tokens: Tokens of every reply that the margin counts; None for all.
        n_steps: Tokens of a reply along which attention is read.
        gates: Gate scales of the dose-response.
        refreshes: Tokens between two writes of the bridge; None writes once.
        scales: Shares of the bridge's signal taken away in the first-order comparison.
        max_new_tokens: Limit of a sampled reply.
        temperature: Of sampling.
        top_p: Of sampling.
        batch_size: Replies a teacher-forced pass.
        n_resamples: Resamples of an interval.

    Raises:
        ConfigError: An unknown question, a number out of range, or another type.
    """

    questions: tuple[str, ...] = QUESTIONS
    n_tokens: Count | None = None
    n_steps: Count = 16
    gates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    refreshes: tuple[Count | None, ...] = (1, 2, 5, 10, None)
    scales: tuple[float, ...] = (0.02, 0.1, 0.5, 1.0)
    max_new_tokens: Count = 64
    temperature: float = 0.7
    top_p: float = 0.9
    batch_size: Count = BATCH_SIZE
    n_resamples: Count = 2000

    def __post_init__(self) -> None:
        require_field_types(self)
        unknown = [name for name in self.questions if name not in QUESTIONS]
        if unknown or not self.questions:
            raise ConfigError(
                f"questions = {', '.join(unknown) or 'none'}: choose from {', '.join(QUESTIONS)}"
            )
        if min(self.gates, default=0.0) < 0 or min(self.scales, default=1.0) <= 0:
            raise ConfigError("gates must not be negative, and scales must be above 0")
        Sampling(temperature=self.temperature, top_p=self.top_p)  # refuses what is out of range

    @property
    def sampling(self) -> Sampling:
        """How replies are sampled."""
        return Sampling(temperature=self.temperature, top_p=self.top_p)


@typed_arguments
def run_anchoring(
    backbone: Backbone,
    guidance: SVGTBridge,
    pairs: ReplyPairs,
    config: AnchoringConfig | None = None,
    *,
    seed: Seed,
    judge: Judge | None = None,
    direction: ResidualDirection | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Measure how a guidance's bridge is read and what it causes.

    Only harmful prompts whose gate is open are analysed; ``n_open`` says how many they were.
    Harmless prompts among the pairs serve as donors and as the place where a harmful prompt's
    bridge is put.

    Args:
        backbone: The frozen model.
        guidance: Whose bridge is studied.
        pairs: Prompts, each with a safe and a harmful reply.
        config: What is asked; everything by default.
        seed: Of donors, noise, sampling and intervals.
        judge: Of sampled replies; the exact oracle of the embedded world by default.
        direction: Watched along replies, beside the harm score.
        on_progress: Told after every question how many of how many are answered.

    Raises:
        DataError: No harmful prompt, or none whose gate is open.
        ContextLengthError: A prompt with slots and reply exceeds the context.
    """
    config = config or AnchoringConfig()
    study = _set_up(backbone, guidance, pairs, config, judge or OracleJudge(), direction, seed)
    records = [study.n_open]
    for done, question in enumerate(config.questions, start=1):
        records += _ANSWERS[question](study)
        on_progress(done, len(config.questions))
    return records


@dataclass(frozen=True, eq=False)
class _Study:
    """Everything the questions share.

    Attributes:
        scene: Harmful prompts with open gates.
        harmless: Harmless prompts, if there are any.
        n_open: How many of how many harmful prompts there are.
        made: The interventions.
        estimates: Of the harmful prompts.
        config: What is asked.
        speaker: Draws and judges replies.
        direction: To watch along replies.
        seed: The run's.
        drawn: Harm of the replies drawn so far, by intervention.
    """

    scene: Scene
    harmless: Scene | None
    n_open: Record
    made: dict[str, Intervention]
    estimates: Estimates
    config: AnchoringConfig
    speaker: Speaker
    direction: ResidualDirection | None
    seed: int
    drawn: dict[str, Values] = field(default_factory=dict)

    def harm(self, *names: str) -> dict[str, Values]:
        """Harm of the replies under these interventions, each drawn once for all questions."""
        missing = {name: self.made[name] for name in names if name not in self.drawn}
        self.drawn.update(harm_under(self.scene, missing, self.speaker))
        return {name: self.drawn[name] for name in names}

    def control(self) -> BridgeEdit:
        """Slots that hold noise of the bridges' norms."""
        return random_bridges(self.scene, np.random.default_rng([self.seed, *b"control"]))


def _set_up(
    backbone: Backbone,
    guidance: SVGTBridge,
    pairs: ReplyPairs,
    config: AnchoringConfig,
    judge: Judge,
    direction: ResidualDirection | None,
    seed: int,
) -> _Study:
    def scene_of(chosen: ReplyPairs) -> Scene:
        return set_scene(
            backbone, guidance, chosen, n_tokens=config.n_tokens, batch_size=config.batch_size
        )

    harmful = scene_of(pairs.where(prompt_harm=True))
    scene = harmful.seeing()
    harmless = None if all(pairs.prompt_harm) else scene_of(pairs.where(prompt_harm=False))
    base = Record(
        probe=PROBE,
        backbone=backbone.name,
        metric="",
        estimate=float("nan"),
        seed=seed,
        guidance=guidance.name,
    )
    n_open = replace(
        base,
        metric=N_OPEN,
        estimate=float(len(scene)),
        n=len(set(harmful.pairs.groups)),
        note=f"of {len(harmful)} harmful prompts; only these are analysed",
    )
    return _Study(
        scene=scene,
        harmless=harmless,
        n_open=n_open,
        made=interventions(scene, harmless, seed=seed),
        estimates=Estimates(base, scene.pairs.groups, config.n_resamples),
        config=config,
        speaker=Speaker(judge, config.sampling, config.max_new_tokens, seed),
        direction=direction,
        seed=seed,
    )


def _effects(study: _Study) -> list[Record]:
    margins = margins_under(study.scene, study.made)
    records = effect_records(study.scene, study.made, margins, study.estimates)
    if study.harmless is not None:
        there = replace(study.estimates, groups=study.harmless.pairs.groups)
        records.append(onto_harmless_record(study.scene, study.harmless, there, seed=study.seed))
    return records


def _generations(study: _Study) -> list[Record]:
    return generation_records(study.made, study.harm(*study.made), study.estimates)


def _attention(study: _Study) -> list[Record]:
    n_steps = study.config.n_steps
    read = attention_mass(study.scene, n_steps)
    control = attention_mass(study.scene, n_steps, study.control())
    return attention_records(read, control, study.estimates)


def _doses(study: _Study) -> list[Record]:
    scene, config, estimates, speaker = study.scene, study.config, study.estimates, study.speaker
    plain = as_values(scene.margins(None))
    harm = study.harm("no_slots", "full")
    known = KnownHarm(plain=harm["no_slots"], guided=harm["full"])
    return [
        *gate_margin_records(scene, config.gates, plain, estimates),
        *token_margin_records(scene, plain, estimates),
        *gate_harm_records(scene, config.gates, speaker, known, estimates),
        *token_harm_records(scene, speaker, known, estimates),
        *refresh_harm_records(scene, config.refreshes, speaker, known, estimates),
    ]


def _attribution(study: _Study) -> list[Record]:
    if why := study.scene.why_not_by_head:
        return [replace(study.estimates.base, metric=ATTRIBUTION, site="total", note=why)]
    control = attribute(study.scene, study.control())
    return attribution_records(attribute(study.scene), control, study.estimates)


def _paths(study: _Study) -> list[Record]:
    harm = study.harm("full", "knock_out", "no_slots")
    return [
        *path_records(study.scene, study.estimates, seed=study.seed),
        *path_harm_records(study.scene, harm, study.speaker, study.estimates),
    ]


def _first_order(study: _Study) -> list[Record]:
    return first_order_records(study.scene, study.config.scales, study.estimates)


def _trajectories(study: _Study) -> list[Record]:
    writer = study.scene.guidance.writer
    observer = writer if isinstance(writer, HarmObserver) else None
    replies = draw_replies(study.scene, study.speaker, observer)
    records = []
    if observer is None:
        base = replace(study.estimates.base, metric=TRAJECTORY, site="score", note=NO_OBSERVER)
        records.append(base)
    else:
        records += trajectory_records("score", harm_scores(replies), study.estimates)
    if study.direction is not None:
        along = projections(study.scene, replies, study.direction)
        named = replace(study.estimates.base, note=study.direction.name)
        layered = replace(named, layer=study.direction.layer)
        records += trajectory_records("direction", along, replace(study.estimates, base=layered))
    return records


_ANSWERS: dict[str, Callable[[_Study], list[Record]]] = {
    "effects": _effects,
    "generations": _generations,
    "attention": _attention,
    "doses": _doses,
    "attribution": _attribution,
    "paths": _paths,
    "first_order": _first_order,
    "trajectories": _trajectories,
}
