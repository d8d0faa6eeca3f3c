"""Does pushing along a value direction do what it should, for every prompt, in every context?

1. A steering vector is fitted on training contexts (``vectors``) and added to the stream of other
   prompts, in training contexts and unseen ones, with several coefficients (``effects``). Each
   prompt's slope of the safety margin says whether it was moved, and which way (``slopes``).
2. Two controls are measured the same way: *random* vectors of the same length and *permuted* ones,
   fitted on exchanged labels, then brought to that length. Every prompt gets a draw of its own, so
   the share of wrong signs of a useless vector is 50%.
3. The bridge is measured the same way on the prompts whose gate opens, with two doses: *gate*, the
   strength of what the correction adds to the bridge at rest (slots are always there), and
   *presence*, slots as trained against no slots. Their controls are random: noise as long as what
   the gate adds, and noise as long as each bridge token.
4. Wrong signs of vector and bridge are compared prompt by prompt.

Slopes of a vector (margin a class gap) and of a bridge (margin a unit of gate) have different
units; their signs can be compared, their sizes cannot. Sources: arXiv 2407.12404, 2505.22637
(steering), 2406.11717 (ablation), 2605.11712 (the bridge).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probes.anchoring.edits import randomised, replaced, write_bridges
from probes.anchoring.scene import Scene, set_scene
from probes.contrasts import ContrastSet
from probes.directions import ESTIMATORS
from probes.margins import BATCH_SIZE, ReplyPairs
from probes.records import NOT_MEASURED, Record
from probes.resampling import Floats
from probes.steering.effects import ablated_margins, plain_margins, steered_margins
from probes.steering.slopes import (
    clustered_share,
    context_share,
    least_squares_slopes,
    spread,
)
from probes.steering.vectors import (
    SteeringVector,
    fit_vector,
    permuted_directions,
    random_directions,
)
from workbench.arguments import Count, Seed, require_field_types, typed_arguments
from workbench.backbone.protocol import Backbone
from workbench.errors import ConfigError
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.statistics import (
    Interval,
    cluster_bootstrap,
    paired_cluster_bootstrap,
    permutation_test,
)

PROBE = "reliability"
TRAINED, UNSEEN = "trained", "unseen"
_N_PERMUTED = 32
_GATE, _PRESENCE = "gate", "presence"

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ReliabilityConfig:
    """What is measured.

    Attributes:
        layers: Blocks at which vectors are added; the bridge's own block, or without a bridge the
            middle one, if empty.
        estimators: How directions are fitted, by their names in ``probes.directions``.
        train_contexts: Contexts whose states are fitted; all of the training set if empty. The
            others are reported as unseen.
        coefficients: Steps of a class gap; positive ones should make replies safer. The default
            stays within one gap: two of them break the embedded model, whose margin then falls on
            either side.
        gate_scales: Strengths of the bridge's signal; 1 is as trained.
        n_resamples: Bootstrap resamples.
        batch_size: Replies a pass.

    Raises:
        ConfigError: Fewer than two different doses, one that is not finite, no or an unknown
            estimator, or another type.
    """

    layers: tuple[int, ...] = ()
    estimators: tuple[str, ...] = ("mean_difference",)
    train_contexts: tuple[str, ...] = ()
    coefficients: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    gate_scales: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    n_resamples: Count = 2000
    batch_size: Count = BATCH_SIZE

    def __post_init__(self) -> None:
        require_field_types(self)
        for name in ("coefficients", "gate_scales"):
            doses = getattr(self, name)
            if len(set(doses)) < max(2, len(doses)) or not all(map(math.isfinite, doses)):
                raise ConfigError(
                    f"{name} = {list(doses)}: a slope needs two or more different finite doses"
                )
        unknown = [name for name in self.estimators if name not in ESTIMATORS]
        if unknown or not self.estimators:
            raise ConfigError(
                f"estimators = {', '.join(unknown) or 'none'}: name at least one of "
                f"{', '.join(ESTIMATORS)}"
            )


@typed_arguments
def run_reliability(
    backbone: Backbone,
    guidance: SVGTBridge | None,
    train: Sequence[ContrastSet],
    test: ReplyPairs,
    config: ReliabilityConfig | None = None,
    *,
    seed: Seed,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Measure how reliably vectors, and the bridge of a guidance, move the safety margin.

    Args:
        backbone: The frozen model.
        guidance: The bridge to compare with; None measures vectors alone.
        train: Residual states with layers, one set a contrast: one vector each, layer and
            estimator. Their prompts should not be those of ``test``.
        test: Harmful prompts with two replies each; harmless ones are left out.
        config: What is measured.
        seed: Of controls and resamples.
        on_progress: Told how many measurements of how many are done.

    Returns:
        Records of the metrics ``steering_slope``, ``wrong_sign_share``, ``slope_spread``,
        ``slope_context_share``, ``steering_margin`` (change of the margin at each dose ``x``),
        ``ablation_effect``, ``gate_closed_share`` and ``wrong_sign_difference`` (bridge minus
        vector). Slopes and shares come for all prompts (``context_a`` empty), for the contexts that
        the vectors were fitted on (``trained``), the others (``unseen``), and each context.
        Controls carry their kind before the estimator, ``random/mean_difference``.

    Raises:
        DataError: No harmful prompt, a layer or context that the training states do not hold, one
            class only.
        HookError: A layer that the backbone does not have.
    """
    config = config or ReliabilityConfig()
    study = _Study.of(backbone, test.where(prompt_harm=True), config, seed)
    layers = config.layers or (_default_layer(backbone, guidance),)
    sets = [_in_contexts(contrast, config.train_contexts) for contrast in train]
    todo = len(sets) * len(layers) * len(config.estimators) + (guidance is not None)
    records: list[Record] = []
    measured: list[_Measured] = []
    for contrast in sets:
        for layer in layers:
            for estimator in config.estimators:
                vector = _measure_vector(study, contrast, layer, estimator)
                measured.append(vector)
                records += vector.records
                on_progress(len(measured), todo)
    if guidance is not None:
        records += _bridge_records(study, guidance, _contexts_of(sets), measured)
        on_progress(todo, todo)
    return records


def _default_layer(backbone: Backbone, guidance: SVGTBridge | None) -> int:
    return backbone.n_layers // 2 if guidance is None else guidance.writer.config.layer


def _in_contexts(contrast: ContrastSet, contexts: Sequence[str]) -> ContrastSet:
    for name in contexts:
        contrast.in_context(name)  # names a context that is not there
    if not contexts:
        return contrast
    kept = [i for i, where in enumerate(contrast.context) if where in contexts]
    return contrast.rows(torch.tensor(kept))


def _contexts_of(sets: Sequence[ContrastSet]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for contrast in sets for name in contrast.contexts))


# ------------------------------------------------------------------------------------ the prompts


@dataclass(frozen=True, eq=False)
class _Study:
    """The prompts under test with what every measurement shares.

    Attributes:
        backbone: The frozen model.
        pairs: Harmful prompts with two replies each.
        plain: Their margins in the untouched model.
        config: What is measured.
        rng: Of resamples and permutations.
        generator: Of random vectors.
    """

    backbone: Backbone
    pairs: ReplyPairs
    plain: Float[Tensor, " batch"]
    config: ReliabilityConfig
    rng: np.random.Generator
    generator: torch.Generator

    @classmethod
    def of(
        cls, backbone: Backbone, pairs: ReplyPairs, config: ReliabilityConfig, seed: int
    ) -> "_Study":
        plain = plain_margins(backbone, pairs, batch_size=config.batch_size)
        rng = np.random.default_rng([seed, *PROBE.encode()])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return cls(backbone, pairs, plain, config, rng, generator)

    def rows(self, index: Sequence[int]) -> "_Study":
        """The same study of some of the prompts."""
        return replace(self, pairs=self.pairs.rows(index), plain=self.plain[list(index)])

    def scopes(self, trained: Sequence[str]) -> "dict[str, list[int]]":
        """Prompts by scope: all, in trained and in unseen contexts, and in every context."""
        contexts = self.pairs.contexts
        seen = [i for i, name in enumerate(contexts) if name in trained]
        unseen = [i for i, name in enumerate(contexts) if name not in trained]
        scopes = {"": list(range(len(contexts))), TRAINED: seen, UNSEEN: unseen}
        by_name = {
            name: [i for i, where in enumerate(contexts) if where == name]
            for name in dict.fromkeys(contexts)
        }
        return {name: index for name, index in {**scopes, **by_name}.items() if index}

    def mean(self, values: Floats, index: Sequence[int] | None = None) -> Interval:
        """Mean over some prompts (all by default), by resampled groups."""
        groups = self._groups(index)
        chosen = values if index is None else values[index]
        return cluster_bootstrap(chosen, groups, rng=self.rng, n_resamples=self.config.n_resamples)

    def share(self, flags: Flags, index: Sequence[int] | None = None) -> Interval:
        """Share of prompts for which something is so."""
        groups = self._groups(index)
        chosen = flags if index is None else flags[index]
        return clustered_share(chosen, groups, rng=self.rng, n_resamples=self.config.n_resamples)

    def _groups(self, index: Sequence[int] | None = None) -> list[str]:
        groups = list(self.pairs.groups)
        return groups if index is None else [groups[i] for i in index]

    def steered(self, layer: int, vectors: Float[Tensor, "n d_model"]) -> "_Doses":
        """Margins of every prompt at every coefficient."""
        margins = [
            self.plain
            if coefficient == 0.0
            else steered_margins(
                self.backbone,
                self.pairs,
                layer,
                vectors,
                coefficient,
                batch_size=self.config.batch_size,
            )
            for coefficient in self.config.coefficients
        ]
        return _Doses(self.config.coefficients, torch.stack(margins))


@dataclass(frozen=True, eq=False)
class _Doses:
    """Margins of every prompt at every dose of one intervention."""

    doses: tuple[float, ...]
    margins: Float[Tensor, "dose n"]

    @property
    def slopes(self) -> Floats:
        return least_squares_slopes(self.doses, self.margins).cpu().numpy()


# ------------------------------------------------------------------------------ what is said of it


@dataclass(frozen=True, eq=False)
class _Measured:
    """An intervention's slopes, and the records about them."""

    template: Record
    slopes: Floats
    records: list[Record] = field(default_factory=list)


def _records_of(
    study: _Study,
    template: Record,
    doses: _Doses,
    trained: Sequence[str],
    controls: dict[str, _Doses],
) -> list[Record]:
    """All records of an intervention and of its controls, by their kind."""
    scopes = study.scopes(trained)
    pooled = {name: scopes[name] for name in ("", TRAINED, UNSEEN) if name in scopes}
    nulls = controls["random"].slopes
    records = list(_scoped(study, template, doses.slopes, scopes, nulls))
    records += _overall(study, template, doses.slopes)
    records += _curve(study, template, doses)
    for kind, control in controls.items():
        labelled = replace(template, estimator=f"{kind}/{template.estimator}")
        records += _scoped(study, labelled, control.slopes, pooled, None)
        records += _curve(study, labelled, control)
    return records


def _scoped(
    study: _Study,
    template: Record,
    slopes: Floats,
    scopes: dict[str, list[int]],
    nulls: Floats | None,
) -> Iterator[Record]:
    """Mean slope and share of wrong signs in every scope; ``null`` is what random vectors give."""
    for name, index in scopes.items():
        here = replace(template, context_a=name)
        null = math.nan if nulls is None else float(nulls[index].mean())
        record = replace(here, metric="steering_slope", null=null)
        yield record.measured(study.mean(slopes, index))
        null = math.nan if nulls is None else float((nulls[index] < 0).mean())
        record = replace(here, metric="wrong_sign_share", null=null)
        yield record.measured(study.share(slopes < 0, index))


def _overall(study: _Study, template: Record, slopes: Floats) -> Iterator[Record]:
    """How much slopes differ between prompts, and how much of that lies between contexts."""
    rng, n_resamples = study.rng, study.config.n_resamples
    pairs = study.pairs
    width = spread(slopes, pairs.groups, rng=rng, n_resamples=n_resamples)
    yield replace(template, metric="slope_spread").measured(width)
    record = replace(template, metric="slope_context_share")
    found = context_share(slopes, pairs.contexts, pairs.groups, rng=rng, n_resamples=n_resamples)
    if found is None:
        why = "needs two contexts and slopes that differ"
        yield replace(record, note=f"{NOT_MEASURED}: {why}")
        return
    record = replace(record.measured(found.share), null=found.null, p_value=found.p_value)
    method = f"{record.ci_method}; permutation of contexts within groups"
    yield replace(record, ci_method=method)


def _curve(study: _Study, template: Record, doses: _Doses) -> Iterator[Record]:
    """Mean change of the margin at every dose, against the untouched model."""
    for dose, margins in zip(doses.doses, doses.margins, strict=True):
        change = (margins - study.plain).double().cpu().numpy()
        record = replace(template, metric="steering_margin", x=dose, null=0.0)
        yield record.measured(study.mean(change))


# ------------------------------------------------------------------------------------ the vectors


def _measure_vector(study: _Study, train: ContrastSet, layer: int, estimator: str) -> _Measured:
    """Fit a vector, steer by it and by its controls, and take its direction out."""
    fitted = fit_vector(train, layer, estimator)
    template = Record(
        probe=PROBE,
        backbone=study.backbone.name,
        metric="",
        estimate=math.nan,
        contrast=train.contrast,
        site="residual",
        layer=layer,
        estimator=estimator,
        note=f"{len(train)} training states at {train.site}",
    )
    n = len(study.pairs)
    if not fitted.is_fitted:
        missing = replace(
            template,
            metric="steering_slope",
            note=f"{NOT_MEASURED}: {estimator} finds no direction in {len(train)} training states",
        )
        return _Measured(template, np.full(n, np.nan), [missing])
    doses = study.steered(layer, fitted.vector.expand(n, -1))
    controls = {
        kind: study.steered(layer, fitted.vector.norm() * directions)
        for kind, directions in _controls(study, train, fitted).items()
    }
    records = _records_of(study, template, doses, train.contexts, controls)
    records += _ablation(study, template, fitted)
    return _Measured(template, doses.slopes, records)


def _controls(
    study: _Study, train: ContrastSet, fitted: SteeringVector
) -> dict[str, Float[Tensor, "n d_model"]]:
    """Unit directions of the controls, for every prompt a draw of its own."""
    n = len(study.pairs)
    permuted = permuted_directions(
        train,
        fitted.layer,
        fitted.estimator,
        n_permutations=_N_PERMUTED,
        generator=study.generator,
    )
    kept = permuted[permuted.isfinite().all(dim=1)]
    drawn = torch.randint(max(1, len(kept)), (n,), generator=study.generator)
    random = random_directions(n, len(fitted.vector), generator=study.generator)
    return {"random": random, **({"permuted": kept[drawn]} if len(kept) else {})}


def _ablation(study: _Study, template: Record, fitted: SteeringVector) -> Iterator[Record]:
    """Mean change of the margin when the direction is taken out, and when a random one is."""
    n, width = len(study.pairs), len(fitted.vector)
    drawn = random_directions(n, width, generator=study.generator)
    random = _change_without(study, drawn)
    change = _change_without(study, fitted.unit.expand(n, -1))
    record = replace(template, metric="ablation_effect")
    null = study.mean(random)
    yield replace(record, null=null.estimate).measured(study.mean(change))
    yield replace(record, estimator=f"random/{template.estimator}").measured(null)


def _change_without(study: _Study, directions: Float[Tensor, "n d_model"]) -> Floats:
    margins = ablated_margins(
        study.backbone, study.pairs, directions, batch_size=study.config.batch_size
    )
    change: Floats = (margins - study.plain).double().cpu().numpy()
    return change


# ------------------------------------------------------------------------------------- the bridge


def _bridge_records(
    study: _Study,
    guidance: SVGTBridge,
    trained: Sequence[str],
    vectors: Sequence[_Measured],
) -> list[Record]:
    """Slopes of the bridge where its gate opens, its controls, and the comparison with vectors."""
    scene = set_scene(study.backbone, guidance, study.pairs, batch_size=study.config.batch_size)
    is_open = scene.write.open.cpu().numpy()
    template = Record(
        probe=PROBE,
        backbone=study.backbone.name,
        metric="",
        estimate=math.nan,
        guidance=guidance.name,
        site="bridge",
        layer=guidance.writer.config.layer,
        note="prompts whose gate opens; bridge written once, from the prompt",
    )
    share = replace(template, metric="gate_closed_share", note="").measured(study.share(~is_open))
    if not is_open.any():
        why = f"{NOT_MEASURED}: the gate stays closed for every prompt"
        return [share, replace(template, metric="steering_slope", note=why)]
    index = np.flatnonzero(is_open).tolist()
    seen, scene = study.rows(index), scene.rows(index)
    records = [share]
    for kind, (doses, random) in _bridge_doses(seen, scene).items():
        labelled = replace(template, estimator=kind)
        records += _records_of(seen, labelled, doses, trained, {"random": random})
        records += [
            _compared(seen, labelled, doses.slopes, replace(vector, slopes=vector.slopes[index]))
            for vector in vectors
        ]
    return records


def _bridge_doses(study: _Study, scene: Scene) -> dict[str, tuple[_Doses, _Doses]]:
    """Margins by dose of the bridge and of its random control, for both kinds of dose."""
    scales = study.config.gate_scales
    noise = torch.randn(scene.write.bridge.shape, generator=study.generator)
    noise = noise.to(scene.write.bridge)
    rest, trained = _bridge_at(scene, 0.0), _bridge_at(scene, 1.0)
    drift = noise * ((trained - rest).norm(dim=-1) / noise.norm(dim=-1))[..., None]
    gate = [scene.margins(replaced(_bridge_at(scene, scale))) for scale in scales]
    random_gate = [scene.margins(replaced(rest + scale * drift)) for scale in scales]
    present = torch.stack([study.plain, scene.margins()])
    random_present = torch.stack([study.plain, scene.margins(randomised(noise))])
    return {
        _GATE: (_Doses(scales, torch.stack(gate)), _Doses(scales, torch.stack(random_gate))),
        _PRESENCE: (_Doses((0.0, 1.0), present), _Doses((0.0, 1.0), random_present)),
    }


@torch.no_grad()
def _bridge_at(scene: Scene, scale: float) -> Float[Tensor, "batch bridge d_model"]:
    write = write_bridges(scene.backbone, scene.pairs.prompts, scene.guidance.writer, scale)
    return write.bridge


def _compared(study: _Study, template: Record, bridge: Floats, vector: _Measured) -> Record:
    """Share of wrong signs of the bridge minus that of a vector, on the same prompts."""
    record = replace(
        template,
        metric="wrong_sign_difference",
        contrast=vector.template.contrast,
        layer=vector.template.layer,
        estimator=f"{template.estimator} - {vector.template.estimator}",
        null=0.0,
    )
    if np.isnan(vector.slopes).any():
        return replace(record, note=f"{NOT_MEASURED}: there is no such vector")
    groups = list(study.pairs.groups)
    by_vector, by_bridge = vector.slopes < 0, bridge < 0
    difference = paired_cluster_bootstrap(
        by_vector, by_bridge, groups, rng=study.rng, n_resamples=study.config.n_resamples
    )
    if len(set(groups)) < 2:
        return record.measured(difference)
    test = permutation_test(by_vector, by_bridge, rng=study.rng, paired=True, clusters=groups)
    method = f"{difference.method}; {test.method} by groups"
    return replace(record.measured(difference), p_value=test.p_value, ci_method=method)
