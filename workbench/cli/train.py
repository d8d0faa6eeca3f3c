"""``workbench train``: train a value module for a frozen backbone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli._limits import MAX_SEED, Backend, Device, check_resumable
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from workbench.svgt.curriculum import TrainingEvent

_HELP = """Train a value module and its bridge in three stages; the backbone stays frozen.

Each stage keeps its best state on validation data. On an embedded backbone one core needs about
four minutes. A killed training goes on with --resume and ends with the same weights.

Example:

  workbench train --backbone testbed-llama --out runs/mine --seed 1

  workbench generate --backbone testbed-llama --guidance svgt:runs/mine --prompt "..."

With settings of your own (module: the architecture; curriculum: the stages unconditional on texts,
conditional on pairs, bridge on safe replies; data: how many examples of each):

  workbench train --backbone testbed-llama --print-config > mine.yaml

  workbench train --backbone testbed-llama --config mine.yaml --out runs/mine
"""

_TITLES = {
    "unconditional": "1 texts  ",
    "conditional": "2 pairs  ",
    "bridge": "3 bridge ",
}
_SHOWN = {
    "unconditional": ("accuracy", "f1", "auroc"),
    "conditional": ("accuracy", "f1", "auroc", "ambiguous_auroc", "trigger_auroc"),
    "bridge": ("ce", "safety", "norm", "harm_rate"),
}


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
        float, typer.Option(help="Share of the examples to learn from; below 1 for a quick look.")
    ] = 1.0,
    device: Device = "cpu",
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
    from workbench.config import dump_yaml, load_yaml
    from workbench.evaluation.value_training import train_in_testbed
    from workbench.svgt.curriculum import Recipe
    from workbench.svgt.recipes import make_recipe

    if out is not None:
        check_resumable(out, resume)
    elif not print_config:
        raise ConfigError("name the run folder to write with --out FOLDER")
    model = load_backbone(backbone, device=device, backend=backend)
    path = Path(config)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_yaml(Recipe, path)
    else:
        recipe = make_recipe(config, d_model=model.d_model, n_layers=model.n_layers)
    recipe = replace(recipe, data=recipe.data.scaled(size))
    if out is None or print_config:
        typer.echo(dump_yaml(recipe), nl=False)
        return
    progress = _progress()
    try:
        trained = train_in_testbed(
            model, recipe, out, seed=seed, resume=resume, on_event=_StageBoard(progress).show
        )
    finally:
        if progress.live.is_started:
            progress.stop()
    if trained is None:
        typer.echo(f"{out} holds a finished training; nothing was left to resume")
        return
    typer.echo(f"value module written to {out}; use it with --guidance svgt:{out}")


def _progress() -> "Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from workbench.cli._console import error_console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=error_console(),
    )


class _StageBoard:
    """One progress bar a stage, with its live loss; validations are printed as they come."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: "TrainingEvent") -> None:
        """Show one event."""
        if event.stage not in self._tasks:
            self._progress.start()  # not before: a mistake in what was asked is one line, no bars
            self._tasks[event.stage] = self._progress.add_task(
                _TITLES[event.stage], total=event.n_steps, numbers=""
            )
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
        self._progress.update(self._tasks[event.stage], completed=event.step, numbers=numbers)
        if event.metrics is not None:
            shown = "  ".join(
                f"{name} {event.metrics[name]:.3f}"
                for name in _SHOWN[event.stage]
                if name in event.metrics
            )
            self._progress.console.print(
                f"{_TITLES[event.stage]} step {event.step:>5}  validation  {shown}", soft_wrap=True
            )
