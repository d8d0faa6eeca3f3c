"""Commands in a process of their own, which outlives whoever started it.

The run folder is the only channel between the two. What the process prints goes to ``.output`` in
it, on which the process holds a lock of the operating system for as long as it lives: who looks
later, from any process, needs no process number to know whether it still works, and a killed one
is known as dead at once.
"""

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import RunError
from workbench.runs import OUTPUT_FILE

STOPPED = "stopped on request"
_PROGRAM = "workbench"
_HEADER = re.compile(r"^# process (\d+): ", re.MULTILINE)
_PATIENCE = 10.0
_TAIL = 64_000
"""Bytes at the end of the output that are read: a long one is never read whole."""


def start(arguments: Sequence[str], folder: str | Path) -> None:
    """Start ``workbench ARGUMENTS`` on its own; the arguments name ``folder`` as its run folder.

    Raises:
        RunError: a process started here already works on the folder, or none can be started.
    """
    folder = Path(folder)
    command = [sys.executable, "-m", _PROGRAM, *arguments]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / OUTPUT_FILE).open("a", encoding="utf-8") as output:
            _lock(output.fileno(), folder)
            # A session of its own: neither the app's end nor an interrupt in its terminal ends it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            output.write(f"# process {process.pid}: {shlex.join([_PROGRAM, *arguments])}\n")
            output.flush()
    except OSError as error:
        raise RunError(
            f"cannot start a process for {folder} ({error.strerror or error})"
        ) from error
    threading.Thread(target=process.wait, daemon=True).start()  # an ended child must be waited for


def is_working(folder: str | Path) -> bool:
    """Whether a process that :func:`start` made is at work on the folder."""
    try:
        with (Path(folder) / OUTPUT_FILE).open("rb") as output:
            fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def stop(folder: str | Path) -> None:
    """End the process at work on the folder, if there is one; its run can be resumed.

    Raises:
        RunError: it does not end.
    """
    folder = Path(folder)
    for request in (signal.SIGTERM, signal.SIGKILL):
        numbers = _HEADER.findall(_end_of_output(folder))
        if not numbers or not is_working(folder):
            return
        os.kill(int(numbers[-1]), request)
        if _ended(folder):
            with (folder / OUTPUT_FILE).open("a", encoding="utf-8") as output:
                output.write(f"{STOPPED}\n")
            return
    raise RunError(f"process {numbers[-1]} at work on {folder} does not end")


def last_words(folder: str | Path, n: int = 12) -> str:
    """The last lines that the latest process printed; empty where there was none."""
    text = _end_of_output(Path(folder))
    headers = list(_HEADER.finditer(text))
    latest = text[headers[-1].start() :].partition("\n")[2] if headers else text
    lines = [line.rstrip() for line in latest.splitlines() if line.strip()]
    return "\n".join(lines[-n:])


def started_with(argv: object) -> tuple[str, ...]:
    """The words after ``workbench`` in a run's recorded ``argv``; none if it was started otherwise.

    Both spellings count: ``workbench ...`` and ``python -m workbench ...``.
    """
    if not isinstance(argv, list) or not argv:
        return ()
    program = Path(str(argv[0]))
    known = program.name == _PROGRAM or program.parts[-2:] == (_PROGRAM, "__main__.py")
    return tuple(str(word) for word in argv[1:]) if known else ()


def _end_of_output(folder: Path) -> str:
    try:
        with (folder / OUTPUT_FILE).open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
            return output.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _lock(descriptor: int, folder: Path) -> None:
    """Take the lock, which the started process inherits; a look by another lasts an instant."""
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return
    raise RunError(f"a process is already at work on {folder}: watch it, or stop it first")


def _ended(folder: Path) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if not is_working(folder):
            return True
        time.sleep(0.05)
    return False
