"""The work behind ``workbench ablate``: which ablations, how far they are, tables at the end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich.markup import escape
from rich.progress import Progress

from workbench.backbone.protocol import Backbone
from workbench.cli._console import output, progress_bar
from workbench.cli._layout import new_table, print_table
from workbench.errors import ConfigError
from workbench.evaluation.ablations import (
    CATALOGUE,
    RECORDS_FILE,
    RUN_KIND,
    Ablation,
    AblationPlan,
    AblationRecord,
    Comparison,
    Remaining,
    find_ablation,
    grows_into,
    remaining,
    run_ablations,
)
from workbench.evaluation.ablations.subjects import Anew, ModuleStore
from workbench.export.ablation_tables import COLUMNS, comparisons_in, read_records, table_rows
from workbench.runs import RunFolder
from workbench.svgt.curriculum import Recipe, TrainingEvent
from workbench.svgt.curriculum.loop import OnEvent
from workbench.svgt.recipes import named_recipe, require_fit

ALL = "all"
_ANEW: Mapping[Anew, str] = {"all stages": "from stage 1", "stage 3": "in stage 3 only"}


def list_ablations(plan: AblationPlan, modules: Path | None) -> None:
    """Print every ablation with its question, references, variants and trainings."""
    table = new_table(escape(f"Modules that variants train anew on {plan.backbone.name}, a seed"))
    for heading in ("ablation", "reference"):
        table.add_column(heading, max_width=40, overflow="fold")
    table.add_column("variants", no_wrap=True)
    for words in _ANEW.values():
        heading = words.replace(" ", "\n", 1).replace(" only", "\nonly")
        table.add_column(heading, justify="right", no_wrap=True)
    store = ModuleStore(plan.backbone, Path(), modules)
    missing = False
    for comparison in plan.comparisons:
        _, *variants = plan.subjects(comparison, 0)
        trained = Counter(variant.anew for variant in variants)
        is_there = store.find(comparison.recipe, 0) is not None
        missing |= not is_there
        table.add_row(
            f"{comparison.ablation.name}\n{comparison.ablation.question}",
            escape(comparison.recipe.module.name + ("" if is_there else " ¹")),
            escape("\n".join(variant.variant.name for variant in variants)),
            *(str(trained[anew]) for anew in _ANEW),
        )
    print_table(output(), table)
    here = "marked ¹" if missing else "none of these at seed 0"
    output().print(
        f"A reference's own module is trained too where it neither ships nor stands in --modules: "
        f"{here}; for further seeds none ships."
    )


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
        to_do = remaining(plan, out, modules)
        for left in to_do:
            typer.echo(_in_words(left), err=True)
        with progress_bar() as progress:
            board = _Board(progress, plan, sum(left.n_measurements for left in to_do))
            records = run_ablations(
                plan, run, modules=modules, told=board.training, on_subject=board.measuring
            )
            board.finished()
            return records


def _in_words(left: Remaining) -> str:
    """For example: ``K of workbench: 4 variants, 4 modules to train (4 from stage 1), 6 ...``."""
    counts = [
        f"{left.trainings[anew]} {words}" for anew, words in _ANEW.items() if left.trainings[anew]
    ]
    n_modules = sum(left.trainings.values())
    training = f"{_counted(n_modules, 'module')} to train ({', '.join(counts)})"
    return (
        f"{left.comparison.ablation.name} of {left.comparison.recipe.module.name}: "
        f"{_counted(left.n_variants, 'variant')}, {training if counts else 'nothing to train'}, "
        f"{_counted(left.n_measurements, 'measurement')}"
    )


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


class _Board:
    """One bar over all variants, and one for the training that is running."""

    def __init__(self, progress: Progress, plan: AblationPlan, n_left: int) -> None:
        self._progress = progress
        keys = {s.key for c in plan.comparisons for s in plan.subjects(c, 0)}
        self._total = (len(keys) + 1) * plan.n_seeds
        self._measured = self._total - n_left
        self._all = progress.add_task("", total=self._total, completed=self._measured)
        self._step = progress.add_task("", total=None, visible=False)

    def measuring(self, key: str, seed: int) -> None:
        """A variant is measured next; those before it are done."""
        self._progress.update(
            self._all, completed=self._measured, description=f"{key}, seed {seed}"
        )
        self._progress.update(self._step, visible=False)
        self._measured += 1

    def finished(self) -> None:
        """Everything is measured and compared."""
        self._progress.update(self._all, completed=self._total, description="all variants")
        self._progress.update(self._step, visible=False)

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


def print_records(records: Sequence[AblationRecord], out: Path) -> None:
    """Print one table for every ablation and reference."""
    console = output()
    for ablation, reference, backbone in comparisons_in(records):
        title = f"{CATALOGUE[ablation].question} {reference} on {Path(backbone).name}"
        table = new_table(escape(title))
        table.add_column("variant", max_width=36, overflow="fold")
        for column in COLUMNS:
            heading = column.heading.replace(", ", "\n").replace(" ", "\n").replace("-", "-\n")
            table.add_column(heading, justify="right", no_wrap=True)
        for row in table_rows(records, ablation, reference, backbone):
            cells = [escape(cell.replace(" [", "\n[")) for cell in row.cells]
            table.add_row(escape(row.text), *cells)
        print_table(console, table)
    console.print(
        "Test splits, % and points with 95% interval, nats a token; *: p < 0.05 after Holm; ←: "
        f"chosen on the validation splits. Every split and seed is in {out / RECORDS_FILE}",
        markup=False,
    )
