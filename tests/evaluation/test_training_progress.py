"""The log of a running training: what is written, what is read back, and how long it takes yet."""

import math
from pathlib import Path

import pytest

from workbench.evaluation.training_progress import PROGRESS_FILE, ProgressLog, read_progress
from workbench.svgt.curriculum.loop import TrainingEvent


class Clock:
    """Two seconds a look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def events(stage: str, steps: range, n_steps: int) -> list[TrainingEvent]:
    return [
        TrainingEvent(
            stage,  # type: ignore[arg-type]
            step,
            n_steps,
            {"total": 1.0 / step},
            {"auroc": 0.5 + step / 100} if step % 10 == 0 else None,
        )
        for step in steps
    ]


def test_losses_and_validations_come_back(tmp_path: Path) -> None:
    told: list[TrainingEvent] = []
    log = ProgressLog(tmp_path / PROGRESS_FILE, also=told.append, clock=Clock())
    log.record(TrainingEvent("unconditional", 0, 20, {}, {"auroc": math.nan}))
    for event in events("unconditional", range(1, 21), 20) + events("bridge", range(1, 5), 40):
        log.record(event)
    assert len(told) == 25
    found = read_progress(tmp_path)
    losses = found.curves[found.curves.kind == "training"]
    assert losses[losses.stage == "unconditional"].step.tolist() == list(range(1, 21))
    assert losses[losses.stage == "bridge"].value.tolist() == [1.0, 1 / 2, 1 / 3, 1 / 4]
    validation = found.curves[found.curves.kind == "validation"]
    assert validation.step.tolist() == [0, 10, 20]
    assert validation.value.tolist()[1:] == [0.6, 0.7]
    first, third = found.standings
    assert (first.stage, first.step, first.seconds_left) == ("unconditional", 20, 0.0)
    assert (third.stage, third.step, third.n_steps) == ("bridge", 4, 40)
    assert third.seconds_left == pytest.approx(2.0 * 36)


def test_a_long_stage_is_thinned_by_means(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / PROGRESS_FILE)
    for event in events("unconditional", range(1, 3001), 3000):
        log.record(event)
    losses = read_progress(tmp_path).curves.query("kind == 'training'")
    assert len(losses) == 300
    assert losses.value.iloc[0] == pytest.approx(sum(1 / i for i in range(1, 11)) / 10)


def test_a_resumed_training_replaces_what_it_repeats(tmp_path: Path) -> None:
    clock = Clock()
    for steps in (range(1, 15), range(11, 17)):
        log = ProgressLog(tmp_path / PROGRESS_FILE, clock=clock)
        for event in events("conditional", steps, 20):
            log.record(event)
        clock.now += 3600  # nobody worked on it for an hour
    losses = read_progress(tmp_path).curves.query("kind == 'training'")
    assert losses.step.tolist() == list(range(1, 17))
    [standing] = read_progress(tmp_path).standings
    assert standing.seconds_left == pytest.approx(2.0 * 4)


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / PROGRESS_FILE)
    for event in events("bridge", range(1, 4), 20):
        log.record(event)
    with (tmp_path / PROGRESS_FILE).open("a") as file:
        file.write('{"stage": "bri\n{"stage": "bridge", "step": 4')
    assert read_progress(tmp_path).curves.step.tolist() == [1, 2, 3]
    assert read_progress(tmp_path / "nowhere").curves.empty
