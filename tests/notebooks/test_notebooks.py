"""The committed notebooks read on a web page as they are: run, small, and made by their own code.

That they still run is tested beside this: pytest executes ``notebooks/*.ipynb`` themselves.
"""

import ast
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 300_000
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|Users|var|private)/")


def read(path: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Any) -> list[Any]:  # noqa: ANN401
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: Any) -> str:  # noqa: ANN401
    return "".join(cell["source"])


def defined(code: str) -> list[str]:
    """Names of the functions and classes that code defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    return [getattr(n, "name", "lambda") for n in ast.walk(ast.parse(code)) if isinstance(n, kinds)]


@pytest.fixture(scope="module")
def executing() -> ModuleType:
    return load_script("notebooks/_execute.py")


def test_there_are_seven_in_order() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(1, 8)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_there_small_and_of_no_machine(path: Path) -> None:
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) > 3
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"execute_result", "display_data"}, "an error, or something was printed"
    texts = ["".join(output["data"].get("text/markdown", "")) for output in outputs]
    assert ABSOLUTE.findall("\n".join(texts)) == []
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_were_made_by_this_code(path: Path, executing: ModuleType) -> None:
    notebook = read(path)
    told = "the code changed after it was run: make notebooks"
    assert notebook["metadata"][executing.CODE_HASH] == executing.code_hash(notebook), told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_nothing_is_defined_and_the_story_is_whole(path: Path) -> None:
    notebook = read(path)
    assert [name for cell in code_cells(notebook) for name in defined(source(cell))] == []
    prose = "\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    for part in ("**Question.**", "**What we do.**", "**What this does not show.**"):
        assert part in prose


def test_what_is_forbidden_would_be_found(executing: ModuleType) -> None:
    assert defined("def f(): pass\nclass A: pass\ng = lambda: 1") == ["f", "A", "lambda"]
    assert ABSOLUTE.search("see /home/me/x") is not None
    assert ABSOLUTE.search("see https://a.b/home/x and docs/tmp/") is None
    cells = [{"cell_type": "code", "source": ["a = 1\n", "b"]}]
    as_text = [{"cell_type": "code", "source": "a = 1\nb"}]
    other = [{"cell_type": "code", "source": "a = 2\nb"}]
    same = executing.code_hash({"cells": cells})
    assert same == executing.code_hash({"cells": as_text})
    assert same != executing.code_hash({"cells": other})


def test_tidying_leaves_out_what_means_nothing(executing: ModuleType) -> None:
    import nbformat

    cell = nbformat.v4.new_code_cell("1", execution_count=7, metadata={"execution": {"t": "1"}})
    data = {"text/plain": "a repr", "image/png": "AAAA"}
    cell["outputs"] = [nbformat.v4.new_output("execute_result", data=data, execution_count=7)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# a"), cell])
    notebook["metadata"]["language_info"] = {"version": "3.11.9"}
    executing.tidy(notebook)
    assert set(notebook["metadata"]) == {"kernelspec", executing.CODE_HASH}
    assert cell["metadata"] == {}
    assert cell["execution_count"] == cell["outputs"][0]["execution_count"] == 1
    assert cell["outputs"][0]["data"] == {"image/png": "AAAA"}
    nbformat.validate(notebook)
