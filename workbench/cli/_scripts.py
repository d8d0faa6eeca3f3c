"""Scripts beside the package that fail as its commands do."""

import sys

import typer

from workbench.cli.main import EXIT_MISTAKE
from workbench.errors import WorkbenchError, one_line


def run_script(app: typer.Typer) -> None:
    """Run a script's commands; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except WorkbenchError as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(EXIT_MISTAKE)
