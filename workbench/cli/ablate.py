"""``workbench ablate``: take a part of SVGT away, and see what it did."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import Device, Dtype, check_resumable
from workbench.errors import ConfigError

_HELP = """Take one part of a named recipe away, or vary it, and measure what changes.

Every variant is compared with its reference on the same prompts with the same random numbers.
Only what must be trained is trained: variants of decoding use the reference's module, variants of
stage 3 its stages 1 and 2. Modules that ship stand in for seed 0.

Examples:

  workbench ablate --list

  workbench ablate K,gate --list --backbone PATH

  workbench ablate K --backbone testbed-llama --out runs/ablation-k

  workbench ablate correction,stages --out runs/two --seeds 3

  workbench ablate all --out runs/ablations

A quick look first:

  workbench ablate strength --out runs/quick --limit 10

OUT gets records.parquet (every split, with difference to the reference, p and Holm's p),
summary.json, run.json, and what was trained and measured on the way. After an interruption the
same command with --resume goes on where it stopped; with more NAMES or --seeds it adds those.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ablate", help=_HELP)(ablate)


def ablate(
    names: Annotated[
        str | None,
        typer.Argument(help="Ablations, separated by commas, or all; see --list."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the results.")] = None,
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ] = "testbed-llama",
    reference: Annotated[
        str | None,
        typer.Option(help="Recipe or YAML file to start from, instead of the ablation's own."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of modules and sampling.")] = 1,
    limit: Annotated[
        int, typer.Option(min=1, help="Prompts of each kind and test split; half for validation.")
    ] = 100,
    modules: Annotated[
        Path | None,
        typer.Option(
            help="Trained modules, MODULES/BACKBONE/RECIPE/SEED, used as references.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted run, or add ablations and seeds to one."
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--list", help="Show what NAMES (default: all) vary and train on BACKBONE, and stop."
        ),
    ] = False,
) -> None:
    """Measure what a part does; see ``_HELP``."""
    from workbench.backbone import load_backbone
    from workbench.cli._ablating import (
        ALL,
        ablate_with_progress,
        chosen_ablations,
        comparisons,
        list_ablations,
        print_records,
    )
    from workbench.evaluation.ablations import AblationPlan

    if not show and (names is None or out is None):
        raise ConfigError(
            "say which ablations, and where to write: workbench ablate NAMES --out FOLDER "
            "(--list names them)"
        )
    if out is not None and not show:
        check_resumable(out, resume)
    chosen = chosen_ablations(names or ALL)
    model = load_backbone(backbone, device=device, dtype=dtype)
    plan = AblationPlan(model, comparisons(chosen, reference, model), seeds, limit)
    if show or out is None:
        list_ablations(plan, modules)
        return
    print_records(ablate_with_progress(plan, out, resume=resume, modules=modules), out)
