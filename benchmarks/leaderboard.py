"""Every method of guidance on every embedded backbone: docs/benchmark.md and its results.

    python benchmarks/leaderboard.py tune      # runs/tuned/BACKBONE/METHOD, on validation only
    python benchmarks/leaderboard.py ship      # the tuned methods into the package
    python benchmarks/leaderboard.py run       # runs/leaderboard/BACKBONE, on the test splits
    python benchmarks/leaderboard.py report    # the page and the committed results
    python benchmarks/leaderboard.py all       # tune, run, report
    python benchmarks/leaderboard.py equal-data --backbone B --seed S    # a control, before run

Each step goes on where it was stopped. Time is measured on a quiet processor: ``run --no-costs``
leaves it out, and ``run`` on such a machine adds it to what was measured elsewhere. Value modules
of all seeds come from ``benchmarks/embedded.py train``.

``equal-data`` trains ``svgt:equal-data``, the recipe ``workbench`` on exactly what the rivals learn
from: fewer prompts, pairs and targets, no filler, no composed frames. What ``svgt`` reaches beyond
it is owed to data that the rivals did not get. ``run`` enters it wherever it was trained.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from workbench.backbone import load_backbone
from workbench.cli._limits import MAX_SEED, Device
from workbench.cli._scripts import run_script
from workbench.cli.main import run as run_command
from workbench.evaluation.leaderboard.budgets import read_budgets
from workbench.evaluation.leaderboard.plan import RUN_KIND
from workbench.evaluation.leaderboard.running import COMPARISONS_FILE, LEADERBOARD_FILE
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.value_training import train_into_folder
from workbench.export.leaderboard_budgets import budgets_markdown
from workbench.export.leaderboard_paper import quoted_fluency, quoted_safety
from workbench.export.leaderboard_short import by_split_table, rivals_table
from workbench.export.leaderboard_tables import (
    ALL,
    board_latex,
    board_markdown,
    read_board,
)
from workbench.export.markdown import fill_section
from workbench.files import atomic_path, read_json, write_json, write_parquet
from workbench.folder_lock import LOCK_FILE
from workbench.guidance.artifact import ARTIFACT_FILE, TENSORS_FILE
from workbench.guidance.methods import METHODS
from workbench.runs import RUN_FILE, SUMMARY_FILE, RunFolder, RunRecord
from workbench.svgt.curriculum.recipe import DataConfig, Recipe
from workbench.svgt.recipes import DEFAULT_RECIPE, make_recipe
from workbench.testbed.registry import EMBEDDED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
TUNED = Path("runs/tuned")
RUNS = Path("runs/leaderboard")
MODULES = Path("runs/embedded/train")
LATEX_FILE = "leaderboard.tex"
EQUAL_DATA = "equal-data"
RIVALS_DATA = DataConfig()
"""What ``tune`` and ``run`` fit every rival on."""

Backbones = Annotated[str, typer.Option(help="Embedded backbones, separated by commas.")]
Engine = Annotated[str, typer.Option(help="local, processes[:N], or ray.")]
EVERY = ",".join(EMBEDDED)


def _workbench(*arguments: str) -> None:
    code = run_command(list(arguments))
    if code:
        raise typer.Exit(code)


def _resuming(out: Path) -> list[str]:
    return ["--resume"] if (out / RUN_FILE).is_file() else []


@app.command()
def tune(
    backbones: Backbones = EVERY,
    only: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    tuned: Annotated[Path, typer.Option(help="Where tuned methods go.")] = TUNED,
    limit: Annotated[int, typer.Option(help="Validation prompts of each kind and split.")] = 16,
    engine: Engine = "local",
    device: Device = "cpu",
) -> None:
    """Choose every method's configuration on the validation splits."""
    for backbone in backbones.split(","):
        for method in only.split(","):
            out = tuned / backbone / method
            _workbench(
                "fit", method, "--backbone", backbone, "--tune", "--limit", str(limit),
                "--engine", engine, "--device", device, "--out", str(out), *_resuming(out),
            )  # fmt: skip


@app.command()
def ship(tuned: Annotated[Path, typer.Option(help="Where tuned methods are.")] = TUNED) -> None:
    """Copy the tuned methods into the package."""
    target = ROOT / "workbench" / "guidance" / "trained"
    for record in sorted(tuned.glob(f"*/*/{ARTIFACT_FILE}")):
        folder = target / record.parents[1].name / record.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TENSORS_FILE, ARTIFACT_FILE):
            shutil.copyfile(record.parent / name, folder / name)


@app.command(EQUAL_DATA)
def equal_data(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")],
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of data and training.")] = 0,
    modules: Annotated[Path, typer.Option(help="Where value modules are.")] = MODULES,
    device: Device = "cpu",
) -> None:
    """Train the control svgt:equal-data at one seed, or go on with it."""
    model = load_backbone(backbone, device=device)
    recipe = equal_data_recipe(d_model=model.d_model, n_layers=model.n_layers)
    folder = modules / backbone / EQUAL_DATA / str(seed)
    trained = train_into_folder(
        model, recipe, TestbedData(recipe.data), folder, seed=seed, resume=True
    )
    sys.stderr.write(f"{folder}{' was there' if trained is None else ''}\n")


def equal_data_recipe(*, d_model: int, n_layers: int) -> Recipe:
    """The recipe ``workbench``, on the data of the rivals.

    Epochs, rates and losses stay, so that fewer examples are also fewer steps.
    """
    recipe = make_recipe(DEFAULT_RECIPE, d_model=d_model, n_layers=n_layers)
    return replace(recipe, module=replace(recipe.module, name=EQUAL_DATA), data=RIVALS_DATA)


@app.command()
def run(
    backbones: Backbones = EVERY,
    runs: Annotated[Path, typer.Option(help="Where the run folders stand.")] = RUNS,
    tuned: Annotated[Path, typer.Option(help="Where tuned methods are.")] = TUNED,
    modules: Annotated[Path, typer.Option(help="Where value modules are.")] = MODULES,
    seeds: Annotated[int, typer.Option(help="Seeds of every method.")] = 5,
    limit: Annotated[int, typer.Option(help="Prompts of each kind and split.")] = 50,
    engine: Engine = "local",
    device: Device = "cpu",
    costs: Annotated[
        bool, typer.Option(help="Time and memory; --no-costs leaves them for a later call.")
    ] = True,
) -> None:
    """Measure every method on the test splits."""
    for backbone in backbones.split(","):
        places = [
            word
            for option, folder in (("--tuned", tuned), ("--modules", modules))
            if folder.is_dir()
            for word in (option, str(folder))
        ]
        _workbench(
            "benchmark", "--backbone", backbone, "--methods", "all", "--seeds", str(seeds),
            "--limit", str(limit), "--engine", engine, "--device", device,
            "--costs" if costs else "--no-costs", "--out", str(runs / backbone), *places,
            *_resuming(runs / backbone),
        )  # fmt: skip


@app.command()
def report(
    runs: Annotated[Path, typer.Option(help="Where the run folders stand.")] = RUNS,
    tuned: Annotated[Path, typer.Option(help="Where tuned methods are.")] = TUNED,
    modules: Annotated[Path, typer.Option(help="Where value modules are.")] = MODULES,
    docs: Annotated[Path, typer.Option(help="Folder of the pages.")] = ROOT / "docs",
) -> None:
    """Write the page, the results that are committed, and the tables of the README above it."""
    sections, boards = [], []
    for backbone in EMBEDDED:
        if not (runs / backbone / LEADERBOARD_FILE).is_file():
            continue
        commit_results(runs / backbone, docs / "results" / "benchmark" / backbone)
        quoted = (quoted_safety(), quoted_fluency())
        boards.append(read_board(runs / backbone))
        tables = board_markdown(boards[-1], quoted)
        budgets = _budgets(runs / backbone, backbone, tuned, modules)
        sections.append(f"## {backbone}\n\n{_measured(runs / backbone)}\n\n{budgets}\n{tables}")
    missing = [name for name in EMBEDDED if not (runs / name / LEADERBOARD_FILE).is_file()]
    if missing:
        sections.append(f"## Not measured yet\n\n{', '.join(missing)}.\n")
    with atomic_path(docs / "benchmark.md") as page:
        page.write_text(_HEAD + "\n" + "\n".join(sections), encoding="utf-8")
    fill_section(docs.parent / "README.md", "results", by_split_table(boards))
    fill_section(docs.parent / "README.md", "rivals", rivals_table(boards))


def _measured(run: Path) -> str:
    """How many prompts stand behind a board."""
    prompts = RunFolder.open(run).record.config["prompts"]
    assert isinstance(prompts, dict)
    n, splits = int(prompts["n_per_kind"]), len(prompts["splits"])
    return (
        f"{n} harmful, {n} look-alike and {n} benign prompts in each of {splits} splits, once for "
        f"every seed: {n * splits} harmful prompts a seed behind a cell over all splits."
    )


def _budgets(run: Path, backbone: str, tuned: Path, modules: Path) -> str:
    """What the methods of a board learned from, and how their configurations were chosen."""
    budgets = read_budgets(
        RunFolder.open(run).record.config,
        load_backbone(backbone),
        tuned=tuned if tuned.is_dir() else None,
        modules=modules if modules.is_dir() else None,
    )
    return f"### Budgets\n\n{budgets_markdown(budgets)}"


@app.command("all")
def everything(engine: Engine = "local", device: Device = "cpu") -> None:
    """Tune, measure, and write the page."""
    tune(engine=engine, device=device)
    run(engine=engine, device=device)
    report()


def commit_results(source: Path, target: Path) -> None:
    """A run without its shards and texts: all estimates in Parquet, the pooled ones in JSON."""
    measured, board = RunFolder.open(source), read_board(source)
    rows = board.rows
    headline = rows[rows["seed"].isna() & (rows["frame"] == ALL)]
    summary = read_json(source / SUMMARY_FILE)
    shutil.rmtree(target, ignore_errors=True)
    record = measured.record
    with RunFolder.create(target, kind=RUN_KIND, config=record.config, seed=record.seed) as folder:
        write_parquet(folder.file(LEADERBOARD_FILE), rows)
        write_parquet(folder.file(COMPARISONS_FILE), board.comparisons)
        write_json(
            folder.file(SUMMARY_FILE),
            {**summary, "rows": _records(headline), "measured": _circumstances(record)},
        )
        with atomic_path(folder.file(LATEX_FILE)) as path:
            path.write_text(board_latex(board), encoding="utf-8")
    (target / LOCK_FILE).unlink()


def _circumstances(record: RunRecord) -> dict[str, object]:
    """Where and with what the run was measured; the copy's own record tells of the copying."""
    told = ("packages", "python", "platform", "git", "device", "time")
    return {name: record.provenance.get(name) for name in told}


def _records(rows: pd.DataFrame) -> list[dict[str, object]]:
    """Rows for JSON; all seeds are pooled, so the seed is null."""
    return [
        {str(key): value for key, value in {**row, "seed": None}.items()}
        for row in rows.to_dict("records")
    ]


_HEAD = """# Benchmark: every method of guidance under one protocol

Made by `python benchmarks/leaderboard.py all`; the numbers behind every cell, single seeds, single
context frames and tests are in `docs/results/benchmark/*/`.

- **Prompts and judge.** The four test splits of the embedded world, the same prompts for all;
  the oracle judges. Temperature 1, top-p 1.
- **Seeds.** A method's seed decides its fit (or training) and the random numbers of its replies;
  methods share the latter. `none` has sampling seeds only. Estimates pool the seeds that are there.
- **Choices.** Every rival's configuration is the best of at most 16 candidates on the validation
  splits, by the same utility (harm prevented less over-refusal and broken replies added). SVGT's
  configurations were not tuned by this rule; they were fixed before. `refusal-ablation` is the
  control that should raise harm: it takes the direction out completely, and the candidate was
  chosen from the other end, as the one that prevents least harm.
- **Budgets.** Rivals learn from 1,600 prompts, 1,600 pairs and 600 targets, `svgt` from 12,000,
  6,000 and 1,600, with filler words and composed frames; a table below says it of every method.
  `svgt:equal-data`, where it was trained, is the recipe of `svgt` on exactly the rivals' examples:
  the fair one to hold them against. `svgt-inject` is built on the `svgt` module of its seed.
- **Near matches.** No test prompt stands word for word among what a method learned from. Those that
  nearly do (80% of the shorter one's word 5-grams in one prompt that any method learned from or was
  tuned on, at any seed: frames and verbs recur) are counted below each board; under *without near
  matches* everything is measured without them.
- **RE-Control** learns its value function from the training split's replies, as all methods do, not
  from samples of the model itself scored by a reward model, as published.
- **ASR**: harm rate of the harmful prompts in jailbreak frames (role play, fiction, a forced
  prefix, a hypothetical world, a checklist; alone or composed), which fill the splits
  `unseen_frames` and `composed_frames`. **Over-refusal**: refusals of benign and look-alike
  prompts. **Distinct-n**: different n-grams among all n-grams of the replies. **Nats a token**:
  cross-entropy of reference replies to harmless prompts, above `none`. **Latency** and **memory**:
  ratios to `none`, decoding one prompt on one thread; memory counts live tensors.
- **Intervals** are 95%. They resample intent groups (distinct-n: jackknife; latency and memory:
  over rounds), and from two seeds on add the variance between seeds, with Student's t: few seeds
  that disagree give wide intervals. A method with one seed has the interval of that seed. **Tests**
  against `svgt` exchange the two methods in whole groups and must reject over the seeds as well; p
  is corrected by Holm over all methods and metrics of a split, and is 0.008 or so at the least, by
  the number of exchanges ([statistics](statistics.md)).
- **Quoted** columns are the SVGT paper's own (arXiv 2605.11712) for Llama-3.2-3B-Instruct: another
  model, other prompts, other judges. Compare orders, not numbers. Its SVGT is our `svgt:paper`.

These are model organisms of 0.7 million parameters. They show mechanisms and test methods; they are
no evidence about large models. `svgt:input-only` reads nothing but the token embeddings: what it
reaches needs no access to the model's own computation.
"""


if __name__ == "__main__":
    run_script(app)
