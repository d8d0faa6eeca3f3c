"""What can be chosen without loading anything (light)."""

import json
from importlib import resources
from pathlib import Path

from workbench.export.guidance_words import METHOD_NAMES
from workbench.testbed.registry import EMBEDDED

FOLDER = "a folder of your own"
BACKBONES: tuple[str, ...] = (*EMBEDDED, FOLDER)
RUNS = Path("runs")
"""Where the app writes runs, and the only place it deletes them from."""
_FIRST = "workbench"


def config_names(backbone: str) -> tuple[str, ...]:
    """Value modules that ship for an embedded backbone; for a folder, all that ship at all.

    A folder may hold an embedded backbone under another name; whether a module fits is checked
    when it is loaded.
    """
    names = {path.parent.name for path in _shipped("svgt", backbone, "*/svgt.json")}
    return tuple(sorted(names, key=lambda name: (name != _FIRST, name)))


def method_names(backbone: str) -> tuple[str, ...]:
    """Other methods that ship fitted for an embedded backbone; for a folder, all that ship."""
    names = {path.parent.name for path in _shipped("guidance", backbone, "*/guidance.json")}
    return tuple(name for name in METHOD_NAMES if name in names)


def why_no_refresh(backbone: str, guidance: str) -> str | None:
    """Why refresh and momentum change nothing under a guidance; None where they do, or may.

    Read from the record beside the weights, so that a page knows before anything is loaded.
    """
    family, _, config = guidance.partition(":")
    if family != "svgt":
        return "Only SVGT writes bridge tokens that could be written anew."
    records = _shipped("svgt", backbone, f"{config}/svgt.json")
    records = records or [path for path in [Path(config).expanduser() / "svgt.json"] if config]
    if records and all(map(_reads_the_prompt_alone, records)):
        return "This module's trigger reads the prompt alone, so its bridge is written once."
    return None


def _shipped(package: str, backbone: str, pattern: str) -> list[Path]:
    root = Path(str(resources.files("workbench"))) / package / "trained"
    return sorted(root.glob(f"{backbone if backbone in EMBEDDED else '*'}/{pattern}"))


def _reads_the_prompt_alone(record: Path) -> bool:
    try:
        mode = json.loads(record.read_text(encoding="utf-8"))["config"]["trigger"]["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading it will say what is wrong
    return bool(mode == "prompt")


def run_roots() -> tuple[str, ...]:
    """Folders that hold runs, as far as they exist; the usual one where none does."""
    usual = (str(RUNS), "docs/results")
    return tuple(root for root in usual if Path(root).is_dir()) or usual[:1]
