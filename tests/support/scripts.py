"""Scripts outside the packages, imported by their path."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load_script(path: str, name: str = "") -> ModuleType:
    """The module at a path below the repository, known to Python as NAME (else by its path).

    It must be known by some name: dataclasses and pickled functions look their module up.
    """
    name = name or path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
