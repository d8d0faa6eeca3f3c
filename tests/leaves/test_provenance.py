"""Provenance says what is true, or nothing."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from workbench import provenance as module
from workbench.provenance import provenance


def test_provenance_names_versions_and_fits_into_json() -> None:
    found = provenance()
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(found)) == found


def test_provenance_ignores_a_repository_around_an_installed_copy(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "a").write_text("")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    state = module._git_state(tmp_path.resolve())
    assert state is not None
    assert len(str(state["revision"])) == 40
    assert state["dirty"] is False
    (tmp_path / "b").write_text("")
    assert module._git_state(tmp_path.resolve()) == {**state, "dirty": True}
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert module._git_state(inside.resolve()) is None
