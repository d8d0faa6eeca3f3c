"""``workbench train``: train a value module for a frozen backbone."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import MAX_SEED, Backend, Device, Dtype, check_resumable
from workbench.errors import ConfigError

_HELP = """Train a value module and its bridge in three stages; the backbone stays frozen.

Each stage keeps its best state on validation data. On an embedded backbone one core needs about
four minutes. A killed training goes on with --resume and ends with the same weights.

Example:

  workbench train --backbone testbed-llama --out runs/mine --seed 1

  workbench generate --backbone testbed-llama --guidance svgt:runs/mine --prompt "..."

On your own model and data (stage 1 reads prompts with a harm label, stage 2 replies with one, stage
3 the safe replies; docs/training-on-your-data.md):

  workbench train --backbone PATH --data wildguardmix:wg.parquet,beavertails:train.jsonl.gz
      --check-against xstest:xstest_prompts.csv,harmbench:behaviors.csv --out runs/real

With settings of your own (module: the architecture; curriculum: the stages unconditional on texts,
conditional on pairs, bridge on safe replies; data: how many examples of each to draw from the
embedded world):

  workbench train --backbone testbed-llama --print-config > mine.yaml

  workbench train --backbone testbed-llama --config mine.yaml --out runs/mine
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", help=_HELP)(train)


def train(
    backbone: Annotated[
        str, typer.Option(help="Embedded name, local checkpoint folder, or hub id.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write; use it as svgt:FOLDER.")
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="testbed, or separated by commas: SOURCE:PATH, SOURCE/PART (the hub), FILE.jsonl."
        ),
    ] = "testbed",
    config: Annotated[
        str,
        typer.Option(
            help="workbench, workbench-lstar, paper, paper-fixed, input-only, or a YAML file as "
            "--print-config writes it."
        ),
    ] = "workbench",
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides initialisation, data and batch order.")
    ] = 0,
    size: Annotated[
        float,
        typer.Option(help="Share of the embedded world's examples; below 1 for a quick look."),
    ] = 1.0,
    check_against: Annotated[
        str,
        typer.Option(help="Evaluation sets, as in --data: how many of their prompts stand here."),
    ] = "",
    drop_overlaps: Annotated[
        bool, typer.Option("--drop-overlaps", help="Leave out what those sets hold too.")
    ] = False,
    max_per_source: Annotated[
        int | None, typer.Option(min=1, help="Most rows of one source; whole groups are drawn.")
    ] = None,
    balance: Annotated[
        float | None,
        typer.Option(
            min=1.0, help="Most training examples of the larger class for one of the other."
        ),
    ] = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of the groups that is held out, between 0 and 1.")
    ] = 0.1,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Leave out (and count) rows longer than this; nothing is cut."),
    ] = None,
    measure_replies: Annotated[
        int, typer.Option(min=0, help="Validation prompts of files that are answered and judged.")
    ] = 32,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Texts the backbone reads at a time; lower it when memory runs out. What a step "
            "learns from stands in the configuration.",
        ),
    ] = 64,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a killed training in OUT stopped.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration as YAML; train nothing.")
    ] = False,
) -> None:
    """Train a value module; see ``_HELP``."""
    from dataclasses import replace

    from workbench.backbone import load_backbone
    from workbench.cli._training import (
        TESTBED,
        StageBoard,
        named_data,
        training_progress,
    )
    from workbench.config import dump_yaml
    from workbench.data.assembly import AssemblyConfig
    from workbench.evaluation import value_training
    from workbench.svgt.recipes import named_recipe, require_fit

    if out is not None:
        check_resumable(out, resume)
    elif not print_config:
        raise ConfigError("name the run folder to write with --out FOLDER")
    assembly = AssemblyConfig(validation_share, max_per_source, balance, drop_overlaps)
    model = load_backbone(backbone, device=device, dtype=dtype, backend=backend)
    recipe = named_recipe(config, d_model=model.d_model, n_layers=model.n_layers)
    recipe = replace(recipe, data=recipe.data.scaled(size))
    if out is None or print_config:
        typer.echo(dump_yaml(recipe), nl=False)
        return
    require_fit(recipe, config, d_model=model.d_model, n_layers=model.n_layers, backbone=model.name)
    if size != 1.0 and data != TESTBED:
        raise ConfigError("--size is for the embedded world; with files use --max-per-source")
    chosen = named_data(
        data,
        recipe.data,
        assembly,
        check_against=check_against,
        max_tokens=max_tokens,
        n_measured=measure_replies,
    )
    progress = training_progress()
    board = StageBoard(progress)
    try:
        trained = value_training.train_into_folder(
            model,
            recipe,
            chosen,
            out,
            seed=seed,
            resume=resume,
            batch_size=batch_size,
            on_data=board.show_data,
            on_event=board.show,
        )
    finally:
        if progress.live.is_started:
            progress.stop()
    if trained is None:
        typer.echo(f"{out} holds a finished training; nothing was left to resume")
        return
    typer.echo(f"value module written to {out}; use it with --guidance svgt:{out}")
