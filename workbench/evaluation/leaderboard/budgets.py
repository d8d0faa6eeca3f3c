"""What every method of a leaderboard learned from, and what its choice was made of.

Read from records, so that it can be told of a finished run: the artefacts that were tuned, found by
the hash that the run kept, and of value modules the run folder of their training or, for shipped
ones, their recipe. Methods are comparable as far as these budgets are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.backbone.protocol import Backbone
from workbench.config import from_mapping, to_mapping
from workbench.errors import CheckpointError
from workbench.evaluation.leaderboard.entering import Entering
from workbench.evaluation.leaderboard.leakage import recorded_training
from workbench.evaluation.leaderboard.plan import BASELINE, REFERENCE
from workbench.guidance.artifact import ArtifactRecord
from workbench.guidance.methods import get_method
from workbench.guidance.registry import DEFAULT_CONFIG, find_value_module
from workbench.svgt.checkpoint import read_checkpoint_record
from workbench.svgt.curriculum.recipe import DataConfig


@dataclass(frozen=True)
class Choice:
    """How a configuration was chosen on the validation splits.

    Attributes:
        rule: In words.
        candidates: How many were tried.
        prompts: Validation prompts a candidate was measured on.
    """

    rule: str
    candidates: int
    prompts: int


@dataclass(frozen=True)
class Budget:
    """What one method had.

    Attributes:
        method: Its name in the leaderboard.
        data: What it learned from; None: nobody recorded it.
        module_data: What the value module that it is built on learned from; None: as ``data``, or
            it is built on none.
        choice: How its configuration was chosen; None: not recorded, or ``fixed``.
        fixed: It was not tuned: its configuration was there beforehand.
        config: The chosen configuration; empty where ``fixed``.
        edges: Chosen values at an end of what was tried, in words.
    """

    method: str
    data: DataConfig | None
    module_data: DataConfig | None = None
    choice: Choice | None = None
    fixed: bool = False
    config: Mapping[str, object] | None = None
    edges: tuple[str, ...] = ()


def read_budgets(
    run: Mapping[str, Any],
    backbone: Backbone,
    *,
    tuned: Path | None = None,
    modules: Path | None = None,
) -> tuple[Budget, ...]:
    """The budgets of a run's methods, ``none`` apart.

    Args:
        run: The configuration that the run folder keeps.
        backbone: Its backbone.
        tuned: Where tuned methods are, as the run was given it.
        modules: Where value modules are, as the run was given it.
    """
    places = Entering(backbone, 1, Path(), modules, tuned)
    return tuple(
        _of_modules(method, identity, places)
        if method.partition(":")[0] == REFERENCE
        else _of_fitted(method, identity, run, places)
        for method, identity in run["methods"].items()
        if method != BASELINE
    )


def _of_modules(method: str, identity: Mapping[str, Any], places: Entering) -> Budget:
    config = method.partition(":")[2] or DEFAULT_CONFIG
    found = (
        _module_data(config, seed, places, identity[str(seed)].get("weights_sha256"))
        for seed in identity["seeds"]
    )
    return Budget(method, next((data for data in found if data is not None), None), fixed=True)


def _of_fitted(
    method: str, identity: Mapping[str, Any], run: Mapping[str, Any], places: Entering
) -> Budget:
    seeds = identity["seeds"]
    hashes = {identity[str(seed)].get("tensors_sha256") for seed in seeds}
    config: Mapping[str, object] = identity[str(seeds[0])]["config"]
    known = get_method(method.partition(":")[0])
    record = _measured_record(method, hashes, places)
    recorded = (record.about if record is not None else {}).get("data", run["data"])
    assert isinstance(recorded, Mapping)
    built_on = known.value_module
    return Budget(
        method,
        from_mapping(DataConfig, recorded, where=f"data of {method}"),
        None if built_on is None else _module_data(str(config[built_on]), 0, places),
        None if record is None else _choice(record),
        config=config,
        edges=edges(config, [to_mapping(candidate) for candidate in known.grid(places.backbone)]),
    )


def _measured_record(method: str, hashes: set[object], places: Entering) -> ArtifactRecord | None:
    """The record of the tuned artefact, if it is the one that the run measured."""
    tuned = places.tuned_record(method)
    return tuned[0] if tuned is not None and tuned[0].tensors_sha256 in hashes else None


def _choice(record: ArtifactRecord) -> Choice | None:
    tuning = record.about.get("tuning")
    if not isinstance(tuning, Mapping):
        return None
    return Choice(
        str(tuning["rule"]), int(tuning["candidates"]), int(tuning["prompts_a_candidate"])
    )


def _module_data(
    config: str, seed: int, places: Entering, weights: str | None = None
) -> DataConfig | None:
    """What a value module learned from; of the one with these weights, where they are known."""
    found = places.module_at(config, seed)
    shipped = _shipped(config, places.backbone)
    for folder in (found, shipped):
        if folder is None:
            continue
        if weights in (None, read_checkpoint_record(folder).weights_sha256):
            trained = recorded_training(folder, places.backbone)
            return None if trained is None else trained[1]
    return None


def _shipped(config: str, backbone: Backbone) -> Path | None:
    try:
        return find_value_module(config, backbone)
    except CheckpointError:
        return None


def edges(config: Mapping[str, object], grid: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Which numbers of a configuration are the smallest or the largest that its grid offers.

    A number that all candidates share was not chosen, and has no edge.

    Returns:
        For example ``("strength: largest of 4",)``.
    """
    chosen, candidates = _numbers(config), [_numbers(candidate) for candidate in grid]
    said = []
    for name, value in chosen.items():
        offered = sorted({numbers[name] for numbers in candidates if name in numbers})
        if len(offered) < 2:
            continue
        for end, where in ((offered[0], "smallest"), (offered[-1], "largest")):
            if value == end:
                said.append(f"{name}: {where} of {len(offered)}")
    return tuple(said)


def _numbers(config: Mapping[str, object], before: str = "") -> dict[str, float]:
    """Numbers by dotted name."""
    found: dict[str, float] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[before + name] = float(value)
    return found
