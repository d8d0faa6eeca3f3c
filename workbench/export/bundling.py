"""Runs as files for a paper: records, tables, figures, and one bundle with everything in it.

    OUT/
      README.md                what every file is, and the commands that make it again
      SHA256SUMS               of every file; check with `sha256sum -c SHA256SUMS`
      paper.tex, references.bib   all tables and figures in one document (latex)
      RUN/records/             the run's tables as CSV, Parquet, JSON; columns.json: what they mean
      RUN/tables/              one LaTeX table a file, for booktabs (latex)
      RUN/figures/             vector PDF and SVG, PNG at 300 dots an inch
      RUN/figures.html         all figures, interactive
      bundle.zip               all of the above in all formats, with configs and environment

The folder appears whole or not at all, and the same runs give the same bytes every time.
"""

import difflib
import hashlib
import os
import secrets
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from workbench.arguments import typed_arguments
from workbench.errors import ExportError, RunError
from workbench.export.citation import bibtex
from workbench.export.exhibits.exhibit import PaperFigure
from workbench.export.latex_document import MAIN_FILE, document
from workbench.export.paper_tables import table_latex
from workbench.export.printing import (
    DOUBLE,
    PRINT_FORMATS,
    SINGLE,
    fitting_width,
    print_figure,
    write_print,
)
from workbench.export.readme import README_FILE, Request, readme
from workbench.export.record_files import (
    COLUMNS_FILE,
    RECORD_FORMATS,
    write_columns,
    write_records,
)
from workbench.export.run_contents import RunContents, read_runs
from workbench.export.surroundings import environment, installed_packages, software_version
from workbench.export.web_page import figures_page
from workbench.files import atomic_path, write_json
from workbench.runs import RUN_FILE

LATEX = "latex"
HTML = "html"
BUNDLE = "bundle"
FORMATS: tuple[str, ...] = (*RECORD_FORMATS, LATEX, *PRINT_FORMATS, HTML, BUNDLE)
"""What :func:`export_runs` can write."""

Width = Literal["auto", "single", "double"]
WIDTHS: dict[Width, float | None] = {"auto": None, "single": SINGLE, "double": DOUBLE}
"""Of printed figures in inches: one column, both columns, or for each what it needs."""

SUMS_FILE = "SHA256SUMS"
BUNDLE_FILE = "bundle.zip"
_BIBLIOGRAPHY = "references.bib"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o644 << 16


@typed_arguments
def export_runs(
    runs: Sequence[Path],
    formats: Sequence[str],
    out: Path,
    *,
    width: Width = "auto",
    partial: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Write records, tables and figures of runs into a folder.

    Args:
        runs: Run folders of any kind.
        formats: Some of ``FORMATS``; ``bundle`` holds all of them.
        out: A new or empty folder.
        width: Of printed figures: a column, both columns, or for each what it needs.
        partial: Take unfinished runs too; every caption of theirs says so.
        overwrite: Replace an earlier export in ``out``. Anything else there is never touched.

    Returns:
        The files, sorted.

    Raises:
        ConfigError: An argument of another type, a single format as a text, for example.
        ExportError: An unknown format, or see :func:`workbench.export.run_contents.read_runs`; or
            ``out`` is taken.
        RunError: A run cannot be read, or a file cannot be written.
    """
    wanted = check_formats(formats)
    width = as_width(width)
    out = out.expanduser().resolve()
    check_target(out, overwrite=overwrite)
    contents = read_runs(runs, partial=partial)
    stage = out.with_name(f".writing-{secrets.token_hex(4)}-{out.name}")
    request = Request(tuple(wanted), width, partial)
    try:
        stage.mkdir(parents=True)
        _write_all(contents, request, stage / "whole", wanted)
        _put_in_place(stage / "whole", out)
    except OSError as error:
        raise RunError(f"cannot write {out} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return sorted(path for path in out.rglob("*") if path.is_file())


def as_width(name: str) -> Width:
    """The width of this name.

    Raises:
        ExportError: There is none.
    """
    for width in WIDTHS:
        if width == name:
            return width
    raise ExportError(f"unknown width '{name}'; there are {', '.join(WIDTHS)}")


def check_formats(formats: Sequence[str]) -> list[str]:
    """The formats, each once, in the order of ``FORMATS``.

    Raises:
        ExportError: None, or an unknown one.
    """
    for name in formats:
        if name not in FORMATS:
            close = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ExportError(f"unknown format '{name}': {hint}there are {', '.join(FORMATS)}")
    if not formats:
        raise ExportError(f"name at least one format: {', '.join(FORMATS)}")
    return [name for name in FORMATS if name in formats]


def check_target(out: Path, *, overwrite: bool) -> None:
    """Make sure that an export may be written here.

    Raises:
        ExportError: There is a file; or a folder that holds something else than an export; or an
            export, without ``overwrite``.
    """
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; name a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / SUMS_FILE).is_file():
        raise ExportError(
            f"{out} holds something else than an export, which is never touched; name a new folder"
        )
    if not overwrite:
        raise ExportError(
            f"{out} holds an export already: replace it with --overwrite, or name a new folder"
        )


def _write_all(
    runs: Sequence[RunContents], request: Request, target: Path, wanted: Sequence[str]
) -> None:
    if BUNDLE in wanted:
        whole = target.with_name("bundle")
        everything = [name for name in FORMATS if name != BUNDLE]
        write_tree(runs, request, whole, everything, provenance=True)
        target.mkdir()
        _zip(whole, target / BUNDLE_FILE)
    write_tree(runs, request, target, [name for name in wanted if name != BUNDLE])


def write_tree(
    runs: Sequence[RunContents],
    request: Request,
    target: Path,
    formats: Sequence[str],
    *,
    provenance: bool = False,
) -> None:
    """Write all files of an export but its bundle.

    Args:
        runs: What is exported.
        request: How, for the README.
        target: The folder.
        formats: Which files.
        provenance: With configs, environment and citation, as a bundle has them.

    Raises:
        RunError: A file cannot be written.
    """
    widths: dict[tuple[str, str], float] = {}
    for run in runs:
        folder = target / run.name
        _write_run_records(run, folder, formats)
        for figure in run.exhibits.figures:
            inches = _write_figure(figure, folder / "figures", formats, request.width)
            if "pdf" in formats:
                widths[run.name, figure.name] = inches
        if LATEX in formats:
            for table in run.exhibits.tables:
                _text(folder / "tables" / f"{table.name}.tex", table_latex(table))
        if HTML in formats and run.exhibits.figures:
            _text(folder / "figures.html", figures_page(run))
        if provenance:
            shutil.copyfile(run.path.expanduser() / RUN_FILE, folder / RUN_FILE)
    if LATEX in formats:
        _text(target / MAIN_FILE, document(runs, widths))
    if LATEX in formats or provenance:
        _text(target / _BIBLIOGRAPHY, bibtex(*software_version()))
    if provenance:
        write_json(target / "environment.json", environment())
        _text(target / "requirements.txt", "".join(f"{pin}\n" for pin in installed_packages()))
    _text(target / README_FILE, readme(runs, request, target))
    _text(target / SUMS_FILE, _sums(target))


def _write_run_records(run: RunContents, folder: Path, formats: Sequence[str]) -> None:
    chosen = [name for name in RECORD_FORMATS if name in formats]
    for name, frame in run.records.items():
        for suffix in chosen:
            write_records(frame, folder / "records" / f"{name}.{suffix}")
    if chosen and run.records:
        write_columns(run.record.kind, run.records, folder / "records" / COLUMNS_FILE)


def _write_figure(figure: PaperFigure, folder: Path, formats: Sequence[str], width: Width) -> float:
    inches = WIDTHS[width] or fitting_width(figure.figure)
    chosen = [name for name in PRINT_FORMATS if name in formats]
    if chosen:
        drawn = print_figure(figure.figure, inches)
        for suffix in chosen:
            write_print(drawn, folder / f"{figure.name}.{suffix}")
    return inches


def _text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sums(folder: Path) -> str:
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in _files(folder)
        if path.name != SUMS_FILE
    )


def _zip(folder: Path, target: Path) -> None:
    """All files in one archive: sorted, without times, so that equal files give equal bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in _files(folder):
            name = f"export/{path.relative_to(folder).as_posix()}"
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whatever wrote it
            entry.external_attr = _READABLE
            archive.writestr(entry, path.read_bytes())


def _put_in_place(whole: Path, out: Path) -> None:
    """Move the finished folder to its name; an earlier export leaves when the new one is there."""
    earlier = whole.with_name("earlier")
    if out.exists():
        os.replace(out, earlier)
    try:
        os.replace(whole, out)
    except OSError:
        with suppress(OSError):
            os.replace(earlier, out)
        raise
