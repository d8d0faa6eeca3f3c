"""The probes on every embedded backbone, and the tables of docs/findings.md.

    python benchmarks/findings.py run       # workbench probe, three times a backbone; resumes
    python benchmarks/findings.py report    # fills the tables, copies the records beside them

The prose of docs/findings.md is written by hand and must agree with the tables, which are not.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from workbench.cli._scripts import run_script
from workbench.cli.main import run as run_command
from workbench.config import to_mapping
from workbench.errors import RunError
from workbench.export.markdown import fill_section
from workbench.files import read_parquet, write_json
from workbench.runs import RUN_FILE, RunFolder
from workbench.testbed.registry import EMBEDDED

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
PROBES = ("instability", "anchoring", "reliability")
Runs = Annotated[Path, typer.Option(help="Where the run folders stand.")]
Seed = Annotated[int, typer.Option(help="Of every probe.")]


@app.command()
def run(runs: Runs = Path("runs/findings"), seed: Seed = 0) -> None:
    """Run the probes, each into ``RUNS/BACKBONE/PROBE``; finished ones are left as they are."""
    for backbone in EMBEDDED:
        for probe in PROBES:
            out = runs / backbone / probe
            command = ["probe", probe, "--backbone", backbone, "--out", str(out)]
            again = ["--resume"] if (out / RUN_FILE).exists() else []
            code = run_command([*command, "--seed", str(seed), *again])
            if code:
                raise typer.Exit(code)


@app.command()
def report(
    runs: Runs = Path("runs/findings"),
    page: Annotated[Path, typer.Option(help="The page with the markers.")] = ROOT
    / "docs"
    / "findings.md",
) -> None:
    """Write every table into its place in the page."""
    records = {
        probe: pd.concat(
            [read_parquet(runs / backbone / probe / "records.parquet") for backbone in EMBEDDED],
            ignore_index=True,
        )
        for probe in PROBES
    }
    for name, wanted in TABLES.items():
        fill_section(page, name, table(records[wanted.probe], wanted))
    for backbone in EMBEDDED:
        for probe in PROBES:
            _ship(runs / backbone / probe, page.parent / "results" / "findings" / backbone / probe)


def _ship(run: Path, folder: Path) -> None:
    """Copy a finished run without the states that it was made from."""
    finished = RunFolder.open(run).record
    folder.mkdir(parents=True, exist_ok=True)
    kept = [name for name in finished.files if not name.startswith("states/")]
    for name in kept:
        shutil.copyfile(run / name, folder / name)
    hashes = {name: finished.files[name] for name in kept}
    write_json(folder / RUN_FILE, to_mapping(replace(finished, files=hashes)))


@dataclass(frozen=True)
class TableSpec:
    """Which records a table shows.

    Attributes:
        probe: Whose records.
        query: Which of them, in the words of ``DataFrame.query``.
        columns: What tells its rows apart; backbones stand side by side.
    """

    probe: str
    query: str
    columns: tuple[str, ...]


_WITHIN = "metric == 'instability_index' and estimator in ('mean_difference', 'logistic')"
_GROUPS = "('all', 'heads', 'stream')"
TABLES: dict[str, TableSpec] = {
    "prompt-index": TableSpec(
        "instability", f"{_WITHIN} and contrast == 'prompt'", ("site", "layer", "estimator")
    ),
    "response-index": TableSpec(
        "instability", f"{_WITHIN} and contrast == 'response'", ("site", "layer", "estimator")
    ),
    "difference": TableSpec(
        "instability",
        "metric == 'instability_difference' and estimator == 'mean_difference' and "
        "contrast == 'prompt' and site in ('z:workbench', 'bridge:workbench', 'z:untrained')",
        ("site", "layer"),
    ),
    "lost": TableSpec("anchoring", "metric == 'margin_lost'", ("estimator",)),
    "harm": TableSpec("anchoring", "metric == 'harm_rate'", ("estimator",)),
    "paths": TableSpec(
        "anchoring", f"metric == 'path_share' and site in {_GROUPS}", ("site", "estimator")
    ),
    "heads": TableSpec(
        "anchoring",
        "metric == 'path_share' and site == 'head' and estimator == 'necessity'",
        ("layer", "head"),
    ),
    "path-harm": TableSpec("anchoring", "metric == 'path_harm_rate'", ("site",)),
    "dilution": TableSpec(
        "anchoring",
        "metric == 'dilution_margin' and "
        "estimator in ('bridge-random/turn/window', 'bridge-random/dialogue/window')",
        ("estimator", "x"),
    ),
    "wrong": TableSpec(
        "reliability", "metric == 'wrong_sign_share'", ("contrast", "site", "layer", "estimator")
    ),
}


def table(records: pd.DataFrame, wanted: TableSpec) -> str:
    """A row for every combination of the columns, over all contexts; a column a backbone."""
    columns = list(wanted.columns)
    chosen = records[records["context_a"] == ""].query(wanted.query)
    repeated = chosen[chosen.duplicated(["backbone", *columns])]
    if chosen.empty or not repeated.empty:
        raise RunError(f"'{wanted.query}' finds no record, or several for one cell: mend TABLES")
    backbones = [name for name in EMBEDDED if name in set(chosen["backbone"])]
    lines = [
        "| " + " | ".join([*columns, *backbones]) + " |",
        "|" + "---|" * (len(columns) + len(backbones)),
    ]
    for key, rows in chosen.groupby(columns, sort=False, dropna=False):
        by_backbone = rows.set_index("backbone")
        names = ["–" if pd.isna(part) or part == "" else f"{part}" for part in key]
        cells = [
            cell(by_backbone.loc[name]) if name in by_backbone.index else "–" for name in backbones
        ]
        lines.append("| " + " | ".join([*names, *cells]) + " |")
    return "\n".join(lines)


def cell(record: "pd.Series[object]") -> str:
    """``estimate [low, high]`` with its control and n; a dash for what was not measured."""
    estimate, low, high, null = (
        float(str(record[name])) for name in ("estimate", "low", "high", "null")
    )
    if pd.isna(estimate):
        return "–"
    interval = "" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]"
    control = "" if pd.isna(null) else f", control {null:.2f}"
    return f"{estimate:.3f}{interval}{control} (n {record['n']})"


if __name__ == "__main__":
    run_script(app)
