"""Imports go down the staircase only.

``STAIRCASE`` is the picture in CONTRIBUTING.md, top floor first. A module may import from its own
floor and from the floors below. ``RESERVED`` names the third-party packages that belong to one
part of the house.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STAIRCASE: tuple[tuple[str, ...], ...] = (
    ("app", "workbench.__main__", "workbench.pages", "workbench.cli"),
    ("workbench.export",),
    ("probes",),
    ("workbench.evaluation",),
    ("workbench.guidance",),
    ("workbench.svgt",),
    ("workbench.backbone",),
    ("workbench.testbed",),
    ("workbench.data",),
    (
        "workbench.errors",
        "workbench.arguments",
        "workbench.axes",
        "workbench.statistics",
        "workbench.files",
        "workbench.provenance",
        "workbench.folder_lock",
        "workbench.runs",
        "workbench.background",
        "workbench.config",
        "workbench.hub",
        "workbench.training_state",
        "workbench.quiet",
        "workbench.remedies",
    ),
)

RESERVED: dict[str, tuple[str, ...]] = {
    "streamlit": ("app", "workbench.pages"),
    "plotly": ("app", "workbench.pages", "workbench.export"),
    "matplotlib": ("workbench.export",),
    "transformer_lens": ("workbench.backbone",),
    "nnsight": ("workbench.backbone",),
    # Nothing is pickled; these only name the error with which torch or nnsight refuses a pickle.
    "pickle": ("workbench.svgt.reference", "workbench.backbone.nnsight_remote"),
}


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name to file, of everything on the staircase."""
    files = [*root.glob("app.py"), *root.glob("workbench/**/*.py"), *root.glob("probes/**/*.py")]
    return {dotted_name(file.relative_to(root)): file for file in files}


def dotted_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def belongs_to(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def floor_of(module: str) -> int | None:
    """0 is the ground floor; the bare package ``workbench`` lies under it and imports nothing."""
    if module == "workbench":
        return -1
    for height, rooms in enumerate(reversed(STAIRCASE)):
        if any(belongs_to(module, room) for room in rooms):
            return height
    return None


def imported_by(module: str, file: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; a name imported from a package counts as its module."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            full = (f"{base}.{alias.name}" for alias in node.names)
            # A set: two names from one module are one import of it.
            for target in sorted({name if name in known else base for name in full}):
                yield target, node.lineno


def violations(root: Path) -> list[str]:
    """One sentence for every import that goes up or takes what belongs to another room."""
    modules = modules_of(root)
    found = []
    for module, file in sorted(modules.items()):
        floor = floor_of(module)
        if floor is None:
            found.append(f"{module} stands on no floor of the staircase")
            continue
        for target, line in imported_by(module, file, set(modules)):
            place = f"{file.relative_to(root)}:{line}"
            if target.partition(".")[0] in ("app", "workbench", "probes"):
                height = floor_of(target)
                if height is None:
                    found.append(f"{place}: imports {target}, which stands on no floor")
                elif height > floor:
                    found.append(f"{place}: {module} imports {target} from a floor above it")
            rooms = RESERVED.get(target.partition(".")[0])
            if rooms is not None and not any(belongs_to(module, room) for room in rooms):
                found.append(
                    f"{place}: {module} imports {target}, which belongs to {', '.join(rooms)}"
                )
    return found


def test_imports_go_down_only() -> None:
    assert violations(ROOT) == []


def test_the_whole_house_is_read() -> None:
    modules = modules_of(ROOT)
    assert {"workbench.runs", "workbench.cli.main", "probes"} <= set(modules)
    assert floor_of("workbench.runs") == 0
    assert (
        floor_of("workbench.evaluation.judges")
        < floor_of("probes")
        < floor_of(  # type: ignore[operator]
            "workbench.export.tables"
        )
    )


def test_the_picture_in_contributing_is_this_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.split("```")[text.split("## The staircase")[0].count("```") + 1]
    order = [
        picture.index(rooms[-1].replace(".", "/"))
        for rooms in STAIRCASE[:-1]  # the leaves are written as one set of braces
    ]
    assert order == sorted(order)
    leaves = picture.split("{")[1].split("}")[0].split(",")
    assert {f"workbench.{leaf.strip()}" for leaf in leaves} == set(STAIRCASE[-1])


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("workbench/runs.py", "from workbench.svgt.config import X", "from a floor above it"),
        ("workbench/svgt/slots.py", "import workbench.guidance.none", "from a floor above it"),
        ("workbench/svgt/slots.py", "from workbench import evaluation", "from a floor above it"),
        ("workbench/svgt/slots.py", "from .. import evaluation", "from a floor above it"),
        ("workbench/svgt/slots.py", "from ..evaluation import judges", "from a floor above it"),
        ("workbench/svgt/__init__.py", "from ..evaluation import judges", "from a floor above it"),
        ("workbench/evaluation/judges.py", "import probes.directions", "from a floor above it"),
        ("probes/directions.py", "from workbench.export import tables", "from a floor above it"),
        ("probes/directions.py", "def f():\n    import app", "from a floor above it"),
        ("workbench/__init__.py", "from workbench import runs", "from a floor above it"),
        ("probes/directions.py", "import plotly.express", "belongs to app, workbench.pages"),
        ("workbench/svgt/slots.py", "from transformer_lens import a", "workbench.backbone"),
        ("workbench/runs.py", "import pickle", "belongs to workbench.svgt.reference"),
        ("workbench/attic/old.py", "", "stands on no floor"),
        ("workbench/runs.py", "from workbench.attic import a", "stands on no floor"),
    ],
)
def test_a_planted_import_that_goes_up_is_named(
    tmp_path: Path, file: str, line: str, complaint: str
) -> None:
    for name in ("workbench/__init__.py", "workbench/runs.py", "workbench/evaluation/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    found = violations(tmp_path)
    assert len(found) == 1, found
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("probes/directions.py", "from workbench.evaluation import judges"),
        ("workbench/export/tables.py", "import probes\nimport plotly"),
        ("workbench/svgt/slots.py", "from . import config\nfrom workbench.axes import AXES"),
        ("workbench/runs.py", "from workbench.errors import RunError\nimport numpy"),
        ("app.py", "import streamlit\nfrom workbench.pages import playground"),
        ("workbench/cli/main.py", "import workbench"),
    ],
)
def test_imports_that_go_down_are_fine(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    assert violations(tmp_path) == []
