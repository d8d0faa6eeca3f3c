"""The work behind ``workbench ablate``: which ablations, how far they are, tables at the end."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.progress import Progress
from rich.table import Table

from workbench.backbone.protocol import Backbone
from workbench.cli._console import output, progress_bar
from workbench.errors import ConfigError
from workbench.evaluation.ablations import (
    CATALOGUE,
    RECORDS_FILE,
    RUN_KIND,
    Ablation,
    AblationPlan,
    AblationRecord,
    Comparison,
    find_ablation,
    grows_into,
    run_ablations,
)
from workbench.export.ablation_tables import COLUMNS, comparisons_in, read_records, table_rows
from workbench.runs import RunFolder
from workbench.svgt.curriculum import Recipe, TrainingEvent
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.recipes import named_recipe, require_fit

ALL = "all"
_NAME_WIDTH = 20
_WITH_INTERVAL = 4


def list_ablations() -> None:
    """Print every ablation with its question and references."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "question", "references"):
        table.add_column(heading, overflow="fold")
    for ablation in CATALOGUE.values():
        table.add_row(ablation.name, ablation.question, ", ".join(ablation.references))
    output().print(table)


def chosen_ablations(names: str) -> list[Ablation]:
    """The ablations of these names, separated by commas, or all.

    Raises:
        ConfigError: One is unknown or named twice.
    """
    if names == ALL:
        return list(CATALOGUE.values())
    chosen = [find_ablation(name.strip()) for name in names.split(",")]
    if len({ablation.name for ablation in chosen}) < len(chosen):
        raise ConfigError(f"an ablation is named twice in '{names}'; name each once")
    return chosen


def comparisons(
    chosen: Sequence[Ablation], reference: str | None, backbone: Backbone
) -> list[Comparison]:
    """Each ablation in its own references, or in the given one.

    Raises:
        ConfigError: No such recipe.
    """
    return [
        Comparison(ablation, recipe)
        for ablation in chosen
        for recipe in _recipes(ablation, reference, backbone)
    ]


def _recipes(ablation: Ablation, reference: str | None, backbone: Backbone) -> list[Recipe]:
    names = ablation.references if reference is None else (reference,)
    return [_recipe(name, backbone) for name in names]


def _recipe(name: str, backbone: Backbone) -> Recipe:
    d_model, n_layers = backbone.d_model, backbone.n_layers
    recipe = named_recipe(name, d_model=d_model, n_layers=n_layers)
    require_fit(recipe, name, d_model=d_model, n_layers=n_layers, backbone=backbone.name)
    return recipe


def ablate_with_progress(
    plan: AblationPlan, out: Path, *, resume: bool, modules: Path | None
) -> list[AblationRecord]:
    """Run what is missing; gives all records.

    Raises:
        RunError: The folder is in use, holds something else, or cannot be written.
    """
    with RunFolder.create(
        out,
        kind=RUN_KIND,
        config=plan.describe(),
        seed=0,
        resume=resume,
        grows=grows_into,
        device=plan.backbone.device,
    ) as run:
        if run.record.status == "finished":
            return read_records(out / RECORDS_FILE)
        with progress_bar() as progress:
            board = _Board(progress, plan)
            return run_ablations(
                plan, run, modules=modules, told=board.training, on_subject=board.measuring
            )


class _Board:
    """One bar over all variants, and one for the training that is running."""

    def __init__(self, progress: Progress, plan: AblationPlan) -> None:
        self._progress = progress
        keys = {s.key for c in plan.comparisons for s in plan.subjects(c, 0)}
        self._all = progress.add_task("", total=(len(keys) + 1) * plan.n_seeds)
        self._step = progress.add_task("", total=None, visible=False)
        self._measured = 0

    def measuring(self, key: str, seed: int) -> None:
        """A variant is measured next; those before it are done."""
        self._progress.update(
            self._all, completed=self._measured, description=f"{key}, seed {seed}"
        )
        self._progress.update(self._step, visible=False)
        self._measured += 1

    def training(self, key: str) -> OnEvent:
        """Shows the steps of a training."""

        def show(event: TrainingEvent) -> None:
            self._progress.update(
                self._step,
                total=event.n_steps,
                completed=event.step,
                description=f"training {key}, {event.stage}",
                visible=True,
            )

        return show


def _short(cells: Sequence[str]) -> list[str]:
    """Intervals below their estimates; the last columns have room for the estimate alone."""
    with_interval = [cell.replace(" [", "\n[") for cell in cells[:_WITH_INTERVAL]]
    return with_interval + [cell.partition(" [")[0] for cell in cells[_WITH_INTERVAL:]]


def print_records(records: Sequence[AblationRecord], out: Path) -> None:
    """Print one table for every ablation and reference."""
    console = output()
    for ablation, reference, backbone in comparisons_in(records):
        title = f"{CATALOGUE[ablation].question} {reference} on {Path(backbone).name}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("variant", min_width=_NAME_WIDTH, max_width=_NAME_WIDTH, overflow="fold")
        for column in COLUMNS:
            heading = column.heading.replace(", ", "\n").replace(" ", "\n").replace("-", "-\n")
            table.add_column(heading, justify="right", no_wrap=True)
        for row in table_rows(records, ablation, reference, backbone):
            table.add_row(row.text, *_short(row.cells))
        console.print(table)
    console.print(
        "Test splits, % and points with 95% interval, nats a token; *: p < 0.05 after Holm; ←: "
        f"chosen on the validation splits. Every split and seed is in {out / RECORDS_FILE}"
    )
