"""Tables of probe records: nothing rounded away in files, nothing invented where nothing stands."""

import io
import math
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from probes.records import Record, frame_records, records_frame
from workbench.export.probe_tables import (
    headline,
    narrow_table,
    readable_table,
    records_csv,
    records_latex,
    summary_rows,
)
from workbench.export.summaries import summary_rows as read_summary

INDEX = Record(
    probe="instability", backbone="testbed-llama", metric="instability_index",
    estimate=0.123456789, low=0.05, high=0.2, n=40, seed=3, contrast="prompt", site="prompt_last",
    layer=4, estimator="mean_difference", ci_method="clustered bootstrap",
)  # fmt: skip
MISSING = Record(
    probe="instability", backbone="testbed-llama", metric="instability_index", estimate=math.nan,
    n=40, seed=3, contrast="prompt", site="z:workbench", estimator="mean_difference",
    note="too unreliable",
)  # fmt: skip
PART = Record(
    probe="instability", backbone="testbed-llama", metric="cosine", estimate=0.5, n=40,
    context_a="direct", context_b="role_play",
)  # fmt: skip


def test_the_readable_table_leaves_out_what_nobody_filled() -> None:
    table = readable_table([INDEX, MISSING])
    assert list(table["estimate [95% interval]"]) == ["0.123 [0.050, 0.200]", "–"]
    assert list(table["layer"]) == ["block 4", ""]
    assert list(table["note"]) == ["", "too unreliable"]
    assert not {"head", "context", "x", "p", "ceiling", "guidance"} & set(table.columns)
    assert list(readable_table([PART])["other context"]) == ["role play"]
    assert readable_table([]).empty


def test_the_narrow_table_says_once_what_all_rows_share() -> None:
    table, said = narrow_table([INDEX, MISSING])
    assert list(table.columns) == [
        "site", "layer", "estimate [95% interval]", "note",
    ]  # fmt: skip
    assert said == (
        "Of all rows: metric instability index; estimator difference of means; backbone "
        "testbed-llama; contrast harmful vs. harmless prompts; "
        "n = 40; seed 3; "
        "intervals by clustered bootstrap."
    )
    table, said = narrow_table([INDEX, PART])
    assert list(table["contrast"]) == ["harmful vs. harmless prompts", ""]
    assert "seed" not in said
    assert list(narrow_table([INDEX])[0]["seed"]) == ["3"]
    assert narrow_table([])[1] == ""


def test_csv_keeps_every_digit_and_comes_back() -> None:
    frame = pd.read_csv(io.StringIO(records_csv([INDEX, MISSING])), keep_default_na=True)
    assert frame["estimate"].iloc[0] == 0.123456789
    assert math.isnan(frame["estimate"].iloc[1])
    again = frame_records(records_frame([INDEX, PART]))
    assert [repr(record) for record in again] == [repr(INDEX), repr(PART)]  # NaN equals nothing


def test_the_summary_holds_the_headline_and_is_read_by_the_results_page() -> None:
    assert headline([INDEX, PART, MISSING]) == [INDEX, MISSING]
    first, second = read_summary(summary_rows([INDEX, PART, MISSING]))
    assert (first.metric, first.estimate, first.low, first.n, first.seed) == (
        "instability_index", 0.123456789, 0.05, 40, 3,
    )  # fmt: skip
    assert first.split == "prompt, prompt_last, block 4"
    assert first.frame == "all"
    assert first.config == "mean_difference"
    assert math.isnan(second.estimate)


def test_latex_says_n_seed_and_method() -> None:
    latex = records_latex([INDEX, MISSING], caption="How unstable.", label="index")
    assert "How unstable. Intervals: clustered bootstrap; n = 40 groups; seed 3." in latex
    assert r"{residual, last prompt token}" in latex
    assert r"\begin{tabular}{llllllr}" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    body = records_latex([INDEX, MISSING, PART], caption="Δ, −, %", label="all")
    before = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}"
    text = f"{before}{body}\\end{{document}}"
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
