"""Do bridge tokens dilute while the text behind them grows?

The bridge is written once, behind a harmful prompt whose gate opens. T tokens of harmless filler
follow, the same for all arms (``filler``), then the model decides (``passage``). Three arms: the
*bridge*, a *random* bridge whose tokens have the bridge's norms, and the plain model. Measured at
T = 0 and every distance:

* ``dilution_attention``: mass of the deciding query on the slots, mean over the heads above L. Its
  ``null`` is an even share among the keys it sees, K / n. At T = 0 that query is a slot itself:
  not measured.
* ``dilution_kl``: KL(guided || plain) of the next token, in nats.
* ``dilution_margin``: safety margin of the reply pair, guided minus plain, in nats a token. Slots
  move the reply by K positions, which alone can change a margin: what the bridge's content does is
  the contrast ``bridge-random``.
* ``dilution_control_loss``: what the extended length alone does, without any slots: loss of the
  helpful reply to a harmless prompt, nats a token; ``null`` is its loss at T = 0. **Where it rises
  far above that, the model itself is broken and nothing follows for the bridge.**
* ``dilution_half_length_*``: tokens after which attention and KL under the bridge, and the margin
  of ``bridge-random``, have halved, see ``decay``.

``estimator`` names arm, stretch and reach, ``bridge/turn/window``. The question is one that
arXiv 2605.11712 leaves open.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from probes.anchoring.edits import (
    ReplayedWriter,
    randomised,
    rows_of,
    write_bridges,
)
from probes.dilution.decay import half_length
from probes.dilution.filler import (
    STRETCHES,
    Filler,
    FillerTokens,
    Stretch,
    tokenise_filler,
)
from probes.dilution.passage import REACHES, Decision, Passage, Reach, check_room, decide
from probes.margins import ReplyPairs
from probes.records import NOT_MEASURED, Record
from workbench.arguments import Count, Seed, require_field_types, typed_arguments
from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.errors import ConfigError
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.statistics import cluster_bootstrap
from workbench.svgt.slots import SlotSettings
from workbench.svgt.value_module import BridgeWrite

PROBE = "anchoring"
Arm = Literal["bridge", "random", "none"]
Courses = NDArray[np.float64]
"""(distance, example)."""


@dataclass(frozen=True)
class DilutionConfig:
    """What is measured.

    Attributes:
        distances: Tokens between slots and decision, besides 0. Those too short for the repeated
            request are not measured in the stretch ``dialogue``.
        stretches: What kind of text they are, see ``probes.dilution.filler``.
        reaches: Which keys a token sees, see ``probes.dilution.passage``.
        window: Positions a token looks back in reach ``window``. The default is the median length
            of the embedded world's dialogues; there, twice as many already cost the model 0.3
            nats a token at 1,024.
        n_resamples: Bootstrap resamples.
        batch_columns: Columns a pass may have, all rows together; one row at least.

    Raises:
        ConfigError: A distance below 1 or named twice, an unknown stretch or reach, or none of
            either; a window below 1.
    """

    distances: tuple[int, ...] = (4, 16, 64, 256, 1024)
    stretches: tuple[Stretch, ...] = STRETCHES
    reaches: tuple[Reach, ...] = ("full", "window")
    window: Count = 64
    n_resamples: Count = 2000
    batch_columns: Count = 1024

    def __post_init__(self) -> None:
        require_field_types(self)
        distances = self.distances
        if not distances or min(distances) < 1 or sorted(set(distances)) != list(distances):
            raise ConfigError(
                f"distances = {list(distances)}: name different numbers of tokens, 1 or more, in "
                "ascending order"
            )
        for name, known in (("stretches", STRETCHES), ("reaches", REACHES)):
            chosen = getattr(self, name)
            if not chosen:
                raise ConfigError(f"{name} = {list(chosen)}: choose from {', '.join(known)}")


@typed_arguments
def run_dilution(
    backbone: Backbone,
    guidance: SVGTBridge,
    pairs: ReplyPairs,
    filler: Filler,
    config: DilutionConfig | None = None,
    *,
    seed: Seed,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Measure the bridge's effect at growing distances.

    Args:
        backbone: The frozen model, with room for the longest distance: ``load_backbone(...,
            n_ctx=2048)``.
        guidance: Whose bridge.
        pairs: Prompts with two replies each; harmful ones for the effect, harmless ones for the
            control.
        filler: Harmless text.
        config: What is measured.
        seed: Of filler, random bridges and resamples.
        on_progress: Told how many distances of how many are done.

    Returns:
        Records of the metrics that the module describes, ``x`` in tokens.

    Raises:
        DataError: No harmful prompt, or a chat template that cannot be continued.
        ContextLengthError: A distance beyond the backbone's positions; the remedy is named.
    """
    config = config or DilutionConfig()
    rng = np.random.default_rng([seed, *b"dilution"])
    scene = _Scene.of(backbone, guidance, pairs, config, rng)
    template = _template(backbone, guidance)
    if scene is None:
        why = f"{NOT_MEASURED}: the gate stays closed for every prompt"
        return [replace(template, metric="dilution_margin", note=why)]
    routes = [(stretch, reach) for stretch in config.stretches for reach in config.reaches]
    todo, done = len(routes) * len(config.distances) + 1, 1
    nothing = scene.filler(filler, config.stretches[0], 0)
    longest = {s: scene.filler(filler, s, config.distances[-1]) for s in config.stretches}
    for stretch, reach in routes:
        scene.check_room(longest[stretch], reach)
    at_once = scene.decide_all(nothing, config.reaches[0])
    on_progress(done, todo)
    records: list[Record] = []
    for stretch, reach in routes:
        course: list[_AtDistance | None] = [at_once]
        for distance in config.distances:
            fits = distance >= longest[stretch].shortest
            course.append(
                scene.decide_all(longest[stretch].last(distance), reach) if fits else None
            )
            done += 1
            on_progress(done, todo)
        route = _Route(scene, template, stretch, reach, (0, *config.distances), course)
        records += route.records()
    return records


def _template(backbone: Backbone, guidance: SVGTBridge) -> Record:
    return Record(
        probe=PROBE,
        backbone=backbone.name,
        metric="",
        estimate=math.nan,
        guidance=guidance.name,
        site="bridge",
        layer=guidance.writer.config.layer,
    )


# ------------------------------------------------------------------------------------ the passages


@dataclass(frozen=True, eq=False)
class _Fillers:
    """Filler of the harmful prompts and of the harmless ones."""

    harmful: FillerTokens
    harmless: FillerTokens | None

    @property
    def shortest(self) -> int:
        """Tokens that hold every repeated request."""
        both = [self.harmful] if self.harmless is None else [self.harmful, self.harmless]
        return max(filler.shortest for filler in both)

    def last(self, distance: int) -> "_Fillers":
        """Of both the last tokens."""
        control = None if self.harmless is None else self.harmless.last(distance)
        return _Fillers(self.harmful.last(distance), control)


@dataclass(frozen=True, eq=False)
class _AtDistance:
    """The decisions of all arms at one distance, and of the plain model on harmless prompts."""

    arms: dict[Arm, Decision]
    control: Decision | None


@dataclass(frozen=True, eq=False)
class _Scene:
    """Prompts whose gate opens with their bridges, and harmless prompts for the control.

    Attributes:
        backbone: The frozen model.
        settings: Of the bridge's writer.
        pairs: Harmful prompts whose gate opens.
        control: Harmless prompts, if there are any.
        write: Their bridges.
        random: Random ones of the same norms.
        config: What is measured.
        rng: Of filler and resamples.
    """

    backbone: Backbone
    settings: SlotSettings
    pairs: ReplyPairs
    control: ReplyPairs | None
    write: BridgeWrite
    random: BridgeWrite
    config: DilutionConfig
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        guidance: SVGTBridge,
        pairs: ReplyPairs,
        config: DilutionConfig,
        rng: np.random.Generator,
    ) -> "_Scene | None":
        """None where no gate opens."""
        harmful = pairs.where(prompt_harm=True)
        harmless = None if all(pairs.prompt_harm) else pairs.where(prompt_harm=False)
        write = write_bridges(backbone, harmful.prompts, guidance.writer, guidance.gate_scale)
        rows = write.open.nonzero().flatten()
        if not len(rows):
            return None
        write = rows_of(write, rows)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(write.bridge.shape, generator=generator).to(write.bridge)
        settings = guidance.writer.config
        seen = harmful.rows(rows.tolist())
        return cls(backbone, settings, seen, harmless, write, randomised(noise)(write), config, rng)

    def filler(self, filler: Filler, stretch: Stretch, length: int) -> _Fillers:
        """Filler of one kind for all prompts."""

        def of(pairs: ReplyPairs) -> FillerTokens:
            if not length:
                shape = (len(pairs), 0)
                nothing = torch.empty(shape, dtype=torch.long, device=self.backbone.device)
                return FillerTokens(nothing, nothing)
            return tokenise_filler(self.backbone, pairs, filler, stretch, length, rng=self.rng)

        return _Fillers(of(self.pairs), None if self.control is None else of(self.control))

    def decide_all(self, fillers: _Fillers, reach: Reach) -> _AtDistance:
        """The decisions of all arms behind this filler."""
        writes: dict[Arm, BridgeWrite | None] = {
            "bridge": self.write,
            "random": self.random,
            "none": None,
        }
        arms = {
            arm: self._decide(self.pairs, fillers.harmful, write, reach)
            for arm, write in writes.items()
        }
        control = None
        if self.control is not None and fillers.harmless is not None:
            control = self._decide(self.control, fillers.harmless, None, reach)
        return _AtDistance(arms, control)

    def check_room(self, fillers: _Fillers, reach: Reach) -> None:
        """Refuse what does not fit before anything is measured."""
        n_slots = self.settings.n_bridge
        check_room(self.backbone, self._passage(self.pairs, fillers.harmful), n_slots, reach)
        if self.control is not None and fillers.harmless is not None:
            check_room(self.backbone, self._passage(self.control, fillers.harmless), 0, reach)

    def _passage(self, pairs: ReplyPairs, filler: FillerTokens) -> Passage:
        """All prompts at once."""
        return Passage(
            self.backbone.encode(pairs.prompts),
            filler,
            self.backbone.encode_responses(pairs.safe),
            self.backbone.encode_responses(pairs.harmful),
        )

    def _decide(
        self, pairs: ReplyPairs, filler: FillerTokens, write: BridgeWrite | None, reach: Reach
    ) -> Decision:
        whole = self._passage(pairs, filler)
        width = whole.prompt.ids.shape[1] + whole.after_slots.ids.shape[1]
        n_rows = max(1, self.config.batch_columns // width)
        order = whole.prompt.lengths.argsort(stable=True)
        decisions = []
        for rows in torch.split(order, n_rows):
            passage = Passage(
                _picked(whole.prompt, rows, left=True),
                filler.rows(rows),
                _picked(whole.safe, rows),
                _picked(whole.harmful, rows),
            )
            writer = None if write is None else ReplayedWriter(self.settings, rows_of(write, rows))
            decisions.append(
                decide(self.backbone, passage, writer, reach, window=self.config.window)
            )
        return _joined(decisions, order.argsort())


def _picked(batch: TokenBatch, rows: Int[Tensor, " row"], *, left: bool = False) -> TokenBatch:
    """Some rows without the columns that are padding in all of them."""
    width = int(batch.lengths[rows].max())
    columns = slice(-width, None) if left else slice(0, width)
    return TokenBatch(batch.ids[rows, columns], batch.mask[rows, columns])


def _joined(parts: Sequence[Decision], order: Int[Tensor, " row"]) -> Decision:
    def join(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[order]

    return Decision(
        log_probs=join("log_probs"),
        safe=join("safe"),
        harmful=join("harmful"),
        slot_attention=join("slot_attention"),
        n_keys=join("n_keys"),
    )


# ------------------------------------------------------------------------------ what is said of it


@dataclass(frozen=True, eq=False)
class _Route:
    """One stretch in one reach, from no distance to the longest; None where it was too short."""

    scene: _Scene
    template: Record
    stretch: Stretch
    reach: Reach
    distances: tuple[int, ...]
    course: list[_AtDistance | None]

    def records(self) -> list[Record]:
        """All records of the route."""
        groups = self.scene.pairs.groups
        bridge, random = self._effects("bridge"), self._effects("random")
        contrast = bridge["margin"] - random["margin"]
        records: list[Record] = []
        for arm, effects in (("bridge", bridge), ("random", random)):
            for name, values in effects.items():
                records += self._by_distance(f"dilution_{name}", arm, values, groups)
        records += self._by_distance("dilution_margin", "bridge-random", contrast, groups)
        for name, arm, values in (
            ("attention", "bridge", bridge["attention"]),
            ("kl", "bridge", bridge["kl"]),
            ("margin", "bridge-random", contrast),
        ):
            records.append(self._half_length(name, arm, values))
        return records + self._control()

    def _effects(self, arm: Arm) -> dict[str, Courses]:
        """What an arm does at every distance, against the plain model."""
        guided = self._decisions(arm)
        pairs = list(zip(guided, self._decisions("none"), strict=True))
        n = len(self.scene.pairs)
        return {
            "attention": _stacked([g.slot_attention if g else None for g in guided], n),
            "kl": _stacked([_kl(g, p) if g and p else None for g, p in pairs], n),
            "margin": _stacked([g.margin - p.margin if g and p else None for g, p in pairs], n),
        }

    def _decisions(self, arm: Arm) -> list[Decision | None]:
        return [None if here is None else here.arms[arm] for here in self.course]

    def _by_distance(
        self, metric: str, arm: str, values: Courses, groups: Sequence[str]
    ) -> list[Record]:
        """The mean at every distance."""
        records = []
        for distance, here, at in zip(self.distances, self.course, values, strict=True):
            record = replace(self._named(metric, arm), x=float(distance))
            if here is None:
                why = f"{NOT_MEASURED}: shorter than the repeated request"
                records.append(replace(record, note=why))
                continue
            null = self._even_share(here) if metric == "dilution_attention" else 0.0
            record = replace(record, null=null)
            if np.isnan(at).any():
                why = f"{NOT_MEASURED}: the deciding query is a slot itself"
                records.append(replace(record, note=why))
                continue
            records.append(self._measured(record, at, groups))
        return records

    def _even_share(self, here: _AtDistance) -> float:
        return float((self.scene.settings.n_bridge / here.arms["bridge"].n_keys).mean())

    def _half_length(self, name: str, arm: str, values: Courses) -> Record:
        record = self._named(f"dilution_half_length_{name}", arm)
        measured = np.flatnonzero(~np.isnan(values).any(axis=1))
        distances = [self.distances[step] for step in measured]
        if len(distances) < 2:
            return replace(record, note=f"{NOT_MEASURED}: needs two distances")
        interval, note = half_length(
            distances,
            values[measured],
            self.scene.pairs.groups,
            rng=self.scene.rng,
            n_resamples=self.scene.config.n_resamples,
        )
        return replace(record.measured(interval), note=f"{NOT_MEASURED}: {note}" if note else "")

    def _control(self) -> list[Record]:
        """Loss of helpful replies to harmless prompts in the plain model."""
        control = self.scene.control
        if control is None:
            why = f"{NOT_MEASURED}: give harmless prompts with two replies besides"
            record = replace(self._named("dilution_control_loss", "none"), note=why)
            return [replace(record, guidance="none")]
        decisions = [None if here is None else here.control for here in self.course]
        losses = _stacked([None if d is None else -d.harmful for d in decisions], len(control))
        at_once = float(losses[0].mean())
        return [
            replace(record, guidance="none", null=at_once)
            for record in self._by_distance("dilution_control_loss", "none", losses, control.groups)
        ]

    def _named(self, metric: str, arm: str) -> Record:
        estimator = f"{arm}/{self.stretch}/{self.reach}"
        return replace(self.template, metric=metric, estimator=estimator)

    def _measured(self, record: Record, values: ArrayLike, groups: Sequence[str]) -> Record:
        interval = cluster_bootstrap(
            values, list(groups), rng=self.scene.rng, n_resamples=self.scene.config.n_resamples
        )
        return record.measured(interval)


def _kl(guided: Decision, plain: Decision) -> Float[Tensor, " batch"]:
    return (guided.log_probs.exp() * (guided.log_probs - plain.log_probs)).sum(dim=-1)


def _stacked(rows: Sequence[Float[Tensor, " batch"] | None], n: int) -> Courses:
    """Rows as one array, NaN where there is none."""
    filled = [torch.full((n,), math.nan) if row is None else row.cpu() for row in rows]
    return torch.stack(filled).double().numpy()
