"""The work behind ``workbench benchmark`` and ``workbench fit``: progress, tables, files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from transformers.utils import logging as transformers_logging

from workbench.backbone import FrozenBackbone
from workbench.cli._console import output, progress_bar
from workbench.cli._layout import new_table, print_table
from workbench.config import load_yaml, to_mapping
from workbench.errors import ConfigError
from workbench.evaluation.benchmark import EvaluationConfig
from workbench.evaluation.leaderboard.costs import CostConfig
from workbench.evaluation.leaderboard.engines import Engine
from workbench.evaluation.leaderboard.entering import Entering
from workbench.evaluation.leaderboard.plan import (
    RUN_KIND,
    BackboneSource,
    Plan,
    PromptPlan,
    grows_into,
)
from workbench.evaluation.leaderboard.running import COSTS_FILE, Progress, run_leaderboard
from workbench.evaluation.leaderboard.work import fit_method, shared_backbone, use_one_thread
from workbench.evaluation.tuning import RULES, TUNING_FILE, TuningConfig, tune
from workbench.export.figures import standalone_html
from workbench.export.leaderboard_figures import pareto_figure
from workbench.export.leaderboard_tables import (
    Board,
    Sheet,
    board_latex,
    board_markdown,
    read_board,
    sheets,
)
from workbench.files import atomic_path, read_parquet
from workbench.guidance.artifact import read_artifact_record
from workbench.guidance.method import FittedGuidance
from workbench.guidance.methods import get_method
from workbench.guidance.registry import GuidanceSpec, find_fitted
from workbench.runs import RunFolder
from workbench.svgt.curriculum.recipe import DataConfig

MARKDOWN_FILE = "leaderboard.md"
LATEX_FILE = "leaderboard.tex"
FIGURE_FILE = "pareto.html"
FIT_KIND = "fit"
_PHASES = {"fit": "fitting", "measure": "measuring", "costs": "timing"}


def load_shared(source: BackboneSource) -> FrozenBackbone:
    """The backbone that the workers of this process use too, without the library's own bar."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return shared_backbone(source)


# ---------------------------------------------------------------------------------- the leaderboard


def enter_methods(
    source: BackboneSource,
    methods: str,
    *,
    seeds: int,
    run: Path,
    modules: Path | None,
    tuned: Path | None,
    prompts: PromptPlan,
    decoding: EvaluationConfig,
    data: DataConfig,
) -> Plan:
    """Find everything that takes part.

    Raises:
        WorkbenchError: See :meth:`Entering.enter`.
    """
    backbone = load_shared(source)
    entries = Entering(backbone, seeds, run, modules, tuned).enter(methods)
    return Plan(
        source,
        backbone.name,
        backbone.weights_hash,
        entries.entrants,
        prompts,
        decoding,
        data,
        entries.notes,
    )


def run_with_progress(
    plan: Plan, out: Path, engine: Engine, costs: CostConfig | None, *, resume: bool
) -> None:
    """Run what is missing and write the leaderboard's files; costs None: leave them out."""
    with RunFolder.create(
        out,
        kind=RUN_KIND,
        config=plan.describe(),
        seed=plan.prompts.seed,
        resume=resume,
        grows=grows_into,
        device=plan.backbone.device,
    ) as run:
        if run.record.status == "finished":
            if costs is None or run.file(COSTS_FILE).is_file():
                return
            run.reopen(plan.backbone.device)
        with progress_bar() as progress:
            tasks = {}

            def show(step: Progress) -> None:
                if step.phase not in tasks:
                    tasks[step.phase] = progress.add_task(_PHASES[step.phase], total=step.total)
                words = f"{_PHASES[step.phase]} {step.what}".rstrip()
                progress.update(tasks[step.phase], completed=step.done, description=words)

            run_leaderboard(plan, run, engine, costs=costs, on_progress=show)
        _write_files(read_board(out), run)


def _write_files(board: Board, run: RunFolder) -> None:
    texts = {
        MARKDOWN_FILE: f"# {board.backbone}\n\n{board_markdown(board)}",
        LATEX_FILE: board_latex(board),
        FIGURE_FILE: standalone_html(pareto_figure(board)),
    }
    for name, text in texts.items():
        with atomic_path(run.file(name)) as path:
            path.write_text(text, encoding="utf-8")


def print_leaderboard(out: Path) -> None:
    """The sheets over all splits, what to know, and where the rest is."""
    board = read_board(out)
    console = output()
    for sheet in sheets(board):
        print_table(console, _rich_table(sheet))
    for note in board.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"single splits and frames, tests and texts are in {out}: leaderboard.parquet, "
        f"comparisons.parquet, replies.parquet, {MARKDOWN_FILE}, {LATEX_FILE}, {FIGURE_FILE}",
        markup=False,
    )


def _rich_table(sheet: Sheet) -> Table:
    """Estimate above its interval above its test."""
    table = new_table(sheet.title)
    table.add_column(sheet.header[0], max_width=24, overflow="fold")
    for heading in sheet.header[1:]:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for name, cells in zip(sheet.names, sheet.cells, strict=True):
        stacked = [
            "\n".join(
                line
                for line in (
                    cell.figure,
                    *(f"[dim]{end}[/dim]" for end in cell.interval.split(", ") if end),
                    cell.remark.replace("p ", "p").replace("= ", "=").replace("< ", "<"),
                )
                if line
            )
            for cell in cells
        ]
        table.add_row(escape(name), *stacked)
    return table


# ------------------------------------------------------------------------------------ fit and tune


@dataclass(frozen=True)
class Fitting:
    """What ``workbench fit`` was asked for.

    Attributes:
        backbone: The frozen model.
        method: What is fitted.
        seed: Of data, fit and sampling.
        budget: Of tuning; its data are what is fitted on.
        tune: Choose the configuration on validation.
        config_file: Or read it here; without either, the shipped one is taken.
    """

    backbone: BackboneSource
    method: str
    seed: int
    budget: TuningConfig
    tune: bool
    config_file: Path | None


def fit_with_progress(fitting: Fitting, out: Path, engine: Engine, *, resume: bool) -> None:
    """Tune where asked for, fit, and write the artefact into its run folder.

    Raises:
        WorkbenchError: No configuration, or the method cannot be fitted.
    """
    backbone = load_shared(fitting.backbone)
    config = None if fitting.tune else _configuration(fitting, backbone)
    asked = {
        "method": fitting.method,
        "backbone": backbone.name,
        "weights_hash": backbone.weights_hash,
        "budget": to_mapping(fitting.budget) if fitting.tune else None,
        "config": None if config is None else dict(config),
        "data": to_mapping(fitting.budget.data),
    }
    with RunFolder.create(
        out,
        kind=FIT_KIND,
        config=asked,
        seed=fitting.seed,
        resume=resume,
        device=backbone.device,
    ) as run:
        if run.record.status == "finished":
            return
        about: dict[str, object] = {"seed": fitting.seed, "data": asked["data"]}
        if config is None:
            config, about["tuning"] = _tuned(fitting, run, engine)
        use_one_thread()
        fitted = _fitted(fitting, backbone, config)
        fitted.save(run.path, backbone, about=about)


def _fitted(
    fitting: Fitting, backbone: FrozenBackbone, config: Mapping[str, object]
) -> FittedGuidance:
    try:
        return fit_method(backbone, fitting.method, config, fitting.seed, fitting.budget.data)
    except ConfigError as error:
        if fitting.config_file is None:
            raise
        raise ConfigError(f"{fitting.config_file}: {error}") from error


def _tuned(
    fitting: Fitting, run: RunFolder, engine: Engine
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    with engine, progress_bar() as progress:
        task = progress.add_task(f"tuning {fitting.method}", total=None)
        tuned = tune(
            fitting.backbone,
            fitting.method,
            run,
            engine,
            seed=fitting.seed,
            config=fitting.budget,
            on_trial=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return tuned.config, tuned.about


def _configuration(fitting: Fitting, backbone: FrozenBackbone) -> Mapping[str, object]:
    if fitting.config_file is not None:
        return to_mapping(load_yaml(get_method(fitting.method).config_type, fitting.config_file))
    shipped = find_fitted(GuidanceSpec(fitting.method), backbone)
    return read_artifact_record(shipped).config


def print_tuning(out: Path) -> None:
    """Every candidate with what it was chosen by; the chosen one is marked."""
    record = read_artifact_record(out)
    rule = RULES[get_method(record.method).aim]
    found = read_parquet(out / TUNING_FILE)
    whole = found[(found["split"] == "all") & (found["metric"] == rule.metric)]
    name = rule.metric.replace("_", " ")
    table = new_table(f"{name.capitalize()} on validation, points [95% interval]")
    table.add_column("candidate", overflow="fold")
    table.add_column(name, justify="right", no_wrap=True)
    for row in whole.to_dict("records"):
        settings = json.loads(str(row["config"]))
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        chosen = "  ← chosen" if row["selected"] else ""
        table.add_row(
            escape(words),
            f"{row['estimate']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]{chosen}",
        )
    print_table(output(), table)
    output().print(f"chosen by: {rule.said}")
    about = record.about["tuning"]
    if isinstance(about, Mapping) and about.get("prompts_left_out"):
        output().print(
            f"on {about['prompts_a_candidate']} prompts; {about['prompts_left_out']} more cannot "
            "be asked, plain or under a candidate, and count for none"
        )
    output().print(f"the parts of the utility, split by split, are in {out / TUNING_FILE}")
