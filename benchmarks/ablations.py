"""Every ablation on the embedded backbones, and the tables of docs/ablations.md.

    python benchmarks/ablations.py run --backbone testbed-llama    # workbench ablate all; resumes
    python benchmarks/ablations.py report                          # tables and results

``run --only K,stages`` measures a part, into a folder of its own with ``--out``, or into the usual
one, which grows. The report takes whatever has been measured so far, also of a run that is still
going on, beside the committed results of other run folders, and says what is missing. The prose of
docs/ablations.md is written by hand and must agree with the tables, which are not.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from workbench.backbone import load_backbone
from workbench.cli._limits import Device
from workbench.cli._scripts import run_script
from workbench.cli.main import run as run_command
from workbench.errors import ConfigError
from workbench.evaluation.ablations import (
    ALL_SEEDS,
    CATALOGUE,
    RECORDS_FILE,
    RUN_KIND,
    AblationRecord,
    Dependence,
    bridge_dependence,
    headline,
    records_frame,
)
from workbench.evaluation.ablations.comparing import POOLED
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.export.ablation_tables import (
    TEST,
    comparisons_in,
    dependence_table,
    markdown_table,
    read_records,
)
from workbench.export.markdown import fill_section
from workbench.files import write_parquet
from workbench.folder_lock import LOCK_FILE
from workbench.guidance.registry import load_module
from workbench.runs import RUN_FILE, RunFolder
from workbench.testbed.registry import EMBEDDED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
READ_MODULES = ("workbench", "paper", "paper-fixed")
RUNS = Path("runs/ablations")
_HARMFUL_PER_SPLIT = 100


@app.command()
def run(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")],
    only: Annotated[str, typer.Option(help="Ablations, separated by commas, or all.")] = "all",
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/ablations/BACKBONE by default.")
    ] = None,
    modules: Annotated[Path, typer.Option(help="As benchmarks/embedded.py trains them.")] = Path(
        "runs/embedded/train"
    ),
    seeds: Annotated[int, typer.Option(help="Seeds of modules and sampling.")] = 3,
    limit: Annotated[int, typer.Option(help="Prompts of each kind and test split.")] = 60,
    device: Device = "cpu",
) -> None:
    """Run every ablation, or some, on one backbone."""
    folder = out or RUNS / backbone
    command = ["ablate", only, "--backbone", backbone, "--out", str(folder), "--seeds", str(seeds)]
    command += ["--limit", str(limit), "--device", device]
    command += ["--modules", str(modules)] if modules.is_dir() else []
    code = run_command([*command, "--resume"] if (folder / RUN_FILE).is_file() else command)
    if code:
        raise typer.Exit(code)


@app.command()
def report(
    runs: Annotated[Path, typer.Option(help="Where the run folders stand.")] = RUNS,
    docs: Annotated[Path, typer.Option(help="Folder of the page and its results.")] = ROOT / "docs",
) -> None:
    """Write every table into its place in the page, and the numbers behind them beside it."""
    results = docs / "results" / "ablations"
    for file in sorted(runs.glob(f"*/{RECORDS_FILE}")):
        _copy(file.parent, results / file.parent.name, read_records(file))
    records = committed_records(results)
    page = docs / "ablations.md"
    for name in CATALOGUE:
        fill_section(page, name, tables_of(records, name))
    fill_section(page, "missing", missing_in(records))
    fill_section(page, "dependence", dependence_table(dependences()))


def committed_records(results: Path) -> list[AblationRecord]:
    """The records of all result folders.

    Raises:
        ConfigError: Two of them measured the same.
    """
    records: list[AblationRecord] = []
    found_in: dict[tuple[str, str, str], str] = {}
    for file in sorted(results.glob(f"*/{RECORDS_FILE}")):
        found = read_records(file)
        for comparison in comparisons_in(found):
            other = found_in.setdefault(comparison, file.parent.name)
            if other != file.parent.name:
                name, reference, backbone = comparison
                raise ConfigError(
                    f"{name} of {reference} on {backbone} was measured twice, in {other} and in "
                    f"{file.parent.name}: delete one of these folders of {results}"
                )
        records += found
    return records


def tables_of(records: list[AblationRecord], name: str) -> str:
    """The tables of one ablation, one for every reference and backbone."""
    parts = [
        f"`{reference}` on {backbone}, {_seeds(records, comparison)}:\n\n"
        + markdown_table(records, *comparison)
        for comparison in comparisons_in(records)
        for ablation, reference, backbone in [comparison]
        if ablation == name
    ]
    return "\n\n".join(parts) or "Not measured yet."


def _seeds(records: list[AblationRecord], comparison: tuple[str, str, str]) -> str:
    seeds = {
        r.seed
        for r in records
        if (r.ablation, r.reference, r.backbone) == comparison and r.seed != ALL_SEEDS
    }
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def missing_in(records: list[AblationRecord]) -> str:
    """The comparisons that nothing has been measured of, by backbone."""
    done = set(comparisons_in(records))
    lines = []
    for backbone in EMBEDDED:
        missing = [
            f"{name} of `{reference}`"
            for name, ablation in CATALOGUE.items()
            for reference in ablation.references
            if (name, reference, backbone) not in done
        ]
        everything = all(place[2] != backbone for place in done)
        if missing:
            lines.append(f"- {backbone}: {'everything' if everything else ', '.join(missing)}")
    return "\n".join(lines) or "Nothing is missing."


def dependences() -> list[Dependence]:
    """What the bridges of the shipped modules depend on, on the harmful test prompts."""
    splits = embedded_benchmark(n_per_kind=_HARMFUL_PER_SPLIT, seed=0).splits
    harmful = [e for split in splits for e in split.examples if e.labels["kind"] == "harmful"]
    found: list[Dependence] = []
    for name in EMBEDDED:
        backbone = load_backbone(name)
        for config in READ_MODULES:
            found += bridge_dependence(backbone, load_module(config, backbone), harmful)
    return found


def _copy(source: Path, target: Path, records: list[AblationRecord]) -> None:
    """The estimates over all splits of a kind, as a run folder of their own.

    ``summary.json``, which the Runs page shows, has those of the test splits alone.
    """
    config = RunFolder.open(source).record.config
    kept = [r for r in records if r.split in POOLED]
    shutil.rmtree(target, ignore_errors=True)
    with RunFolder.create(target, kind=RUN_KIND, config=config, seed=0) as run:
        write_parquet(run.file(RECORDS_FILE), records_frame(kept))
        run.write_summary([row for row in headline(kept) if row["split"] == TEST])
    (target / LOCK_FILE).unlink()


if __name__ == "__main__":
    run_script(app)
