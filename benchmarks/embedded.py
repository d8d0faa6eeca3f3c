"""Value modules of every named configuration on every embedded backbone, over several seeds.

    python benchmarks/embedded.py train --backbone testbed-llama     # one run folder a module
    python benchmarks/embedded.py ship                               # seed 0 into the package

``train`` goes on where it was stopped. Several may run at once into the same folders: each passes
over the modules that another one is training, so that as many processes as there are cores share
the work. benchmarks/leaderboard.py, ablations.py and discrimination.py measure the modules.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.backbone import load_backbone
from workbench.cli._limits import Device
from workbench.cli._scripts import run_script
from workbench.errors import FolderInUseError, RunError
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.value_training import train_into_folder
from workbench.runs import RunFolder
from workbench.svgt.checkpoint import RECORD_FILE, WEIGHTS_FILE
from workbench.svgt.recipes import RECIPES, make_recipe
from workbench.testbed.registry import EMBEDDED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
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
def ship(runs: Runs = Path("runs/embedded")) -> None:
    """Copy seed 0 of every configuration into the package.

    Raises:
        RunError: One of them was not trained; nothing is copied.
    """
    first_seeds = {
        (backbone, name): runs / "train" / backbone / name / "0"
        for backbone in EMBEDDED
        for name in RECIPES
    }
    for folder in first_seeds.values():
        if not (folder / RECORD_FILE).is_file():
            raise RunError(f"no trained module at {folder}: run `train` first")
    for (backbone, name), source in first_seeds.items():
        target = ROOT / "workbench" / "svgt" / "trained" / backbone / name
        target.mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS_FILE, RECORD_FILE):
            shutil.copyfile(source / file, target / file)


if __name__ == "__main__":
    run_script(app)
