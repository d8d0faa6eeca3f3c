"""An export as a whole: files, round trips, hashes, equal bytes, compiled LaTeX, clear refusals."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.export.conftest import MakeRun, evaluation_rows, instability_records
from workbench.cli.main import run as run_command
from workbench.errors import ConfigError, ExportError
from workbench.export.bundling import FORMATS, export_runs
from workbench.export.citation import PAPER_ARXIV, PAPER_TITLE, SOFTWARE_TITLE, bibtex
from workbench.export.column_meanings import UNKNOWN, meaning_of
from workbench.export.probe_runs import run_kind
from workbench.export.run_contents import distinct_names
from workbench.files import read_parquet
from workbench.runs import RunFolder

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("tectonic", "pdflatex", "lualatex")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_records_come_back_equal(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(run_kind("instability"))
    export_runs([run], ["csv", "parquet", "json"], tmp_path / "out")
    records = tmp_path / "out" / "run" / "records"
    original = read_parquet(run / "records.parquet")
    pd.testing.assert_frame_equal(read_parquet(records / "records.parquet"), original)
    csv = pd.read_csv(records / "records.csv")
    rows = json.loads((records / "records.json").read_text())
    assert len(csv) == len(rows) == len(instability_records())
    for column in ("estimate", "low", "high", "p_value"):
        assert csv[column].equals(original[column])
        from_json = pd.Series([row[column] for row in rows], dtype="float64", name=column)
        assert from_json.equals(original[column])
    assert [row["metric"] for row in rows] == original["metric"].tolist()
    assert (rows[-1]["layer"], rows[-1]["head"]) == (2, None)
    columns = json.loads((records / "columns.json").read_text())["records"]
    assert columns["estimate"]["type"] == "number"
    assert columns["layer"] == {
        "type": "integer", "meaning": "block, counted from 0; -1: the embeddings; empty: no layer",
    }  # fmt: skip


def test_a_bundle_holds_everything_and_its_hashes_are_true(
    make_run: MakeRun, tmp_path: Path
) -> None:
    runs = [make_run("evaluate", "first"), make_run("benchmark", "second")]
    files = export_runs(runs, ["bundle"], tmp_path / "out")
    assert [file.name for file in files] == ["README.md", "SHA256SUMS", "bundle.zip"]
    with zipfile.ZipFile(tmp_path / "out" / "bundle.zip") as archive:
        inside = {name.removeprefix("export/"): archive.read(name) for name in archive.namelist()}
    for line in inside["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(inside[name]).hexdigest() == digest
    assert len(inside["SHA256SUMS"].splitlines()) == len(inside) - 1
    for name in (
        "README.md", "paper.tex", "references.bib", "environment.json", "requirements.txt",
        "first/run.json", "first/records/summary.csv", "first/records/columns.json",
        "first/tables/harm-rate.tex", "first/figures/harm-rate-by-split.pdf",
        "second/figures/pareto.svg", "second/figures/harm-rates.png", "second/figures.html",
    ):  # fmt: skip
        assert name in inside, name
    environment = json.loads(inside["environment.json"])
    assert set(environment) >= {"packages", "python", "platform", "git"}
    assert b"matplotlib==" in inside["requirements.txt"]
    assert b"workbench export --run" in inside["README.md"]
    outer = (tmp_path / "out" / "SHA256SUMS").read_text()
    digest = hashlib.sha256((tmp_path / "out" / "bundle.zip").read_bytes()).hexdigest()
    assert f"{digest}  bundle.zip\n" in outer


def test_each_readme_lists_the_files_beside_it(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("evaluate"), tmp_path / "out"
    export_runs([run], ["csv", "latex", "pdf", "svg", "bundle"], out)
    outer = (out / "README.md").read_text()
    with zipfile.ZipFile(out / "bundle.zip") as archive:
        inner = archive.read("export/README.md").decode()
    only_inside = (
        "RUN/figures.html", "RUN/run.json", "environment.json", "requirements.txt",
        "RUN/figures/*.png",
    )  # fmt: skip
    for name in only_inside:
        assert f"- `{name}`" not in outer
        assert f"- `{name}`" in inner
    for name in ("RUN/records/", "RUN/figures/*.pdf", "RUN/figures/*.svg", "paper.tex"):
        assert f"- `{name}`" in outer
        assert f"- `{name}`" in inner
    assert "- `bundle.zip`" in outer
    assert "- `bundle.zip`" not in inner


def test_a_committed_copy_says_how_it_was_measured(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("benchmark", "board"), tmp_path / "out"
    record = json.loads((run / "run.json").read_text())
    copying = {"git": {"revision": "copied-0", "dirty": True}}
    record["provenance"] |= {"argv": ["benchmarks/leaderboard.py", "report"], **copying}
    (run / "run.json").write_text(json.dumps(record))
    export_runs([run], ["csv"], out)
    text = (out / "README.md").read_text()
    assert "`copied-0`, with uncommitted changes (of the copying)" in text
    assert "# board is a committed copy" in text
    assert "\npython benchmarks/leaderboard.py tune --backbones tiny\n" in text
    assert "\npython benchmarks/leaderboard.py run --backbones tiny\n" in text
    assert "\npython benchmarks/leaderboard.py report\n" in text

    measured = {
        "git": {"revision": "m1", "dirty": False}, "time": "2026-01-02T03:04:05+00:00",
        "device": {"name": "cpu", "hardware": "Abacus 3"}, "platform": "Linux-6",
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps({"rows": [], "measured": measured}))
    export_runs([run], ["csv"], out, overwrite=True)
    text = (out / "README.md").read_text()
    assert "| finished | `m1` |" in text
    assert "copied-0" not in text
    assert "board was measured at 2026-01-02T03:04:05+00:00 on cpu (Abacus 3), Linux-6." in text


def test_two_exports_are_equal_byte_for_byte(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("evaluate")
    for name in ("a", "b"):
        export_runs([run], FORMATS, tmp_path / name)
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.skipif(
    not any(map(shutil.which, ENGINES)), reason=f"no TeX here ({', '.join(ENGINES)})"
)
def test_the_document_compiles(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(kind, kind) for kind in ("evaluate", "benchmark", run_kind("instability"))]
    out = tmp_path / "out"
    export_runs(runs, ["latex", "pdf"], out)
    engine = next(name for name in ENGINES if shutil.which(name))
    options = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    subprocess.run([engine, *options, "paper.tex"], cwd=out, check=True, capture_output=True)
    assert (out / "paper.pdf").stat().st_size > 20_000
    if shutil.which("pdftotext"):
        command = ["pdftotext", "paper.pdf", "-"]
        text = subprocess.run(command, cwd=out, check=True, capture_output=True).stdout
        assert text.index(b"evaluate (evaluate)") < text.index(b"Table 1")


def test_refusals_say_what_to_do(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("evaluate"), tmp_path / "out"
    for runs, formats, message in (
        ([run], ["pfd"], "unknown format 'pfd': did you mean pdf"),
        ([run], [], "name at least one format: csv, parquet, json, latex"),
        ([], ["csv"], "at least one run"),
        ([run, run], ["csv"], "is named twice"),
    ):
        with pytest.raises(ExportError, match=message):
            export_runs(runs, formats, out)
    assert run_command(["export", "--run", str(tmp_path / "no"), "--out", str(out)]) == 2
    assert run_command(["export", "--run", str(run), "--out", str(out), "--width", "5"]) == 2
    assert not out.exists()
    strange = tmp_path / "strange"
    with RunFolder.create(strange, kind="juggle", config={}, seed=0):
        pass
    with pytest.raises(ExportError, match=r"kind 'juggle'.*nearest: judge.*evaluate, benchmark"):
        export_runs([strange], ["csv"], out)
    empty = tmp_path / "empty"
    with RunFolder.create(empty, kind="judge", config={}, seed=0):
        pass
    with pytest.raises(ExportError, match="holds no records"):
        export_runs([empty], ["csv"], out)


def test_nothing_is_overwritten_unless_asked(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("evaluate"), tmp_path / "out"
    export_runs([run], ["csv"], out)
    before = tree(out)
    with pytest.raises(ExportError, match="--overwrite"):
        export_runs([run], ["json"], out)
    assert tree(out) == before
    export_runs([run], ["json"], out, overwrite=True)
    assert not list(out.rglob("*.csv"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="never touched"):
        export_runs([run], ["csv"], mine, overwrite=True)
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".writing-")]


def test_an_unfinished_run_is_refused_or_marked(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("evaluate", finished=False)
    with pytest.raises(ExportError, match=r"not finished.*--resume.*--partial"):
        export_runs([run], ["latex"], tmp_path / "out")
    export_runs([run], ["latex", "html"], tmp_path / "out", partial=True)
    table = (tmp_path / "out" / "run" / "tables" / "harm-rate.tex").read_text()
    assert r"\caption{UNFINISHED RUN: what is missing may change these numbers." in table
    assert "UNFINISHED RUN" in (tmp_path / "out" / "run" / "figures.html").read_text()
    assert "| running |" in (tmp_path / "out" / "README.md").read_text()


def test_runs_of_one_name_get_their_parents_names_too() -> None:
    paths = [Path("/r/llama/anchoring"), Path("/r/gpt2/anchoring"), Path("/r/gpt2/x")]
    assert distinct_names(paths) == ["llama-anchoring", "gpt2-anchoring", "gpt2-x"]
    assert distinct_names(paths[1:]) == ["anchoring", "x"]


def test_every_column_of_the_shipped_records_has_a_meaning() -> None:
    files = [*(ROOT / "docs" / "results").rglob("*.parquet")]
    assert files
    columns = {(f.stem, str(c)) for f in files for c in pd.read_parquet(f).columns}
    columns |= {("summary", key) for row in evaluation_rows() for key in row}
    unknown = [name for name in sorted(columns) if meaning_of("", *name) == UNKNOWN]
    assert unknown == []


def test_a_column_without_a_meaning_is_told_so() -> None:
    assert meaning_of("evaluate", "summary", "estimate") == "its estimate; empty: not measured"
    assert meaning_of("fit", "tuning", "estimate").startswith("change against no guidance")
    assert meaning_of("evaluate", "summary", "zeal") == UNKNOWN


def test_the_citation_is_that_of_the_project() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    [paper] = cff["references"]
    assert paper["title"] == PAPER_TITLE
    assert PAPER_ARXIV in paper["url"]
    assert cff["title"] == SOFTWARE_TITLE
    assert "revision abc" in bibtex("1.0", "abc")


def test_a_single_format_as_a_text_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"formats.*'latex'"):
        export_runs([tmp_path], "latex", tmp_path / "out")
