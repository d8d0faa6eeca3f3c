"""Training a value module on whatever data, and the run folder of it.

The run folder holds ``svgt.safetensors`` and ``svgt.json`` (the module, usable as
``--guidance svgt:FOLDER``), ``metrics.parquet`` (one row a stage, step and metric),
``data.json`` (what became of every row of the data) and ``summary.json`` (the validation metrics of
each stage's best state, and how many examples of which class they rest on). While it runs,
``training.safetensors`` holds all it takes to go on after a kill, and ``progress.jsonl`` what a
watcher draws (:mod:`workbench.evaluation.training_progress`).
"""

import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.config import from_mapping, to_mapping
from workbench.data.assembly import DataReport
from workbench.errors import RunError, WorkbenchWarning
from workbench.evaluation.training_data import PreparedData, TrainingData
from workbench.evaluation.training_progress import PROGRESS_FILE, ProgressLog
from workbench.files import write_json
from workbench.guidance.decoding import generate
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RUN_FILE, RunFolder
from workbench.svgt.checkpoint import load_value_module, read_checkpoint_record, save_value_module
from workbench.svgt.curriculum import TrainedModule, train_value_module
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.curriculum.stages import SampleResponses
from workbench.svgt.curriculum.state_bank import BATCH_SIZE
from workbench.svgt.objectives import SafetyConfig
from workbench.svgt.value_module import ValueModule

RUN_KIND = "train"
STATE_FILE = "training.safetensors"
DATA_FILE = "data.json"
_BATCH = "batch_size"
_STAGE_OF = {"prompts": "unconditional", "pairs": "conditional", "targets": "bridge"}


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


def n_behind(stage: str, metric: str, metrics: Mapping[str, float], prepared: PreparedData) -> int:
    """How many validation examples, or replies, a metric of a stage was taken on.

    Args:
        stage: Name of the stage.
        metric: Name of the metric.
        metrics: All of the stage's metrics: replies that could not be scored stand behind no rate.
        prepared: The data.
    """
    validation = prepared.validation
    if metric == "refusal_rate":
        return round(prepared.n_measured * (1 - metrics["unscored_rate"]))
    if metric == "ambiguous_auroc":
        return sum(pair.ambiguous for pair in validation.pairs)
    if stage == "bridge":
        on_targets = metric in ("ce", "safety", "norm", "total")
        return len(validation.targets) if on_targets else prepared.n_measured
    of_prompts = stage == "unconditional" and metric != "response_auroc"
    return len(
        validation.prompts if of_prompts or metric.startswith("trigger_") else validation.pairs
    )


def _long_rows(row: Mapping[str, object], kind: str) -> list[dict[str, object]]:
    where = {"stage": row["stage"], "step": row["step"], "kind": kind}
    return [
        {**where, "metric": name, "value": float(str(value))}
        for name, value in row.items()
        if name not in ("stage", "step")
    ]


def _settings(
    backbone: Backbone,
    recipe: Recipe,
    data: TrainingData,
    earlier: Path | None,
    out: Path,
    batch_size: int,
) -> Mapping[str, object]:
    """What the run folder keeps; an older run's own record where it says the same in fewer words.

    Options that are new since then had no other value than their defaults. Where nothing but the
    batch size differs, an unfinished training goes on with the new one, which is said.
    """
    settings: dict[str, object] = {
        "backbone": backbone.name,
        "weights_hash": backbone.weights_hash,
        "module": to_mapping(recipe.module),
        "curriculum": to_mapping(recipe.curriculum),
        "data": dict(data.settings()),
        _BATCH: batch_size,
    }
    if earlier is not None:
        settings["earlier"] = read_checkpoint_record(earlier).weights_sha256
    if not (out / RUN_FILE).is_file():
        return settings
    found = RunFolder.open(out).record
    sections = ("module", "curriculum", "data")
    if found.kind != RUN_KIND or not set(sections) <= set(found.config):
        return settings
    known = from_mapping(
        Recipe, {name: found.config[name] for name in sections[:2]}, where=str(out)
    )
    same_recipe = (known.module, known.curriculum) == (recipe.module, recipe.curriculum)
    apart = (*sections, _BATCH)
    rest = {name: value for name, value in settings.items() if name not in apart}
    same_rest = rest == {n: v for n, v in found.config.items() if n not in apart}
    if not (same_recipe and same_rest and data.says_the_same(found.config["data"])):
        return settings
    before = found.config.get(_BATCH, BATCH_SIZE)
    if before == batch_size or found.status == "finished":
        return found.config
    if recipe.curriculum.safety.kind == "on-policy":
        raise RunError(
            f"cannot resume {out} with batch size {batch_size}: it began with {before}, and what "
            "the guided model says in validation, which chooses the best state, depends on it"
        )
    warnings.warn(
        f"the training in {out} began with batch size {before} and goes on with {batch_size}: its "
        "weights agree with those of an uninterrupted one up to rounding only, and replies "
        "measured on the way may differ",
        WorkbenchWarning,
        stacklevel=2,
    )
    return {**found.config, _BATCH: batch_size}


def _same_but_batch(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return {**old, _BATCH: 0} == {**new, _BATCH: 0}


def _report_rows(report: DataReport) -> list[dict[str, object]]:
    """What was used and what other sets share with it, as rows of the summary."""
    used: list[dict[str, object]] = [
        {
            "stage": _STAGE_OF[count.stage],
            "metric": f"{count.stage} {count.kind}",
            "estimate": count.n,
            "n": count.n,
            "source": count.source,
            "split": count.split,
        }
        for count in report.counts
    ]
    shared: list[dict[str, object]] = [
        {
            "stage": "data",
            "metric": f"prompts shared with {overlap.other}, {kind}",
            "estimate": n,
            "n": overlap.n_other,
            "split": overlap.ours,
        }
        for overlap in report.overlaps
        for kind, n in (("exact", overlap.exact), ("near", overlap.near))
    ]
    return used + shared


def train_into_folder(
    backbone: Backbone,
    recipe: Recipe,
    data: TrainingData,
    out: Path,
    *,
    seed: int,
    resume: bool = False,
    earlier: Path | None = None,
    batch_size: int = BATCH_SIZE,
    on_data: Callable[[PreparedData], None] = lambda prepared: None,
    on_event: OnEvent = lambda event: None,
) -> TrainedModule | None:
    """Train a recipe on some data and write the run folder.

    Args:
        backbone: The frozen model.
        recipe: What to build and how to train it.
        data: What to learn from; the recipe's own ``data`` section is for the embedded world.
        out: The run folder.
        seed: Decides initialisation, data and batch order.
        resume: Go on where a killed training in ``out`` stopped.
        earlier: A value module of the same data and seed, whose stages 1 and 2 are taken over.
        batch_size: Texts that the backbone reads at a time. Another one changes weights by rounding
            only, unless what the guided model says is trained on (``safety.kind = 'on-policy'``):
            such a training cannot go on with another.
        on_data: Told what was made of the data, before the first step.
        on_event: Told of every step.

    Returns:
        The trained module; None where ``resume`` found the run already finished.

    Raises:
        FolderInUseError: another process trains there.
        RunError: the folder holds something else, or cannot be written.
        ConfigError: the recipe does not fit the backbone.
        DataError: a stage has no examples or only one class.
        CheckpointError: ``earlier`` is of another backbone, or built differently.
        NonFiniteError: a stage diverged.
    """
    recipe.module.validate_for(
        n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
    )
    prepared = data.prepare(backbone, recipe, seed=seed, batch_size=batch_size)
    settings = _settings(backbone, recipe, data, earlier, out, batch_size)
    with RunFolder.create(
        out,
        kind=RUN_KIND,
        config=settings,
        seed=seed,
        resume=resume,
        grows=_same_but_batch,
        device=backbone.device,
    ) as run:
        if run.record.status == "finished":
            return None
        progress = ProgressLog(run.file(PROGRESS_FILE), also=on_event)
        on_data(prepared)
        write_json(run.file(DATA_FILE), to_mapping(prepared.report))
        trained = train_value_module(
            backbone,
            recipe.module,
            recipe.curriculum,
            prepared.train,
            prepared.validation,
            seed=seed,
            state_file=run.file(STATE_FILE),
            measure_harm=prepared.measure,
            sample_responses=response_sampler(backbone, recipe.curriculum.safety),
            earlier=None if earlier is None else load_value_module(earlier, backbone),
            batch_size=batch_size,
            on_event=progress.record,
        )
        _write_results(run, backbone, recipe, trained, prepared, seed)
    return trained


def _write_results(
    run: RunFolder,
    backbone: Backbone,
    recipe: Recipe,
    trained: TrainedModule,
    prepared: PreparedData,
    seed: int,
) -> None:
    metrics = trained.final_metrics()
    save_value_module(
        run.path, trained.module, backbone=backbone, metrics={"seed": seed, **metrics}
    )
    validations = chain.from_iterable(_long_rows(r, "validation") for r in trained.history)
    losses = chain.from_iterable(_long_rows(row, "training") for row in trained.losses)
    run.write_metrics(pd.DataFrame([*losses, *validations]))
    about = {"backbone": backbone.name, "config": recipe.module.name}
    measured: list[dict[str, object]] = []
    for name, value in metrics.items():
        stage, metric = name.split(".")
        of_stage = {
            key.removeprefix(f"{stage}."): found
            for key, found in metrics.items()
            if key.startswith(f"{stage}.")
        }
        n = n_behind(stage, metric, of_stage, prepared)
        measured.append({"stage": stage, "metric": metric, "estimate": value, "n": n})
    rows = [*measured, *_report_rows(prepared.report)]
    run.write_summary([{**about, **row, "seed": seed} for row in rows])
    for name in (STATE_FILE, PROGRESS_FILE):
        run.file(name).unlink(missing_ok=True)
