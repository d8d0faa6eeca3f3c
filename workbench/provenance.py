"""What it takes to say how a number was made: versions, revision, device, command and time."""

import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

_RECORDED_PACKAGES = (
    "svgt-workbench",
    "torch",
    "transformers",
    "tokenizers",
    "transformer-lens",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "statsmodels",
)


def provenance(device: torch.device | str | None = None) -> dict[str, object]:
    """What it takes to say how a number was made.

    Args:
        device: Where the model computes; None where none is involved.

    Returns:
        ``packages`` (name to version, null where absent), ``python``, ``platform``, ``git``
        (``revision`` and ``dirty``; null outside a checkout of this project), ``device`` (see
        :func:`describe_device`; null where none is involved), ``argv`` and ``time`` (UTC, ISO
        8601).
    """
    return {
        "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git_state(Path(__file__).resolve().parent.parent),
        "device": None if device is None else describe_device(device),
        "argv": list(sys.argv),
        "time": now(),
    }


def describe_device(device: torch.device | str) -> dict[str, str]:
    """``name`` as torch calls it, ``cuda:0`` for example, and the ``hardware`` behind it."""
    asked = torch.device(device)
    if asked.type == "cuda":
        return {"name": str(asked), "hardware": torch.cuda.get_device_name(asked)}
    return {"name": str(asked), "hardware": _processor()}


def _processor() -> str:
    """The processor's name, which Linux keeps in a file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(project: Path) -> dict[str, object] | None:
    # An installed copy may lie inside somebody else's repository: that revision says nothing.
    if _git(project, "rev-parse", "--show-toplevel") != str(project):
        return None
    revision = _git(project, "rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": _git(project, "status", "--porcelain") != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def now() -> str:
    """The time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
