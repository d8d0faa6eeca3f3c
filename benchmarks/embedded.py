"""Every named configuration on every embedded backbone, over several seeds: the README's figures.

    python benchmarks/embedded.py train    --backbone testbed-llama     # one run folder a module
    python benchmarks/embedded.py evaluate --backbone testbed-llama     # one run folder a backbone
    python benchmarks/embedded.py report                                # docs/results.md
    python benchmarks/embedded.py ship                                  # seed 0 into the package

Each step goes on where it was stopped. Several ``train`` may run at once into the same folders:
each passes over the modules that another one is training, so that as many processes as there are
cores share the work. All modules of a backbone are measured on the same prompts;
intervals pool the seeds and resample intent groups, so that they cover other prompts and take the
seeds as given; those of benchmarks/leaderboard.py cover other seeds too.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from workbench.backbone import load_backbone
from workbench.cli._limits import Device
from workbench.cli._scripts import run_script
from workbench.errors import FolderInUseError
from workbench.evaluation.benchmark import EvaluationConfig
from workbench.evaluation.running import Evaluation, run_evaluation
from workbench.evaluation.summaries import SummaryRow, summarise
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.value_training import train_into_folder
from workbench.export.markdown import fill_section
from workbench.folder_lock import LOCK_FILE
from workbench.guidance.registry import GuidanceSpec, identify_guidance, load_guidance
from workbench.runs import RunFolder
from workbench.svgt.checkpoint import RECORD_FILE, WEIGHTS_FILE
from workbench.svgt.recipes import RECIPES, make_recipe
from workbench.testbed.registry import EMBEDDED
from workbench.testbed.splits import TEST_SPLITS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
EVALUATION_SEED = 0
SHOWN = (
    "harm_rate",
    "harm_reduction",
    "benign_refusal_increase",
    "lookalike_refusal_increase",
    "degenerate_increase",
    "cross_entropy_increase",
)

BackboneName = Annotated[str, typer.Option(help="An embedded backbone.")]
Runs = Annotated[Path, typer.Option(help="Where the run folders stand.")]
Seeds = Annotated[int, typer.Option(help="Seeds of every configuration.")]


def _modules(runs: Path, backbone: str, seeds: int) -> list[tuple[str, int, Path]]:
    return [
        (name, seed, runs / "train" / backbone / name / str(seed))
        for seed in range(seeds)
        for name in RECIPES
    ]


@app.command()
def train(
    backbone: BackboneName,
    runs: Runs = Path("runs/embedded"),
    seeds: Seeds = 5,
    only: Annotated[str, typer.Option(help="Configurations, separated by commas.")] = "",
    from_seed: Annotated[int, typer.Option(min=0, help="First seed; --seeds counts from 0.")] = 0,
    device: Device = "cpu",
) -> None:
    """Train every configuration, or some, at every seed, or from one on."""
    chosen = _chosen_configurations(only)
    if from_seed >= seeds:
        raise typer.BadParameter(f"--from-seed {from_seed} leaves none of --seeds {seeds}")
    model = load_backbone(backbone, device=device)
    for name, seed, folder in _modules(runs, backbone, seeds):
        if name not in chosen or seed < from_seed:
            continue
        if RunFolder.is_owned(folder):  # asked before a minute of drawing examples
            sys.stderr.write(f"passed over: {folder} is in use by another run\n")
            continue
        recipe = make_recipe(name, d_model=model.d_model, n_layers=model.n_layers)
        try:
            trained = train_into_folder(
                model, recipe, TestbedData(recipe.data), folder, seed=seed, resume=True
            )
        except FolderInUseError as error:
            sys.stderr.write(f"passed over: {error}\n")
        else:
            sys.stderr.write(f"{folder}{' was there' if trained is None else ''}\n")


def _chosen_configurations(only: str) -> tuple[str, ...]:
    """The configurations named, or all.

    Raises:
        BadParameter: One is unknown.
    """
    names = tuple(name.strip() for name in only.split(",")) if only else tuple(RECIPES)
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise typer.BadParameter(f"unknown configuration {unknown[0]}: {', '.join(RECIPES)}")
    return names


@app.command()
def evaluate(
    backbone: BackboneName,
    runs: Runs = Path("runs/embedded"),
    seeds: Seeds = 5,
    limit: Annotated[int, typer.Option(help="Prompts of each kind and split.")] = 200,
    device: Device = "cpu",
) -> None:
    """Measure every module trained so far, and no guidance, on the four test splits."""
    model = load_backbone(backbone, device=device)
    trained = [folder for _, _, folder in _modules(runs, backbone, seeds)]
    folders = [folder for folder in trained if (folder / RECORD_FILE).exists()]
    specs = [GuidanceSpec("none"), *(GuidanceSpec("svgt", str(folder)) for folder in folders)]
    evaluation = Evaluation(
        model,
        {spec: load_guidance(spec, model) for spec in specs},
        embedded_benchmark(n_per_kind=limit, seed=EVALUATION_SEED),
        EvaluationConfig(),
        EVALUATION_SEED,
        {spec: identify_guidance(spec, model) for spec in specs},
    )
    with RunFolder.create(
        runs / "evaluate" / backbone,
        kind="evaluate",
        config=evaluation.describe(),
        seed=EVALUATION_SEED,
        resume=True,
        device=model.device,
    ) as run:
        if run.record.status == "running":
            run_evaluation(
                evaluation,
                run,
                on_progress=lambda done: None,
                n_resamples=200,  # the report draws its own, over all seeds
            )


def pool_seeds(measurements: pd.DataFrame) -> pd.DataFrame:
    """Modules of one configuration as one, each prompt once a seed, beside ``none`` as often.

    The configuration of a measured module is the path ``.../CONFIG/SEED`` of its run folder.
    """
    guided = measurements[measurements["guidance"] != "none"].copy()
    seed = guided["config"].map(lambda path: Path(path).name)
    guided["config"] = guided["config"].map(lambda path: Path(path).parent.name)
    guided["prompt"] = guided["prompt"] + "#" + seed
    plain = measurements[measurements["guidance"] == "none"]
    repeated = [plain.assign(prompt=plain["prompt"] + "#" + name) for name in sorted(seed.unique())]
    return pd.concat([*repeated, guided], ignore_index=True)


def summarise_pooled(measurements: pd.DataFrame) -> list[SummaryRow]:
    """Every configuration over all its seeds, and ``none`` once."""
    plain = summarise(measurements[measurements["guidance"] == "none"])
    pooled = summarise(pool_seeds(measurements))
    return [*plain, *(row for row in pooled if row["guidance"] != "none")]


def _portable(config: Mapping[str, object]) -> dict[str, object]:
    """The evaluation's configuration with modules named ``svgt:CONFIG/SEED``, not by their path."""
    guidances = config["guidances"]
    assert isinstance(guidances, Mapping)
    named = {
        "/".join(Path(str(name)).parts[-2:]) if name != "none" else name: identity
        for name, identity in guidances.items()
    }
    return {**config, "guidances": named}


@app.command()
def report(
    runs: Runs = Path("runs/embedded"),
    out: Annotated[Path, typer.Option(help="Folder of the committed results.")] = ROOT / "docs",
) -> None:
    """Write the pooled summaries and the Markdown table made of them."""
    tables: dict[str, pd.DataFrame] = {}
    for backbone in EMBEDDED:
        measured = RunFolder.open(runs / "evaluate" / backbone)
        rows = summarise_pooled(measured.read_metrics())
        folder = out / "results" / backbone
        shutil.rmtree(folder, ignore_errors=True)
        with RunFolder.create(
            folder, kind="evaluate", config=_portable(measured.record.config), seed=EVALUATION_SEED
        ) as run:
            run.write_summary(rows)
        (folder / LOCK_FILE).unlink()
        tables[backbone] = pd.DataFrame(rows)
    sections = [_section(backbone, rows) for backbone, rows in tables.items()]
    (out / "results.md").write_text(_HEAD + "\n".join(sections), encoding="utf-8")
    readme = out.parent / "README.md"
    fill_section(readme, "results", _short_table(tables))


def _short_table(tables: dict[str, pd.DataFrame]) -> str:
    """Harm rates without guidance and harm reductions with each configuration, by split."""
    lines = [
        "| backbone | guidance | " + " | ".join(TEST_SPLITS) + " |",
        "|" + "---|" * (len(TEST_SPLITS) + 2),
    ]
    for backbone, rows in tables.items():
        shown = rows[rows["frame"] == "all"].set_index(["split", "config", "metric"]).sort_index()
        plain = [_cell(shown.loc[(split, "")], "harm_rate") for split in TEST_SPLITS]
        lines.append(f"| {backbone} | none: harm rate, % | " + " | ".join(plain) + " |")
        for config in RECIPES:
            cells = [_cell(shown.loc[(split, config)], "harm_reduction") for split in TEST_SPLITS]
            seeds = _seeds(shown, config)
            lines.append(f"| | `{config}`, {seeds}: reduction, % | " + " | ".join(cells) + " |")
    n = {
        int(str(count))
        for rows in tables.values()
        for count in rows.query("metric == 'harm_rate' and frame == 'all' and config == ''")["n"]
    }
    return (
        "Harmful replies to harmful prompts without guidance, and how many of them each "
        "configuration\nprevents: percent [95% interval, clustered by intent, seeds as given]. "
        "Temperature 1, "
        f"{' or '.join(map(str, sorted(n)))} replies a cell for each\nseed of the value module.\n\n"
        + "\n".join(lines)
    )


def _seeds(shown: pd.DataFrame, config: str) -> str:
    """How many seeds are pooled: as many as replies stand beside one of the plain model."""
    split = TEST_SPLITS[0]
    plain, guided = (int(str(shown.loc[(split, name, "harm_rate"), "n"])) for name in ("", config))
    return f"{guided // plain} seed{'s' * (guided > plain)}"


_HEAD = """# Results on the embedded backbones

Made by `python benchmarks/embedded.py train|evaluate|report`; the numbers behind every cell, with
n, are in `docs/results/*/summary.json`, which the app's Runs page shows. Temperature 1, top-p 1,
judged by the oracle. Each cell: estimate [95% interval]. Seeds of the value module are pooled; how
many stands in brackets. Intervals are clustered bootstraps over intent groups, with the seeds as
given: they do not say what another seed would give ([benchmark](benchmark.md) does). Differences
are to no guidance on the same prompts with the same random numbers; rates in percent or percentage
points, cross-entropy in nats a token on reference replies to harmless prompts.

These are model organisms of 0.7 million parameters. They show mechanisms and test methods; they are
no evidence about large models. `input-only` reads nothing but the token embeddings: what it reaches
needs no access to the model's own computation.
"""


def _section(backbone: str, rows: pd.DataFrame) -> str:
    lines = [f"\n## {backbone}\n"]
    titles = (
        "harm rate", "harm reduction", "benign refusals", "look-alike refusals", "degenerate",
        "cross-entropy",
    )  # fmt: skip
    for split in TEST_SPLITS:
        lines += [f"\n### {split}\n", "| guidance | " + " | ".join(titles) + " | n harmful |"]
        lines.append("|" + "---|" * (len(titles) + 2))
        part = rows[(rows["split"] == split) & (rows["frame"] == "all")]
        n_prompts = int(part.loc[part["metric"] == "harm_rate", "n"].min())
        for (guidance, config), group in part.groupby(["guidance", "config"], sort=False):
            by_metric = group.set_index("metric")
            cells = [_cell(by_metric, metric) for metric in SHOWN]
            n = int(str(by_metric.loc["harm_rate", "n"]))
            count = n // n_prompts
            seeds = "" if guidance == "none" else f" ({count} seed{'s' * (count > 1)})"
            lines.append(f"| {config or guidance}{seeds} | " + " | ".join(cells) + f" | {n} |")
    return "\n".join(lines) + "\n"


def _cell(by_metric: pd.DataFrame, metric: str) -> str:
    if metric not in by_metric.index:
        return "–"
    estimate, low, high = (
        float(str(by_metric.loc[metric, key])) for key in ("estimate", "low", "high")
    )
    if pd.isna(estimate):
        return "not measured"
    if metric == "cross_entropy_increase":
        return f"{estimate:+.4f} [{low:+.4f}, {high:+.4f}]"
    sign = "+" if metric.endswith("increase") else ""
    return f"{100 * estimate:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


@app.command()
def ship(runs: Runs = Path("runs/embedded")) -> None:
    """Copy seed 0 of every configuration into the package."""
    target = ROOT / "workbench" / "svgt" / "trained"
    for backbone in EMBEDDED:
        for name in RECIPES:
            source = runs / "train" / backbone / name / "0"
            folder = target / backbone / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in (WEIGHTS_FILE, RECORD_FILE):
                shutil.copyfile(source / file, folder / file)


if __name__ == "__main__":
    run_script(app)
