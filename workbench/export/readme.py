"""The README of an export: what every file is, and the commands that make it again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from workbench.export.run_contents import RunContents
from workbench.export.surroundings import software_version

README_FILE = "README.md"
_FILES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("RUN/records/", ("csv", "parquet", "json"), "every measured number, unrounded, a row each; "
     "`columns.json` says what the columns mean"),
    ("RUN/tables/", ("latex",), "one LaTeX table a file; `\\input` it, with the package booktabs"),
    ("RUN/figures/", ("pdf", "svg", "png"), "printed figures: PDF with embedded TrueType fonts, "
     "SVG with letters as outlines, PNG at 300 dots an inch"),
    ("RUN/figures.html", ("html",), "all figures of a run, interactive; needs no network"),
    ("paper.tex", ("latex",), "all tables, and the figures where they were written as PDF: "
     "`pdflatex paper && bibtex paper && pdflatex paper && pdflatex paper`"),
    ("references.bib", ("latex", "bundle"), "the paper and the software, to be cited"),
    ("RUN/run.json", ("bundle",), "configuration, seed, versions, revision, and hashes of the run"),
    ("environment.json", ("bundle",), "versions, platform and git revision of the export"),
    ("requirements.txt", ("bundle",), "every installed package: `pip install -r requirements.txt`"),
    ("bundle.zip", ("bundle",), "everything in all formats, with configuration and environment"),
    ("SHA256SUMS", (), "hashes of all files: `sha256sum -c SHA256SUMS`"),
)  # fmt: skip


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


def readme(runs: Sequence[RunContents], request: Request) -> str:
    """The text of the README."""
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
            "## Files",
            "",
            *(
                f"- `{name}`: {text}"
                for name, formats, text in _FILES
                if _is_there(formats, request)
            ),
            "",
            "## Make it again",
            "",
            "From a checkout of the workbench, each run at the revision of its line above:",
            "",
            "```",
            *(_command(run) for run in runs),
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


def _is_there(formats: Sequence[str], request: Request) -> bool:
    """A bundle holds every format, and its README is the same as the one beside it."""
    return not formats or "bundle" in request.formats or bool({*formats} & {*request.formats})


def _run_line(run: RunContents) -> str:
    record = run.record
    return f"| {run.name} | {record.kind} | {record.seed} | {record.status} | {_revision(run)} |"


def _revision(run: RunContents) -> str:
    git = run.record.provenance.get("git")
    if not isinstance(git, Mapping):
        return "unknown"
    changed = ", with uncommitted changes" if git.get("dirty") else ""
    return f"`{git.get('revision')}`{changed}"


def _command(run: RunContents) -> str:
    argv = run.record.provenance.get("argv")
    if not isinstance(argv, list | tuple) or not argv:
        return f"# {run.name}: its command was not recorded"
    first, *rest = (str(part) for part in argv)
    name = PurePath(first).name
    program = ["python", first] if name.endswith(".py") else [name]
    return shlex.join([*program, *rest])


def _export_command(runs: Sequence[RunContents], request: Request) -> str:
    parts = ["workbench", "export"]
    for run in runs:
        parts += ["--run", str(run.path)]
    parts += ["--format", ",".join(request.formats), "--out", "OUT"]
    parts += [] if request.width == "auto" else ["--width", request.width]
    return shlex.join([*parts, *(["--partial"] if request.partial else [])])
