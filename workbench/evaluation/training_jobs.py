"""Trainings in the background: how one is asked for, and where it stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench import background
from workbench.errors import ConfigError, RunError
from workbench.runs import OUTPUT_FILE, RUN_FILE, RunFolder

TESTBED = "testbed"

JobState = Literal["absent", "starting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrainingOrder:
    """What ``workbench train`` is asked for.

    Attributes:
        backbone: An embedded name or a checkpoint folder.
        config: A named configuration or a YAML file.
        seed: Decides initialisation, data and batch order.
        size: Share of the examples to learn from.
        data: ``testbed``, or what ``--data`` takes.
        device: Where it computes.
        dtype: Number type of the backbone.
    """

    backbone: str
    config: str
    seed: int = 0
    size: float = 1.0
    data: str = TESTBED
    device: str = "cpu"
    dtype: str = "float32"

    def arguments(self, out: Path) -> list[str]:
        """The command's words after ``workbench``."""
        words = ["train", "--backbone", self.backbone, "--config", self.config]
        words += ["--seed", str(self.seed), "--out", str(out)]
        words += ["--size", f"{self.size:g}"] if self.size != 1.0 else []
        words += ["--data", self.data] if self.data != TESTBED else []
        words += ["--device", self.device] if self.device != "cpu" else []
        return words + (["--dtype", self.dtype] if self.dtype != "float32" else [])


def start_training(order: TrainingOrder, out: Path) -> None:
    """Start a training into a new folder.

    Raises:
        ConfigError: The order lacks a backbone, a configuration or data.
        RunError: The folder is in use or holds something already.
    """
    for name in ("backbone", "config", "data"):
        if not getattr(order, name).strip():
            raise ConfigError(f"name the {name} to train with")
    found = job_state(out)
    if found in ("starting", "running", "finished") or (out / RUN_FILE).exists():
        raise RunError(f"{out} already holds a training ({found}): watch it, or give another name")
    if out.is_dir() and any(path.name != OUTPUT_FILE for path in out.glob("[!.]*")):
        raise RunError(f"{out} holds something else than a run: give another name")
    background.start(order.arguments(out), out)


def resume_training(out: Path) -> None:
    """Go on with a training that was stopped or killed, by the command that started it.

    Raises:
        RunError: There is none to go on with, or its record does not say how it was started.
    """
    words = background.started_with(RunFolder.open(out).record.provenance.get("argv"))
    if not words:
        raise RunError(f"{out} does not say how it was started: go on with it in a terminal")
    background.start([*words, *([] if "--resume" in words else ["--resume"])], out)


def job_state(out: Path) -> JobState:
    """Where a training stands; asks the operating system, so a killed one is known at once.

    Raises:
        RunError: The run folder is damaged.
    """
    working = background.is_working(out)
    if not (out / RUN_FILE).is_file():
        if working:
            return "starting"
        return "failed" if (out / OUTPUT_FILE).is_file() else "absent"
    if RunFolder.open(out).record.status == "finished":
        return "finished"
    if working or RunFolder.is_owned(out):
        return "running"
    said_why = background.last_words(out, n=1).startswith("error:")
    return "failed" if said_why else "stopped"
