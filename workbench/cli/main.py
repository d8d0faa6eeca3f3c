'''The ``workbench`` command: its global options, its commands, and how it fails.

Every module of :mod:`workbench.cli` besides this one is a command. It defines one function,
``register(app)``, which adds the command (or a sub-app with several) to the typer application; a
module whose name starts with an underscore is a helper and is left alone. For example
``workbench/cli/count.py``::

    """``workbench count``: how many tokens a text has."""

    from typing import Annotated

    import typer


    def register(app: typer.Typer) -> None:
        """Add the command."""
        app.command("count")(count)


    def count(
        text: Annotated[str, typer.Argument(help="The text to count.")],
        backbone: Annotated[str, typer.Option(help="Whose tokenizer to use.")] = "testbed-llama",
    ) -> None:
        """Count the tokens of a text."""
        from workbench.backbone import load_backbone  # heavy: only when the command runs

        typer.echo(load_backbone(backbone).encode([text]).ids.shape[1])

All command modules are imported for ``workbench --help``, so whatever imports torch is imported
inside the function. Commands do not catch errors: a
:class:`~workbench.errors.WorkbenchError` becomes one line on stderr and exit code 2 here, for all
of them.
'''

import importlib
import inspect
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, NoReturn, TextIO

import typer
from typer.exceptions import Abort, TyperException

import workbench
from workbench import cli
from workbench.errors import WorkbenchError, WorkbenchWarning
from workbench.remedies import remedied_by

_REMEDIES = {
    "--batch-size": "lower --batch-size",
    "--max-new-tokens": "lower --max-new-tokens",
    "--dtype": "hold the backbone in half the memory with --dtype bfloat16",
}
_SMALLER = "take a smaller model or fewer texts"
EXIT_OK = 0
EXIT_BUG = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130

PROGRAM = "workbench"


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"svgt-workbench {workbench.__version__}")
        raise typer.Exit
    return wanted


@dataclass
class GlobalOptions:
    """What stands before the command's name."""

    debug: bool = False

    def read(
        self,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of any error.")
        ] = False,
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                help="Show the version and exit.",
                callback=_show_version,
                is_eager=True,
            ),
        ] = False,
    ) -> None:
        """Train, insert, see and test SVGT value modules on frozen language models.

        `workbench COMMAND --help` explains a command.
        """
        self.debug = debug


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; tests call this too.

    Args:
        arguments: without the program's name, for example ``["generate", "--help"]``.

    Returns:
        0, or 2 for a user's mistake, 130 for an interrupt, 1 for a bug: each with one line on
        stderr that starts with ``error:``, after a traceback if ``--debug`` was given.
    """
    options = GlobalOptions()
    remedy, interrupted = _SMALLER, "interrupted"
    try:
        command = typer.main.get_command(build_app(options))
        known = _options_of(command, arguments)
        remedy = _memory_remedy(known)
        if "--resume" in known:
            interrupted = "interrupted; the same command with --resume goes on"
        # typer answers an exit code for Exit and an interrupt, and None for an ordinary end
        with _notes_in_words(), remedied_by(remedy):
            code = command.main(
                args=list(arguments) or ["--help"], prog_name=PROGRAM, standalone_mode=False
            )
    except WorkbenchError as error:
        return _fail(str(error), EXIT_MISTAKE, options)
    except TyperException as error:
        return _fail(_usage_message(error), EXIT_MISTAKE, options)
    except (KeyboardInterrupt, Abort):
        return _fail(interrupted, EXIT_INTERRUPTED, options)
    except Exception as error:
        # torch is not imported for --help, so its errors are known by name and by what they say
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
            return _fail(f"out of memory: {remedy} ({error})", EXIT_MISTAKE, options)
        what = f"unexpected {type(error).__name__}: {error}"
        hint = "" if options.debug else f" (a bug; `{PROGRAM} --debug ...` shows the traceback)"
        return _fail(what + hint, EXIT_BUG, options)
    if code == EXIT_INTERRUPTED:
        return _fail(interrupted, EXIT_INTERRUPTED, options)
    return code if isinstance(code, int) else EXIT_OK


def _options_of(command: object, arguments: Sequence[str]) -> set[str]:
    """The options of the command that the arguments name."""
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return {name for parameter in getattr(command, "params", ()) for name in parameter.opts}


def _memory_remedy(known: set[str]) -> str:
    """What lowers the memory of a command with these options."""
    found = [remedy for option, remedy in _REMEDIES.items() if option in known]
    return ", or ".join(found) or _SMALLER


@contextmanager
def _notes_in_words() -> Iterator[None]:
    """Within, the workbench's own warnings are one line each; those of others stay as they are."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, WorkbenchWarning):
                typer.echo(f"note: {message}", err=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def build_app(options: "GlobalOptions") -> typer.Typer:
    """The typer application with every command registered; it fills in ``options`` as it parses.

    Raises:
        TypeError: a module of :mod:`workbench.cli` has no ``register`` function.
    """
    app = typer.Typer(
        name=PROGRAM,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options.read)
    for name in command_modules():
        module = importlib.import_module(f"{cli.__name__}.{name}")
        register = getattr(module, "register", None)
        if register is None:
            raise TypeError(f"{module.__name__} defines no register(app) function")
        register(app)
    _reflow(app)
    return app


def _reflow(app: typer.Typer) -> None:
    """Let every help text wrap to the window: the lines of a paragraph become one."""
    for command in app.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(_joined(part) for part in text.strip().split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _reflow(group.typer_instance)


def _joined(paragraph: str) -> str:
    """A paragraph on one line; examples, which are indented, keep their lines."""
    lines = paragraph.splitlines()
    indented = any(line.startswith(" ") for line in lines)
    return paragraph if indented else " ".join(lines)


def command_modules() -> list[str]:
    """The names of the command modules, in the order in which ``--help`` lists them."""
    names = sorted(module.name for module in pkgutil.iter_modules(cli.__path__))
    return [name for name in names if name != "main" and not name.startswith("_")]


def _usage_message(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    return f"{error.format_message()} (`{path} --help` explains)"


def _fail(message: str, code: int, options: GlobalOptions) -> int:
    if options.debug and sys.exc_info()[0] is not None:
        traceback.print_exc(file=sys.stderr)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code
