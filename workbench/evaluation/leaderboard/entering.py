"""From names of methods to entrants: which weights each seed uses, and what must be fitted first.

=====================  =========================================================================
``none``               the plain model, once a sampling seed
``svgt``, ``svgt:X``   value modules: ``MODULES/BACKBONE/X/SEED`` as ``benchmarks/embedded.py
                       train`` lays them out; the shipped one stands in for seed 0. A seed that
                       is nowhere is left out, and said
``METHOD``             fitted at every seed with the configuration that was tuned: the one in
                       ``TUNED/BACKBONE/METHOD``, else the shipped artefact's. A method that is
                       built on a value module takes that seed's, found as for ``svgt``; a seed
                       without one is left out, and said
``METHOD:FOLDER``      one artefact as it is, with sampling seed 0
=====================  =========================================================================

``all`` stands for all of these that there is something of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.backbone.protocol import Backbone
from workbench.errors import CheckpointError, ConfigError
from workbench.evaluation.leaderboard.plan import BASELINE, REFERENCE, Entrant, method_name
from workbench.guidance.artifact import ARTIFACT_FILE, ArtifactRecord, read_artifact_record
from workbench.guidance.methods import METHODS, get_method
from workbench.guidance.registry import (
    DEFAULT_CONFIG,
    GuidanceSpec,
    find_fitted,
    find_value_module,
    identify_guidance,
    load_guidance,
    parse_guidance_list,
    shipped_configs,
    shipped_methods,
)
from workbench.svgt.checkpoint import RECORD_FILE, read_checkpoint_record

ALL = "all"
FITTED_FOLDER = "fitted"


@dataclass(frozen=True)
class Entries:
    """Who takes part, and what a reader must know about it."""

    entrants: tuple[Entrant, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entering:
    """Where everything is found.

    Attributes:
        backbone: The frozen model.
        seeds: How many seeds, from 0.
        run: Run folder; methods are fitted below it.
        modules: Trained value modules, see the module's docstring; None: shipped ones only.
        tuned: Tuned methods; None: shipped ones only.
    """

    backbone: Backbone
    seeds: int
    run: Path
    modules: Path | None = None
    tuned: Path | None = None

    def enter(self, methods: str) -> Entries:
        """Read the names and find everything.

        Args:
            methods: ``all``, or names separated by commas. ``none`` always takes part, since costs
                and changes are measured against it.

        Raises:
            ConfigError: An unknown method, or one named twice.
            CheckpointError: A named method has no weights or no tuned configuration, or weights
                of another method or backbone.
        """
        if self.seeds < 1:
            raise ConfigError(f"{self.seeds} seeds: ask for at least 1")
        notes: list[str] = []
        specs = self._everything(notes) if methods.strip() == ALL else parse_guidance_list(methods)
        baseline = GuidanceSpec(BASELINE)
        rest = [spec for spec in specs if spec != baseline]
        entrants: list[Entrant] = []
        for spec in (baseline, *rest):
            found = self._entrants(spec)
            entrants += found
            if len(found) < self.seeds:
                notes.append(self._seeds_in_words(found))
        if method_name(GuidanceSpec(REFERENCE, DEFAULT_CONFIG)) not in {e.method for e in entrants}:
            notes.append(
                f"{REFERENCE} takes no part: nothing is tested against it; a module of your own "
                f"enters as {REFERENCE} where --modules FOLDER has its run folder as "
                f"FOLDER/{_short_name(self.backbone)}/{DEFAULT_CONFIG}/SEED"
            )
        return Entries(tuple(entrants), tuple(notes))

    def _seeds_in_words(self, found: Sequence[Entrant]) -> str:
        seeds = ", ".join(str(entrant.seed) for entrant in found)
        there = f"is there (seed {seeds})" if len(found) == 1 else f"are there (seeds {seeds})"
        return (
            f"{found[0].method}: {len(found)} of {self.seeds} seeds {there}; a difference compares "
            "only seeds that both methods have, rates take all that are there"
        )

    def _everything(self, notes: list[str]) -> tuple[GuidanceSpec, ...]:
        tuned = [name for name in METHODS if self.tuned_record(name) is not None]
        left_out = [name for name in METHODS if name not in tuned]
        if left_out:
            notes.append(
                f"left out, neither shipped nor tuned for {self.backbone.name}: "
                f"{', '.join(left_out)} (`workbench fit METHOD --tune` tunes one)"
            )
        configs = dict.fromkeys([*shipped_configs(self.backbone), *self._trained_configs()])
        return (
            *(GuidanceSpec(name) for name in tuned),
            *(GuidanceSpec(REFERENCE, name) for name in configs),
        )

    def _entrants(self, spec: GuidanceSpec) -> list[Entrant]:
        if spec.family == BASELINE:
            return [Entrant(BASELINE, spec, seed) for seed in range(self.seeds)]
        if spec.family == REFERENCE:
            return self._value_modules(spec)
        return [self._as_it_is(spec)] if spec.config else self._fitted(spec)

    # -------------------------------------------------------------------------- value modules

    def _trained_configs(self) -> list[str]:
        if self.modules is None:
            return []
        folder = self.modules / _short_name(self.backbone)
        return sorted({path.parents[1].name for path in folder.glob(f"*/*/{RECORD_FILE}")})

    def _value_modules(self, spec: GuidanceSpec) -> list[Entrant]:
        found = {
            seed: folder
            for seed in range(self.seeds)
            if (folder := self._module_folder(spec.config, seed)) is not None
        }
        if not found:
            return [self._as_it_is(spec)]
        if 0 not in found and spec.config in shipped_configs(self.backbone):
            return [self._as_it_is(spec), *self._modules(spec, found)]
        return self._modules(spec, found)

    def _module_folder(self, config: str, seed: int) -> Path | None:
        if self.modules is None:
            return None
        folder = self.modules / _short_name(self.backbone) / config / str(seed)
        return folder if (folder / RECORD_FILE).is_file() else None

    def _modules(self, spec: GuidanceSpec, folders: Mapping[int, Path]) -> list[Entrant]:
        return [self._entrant(spec, seed, folder) for seed, folder in sorted(folders.items())]

    # ------------------------------------------------------------------------- fitted methods

    def tuned_record(self, method: str) -> tuple[ArtifactRecord, Path] | None:
        """The artefact whose configuration was tuned, and where it is; None: there is none."""
        if self.tuned is not None:
            folder = self.tuned / _short_name(self.backbone) / method
            if (folder / ARTIFACT_FILE).is_file():
                return read_artifact_record(folder), folder
        if method not in shipped_methods(self.backbone):
            return None
        folder = find_fitted(GuidanceSpec(method), self.backbone)
        return read_artifact_record(folder), folder

    def _fitted(self, spec: GuidanceSpec) -> list[Entrant]:
        tuned = self.tuned_record(spec.family)
        if tuned is None:
            raise CheckpointError(
                f"{spec.family} was not tuned for {self.backbone.name}: tune it with `workbench "
                f"fit {spec.family} --backbone {self.backbone.name} --tune --out "
                f"runs/tuned/{_short_name(self.backbone)}/{spec.family}` and say --tuned runs/tuned"
            )
        record, folder = tuned
        entrants = [self._at_seed(spec, seed, record, folder) for seed in range(self.seeds)]
        found = [entrant for entrant in entrants if entrant is not None]
        if not found:
            raise CheckpointError(
                f"{spec.family} is built on a value module and there is none at any seed for "
                f"{self.backbone.name}: train some with `python benchmarks/embedded.py train` and "
                "name their folder with --modules"
            )
        return found

    def _at_seed(
        self, spec: GuidanceSpec, seed: int, record: ArtifactRecord, folder: Path
    ) -> Entrant | None:
        """The tuned artefact at its own seed, a fit at another; None: its value module is missing.

        A fit's record names the value module by its hash, an artefact's own hash covers it.
        """
        if record.about.get("seed") == seed:
            return self._entrant(spec, seed, folder)
        fit, identity = dict(record.config), {"config": dict(record.config), "fit_seed": seed}
        built_on = get_method(spec.family).value_module
        if built_on is not None:
            module = self.module_at(str(record.config[built_on]), seed)
            if module is None:
                return None
            fit[built_on] = str(module.resolve())
            identity["value_module_sha256"] = read_checkpoint_record(module).weights_sha256
        into = self.run / FITTED_FOLDER / spec.family / str(seed)
        return Entrant(spec.family, spec, seed, str(into.resolve()), identity, fit=fit)

    def module_at(self, config: str, seed: int) -> Path | None:
        """The value module of a configuration that was trained with this seed, if there is one."""
        found = self._module_folder(config, seed)
        if found is None and seed == 0 and config in shipped_configs(self.backbone):
            return find_value_module(config, self.backbone)
        return found

    # ------------------------------------------------------------------------- what is there

    def _as_it_is(self, spec: GuidanceSpec) -> Entrant:
        """Whatever the registry finds, as seed 0."""
        folder = Path(spec.config).expanduser()
        own = any((folder / name).is_file() for name in (RECORD_FILE, ARTIFACT_FILE))
        named = GuidanceSpec(spec.family, folder.name) if own else spec
        source = str(folder.resolve()) if own else spec.config
        return Entrant(method_name(named), named, 0, source, self._identity(spec.family, source))

    def _entrant(self, spec: GuidanceSpec, seed: int, folder: Path) -> Entrant:
        source = str(folder.resolve())
        identity = self._identity(spec.family, source)
        return Entrant(method_name(spec), spec, seed, source, identity)

    def _identity(self, family: str, source: str) -> dict[str, object]:
        """What the plan records of weights, once they were loaded: before anything is measured."""
        spec = GuidanceSpec(family, source)
        load_guidance(spec, self.backbone)
        return identify_guidance(spec, self.backbone)


def _short_name(backbone: Backbone) -> str:
    """The backbone's name without the folders before it."""
    return Path(backbone.name).name
