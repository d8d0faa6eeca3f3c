"""The probes on every embedded backbone, and the tables of docs/findings.md.

    python benchmarks/findings.py run       # workbench probe, three times a backbone; resumes
    python benchmarks/findings.py report    # fills the tables between the markers

The prose of docs/findings.md is written by hand and must agree with the tables, which are not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from workbench.cli.main import run as run_command
from workbench.export.markdown import fill_section
from workbench.runs import read_parquet
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
            code = run_command([*command, "--seed", str(seed), "--resume"])
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
    for name, (probe, metric, columns) in TABLES.items():
        fill_section(page, name, table(records[probe], metric, columns))


TABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "index": ("instability", "instability_index", ("contrast", "site", "layer", "estimator")),
    "difference": ("instability", "instability_difference", ("contrast", "site", "estimator")),
    "lost": ("anchoring", "margin_lost", ("estimator",)),
    "harm": ("anchoring", "harm_rate", ("estimator",)),
    "dilution": ("anchoring", "dilution_margin", ("estimator", "x")),
    "wrong": ("reliability", "wrong_sign_share", ("contrast", "site", "layer", "estimator")),
}
"""Marker to probe, metric, and what tells the rows apart."""


def table(records: pd.DataFrame, metric: str, columns: Sequence[str]) -> str:
    """One metric over all contexts: a row for every combination, a column for every backbone."""
    chosen = records[(records["metric"] == metric) & (records["context_a"] == "")]
    backbones = [name for name in EMBEDDED if name in set(chosen["backbone"])]
    lines = [
        "| " + " | ".join([*columns, *backbones]) + " |",
        "|" + "---|" * (len(columns) + len(backbones)),
    ]
    for key, rows in chosen.groupby(list(columns), sort=False, dropna=False):
        by_backbone = rows.drop_duplicates("backbone").set_index("backbone")
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
    interval = "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
    control = "" if pd.isna(null) else f", control {null:.2f}"
    return f"{estimate:.2f}{interval}{control} (n {record['n']})"


if __name__ == "__main__":
    app()
