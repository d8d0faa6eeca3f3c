"""What an export was made with: versions, platform and git revision, without times or paths."""

from collections.abc import Mapping
from importlib import metadata

import workbench
from workbench.provenance import provenance


def environment() -> dict[str, object]:
    """Versions, platform and git state of this process; the same for every export from it."""
    found = provenance()
    return {key: value for key, value in found.items() if key not in ("argv", "time")}


def installed_packages() -> list[str]:
    """Every installed package with its version, as a requirements file has it."""
    pins = {
        str(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }
    return [f"{name}=={version}" for name, version in sorted(pins.items(), key=_without_case)]


def software_version() -> tuple[str, str | None]:
    """Version of the workbench, and its git revision where it runs from a checkout."""
    git = environment()["git"]
    revision = git.get("revision") if isinstance(git, Mapping) else None
    return workbench.__version__, None if revision is None else str(revision)


def _without_case(pin: tuple[str, str]) -> tuple[str, str]:
    return pin[0].lower(), pin[1]
