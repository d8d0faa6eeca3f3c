"""The README of an export: what every file is, and the commands that make it again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from workbench.export.run_contents import RunContents
from workbench.export.surroundings import software_version
from workbench.runs import RUN_FILE

README_FILE = "README.md"
_FILES: tuple[tuple[str, str], ...] = (
    ("RUN/records/", "every measured number, unrounded, a row each; `columns.json` says what the "
     "columns mean"),
    ("RUN/tables/", "one LaTeX table a file; `\\input` it, with the package booktabs"),
    ("RUN/figures/*.pdf", "printed figures, with embedded TrueType fonts"),
    ("RUN/figures/*.svg", "printed figures, with letters as outlines"),
    ("RUN/figures/*.png", "printed figures, at 300 dots an inch"),
    ("RUN/figures.html", "all figures of a run, interactive; needs no network"),
    ("paper.tex", "all tables, and the figures where they were written as PDF: "
     "`pdflatex paper && bibtex paper && pdflatex paper && pdflatex paper`"),
    ("references.bib", "the paper and the software, to be cited"),
    ("RUN/run.json", "configuration, seed, versions, revision, and hashes of the run"),
    ("environment.json", "versions, platform and git revision of the export"),
    ("requirements.txt", "every installed package: `pip install -r requirements.txt`"),
    ("bundle.zip", "everything in all formats, with the `run.json` of every run, "
     "`environment.json`, `requirements.txt`, and a README of its own"),
)  # fmt: skip
_SUMS = "- `SHA256SUMS`: hashes of all files: `sha256sum -c SHA256SUMS`"
_MEASURING: dict[str, tuple[str, ...]] = {
    "leaderboard.py": ("tune --backbones BACKBONE", "run --backbones BACKBONE", "report"),
    "ablations.py": ("run --backbone BACKBONE", "report"),
    "embedded.py": ("train --backbone BACKBONE", "evaluate --backbone BACKBONE", "report"),
}
"""Scripts of ``benchmarks/`` whose ``report`` commits a copy of a run, and how each measures."""


@dataclass(frozen=True)
class Request:
    """How an export was asked for.

    Attributes:
        formats: What was to be written.
        width: Of printed figures.
        partial: Whether unfinished runs were taken.
    """

    formats: tuple[str, ...]
    width: Literal["auto", "single", "double"]
    partial: bool


def readme(runs: Sequence[RunContents], request: Request, folder: Path) -> str:
    """The text of the README of an export that stands in a folder, all but its hashes written."""
    version, revision = software_version()
    return "\n".join(
        [
            "# Exported runs",
            "",
            f"Written by SVGT Workbench {version}"
            + (f", revision `{revision}`." if revision else "."),
            "",
            "| run | kind | seed | status | revision |",
            "|---|---|---|---|---|",
            *(_run_line(run) for run in runs),
            "",
            *(line for run in runs if run.measured for line in (_circumstances(run), "")),
            "## Files",
            "",
            *(
                f"- `{name}`: {text}"
                for name, text in _FILES
                if any(folder.glob(name.replace("RUN", "*")))
            ),
            _SUMS,
            "",
            "## Make it again",
            "",
            "From a checkout of the workbench, each run at the revision of its line above:",
            "",
            "```",
            *(line for run in runs for line in _commands(run)),
            "```",
            "",
            "Then, with the runs where they were:",
            "",
            "```",
            _export_command(runs, request),
            "```",
            "",
        ]
    )


def _run_line(run: RunContents) -> str:
    record = run.record
    return f"| {run.name} | {record.kind} | {record.seed} | {record.status} | {_revision(run)} |"


def _revision(run: RunContents) -> str:
    git = (run.measured or run.record.provenance).get("git")
    if not isinstance(git, Mapping):
        return "unknown"
    changed = ", with uncommitted changes" if git.get("dirty") else ""
    copying = " (of the copying)" if _copied_by(run) and not run.measured else ""
    return f"`{git.get('revision')}`{changed}{copying}"


def _circumstances(run: RunContents) -> str:
    """When and on what a copied run was measured."""
    device = run.measured.get("device")
    about = device if isinstance(device, Mapping) else {}
    machine = f"{about.get('name', 'an unknown device')} ({about.get('hardware', 'unknown')})"
    when, platform = (run.measured.get(key) or "unknown" for key in ("time", "platform"))
    return f"{run.name} was measured at {when} on {machine}, {platform}."


def _argv(run: RunContents) -> list[str]:
    argv = run.record.provenance.get("argv")
    return [str(part) for part in argv] if isinstance(argv, list | tuple) else []


def _copied_by(run: RunContents) -> str | None:
    """The script of ``benchmarks/`` whose ``report`` made the folder from a run elsewhere."""
    first, *rest = _argv(run) or [""]
    script = PurePath(first).name
    return script if rest[:1] == ["report"] and script in _MEASURING else None


def _commands(run: RunContents) -> list[str]:
    """What makes a run again; a copy's own command would only copy."""
    script = _copied_by(run)
    if script is not None:
        backbone = shlex.quote(str(run.record.config.get("backbone")))
        steps = [step.replace("BACKBONE", backbone) for step in _MEASURING[script]]
        return [
            f"# {run.name} is a committed copy; to measure again, seeds and prompts as in its "
            f"{RUN_FILE}:",
            *(f"python benchmarks/{script} {step}" for step in steps),
        ]
    if not _argv(run):
        return [f"# {run.name}: its command was not recorded"]
    first, *rest = _argv(run)
    name = PurePath(first).name
    program = ["python", first] if name.endswith(".py") else [name]
    return [shlex.join([*program, *rest])]


def _export_command(runs: Sequence[RunContents], request: Request) -> str:
    parts = ["workbench", "export"]
    for run in runs:
        parts += ["--run", str(run.path)]
    parts += ["--format", ",".join(request.formats), "--out", "OUT"]
    parts += [] if request.width == "auto" else ["--width", request.width]
    return shlex.join([*parts, *(["--partial"] if request.partial else [])])
