"""The command line's reference in Markdown, made of the commands themselves.

``python -m workbench.cli._reference docs/cli.md`` writes it; a test holds the file to it.
"""

import re
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from workbench.cli.main import PROGRAM, GlobalOptions, build_app
from workbench.files import atomic_path

_HEAD = """# Command line

Made by `make docs` from the commands' own help, which `workbench COMMAND --help` shows.
"""


def command_reference() -> str:
    """Every command with its arguments, options, defaults and examples."""
    command = typer.main.get_command(build_app(GlobalOptions()))
    context = typer.Context(command, info_name=PROGRAM)
    found = get_docs_for_click(obj=command, ctx=context, name=PROGRAM)
    body = found.partition("\n")[2]
    return f"{_HEAD}\n{_plain(body).strip()}\n"


def _plain(text: str) -> str:
    """Markdown of what is written for a terminal: its marks, examples and cut-off summaries."""
    text = text.replace("[bold]", "**").replace("[/bold]", "**")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    text = re.sub(r"^ +(?=workbench )", "    ", text, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in text.splitlines())


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1])) as page:
        page.write_text(command_reference(), encoding="utf-8")
