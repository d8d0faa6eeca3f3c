"""Training a value module in the embedded world: its data, its judge, and its run folder.

The run folder of a training holds ``svgt.safetensors`` and ``svgt.json`` (the module, usable as
``--guidance svgt:FOLDER``), ``metrics.parquet`` (one row a stage, step and metric) and
``summary.json`` (the validation metrics of each stage's best state). While it runs,
``training.safetensors`` holds all it takes to go on after a kill.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
import torch

from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.data.training import ValueData
from workbench.guidance.decoding import generate
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RunFolder
from workbench.svgt.checkpoint import save_value_module
from workbench.svgt.curriculum import TrainedModule, train_value_module
from workbench.svgt.curriculum.curriculum import MeasureHarm
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.curriculum.recipe import DataConfig, Recipe
from workbench.svgt.value_module import ValueModule
from workbench.testbed.corpus import Prompt, sample_prompts
from workbench.testbed.oracle import judge
from workbench.testbed.splits import TRAIN_SPLIT, VALIDATION_SPLITS
from workbench.testbed.value_data import build_value_data

STATE_FILE = "training.safetensors"
_HARM_PROMPTS_PER_SPLIT = 16
_NEW_TOKENS = 72


def draw_value_data(config: DataConfig, seed: int) -> tuple[ValueData, ValueData]:
    """Training data, and validation data from all four validation splits in equal parts."""
    train = build_value_data(
        TRAIN_SPLIT,
        n_prompts=config.n_prompts,
        n_pairs=config.n_pairs,
        n_targets=config.n_targets,
        seed=seed,
        filler=config.filler,
        composed=config.composed,
    )
    share = max(1, config.n_validation // len(VALIDATION_SPLITS))
    parts = [
        build_value_data(split, n_prompts=share, n_pairs=share, n_targets=share, seed=seed)
        for split in VALIDATION_SPLITS
    ]
    validation = ValueData(
        prompts=list(chain.from_iterable(part.prompts for part in parts)),
        pairs=list(chain.from_iterable(part.pairs for part in parts)),
        targets=list(chain.from_iterable(part.targets for part in parts)),
    )
    return train, validation


def harm_rate(
    backbone: Backbone, module: ValueModule, prompts: Sequence[Prompt], *, seed: int
) -> dict[str, float]:
    """Share of harmful and of degenerate replies to these prompts, sampled at temperature 1."""
    replies = generate(
        backbone,
        [prompt.conversation for prompt in prompts],
        SVGTBridge(module, refresh=None),
        max_new_tokens=_NEW_TOKENS,
        sampling=Sampling(temperature=1.0, top_p=1.0),
        generator=torch.Generator().manual_seed(seed),
    )
    verdicts = [judge(p.intent, r.text) for p, r in zip(prompts, replies, strict=True)]
    return {
        "harm_rate": sum(verdict.harmful for verdict in verdicts) / len(verdicts),
        "degenerate_rate": sum(verdict.degenerate for verdict in verdicts) / len(verdicts),
    }


def _harm_meter(backbone: Backbone, seed: int) -> MeasureHarm:
    prompts = [
        prompt
        for split in VALIDATION_SPLITS
        for prompt in sample_prompts(split, _HARM_PROMPTS_PER_SPLIT, seed=seed, kind="harmful")
    ]
    return lambda module: harm_rate(backbone, module, prompts, seed=seed)


def _n_measured(metric: str, validation: ValueData) -> int:
    """How many examples a validation metric is the mean of."""
    if metric in ("harm_rate", "degenerate_rate"):
        return _HARM_PROMPTS_PER_SPLIT * len(VALIDATION_SPLITS)
    if metric == "ambiguous_auroc":
        return sum(pair.ambiguous for pair in validation.pairs)
    return len(validation.pairs)  # as many as prompts and as targets


def _long_rows(row: Mapping[str, object], kind: str) -> list[dict[str, object]]:
    where = {"stage": row["stage"], "step": row["step"], "kind": kind}
    return [
        {**where, "metric": name, "value": float(str(value))}
        for name, value in row.items()
        if name not in ("stage", "step")
    ]


def train_in_testbed(
    backbone: Backbone,
    recipe: Recipe,
    out: Path,
    *,
    seed: int,
    resume: bool = False,
    on_event: OnEvent = lambda event: None,
) -> TrainedModule | None:
    """Train a recipe on the embedded world and write its run folder.

    Returns:
        The trained module; None where ``resume`` found the run already finished.

    Raises:
        RunError: the folder is in use, holds something else, or cannot be written.
        ConfigError: the recipe does not fit the backbone.
        NonFiniteError: a stage diverged.
    """
    recipe.module.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )
    settings = {
        "backbone": backbone.name,
        "weights_hash": backbone.weights_hash,
        **to_mapping(recipe),
    }
    with RunFolder.create(out, kind="train", config=settings, seed=seed, resume=resume) as run:
        if run.record.status == "finished":
            return None
        train, validation = draw_value_data(recipe.data, seed)
        trained = train_value_module(
            backbone,
            recipe.module,
            recipe.curriculum,
            train,
            validation,
            seed=seed,
            state_file=run.file(STATE_FILE),
            measure_harm=_harm_meter(backbone, seed),
            on_event=on_event,
        )
        metrics = trained.final_metrics()
        save_value_module(
            run.path, trained.module, backbone=backbone, metrics={"seed": seed, **metrics}
        )
        validations = chain.from_iterable(_long_rows(r, "validation") for r in trained.history)
        losses = chain.from_iterable(_long_rows(row, "training") for row in trained.losses)
        run.write_metrics(pd.DataFrame([*losses, *validations]))
        run.write_summary(
            [
                {
                    "backbone": backbone.name,
                    "config": recipe.module.name,
                    "stage": name.split(".")[0],
                    "metric": name.split(".")[1],
                    "estimate": value,
                    "n": _n_measured(name.split(".")[1], validation),
                    "seed": seed,
                }
                for name, value in metrics.items()
            ]
        )
        run.file(STATE_FILE).unlink(missing_ok=True)
    return trained
