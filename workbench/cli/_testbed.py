"""The work behind ``workbench testbed``."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import typer

from workbench.backbone import load_backbone
from workbench.cli._console import progress_bar
from workbench.config import from_mapping, to_mapping
from workbench.errors import ConfigError
from workbench.evaluation.model_card import measure_card, render_card
from workbench.files import atomic_path
from workbench.runs import RUN_FILE, RunFolder
from workbench.testbed.corpus import Prompt, help_reply, sample_prompts
from workbench.testbed.intents import IntentKind
from workbench.testbed.pretraining import pretrain
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.registry import EMBEDDED, EMBEDDED_CONFIGS
from workbench.testbed.responses import ReplyKind, write_body

RUN_KIND = "pretrain"
_CARD_SEED = 0
_CARD_FILE = "README.md"
_HELPFUL: tuple[ReplyKind, ...] = ("specific", "tool", "generic")


def print_samples(split: str, n: int, seed: int, kind: str | None) -> None:
    """Print prompts with their intent and a reply of every kind they can get.

    Raises:
        ConfigError: An unknown kind.
        DataError: An unknown split.
    """
    kinds: tuple[IntentKind, ...] = get_args(IntentKind)
    chosen = next((known for known in kinds if known == kind), None)
    if kind is not None and chosen is None:
        raise ConfigError(f"unknown kind '{kind}'; choose one of {', '.join(kinds)}")
    rng = np.random.default_rng([seed, *b"replies"])
    for prompt in sample_prompts(split, n, seed=seed, kind=chosen):
        _print_sample(prompt, rng)


def _print_sample(prompt: Prompt, rng: np.random.Generator) -> None:
    intent = prompt.intent
    harm = f", {intent.category}" if intent.category else ""
    typer.echo(f"{intent.kind}{harm}: {intent.verb} {intent.owner} {intent.object}")
    typer.echo(f"  frame       {prompt.frame}")
    for message in prompt.conversation:
        typer.echo(f"  {message.role:<11} {message.content}")
    typer.echo(f"  {'as trained':<11} {help_reply(prompt, rng).text}")
    for kind in _reply_kinds(intent.kind):
        typer.echo(f"    {kind:<11} {write_body(kind, intent, rng)}")
    typer.echo()


def _reply_kinds(kind: IntentKind) -> tuple[ReplyKind, ...]:
    if kind == "prevention":
        return ("protection",)
    return (*_HELPFUL, "refusal", "recovery") if kind == "harmful" else _HELPFUL


def configured(name: str, *, steps: int | None, seed: int | None) -> PretrainConfig:
    """The configuration of an embedded backbone, with what was asked to differ.

    Raises:
        ConfigError: No embedded backbone has this name.
    """
    if name not in EMBEDDED_CONFIGS:
        close = difflib.get_close_matches(name, EMBEDDED, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"unknown embedded backbone '{name}': {hint}there are {', '.join(EMBEDDED)}"
        )
    config = EMBEDDED_CONFIGS[name]
    return replace(
        config,
        steps=config.steps if steps is None else steps,
        seed=config.seed if seed is None else seed,
    )


def pretrain_with_progress(
    name: str, config: PretrainConfig, out: Path, *, resume: bool, card_n: int
) -> None:
    """Train into a run folder, which is then an ordinary checkpoint with its provenance.

    Raises:
        RunError: The folder is in use, or holds something else.
    """
    about = {"name": name, "pretraining": to_mapping(config)}
    with RunFolder.create(out, kind=RUN_KIND, config=about, seed=config.seed, resume=resume) as run:
        if run.record.status == "finished":
            typer.echo(f"{out} is trained already")
            return
        with progress_bar() as progress:
            task = progress.add_task(f"training {name}", total=config.steps)

            def show(step: int, loss: float) -> None:
                progress.update(
                    task, completed=step, description=f"training {name}, loss {loss:.3f}"
                )

            pretrain(config, out, resume=resume, on_step=show)
        if card_n:
            typer.echo("measuring the model card (some minutes)", err=True)
            write_card(out, card_text(str(out), n_per_kind=card_n, seed=_CARD_SEED))
    typer.echo(f"wrote {out}; use it with --backbone {out}")


def card_text(backbone: str, *, n_per_kind: int, seed: int) -> str:
    """Measure a backbone and write its card as Markdown."""
    model = load_backbone(backbone)
    name, config = _origin(backbone)
    return render_card(name, config, measure_card(model, n_per_kind=n_per_kind, seed=seed))


def write_card(folder: Path, text: str) -> Path:
    """Write a card into a checkpoint folder; gives the file.

    Raises:
        RunError: The file cannot be written.
    """
    path = folder / _CARD_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def checkpoint_folder(backbone: str) -> Path:
    """The folder of a backbone that lies on disk.

    Raises:
        ConfigError: It is an embedded name, whose card is not to be lost by accident, or no folder.
    """
    if backbone in EMBEDDED:
        raise ConfigError(
            f"{backbone} ships with its card, which --write does not replace; leave --write out "
            "to see a new one"
        )
    folder = Path(backbone).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{backbone} is no checkpoint folder, so no card can be written into it")
    return folder


def _origin(backbone: str) -> tuple[str, PretrainConfig | None]:
    """Name and pre-training configuration, as far as they are known."""
    if backbone in EMBEDDED_CONFIGS:
        return backbone, EMBEDDED_CONFIGS[backbone]
    folder = Path(backbone).expanduser()
    if not (folder / RUN_FILE).is_file():
        return folder.name, None
    # Read while its training still runs, too: the card is written before the run is finished.
    record = RunFolder.open(folder).record
    config = record.config.get("pretraining")
    if record.kind != RUN_KIND or not isinstance(config, dict):
        return folder.name, None
    return (
        str(record.config["name"]),
        from_mapping(PretrainConfig, config, where=str(folder / RUN_FILE)),
    )
