"""A set of ablations into a run folder, resumable variant by variant.

::

    records.parquet           every estimate, see ``workbench.evaluation.ablations.comparing``
    summary.json              those over all splits of a kind and all seeds
    measurements/KEY/SEED.parquet   what was measured of a variant, prompt by prompt
    modules/KEY/SEED/         run folders of the modules that were trained

Records are written anew after every ablation, so that an interrupted run already says what it
found. The references and no guidance are measured once for all ablations.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.errors import ConfigError
from workbench.evaluation.ablations.catalogue import REFERENCE, Ablation, Variant
from workbench.evaluation.ablations.comparing import (
    ALL_SEEDS,
    POOLED,
    UNGUIDED,
    AblationRecord,
    Compared,
    compare,
    records_frame,
)
from workbench.evaluation.ablations.subjects import (
    Anew,
    ModuleStore,
    Subject,
    Told,
    build_guidance,
)
from workbench.evaluation.benchmark import Benchmark, EvaluationConfig, evaluate_shard
from workbench.evaluation.summaries import ALL_FRAMES
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.files import read_parquet, write_parquet
from workbench.guidance.none import NoGuidance
from workbench.guidance.protocol import Guidance
from workbench.guidance.registry import GuidanceSpec
from workbench.runs import RunFolder
from workbench.svgt.curriculum.recipe import Recipe
from workbench.testbed.splits import TEST_SPLITS, VALIDATION_SPLITS

RUN_KIND = "ablations"
RECORDS_FILE = "records.parquet"
PROMPT_SEED = 0
_MODULES = "modules"


@dataclass(frozen=True, eq=False)
class Comparison:
    """One ablation in one reference."""

    ablation: Ablation
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class AblationPlan:
    """What is measured.

    Attributes:
        backbone: The frozen model.
        comparisons: Ablations with their references, in the order in which they run.
        n_seeds: Seeds of module and sampling, from 0; the prompts are the same for all.
        limit: Prompts of each kind and test split; validation has half as many.
        decoding: How replies are generated.
    """

    backbone: Backbone
    comparisons: Sequence[Comparison]
    n_seeds: int = 1
    limit: int = 100
    decoding: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.n_seeds < 1 or self.limit < 1:
            raise ConfigError("ask for at least one seed and one prompt")

    @cached_property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Test and validation splits."""
        return (
            embedded_benchmark(TEST_SPLITS, n_per_kind=self.limit, seed=PROMPT_SEED),
            embedded_benchmark(
                VALIDATION_SPLITS, n_per_kind=max(1, self.limit // 2), seed=PROMPT_SEED
            ),
        )

    def subjects(self, comparison: Comparison, seed: int) -> list[Subject]:
        """The reference and its variants."""
        ablation, recipe = comparison.ablation, comparison.recipe
        return [
            Subject(ablation.name, recipe, variant, seed)
            for variant in ablation.variants(recipe, self.backbone.n_layers)
        ]

    def describe(self) -> dict[str, object]:
        """What a run folder keeps; a resumed run may add to it, see :func:`grows_into`."""
        return {
            "backbone": self.backbone.name,
            "weights_hash": self.backbone.weights_hash,
            "ablations": sorted(
                f"{c.ablation.name} of {c.recipe.module.name}" for c in self.comparisons
            ),
            "seeds": self.n_seeds,
            "limit": self.limit,
            "decoding": to_mapping(self.decoding),
        }


def grows_into(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a plan so described measures all that the old one does: more ablations or seeds."""
    fixed = set(old) - {"ablations", "seeds"}
    return (
        all(old[key] == new.get(key) for key in fixed)
        and set(old["ablations"]) <= set(new["ablations"])
        and old["seeds"] <= new["seeds"]
    )


@dataclass(frozen=True)
class Remaining:
    """What one comparison still needs; what it shares with an earlier one counts there.

    Attributes:
        comparison: Which.
        n_variants: Variants beside the reference.
        trainings: Modules to train, by the stages that are trained; the reference's among them
            where it was trained nowhere.
        n_measurements: Subjects to measure, each at one seed.
    """

    comparison: Comparison
    n_variants: int
    trainings: Mapping[Anew, int]
    n_measurements: int


def remaining(plan: AblationPlan, out: Path, modules: Path | None = None) -> list[Remaining]:
    """What :func:`run_ablations` has still to do, comparison by comparison.

    Args:
        plan: What is measured.
        out: The run folder.
        modules: Modules that are trained already.
    """
    store = ModuleStore(plan.backbone, out / _MODULES, modules)
    measured: set[tuple[str, int]] = set()
    trained: set[tuple[str, int]] = set()
    found = []
    for comparison in plan.comparisons:
        subjects = [s for seed in range(plan.n_seeds) for s in plan.subjects(comparison, seed)]
        missing = [s for s in subjects if not _measurements(out, s.key, s.seed).is_file()]
        keys = {(s.key, s.seed) for s in missing}
        keys |= {
            (UNGUIDED, seed)
            for seed in range(plan.n_seeds)
            if not _measurements(out, UNGUIDED, seed).is_file()
        }
        trainings = {(key, s.seed): anew for s in missing for key, anew in store.missing(s).items()}
        found.append(
            Remaining(
                comparison,
                len(subjects) // plan.n_seeds - 1,
                Counter(anew for key, anew in trainings.items() if key not in trained),
                len(keys - measured),
            )
        )
        measured |= keys
        trained |= set(trainings)
    return found


OnSubject = Callable[[str, int], None]


def run_ablations(
    plan: AblationPlan,
    run: RunFolder,
    *,
    modules: Path | None = None,
    told: Told = lambda name: lambda event: None,
    on_subject: OnSubject = lambda key, seed: None,
    n_resamples: int = 2000,
) -> list[AblationRecord]:
    """Measure what the folder does not have yet, and compare.

    Args:
        plan: What to measure.
        run: A folder made with :meth:`RunFolder.create`; the caller closes it.
        modules: Modules that are trained already, ``MODULES/BACKBONE/RECIPE/SEED``.
        told: Told of the steps of a training, by the name of what is trained.
        on_subject: Told what is measured next.
        n_resamples: Resamples of every interval.

    Returns:
        The records of all ablations.

    Raises:
        ConfigError: A variant does not fit the backbone.
        NonFiniteError: A training diverged.
        RunError: The folder cannot be written.
    """
    measuring = _Measuring(
        plan, run.path, ModuleStore(plan.backbone, run.file(_MODULES), modules, told), on_subject
    )
    found: dict[int, list[AblationRecord]] = {}
    for n_seeds in range(1, plan.n_seeds + 1):
        for number, comparison in enumerate(plan.comparisons):
            compared = measuring.comparison(comparison, n_seeds)
            found[number] = compare(
                comparison.ablation.name,
                comparison.recipe.module.name,
                plan.backbone.name,
                compared,
                n_resamples=n_resamples,
            )
            _write(run, [record for records in found.values() for record in records])
    return [record for records in found.values() for record in records]


def _measurements(out: Path, key: str, seed: int) -> Path:
    return out / "measurements" / key / f"{seed}.parquet"


def _write(run: RunFolder, records: Sequence[AblationRecord]) -> None:
    write_parquet(run.file(RECORDS_FILE), records_frame(records))
    run.write_summary(headline(records))


def headline(records: Sequence[AblationRecord]) -> list[dict[str, object]]:
    """The rows of ``summary.json``: all splits of a kind and all seeds together.

    Each also has the keys by which an evaluation names what it measured.
    """
    return [
        {**asdict(record), **_as_evaluated(record)}
        for record in records
        if record.split in POOLED and record.seed == ALL_SEEDS
    ]


def _as_evaluated(record: AblationRecord) -> dict[str, object]:
    if record.variant == UNGUIDED:
        return {"guidance": UNGUIDED, "config": "", "frame": ALL_FRAMES}
    name = record.reference
    if record.variant != REFERENCE:
        name = f"{record.reference}/{record.ablation}/{record.variant}"
    return {"guidance": "svgt", "config": name, "frame": ALL_FRAMES}


@dataclass(frozen=True, eq=False)
class _Measuring:
    """What was measured so far, and how the rest is."""

    plan: AblationPlan
    folder: Path
    store: ModuleStore
    on_subject: OnSubject

    def comparison(self, comparison: Comparison, n_seeds: int) -> list[Compared]:
        """Everything that one ablation compares, over so many seeds."""
        compared = [Compared(UNGUIDED, "no guidance", None, self._unguided(n_seeds))]
        for subject in self.plan.subjects(comparison, 0):
            parts = [
                self._measured(subject.key, seed, self._builder(comparison, subject.variant, seed))
                for seed in range(n_seeds)
            ]
            variant = subject.variant
            compared.append(
                Compared(variant.name, variant.text, variant.x, pd.concat(parts, ignore_index=True))
            )
        return compared

    def _builder(
        self, comparison: Comparison, variant: Variant, seed: int
    ) -> Callable[[], Guidance]:
        subject = Subject(comparison.ablation.name, comparison.recipe, variant, seed)
        return lambda: build_guidance(subject, self.store)

    def _unguided(self, n_seeds: int) -> pd.DataFrame:
        parts = [self._measured(UNGUIDED, seed, NoGuidance) for seed in range(n_seeds)]
        return pd.concat(parts, ignore_index=True)

    def _measured(self, key: str, seed: int, build: Callable[[], Guidance]) -> pd.DataFrame:
        path = _measurements(self.folder, key, seed)
        if not path.is_file():
            self.on_subject(key, seed)
            spec = GuidanceSpec(UNGUIDED) if key == UNGUIDED else GuidanceSpec("svgt", key)
            write_parquet(path, self._measure(spec, build(), seed))
        return read_parquet(path)

    def _measure(self, spec: GuidanceSpec, guidance: Guidance, seed: int) -> pd.DataFrame:
        shards = [
            evaluate_shard(
                self.plan.backbone,
                spec,
                guidance,
                split,
                benchmark.judge,
                self.plan.decoding,
                seed=seed,
            ).measurements
            for benchmark in self.plan.benchmarks
            for split in benchmark.splits
        ]
        return pd.concat(shards, ignore_index=True)
