"""Training a value module in the embedded world: its data, its judge, and its run folder.

The run folder of a training holds ``svgt.safetensors`` and ``svgt.json`` (the module, usable as
``--guidance svgt:FOLDER``), ``metrics.parquet`` (one row a stage, step and metric) and
``summary.json`` (the validation metrics of each stage's best state). While it runs,
``training.safetensors`` holds all it takes to go on after a kill, and ``progress.jsonl`` what a
watcher draws (:mod:`workbench.evaluation.training_progress`).
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.config import from_mapping, to_mapping
from workbench.data.training import ValueData
from workbench.evaluation.training_progress import PROGRESS_FILE, ProgressLog
from workbench.guidance.decoding import generate
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RUN_FILE, RunFolder
from workbench.svgt.checkpoint import load_value_module, read_checkpoint_record, save_value_module
from workbench.svgt.curriculum import TrainedModule, train_value_module
from workbench.svgt.curriculum.curriculum import MeasureHarm
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.curriculum.recipe import DataConfig, Recipe
from workbench.svgt.curriculum.stages import SampleResponses
from workbench.svgt.objectives import SafetyConfig
from workbench.svgt.value_module import ValueModule
from workbench.testbed.corpus import Prompt, sample_prompts
from workbench.testbed.oracle import judge
from workbench.testbed.splits import TRAIN_SPLIT, VALIDATION_SPLITS
from workbench.testbed.value_data import build_value_data

RUN_KIND = "train"
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


def response_sampler(backbone: Backbone, config: SafetyConfig) -> SampleResponses:
    """Draws what the guided model says, with the bridge written once, as it is in training."""

    def sample(module: ValueModule, prompt: TokenBatch, seed: int) -> TokenBatch:
        replies = generate(
            backbone,
            prompt,
            SVGTBridge(module, refresh=None),
            max_new_tokens=config.max_new_tokens,
            sampling=Sampling(temperature=config.temperature, top_p=1.0),
            generator=torch.Generator().manual_seed(seed),
        )
        rows = [torch.tensor(reply.ids) for reply in replies]
        ids = pad_sequence(rows, batch_first=True, padding_value=backbone.pad_id)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
        return TokenBatch(ids.to(backbone.device), mask.to(backbone.device))

    return sample


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


def _settings(
    backbone: Backbone, recipe: Recipe, earlier: Path | None, out: Path
) -> Mapping[str, object]:
    """What the run folder keeps; an older run's own record where it says the same in fewer words.

    Options that are new since then had no other value than their defaults.
    """
    settings: dict[str, object] = {
        "backbone": backbone.name,
        "weights_hash": backbone.weights_hash,
        **to_mapping(recipe),
    }
    if earlier is not None:
        settings["earlier"] = read_checkpoint_record(earlier).weights_sha256
    if not (out / RUN_FILE).is_file():
        return settings
    found = RunFolder.open(out).record
    sections = ("module", "curriculum", "data")
    if found.kind != RUN_KIND or not set(sections) <= set(found.config):
        return settings
    known = from_mapping(Recipe, {name: found.config[name] for name in sections}, where=str(out))
    rest = {name: value for name, value in settings.items() if name not in sections}
    same_rest = rest == {n: v for n, v in found.config.items() if n not in sections}
    return found.config if known == recipe and same_rest else settings


def train_in_testbed(
    backbone: Backbone,
    recipe: Recipe,
    out: Path,
    *,
    seed: int,
    resume: bool = False,
    earlier: Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> TrainedModule | None:
    """Train a recipe on the embedded world and write its run folder.

    Args:
        backbone: The frozen model.
        recipe: What to build and how to train it.
        out: The run folder.
        seed: Decides initialisation, data and batch order.
        resume: Go on where a killed training in ``out`` stopped.
        earlier: A value module of the same data and seed, whose stages 1 and 2 are taken over.
        on_event: Told of every step.

    Returns:
        The trained module; None where ``resume`` found the run already finished.

    Raises:
        FolderInUseError: another process trains there.
        RunError: the folder holds something else, or cannot be written.
        ConfigError: the recipe does not fit the backbone.
        CheckpointError: ``earlier`` is of another backbone, or built differently.
        NonFiniteError: a stage diverged.
    """
    recipe.module.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )
    settings = _settings(backbone, recipe, earlier, out)
    with RunFolder.create(
        out, kind=RUN_KIND, config=settings, seed=seed, resume=resume, device=backbone.device
    ) as run:
        if run.record.status == "finished":
            return None
        progress = ProgressLog(run.file(PROGRESS_FILE), also=on_event)
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
            sample_responses=response_sampler(backbone, recipe.curriculum.safety),
            earlier=None if earlier is None else load_value_module(earlier, backbone),
            on_event=progress.record,
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
        for name in (STATE_FILE, PROGRESS_FILE):
            run.file(name).unlink(missing_ok=True)
    return trained
