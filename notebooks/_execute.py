"""Run the notebooks and save what they show: ``python notebooks/_execute.py [NAME ...]``.

What differs from run to run without meaning (times, versions, process ids, counts) is left out, so
that a diff shows what changed. Each notebook keeps the hash of the code that made its outputs.
"""

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
CODE_HASH = "code_sha256"
_TIMEOUT = 240
_QUIET = {"PYTHONWARNINGS": "ignore:IProgress not found", "OMP_NUM_THREADS": "1"}
"""For kernels: one thread as in CI, and no advice on progress bars that nobody needs here."""
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def code_hash(notebook: Any) -> str:  # noqa: ANN401 - nbformat's nodes have no types
    """SHA-256 of all code, in order."""
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\0".join(map(_joined, code)).encode()).hexdigest()


def execute(path: Path) -> float:
    """Run one notebook and write it back with its outputs; returns seconds."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    os.environ.update(_QUIET)
    start = time.perf_counter()
    NotebookClient(
        notebook, timeout=_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": FOLDER}}
    ).execute()
    taken = time.perf_counter() - start
    tidy(notebook)
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    return taken


def tidy(notebook: Any) -> None:  # noqa: ANN401
    """Leave out what changes without meaning, and say which code made the outputs."""
    notebook["metadata"] = {"kernelspec": _KERNEL, CODE_HASH: code_hash(notebook)}
    number = 0
    for position, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{position:02d}"
        cell["metadata"] = {}
        if cell["cell_type"] != "code":
            continue
        number += 1
        cell["execution_count"] = number
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
            data = output.get("data", {})
            if len(data) > 1:  # a page shows the image or the table, never its plain text
                data.pop("text/plain", None)


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        print(f"{name}: {execute(FOLDER / name):.0f} s", flush=True)
