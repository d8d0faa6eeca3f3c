"""A training as others see it while it runs: a log of losses and validations, and what it says.

``progress.jsonl`` in the run folder grows by whole lines, one a few steps. A training that was
resumed repeats the steps since its last saved state; of two lines on the same step the later one
counts. When the training ends, ``metrics.parquet`` says the same and the log is removed.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import pandas as pd

from workbench.errors import RunError
from workbench.files import read_parquet
from workbench.runs import METRICS_FILE
from workbench.svgt.curriculum.loop import OnEvent, TrainingEvent
from workbench.svgt.curriculum.recipe import STAGES

PROGRESS_FILE = "progress.jsonl"
COLUMNS = ("stage", "step", "kind", "metric", "value")
_MOST_LINES = 300
"""Lines of losses a stage, about: more than a figure can show."""
_RECENT = 30


class ProgressLog:
    """Writes the log, event by event.

    Args:
        path: Its file.
        also: Told of every event too.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        also: OnEvent = lambda event: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._also, self._clock = path, also, clock
        self._losses: list[Mapping[str, float]] = []

    def record(self, event: TrainingEvent) -> None:
        """Log an event; losses as means over the steps since the last line.

        Raises:
            RunError: the log cannot be written.
        """
        self._also(event)
        if event.losses:
            self._losses.append(event.losses)
        every = max(1, event.n_steps // _MOST_LINES)
        if event.metrics is None and event.step % every and event.step != event.n_steps:
            return
        line = {
            "stage": event.stage,
            "step": event.step,
            "n_steps": event.n_steps,
            "time": round(self._clock(), 3),
            "losses": _means(self._losses),
            "metrics": dict(event.metrics or {}),
        }
        self._losses = []
        _append(self._path, json.dumps(line))


def _means(losses: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(step[name] for step in losses) for name in losses[0]} if losses else {}


def _append(path: Path, line: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror or error})") from error


@dataclass(frozen=True)
class StageStanding:
    """How far a stage is.

    Attributes:
        stage: Its name.
        step: Steps done.
        n_steps: Steps it has; 0 where it has not begun.
        seconds_left: About how long the rest of this stage takes; NaN where nothing says so.
    """

    stage: str
    step: int
    n_steps: int
    seconds_left: float


@dataclass(frozen=True, eq=False)
class TrainingProgress:
    """What a training has said so far.

    Attributes:
        curves: Columns ``COLUMNS``; ``kind`` is ``training`` (losses) or ``validation``.
        standings: Every stage that has begun, in order; empty for a finished training.
    """

    curves: pd.DataFrame
    standings: tuple[StageStanding, ...]


def read_progress(folder: str | Path) -> TrainingProgress:
    """Read what a training has said so far, running or finished.

    Raises:
        RunError: the metrics of a finished one are damaged.
    """
    folder = Path(folder)
    if (folder / METRICS_FILE).is_file():
        found = read_parquet(folder / METRICS_FILE)
        if not set(COLUMNS) <= set(found):
            raise RunError(f"{folder / METRICS_FILE} is no record of a training")
        return TrainingProgress(found[list(COLUMNS)], ())
    lines = _lines(folder / PROGRESS_FILE)
    rows = [row for line in lines for row in _rows(line)]
    return TrainingProgress(pd.DataFrame(rows, columns=list(COLUMNS)), _standings(lines))


def _lines(path: Path) -> list[Mapping[str, object]]:
    """The log's lines in the order of stages and steps, the latest of each step."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []  # not begun, or just ended
    whole = text[: text.rfind("\n") + 1].splitlines()
    latest = {(line["stage"], line["step"]): line for line in map(_read, whole) if line}
    return [latest[key] for key in sorted(latest, key=lambda key: (STAGES.index(key[0]), key[1]))]


def _read(text: str) -> dict[str, object]:
    """A line; empty where a full disk has cut it."""
    try:
        line = json.loads(text)
        return line if line["stage"] in STAGES and line["step"] <= line["n_steps"] else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _rows(line: Mapping[str, object]) -> Iterator[dict[str, object]]:
    for kind, name in (("training", "losses"), ("validation", "metrics")):
        values = line[name]
        assert isinstance(values, dict)
        for metric, value in values.items():
            yield {
                "stage": line["stage"], "step": line["step"], "kind": kind, "metric": metric,
                "value": value,
            }  # fmt: skip


def _standings(lines: list[Mapping[str, object]]) -> tuple[StageStanding, ...]:
    found = []
    for stage in STAGES:
        steps = [
            (int(str(line["step"])), float(str(line["time"])), int(str(line["n_steps"])))
            for line in lines
            if line["stage"] == stage
        ]
        if steps:
            done, _, n_steps = steps[-1]
            left = _seconds_a_step(steps) * (n_steps - done) if done < n_steps else 0.0
            found.append(StageStanding(stage, done, n_steps, left))
    return tuple(found)


def _seconds_a_step(steps: list[tuple[int, float, int]]) -> float:
    """The median of late, which a pause between a kill and its resumption does not move."""
    recent = steps[-_RECENT:]
    rates = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in pairwise(recent)
        if later[1] > earlier[1]
    ]
    return median(rates) if rates else math.nan
