"""``workbench export``: records, tables and figures of runs, for a paper."""

from pathlib import Path
from typing import Annotated

import typer

_HELP = """Write records, tables and figures of runs, as a paper needs them.

Every kind of run can be exported: evaluate, benchmark, ablate, train, fit, judge, and the probes.

Examples:

  workbench export --run runs/first --format latex,pdf --out exports/first

  workbench export --run runs/rivals --run runs/instability --format bundle --out exports/all

csv, parquet, json: every measured number, unrounded, with the meaning of every column.

latex: one booktabs table a file and paper.tex, which holds them all and compiles; captions state n,
seeds, intervals and tests, and stars are corrected by Holm.

pdf, svg, png: figures for print, made without a browser; fonts are embedded.

html: all figures of a run, interactive, in one page.

bundle: one zip with all of it, configurations, environment, git revisions, hashes and how to make
it again. Equal runs give equal bytes.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", help=_HELP)(export)


def export(
    run: Annotated[list[Path], typer.Option(help="A run folder; give the option again for more.")],
    out: Annotated[Path, typer.Option(help="A new folder for the files.")],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Separated by commas: csv, parquet, json, latex, pdf, svg, png, html, bundle.",
        ),
    ] = "bundle",
    width: Annotated[
        str,
        typer.Option(
            help="Of printed figures: single (3.25 in), double (6.75 in), or auto: what each needs."
        ),
    ] = "auto",
    partial: Annotated[
        bool, typer.Option("--partial", help="Take unfinished runs; their captions say so.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in OUT.")
    ] = False,
) -> None:
    """Export runs; see ``_HELP``."""
    from workbench.export.bundling import as_width, export_runs

    names = [name.strip() for name in formats.split(",") if name.strip()]
    files = export_runs(
        run,
        names,
        out,
        width=as_width(width),
        partial=partial,
        overwrite=overwrite,
    )
    typer.echo(f"{len(files)} files in {out}; {out / 'README.md'} says what each is")
