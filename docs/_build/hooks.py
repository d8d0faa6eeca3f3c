"""What `mkdocs build` adds to the pages that are written by hand: the API, from docstrings."""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
# The rooms from the ground up, each with what it does.
ROOMS = {
    "leaves": "errors, axes, statistics, runs, configuration",
    "data": "examples, sources, files, contamination",
    "testbed": "the embedded world with known truth",
    "backbone": "the frozen model and its residual stream",
    "svgt": "value space, correction, bridge, slots, curriculum",
    "guidance": "ways to steer, and the decoder they share",
    "evaluation": "judges, benchmarks, leaderboards, ablations",
    "probes": "one research question a module",
    "export": "records to tables, figures, bundles",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add one page a room."""
    for room, about in ROOMS.items():
        files.append(File.generated(config, f"api/{room}.md", content=page_of(room, about)))
    return files


def page_of(room: str, about: str) -> str:
    """A room's public modules, each by mkdocstrings."""
    parts = [f"# {room}\n\nThe room of {about}.\n"]
    parts += [f"::: {name}\n    options:\n      heading_level: 2\n" for name in modules_of(room)]
    return "\n".join(parts)


def modules_of(room: str) -> list[str]:
    """Dotted names of a room's public modules that define something."""
    if room == "leaves":
        paths = sorted((ROOT / "workbench").glob("*.py"))
    else:
        folder = ROOT / room if room == "probes" else ROOT / "workbench" / room
        paths = sorted(folder.rglob("*.py"))
    public = [path for path in paths if not path.stem.startswith("_") and _defines(path)]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in public]


def _defines(path: Path) -> bool:
    """Whether anything public is written in the file itself."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return any(isinstance(node, kinds) for node in ast.parse(path.read_text("utf-8")).body)
