"""The documentation builds without a broken link and says what the code says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
import yaml
from scripts import load_script

from workbench.cli._reference import command_reference
from workbench.cli.main import GlobalOptions, build_app, command_modules

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
# Read where they lie, not in the site: their links must lead to files of the repository.
OUTSIDE = sorted([*ROOT.glob("*.md"), *ROOT.glob("notebooks/*.ipynb")])


def markdown_of(path: Path) -> str:
    """The text of a page; of a notebook, its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [unquote(link) for link in LINK.findall(markdown_of(page))]
    local = [link for link in links if not re.match(r"https?:|mailto:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_check_of_links_finds_a_broken_one() -> None:
    assert LINK.findall("[a](docs/nowhere.md#part) ![b](x.png)") == ["docs/nowhere.md", "x.png"]


def test_the_command_reference_is_what_the_commands_say() -> None:
    committed = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert committed == command_reference(), "run `make docs` and commit docs/cli.md"
    for command in build_app(GlobalOptions()).registered_commands:
        assert f"## `workbench {command.name}`" in committed
    assert len(command_modules()) <= committed.count("\n## `workbench ")


def hooks() -> ModuleType:
    return load_script("docs/_build/hooks.py")


def test_the_api_pages_name_every_public_module() -> None:
    found = hooks()
    named = {name for room in found.ROOMS for name in found.modules_of(room)}
    assert {"workbench.runs", "workbench.svgt.slots", "probes.instability.running"} <= named
    shown = {name.split(".")[1] for name in named if name.startswith("workbench.")}
    rooms = {path.parent.name for path in (ROOT / "workbench").glob("*/__init__.py")}
    assert rooms - shown == {"cli", "pages"}  # commands have their own page, pages are looked at


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """`strict` turns a link to nowhere, or a page that no menu names, into an error."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "LatentBridge" in (tmp_path / "site" / "api" / "svgt.html").read_text("utf-8")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["strict"] is True
