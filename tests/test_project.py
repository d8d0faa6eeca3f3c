"""The project's own files agree with each other and with what is installed."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import workbench

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Which of these torch needs depends on platform and accelerator; torch itself pins them.
ACCELERATOR = re.compile(r"nvidia-|cuda-|triton|pytorch-triton|intel-")
# The installers themselves: every environment brings its own.
INSTALLERS = {"pip", "setuptools", "wheel"}


def locked() -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        assert separator, f"requirements.lock: '{line}' pins no version"
        pins[canonicalize_name(name)] = Version(version)
    return pins


def declared() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_every_dependency_is_locked_at_a_version_it_allows(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in requirements.lock; run `make lock`"
    assert version in requirement.specifier


def test_the_lock_is_closed() -> None:
    """Whatever a locked package needs is locked too, so an installation leaves nothing open."""
    pins = locked()
    missing = set()
    for name in pins:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        for need in map(Requirement, needs):
            key = canonicalize_name(need.name)
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            if wanted and key not in pins and key not in INSTALLERS and not ACCELERATOR.match(key):
                missing.add(f"{key} (needed by {name})")
    assert missing == set()


def test_the_lock_names_no_build_of_one_machine_and_no_project() -> None:
    for name, version in locked().items():
        assert version.local is None, f"{name}=={version}: drop the +{version.local}"
    assert canonicalize_name(PROJECT["name"]) not in locked()
    assert not INSTALLERS & set(locked())


def test_what_is_installed_is_what_is_locked() -> None:
    different = {}
    for name, version in locked().items():
        try:
            installed = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
        if Version(installed.public) != version:
            different[name] = f"{installed} installed, {version} locked"
    assert different == {}, "run `make setup`, or `make lock` if the new versions are meant"


def test_the_conda_environment_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"][0] == "conda-forge"
    *conda, last = environment["dependencies"]
    python = next(entry for entry in conda if entry.startswith("python="))
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])
    # Everything else comes from the same lock as in .venv; the pip section stands last.
    assert set(conda) == {python, "pip"}
    assert last == {"pip": ["-r requirements.lock", "-e ."]}


def test_the_makefile_accepts_the_pythons_that_pyproject_accepts() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"\((\d), (\d+)\) <= sys.version_info\[:2\] < \((\d), (\d+)\)", makefile)
    assert found is not None
    low, low_minor, high, high_minor = found.groups()
    assert PROJECT["requires-python"] == f">={low}.{low_minor},<{high}.{high_minor}"


def test_one_version_everywhere() -> None:
    version = workbench.__version__
    assert metadata.version(PROJECT["name"]) == version
    assert citation()["version"] == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    assert released[0] == version


def citation() -> dict[str, object]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_names_the_software_and_the_paper() -> None:
    found = citation()
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["type"] == "software"
    assert found["license"] == PROJECT["license"] == "MIT"
    (paper,) = found["references"]
    assert "Toward Stable Value Alignment" in paper["title"]
    assert paper["url"].endswith("2605.11712")


def test_the_command_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="workbench")
    assert script.value == PROJECT["scripts"]["workbench"]
    assert callable(script.load())


def test_licence_text() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_ci_is_make_check() -> None:
    ci = ROOT / ".ci" / "run"
    lines = ci.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make check"
    assert ci.stat().st_mode & 0o111, ".ci/run is not executable"
    subprocess.run(["bash", "-n", str(ci)], check=True)
