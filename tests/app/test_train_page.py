"""The Train page: ordering, watching, stopping, resuming, and what goes wrong on the way."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from workbench import background
from workbench.errors import ConfigError, RunError
from workbench.evaluation.training_jobs import (
    TrainingOrder,
    job_state,
    resume_training,
    start_training,
)
from workbench.evaluation.training_progress import PROGRESS_FILE, ProgressLog
from workbench.pages.catalogue import FOLDER, config_names
from workbench.runs import OUTPUT_FILE, RunFolder
from workbench.svgt.curriculum.loop import TrainingEvent
from workbench.svgt.recipes import RECIPES

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """What would have been started, instead of starting it."""
    calls: list[tuple[list[str], Path]] = []

    def start(arguments: list[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OUTPUT_FILE).touch()
        calls.append((arguments, folder))

    monkeypatch.setattr(background, "start", start)
    monkeypatch.setattr(background, "is_working", lambda folder: folder in [f for _, f in calls])
    return calls


def said(elements: Iterable[Any]) -> str:
    return "\n".join(str(element.value) for element in elements)


def log_steps(run: RunFolder, stage: str, steps: int, n_steps: int) -> None:
    log = ProgressLog(run.file(PROGRESS_FILE), clock=iter(range(1000, 9000)).__next__)
    for step in range(1, steps + 1):
        metrics = {"auroc": 0.9, "accuracy": 0.8, "selection": 0.4} if step % 5 == 0 else None
        log.record(TrainingEvent(stage, step, n_steps, {"total": 1 / step}, metrics))  # type: ignore[arg-type]


def make_run(name: str, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    argv = ["/venv/bin/workbench", "train", "--seed", "3", "--out", f"runs/{name}"]
    monkeypatch.setattr("sys.argv", argv)
    return RunFolder.create(Path("runs") / name, kind="train", config={}, seed=3)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    run = make_run("mine", monkeypatch)
    log_steps(run, "unconditional", 20, 20)
    log_steps(run, "conditional", 10, 40)
    yield run
    run.close()


def test_an_address_that_names_no_recipe_or_size_is_told(open_page: Open) -> None:
    app = open_page("train", recipe="nonsense", size="7/8")
    assert "`recipe=nonsense`, which is not here. Used instead: `workbench`" in said(app.warning)
    assert "`size=7/8`, which is not here. Used instead: `all`" in said(app.warning)


def test_the_form_becomes_a_command(open_page: Open, started: list[Any]) -> None:
    app = open_page("train", backbone="testbed-gpt2", recipe="paper", size="1/10", seed="4")
    assert not app.warning
    assert not app.exception
    assert "No training yet" in said(app.info)
    app.button(key="start").click().run()
    assert not app.exception
    assert not app.error
    [(arguments, folder)] = started
    assert folder == Path("runs/testbed-gpt2-paper-seed4")
    assert arguments == [
        "train", "--backbone", "testbed-gpt2", "--config", "paper", "--seed", "4",
        "--out", str(folder), "--size", "0.1",
    ]  # fmt: skip
    assert app.selectbox(key="watch").value == folder.name
    assert app.query_params["watch"] == folder.name
    assert "Starting" in said(app.info)


def test_files_are_named_as_the_command_takes_them(started: list[Any]) -> None:
    order = TrainingOrder("models/mine", "mine.yaml", data="beavertails:x.jsonl")
    start_training(order, Path("runs/own"))
    assert started[0][0][-2:] == ["--data", "beavertails:x.jsonl"]
    assert "--size" not in started[0][0]


def test_the_named_configurations_are_those_of_the_command() -> None:
    assert set(config_names(FOLDER)) == set(RECIPES)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"seed": "one"}, "no whole number"),
        ({"recipe": "a YAML file"}, "name the config"),
        ({"backbone": FOLDER}, "name the backbone"),
        ({"data": "files and benchmarks"}, "name the data"),
    ],
)
def test_a_bad_order_starts_nothing(
    open_page: Open, started: list[Any], query: dict[str, str], problem: str
) -> None:
    app = open_page("train", **query)
    app.button(key="start").click().run()
    assert problem in said(app.error)
    assert started == []


def test_a_name_that_leads_elsewhere_is_refused(open_page: Open, started: list[Any]) -> None:
    app = open_page("train")
    app.text_input(key="name").set_value("../away")
    app.button(key="start").click().run()
    assert "no plain name" in said(app.error)
    assert started == []


def test_a_running_training_is_drawn_as_far_as_it_is(running: RunFolder, open_page: Open) -> None:
    app = open_page("train", watch="mine")
    assert not app.exception
    assert not app.error
    bars = [bar.proto for bar in app.get("progress")]
    assert [bar.value for bar in bars] == [100, 25, 0]
    assert "10 of 40 steps, about 30 s left" in bars[1].text
    assert "waits" in bars[2].text
    assert len(app.get("plotly_chart")) == 4
    assert "not started here" in said(app.info)


def test_a_killed_training_can_be_resumed(
    running: RunFolder, open_page: Open, started: list[Any]
) -> None:
    running.close()
    app = open_page("train")
    assert "Interrupted" in said(app.warning)
    assert not app.get("progress")
    app.button(key="resume").click().run()
    assert not app.error
    assert started == [
        (["train", "--seed", "3", "--out", "runs/mine", "--resume"], Path("runs/mine"))
    ]


def test_a_failed_start_says_why_in_one_line(open_page: Open) -> None:
    Path("runs/bad").mkdir(parents=True)
    Path("runs/bad", OUTPUT_FILE).write_text(
        "# process 1: workbench train\nloading\nerror: no backbone 'x': give a folder\n"
    )
    assert job_state(Path("runs/bad")) == "failed"
    app = open_page("train", watch="bad")
    assert said(app.error) == "error: no backbone 'x': give a folder"
    assert "loading" in said(app.code)


def test_a_finished_training_leads_to_the_playground(running: RunFolder, open_page: Open) -> None:
    running.append_metrics(
        [{"stage": "bridge", "step": 1, "kind": "training", "metric": "total", "value": 1.0}]
    )
    running.finish()
    running.close()
    app = open_page("train")
    assert "svgt:runs/mine" in said(app.success)
    [link] = app.get("page_link")
    assert link.proto.page == "playground"
    assert len(app.get("plotly_chart")) == 2


def test_a_damaged_run_is_named(running: RunFolder, open_page: Open) -> None:
    running.file("metrics.parquet").write_bytes(b"no table")
    app = open_page("train")
    assert "metrics.parquet" in said(app.error)
    assert not app.exception


def test_what_is_there_is_not_overwritten(running: RunFolder, started: list[Any]) -> None:
    with pytest.raises(RunError, match="already holds a training"):
        start_training(TrainingOrder("testbed-llama", "workbench"), running.path)
    Path("runs/papers").mkdir()
    Path("runs/papers/mine.txt").touch()
    with pytest.raises(RunError, match="something else"):
        start_training(TrainingOrder("testbed-llama", "workbench"), Path("runs/papers"))
    with pytest.raises(ConfigError, match="name the backbone"):
        start_training(TrainingOrder(" ", "workbench"), Path("runs/new"))
    assert started == []


def test_a_run_of_unknown_origin_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["-c"])
    RunFolder.create("runs/odd", kind="train", config={}, seed=0).close()
    with pytest.raises(RunError, match="does not say how"):
        resume_training(Path("runs/odd"))
