"""What can be chosen without loading anything (light)."""

from importlib import resources
from pathlib import Path

from workbench.testbed.registry import EMBEDDED

FOLDER = "a folder of your own"
BACKBONES: tuple[str, ...] = (*EMBEDDED, FOLDER)
_FIRST = "workbench"


def config_names(backbone: str) -> tuple[str, ...]:
    """Value modules that ship for an embedded backbone; for a folder, all that ship at all.

    A folder may hold an embedded backbone under another name; whether a module fits is checked
    when it is loaded.
    """
    trained = Path(str(resources.files("workbench"))) / "svgt" / "trained"
    pattern = f"{backbone}/*/svgt.json" if backbone in EMBEDDED else "*/*/svgt.json"
    names = {path.parent.name for path in trained.glob(pattern)}
    return tuple(sorted(names, key=lambda name: (name != _FIRST, name)))


def run_roots() -> tuple[str, ...]:
    """Folders that hold runs, as far as they exist; the usual one where none does."""
    usual = ("runs", "docs/results")
    return tuple(root for root in usual if Path(root).is_dir()) or usual[:1]
