"""Processes that outlive their starter: their life, their words, and their end."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench import background
from workbench.errors import RunError
from workbench.runs import OUTPUT_FILE

ROOT = Path(__file__).parents[2]


def wait_for_end(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while background.is_working(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def idle_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the workbench, a program that says a line and then does nothing."""
    (tmp_path / "code" / "workbench").mkdir(parents=True)
    (tmp_path / "code" / "workbench" / "__init__.py").touch()
    (tmp_path / "code" / "workbench" / "__main__.py").write_text(
        "import sys, time\nprint('at work on', *sys.argv[1:], flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path / "code")  # which ``python -m`` searches first


def test_what_a_process_says_is_kept_and_its_end_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    background.start(["train", "--backbone", "nowhere", "--out", str(folder)], folder)
    wait_for_end(folder)
    assert background.last_words(folder).startswith("error: ")
    assert "nowhere" in background.last_words(folder)
    assert "Traceback" not in (folder / OUTPUT_FILE).read_text()


@pytest.mark.usefixtures("idle_command")
def test_a_process_is_seen_by_others_stopped_and_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not background.is_working(folder)
    background.start(["one"], folder)
    try:
        look = f"from workbench.background import is_working; print(is_working({str(folder)!r}))"
        seen = subprocess.run(
            [sys.executable, "-c", look], capture_output=True, text=True, check=True,
            cwd=ROOT,
        )  # fmt: skip
        assert seen.stdout.strip() == "True"
        with pytest.raises(RunError, match="already at work"):
            background.start(["two"], folder)
    finally:
        background.stop(folder)
    assert not background.is_working(folder)
    assert background.last_words(folder).splitlines()[-1] == background.STOPPED
    background.start(["three"], folder)
    background.stop(folder)
    assert "one" not in background.last_words(folder)


@pytest.mark.usefixtures("idle_command")
def test_the_starter_may_be_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    starter = (
        f"import os, signal, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from workbench import background\n"
        f"os.chdir({str(tmp_path / 'code')!r})\n"
        f"background.start(['one'], {str(folder)!r})\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", starter], cwd=ROOT)
    assert ended.returncode < 0
    try:
        assert background.is_working(folder)
    finally:
        background.stop(folder)
    assert not background.is_working(folder)


def test_a_long_output_is_read_from_its_end(tmp_path: Path) -> None:
    lines = "".join(f"line {i}\n" for i in range(20_000))
    (tmp_path / OUTPUT_FILE).write_text(f"# process 1: workbench train\n{lines}")
    assert background.last_words(tmp_path, n=2) == "line 19998\nline 19999"
    assert background.last_words(tmp_path / "nowhere") == ""
