"""The work behind ``workbench judge``: judges one after the other, records, and tables."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import typer
from rich.table import Table

from workbench.cli._console import output, progress_bar
from workbench.cli._layout import new_table, print_table
from workbench.data.example import Example
from workbench.data.loading import load_examples
from workbench.errors import ConfigError, DataError
from workbench.evaluation.agreement import (
    PROPERTIES,
    Scores,
    agreement_rows,
    people_rows,
    rate_rows,
)
from workbench.evaluation.judges import Judgement, judge_named, tell_unscored
from workbench.evaluation.judges.language_models import BATCH_SIZE
from workbench.evaluation.judges.registry import check_judge_name
from workbench.quiet import quiet_libraries
from workbench.runs import METRICS_FILE, RunFolder

_SMALLEST_CHUNK = 64
_MOST_CHUNKS = 50
_DASH = "–"
_WORDS = {
    "judge": "judge", "against": "against", "property": "property", "partial": "partial\nrefusals",
}  # fmt: skip
_METRICS = (*PROPERTIES, "score")
_TABLES = {
    "rate": "Share of yes, %",
    "kappa": "Agreement beyond chance, Cohen's kappa",
    "agreement": "Equal answers, %",
    "accuracy": "Against people: equal answers, %",
    "precision": "Against people: confirmed yes, %",
    "recall": "Against people: found yes, %",
}


def split_judges(text: str) -> list[str]:
    """The judges of a comma-separated list, checked before anything is read or loaded.

    Raises:
        ConfigError: None is named, one is unknown, or one is named twice.
    """
    specs = [name.strip() for name in text.split(",") if name.strip()]
    if not specs:
        raise ConfigError("--judges names no judge")
    for spec in specs:
        check_judge_name(spec)
    if len(set(specs)) < len(specs):
        raise ConfigError(f"a judge is named twice in '{text}'")
    return specs


def read_replies(file: str, limit: int | None) -> list[Example]:
    """The examples of a file or source; those without a reply stay, to be counted as unscored.

    Raises:
        DataError: It cannot be read, or holds no replies.
    """
    chosen = load_examples(file)[:limit]
    if all(example.response is None for example in chosen):
        raise DataError(f"{file} holds no replies to judge among its {len(chosen)} examples")
    return chosen


def describe(
    file: str, examples: Sequence[Example], specs: Sequence[str], batch_size: int | None
) -> dict[str, object]:
    """What makes two runs the same, replies and judges; beside them, how many at a time."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [[turn.role, turn.content] for turn in example.prompt]
        digest.update(json.dumps([example.id, turns, example.response]).encode("utf-8"))
    return {
        "file": file,
        "examples": len(examples),
        "sha256": digest.hexdigest(),
        "judges": list(specs),
        **({} if batch_size is None else {"batch_size": batch_size}),
    }


def same_replies(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    """Whether two runs ask the same judges about the same replies, however many at a time."""
    kept, wanted = ({k: v for k, v in one.items() if k != "batch_size"} for one in (old, new))
    return kept == wanted


def judge_all(
    examples: Sequence[Example], specs: Sequence[str], run: RunFolder, batch_size: int | None
) -> list[dict[str, object]]:
    """Ask what the run lacks; gives the summary's rows."""
    with progress_bar() as progress:
        task = progress.add_task("judging", total=len(specs) * len(examples))
        for spec in specs:
            progress.update(task, description=spec.partition("@")[0][:40])
            done = _n_recorded(run, spec)
            progress.update(task, advance=done)
            for judged in _ask(spec, examples, run, done, batch_size):
                progress.update(task, advance=judged)
    rows = _summary(examples, _scores(run.read_metrics(), specs), run.record.seed)
    run.write_summary(rows)
    return rows


def _n_recorded(run: RunFolder, spec: str) -> int:
    """How many replies, from the first on, an earlier process has a judge's word for."""
    if not run.file(METRICS_FILE).exists():
        return 0
    records = run.read_metrics()
    return int((records["judge"] == spec).sum()) // len(_METRICS)


def _ask(
    spec: str, examples: Sequence[Example], run: RunFolder, done: int, batch_size: int | None
) -> Iterator[int]:
    """Judge from number ``done`` on, recording chunk by chunk; the judge lives only here."""
    if done == len(examples):
        return
    with quiet_libraries():
        judge = judge_named(spec, batch_size=batch_size or BATCH_SIZE)
    size = max(_SMALLEST_CHUNK, math.ceil(len(examples) / _MOST_CHUNKS))
    for start in range(done, len(examples), size):
        chunk = examples[start : start + size]
        run.append_metrics(_records(spec, chunk, judge.judge(chunk)))
        yield len(chunk)


def print_agreement(
    rows: Sequence[Mapping[str, object]], examples: Sequence[Example], run: RunFolder
) -> None:
    """Print one table a metric, who scored what not and why, and where the rest is."""
    console = output()
    for metric, title in _TABLES.items():
        found = [row for row in rows if row["metric"] == metric]
        if found:
            print_table(console, _table(title, found, 1.0 if metric == "kappa" else 100.0))
    records = run.read_metrics().drop_duplicates(["judge", "example"])
    for judge, judged in records.groupby("judge", sort=False):
        note_unscored(str(judge), judged["reason"])
    n, missing = len(examples), sum(example.response is None for example in examples)
    without = f", {missing} without a reply and so unscored" if missing else ""
    console.print(f"{n} example{'s' * (n != 1)}{without}; every judgement is in {run.path}")


def note_unscored(judge: str, reasons: Iterable[str]) -> None:
    """Say on standard error what a judge left unscored and why, where it did."""
    told = tell_unscored(judge, reasons)
    if told is not None:
        typer.echo(f"note: {told}", err=True)


def _records(
    spec: str, examples: Sequence[Example], judged: Sequence[Judgement]
) -> list[dict[str, object]]:
    return [
        {
            "judge": spec,
            "example": example.id,
            "group": example.group,
            "source": example.source,
            "context": example.context,
            "metric": metric,
            "value": _number(getattr(judgement, metric)),
            "reason": judgement.reason,
        }
        for example, judgement in zip(examples, judged, strict=True)
        for metric in _METRICS
    ]


def _number(value: bool | float | None) -> float:
    return math.nan if value is None else float(value)


def _scores(records: pd.DataFrame, specs: Sequence[str]) -> Scores:
    """The judgements in the order of the examples, which is the order they were written in."""
    return {
        spec: {
            name: records.loc[
                (records["judge"] == spec) & (records["metric"] == name), "value"
            ].to_numpy(dtype=np.float64)
            for name in PROPERTIES
        }
        for spec in specs
    }


def _summary(examples: Sequence[Example], scores: Scores, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    groups = [example.group for example in examples]
    rows = [
        *rate_rows(scores, groups, rng=rng),
        *agreement_rows(scores, groups, rng=rng),
        *people_rows(scores, examples, rng=rng),
    ]
    return [{**row, "seed": seed} for row in rows]


def _table(title: str, rows: Sequence[Mapping[str, object]], factor: float) -> Table:
    table = new_table(title)
    words = {
        key: heading
        for key, heading in _WORDS.items()
        if key == "judge" or any(row[key] for row in rows)
    }
    for heading in words.values():
        table.add_column(heading, max_width=30, overflow="fold")
    for heading in ("estimate", "95% interval", "n", "unscored"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        unscored = str(row["unscored"])
        if row["against"]:
            unscored += f" / {row['unscored_against']}"
        said = [str(row[key]) for key in words]
        table.add_row(*said, *_figures(row, factor), str(row["n"]), unscored)
    return table


def _figures(row: Mapping[str, object], factor: float) -> tuple[str, str]:
    decimals = 1 if factor == 100 else 3
    estimate, low, high = (
        _scaled(row[key], factor, decimals) for key in ("estimate", "low", "high")
    )
    return estimate, "not measured" if low == high == _DASH else f"{low} to {high}"


def _scaled(value: object, factor: float, decimals: int) -> str:
    number = math.nan if value is None else float(str(value))
    return _DASH if math.isnan(number) else f"{factor * number:.{decimals}f}"
