"""What a worker does: fit a method, or measure a shard. The same functions run in any process.

A process loads a backbone once, and computes on one thread: results then do not depend on how many
cores a machine has, nor on who did the work.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, cast

import torch

from workbench.backbone.frozen import FrozenBackbone
from workbench.backbone.loading import load_backbone
from workbench.config import from_mapping
from workbench.data.training import ValueData
from workbench.evaluation.benchmark import Benchmark, EvaluationConfig, Shard, evaluate_shard
from workbench.evaluation.leaderboard.plan import BackboneSource, Entrant
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.evaluation.testbed_training import draw_value_data
from workbench.guidance.method import FittedGuidance, Method
from workbench.guidance.methods import get_method
from workbench.guidance.registry import load_guidance
from workbench.svgt.curriculum.recipe import DataConfig


@dataclass(frozen=True)
class FitJob:
    """Fit an entrant into its folder.

    Attributes:
        backbone: The frozen model.
        entrant: Whose ``fit`` is the configuration and whose ``source`` is the folder.
        data: How many examples of the training split.
    """

    backbone: BackboneSource
    entrant: Entrant
    data: DataConfig


@dataclass(frozen=True)
class ShardJob:
    """Measure an entrant on one split.

    Attributes:
        backbone: The frozen model.
        entrant: How it is guided, and with which seed.
        split: Name of the split.
        n_per_kind: Prompts of each kind.
        prompt_seed: Of the prompts.
        decoding: How replies are generated.
    """

    backbone: BackboneSource
    entrant: Entrant
    split: str
    n_per_kind: int
    prompt_seed: int
    decoding: EvaluationConfig


def fit_entrant(job: FitJob) -> None:
    """Fit, and write the artefact whole.

    Raises:
        WorkbenchError: As the method's ``fit`` and ``save`` do.
    """
    use_one_thread()
    entrant = job.entrant
    assert entrant.fit is not None
    backbone = shared_backbone(job.backbone)
    fitted = fit_method(backbone, entrant.spec.family, entrant.fit, entrant.seed, job.data)
    fitted.save(entrant.source, backbone, about={"seed": entrant.seed})


def fit_method(
    backbone: FrozenBackbone,
    method: str,
    config: Mapping[str, object],
    seed: int,
    data: DataConfig,
) -> FittedGuidance:
    """Fit a method on the training split as this seed draws it.

    Raises:
        ConfigError: Unknown method, or a configuration that it does not understand.
        DataError: The examples do not suffice.
    """
    known = get_method(method)
    settings = from_mapping(known.config_type, config, where=f"configuration of {method}")
    usual = {
        field.name: field.default
        for field in dataclasses.fields(settings)
        if field.name in known.decoding_fields
    }
    fitted = _fitted(backbone, known, dataclasses.replace(settings, **usual), seed, data)
    return cast(FittedGuidance, dataclasses.replace(cast(Any, fitted), config=settings))


@lru_cache(maxsize=16)
def _fitted(
    backbone: FrozenBackbone,
    method: Method,
    settings: Any,  # noqa: ANN401 - every method has a record of its own
    seed: int,
    data: DataConfig,
) -> FittedGuidance:
    """The latest fits of this process, which differ in how they are used only."""
    return method.fit(backbone, training_data(data, seed), settings, seed=seed)


def measure_shard(job: ShardJob, on_prompts: Callable[[int], None] = lambda count: None) -> Shard:
    """Generate, judge and teacher-force one split.

    Raises:
        WorkbenchError: As loading and :func:`evaluate_shard` do.
    """
    use_one_thread()
    backbone = shared_backbone(job.backbone)
    benchmark = prompts_of(job.split, job.n_per_kind, job.prompt_seed)
    return evaluate_shard(
        backbone,
        job.entrant.spec,
        load_guidance(job.entrant.loaded_as, backbone),
        benchmark.splits[0],
        benchmark.judge,
        job.decoding,
        seed=job.entrant.seed,
        on_prompts=on_prompts,
    )


def use_one_thread() -> None:
    """One torch thread in this process, whatever the machine has."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@cache
def shared_backbone(source: BackboneSource) -> FrozenBackbone:
    """The backbone, loaded once a process."""
    return load_backbone(source.name, device=source.device, dtype=source.dtype)


@cache
def training_data(data: DataConfig, seed: int) -> ValueData:
    """The training split; validation is none of a method's business."""
    return draw_value_data(data, seed)[0]


@cache
def prompts_of(split: str, n_per_kind: int, seed: int) -> Benchmark:
    """One split of the embedded world."""
    return embedded_benchmark([split], n_per_kind=n_per_kind, seed=seed)
