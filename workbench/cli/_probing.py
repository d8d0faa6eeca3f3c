"""What the commands of ``workbench probe`` share: the model, its prompts, the output."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.progress import Progress, TaskID
from rich.table import Table

from probes.contrasts import Contrast
from probes.margins import ReplyPairs, embedded_pairs, pairs_of_examples
from probes.records import Record
from probes.survey import lacking_pairs
from workbench.backbone import load_backbone
from workbench.backbone.frozen import FrozenBackbone
from workbench.cli._console import output, progress_bar
from workbench.cli._layout import new_table, print_table
from workbench.data.example import Example
from workbench.data.files import read_examples
from workbench.errors import ConfigError, DataError, WorkbenchError
from workbench.export.probe_runs import RECORDS_FILE, open_probe, run_kind
from workbench.export.probe_text import Form
from workbench.files import file_sha256
from workbench.folder_lock import LOCK_FILE
from workbench.guidance.registry import (
    GuidanceSpec,
    identify_guidance,
    load_guidance,
    parse_guidance,
    shipped_configs,
)
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RUN_FILE, RunFolder
from workbench.testbed.crossed import SINGLE_CONTEXTS, context_frames

EMBEDDINGS = -1


@dataclass(frozen=True, eq=False)
class Subject:
    """The model under study and the bridge that guides it.

    Attributes:
        backbone: The frozen model.
        bridge: Its guidance; None where only the plain model is studied.
        identity: What a run folder keeps of both.
    """

    backbone: FrozenBackbone
    bridge: SVGTBridge | None
    identity: dict[str, object]

    @property
    def guided(self) -> SVGTBridge:
        """The bridge, where there must be one."""
        assert self.bridge is not None, "asked for with needs_bridge"
        return self.bridge


def load_subject(
    backbone: str,
    guidance: str | None,
    device: str,
    dtype: str,
    backend: str,
    *,
    needs_bridge: bool,
) -> Subject:
    """Load a backbone and, where asked for or at hand, the bridge that guides it.

    Args:
        backbone: Name or folder.
        guidance: As a person writes it; None takes what ships for the backbone, if anything.
        device: Torch device.
        dtype: Number type of the backbone.
        backend: Library that watches the model.
        needs_bridge: Refuse to go on without one.

    Raises:
        BackboneError: The backbone cannot be loaded.
        ConfigError: An unknown guidance, or one without a bridge where one is needed.
        CheckpointError: No such value module, or one of another backbone.
    """
    spec = None if guidance is None else parse_guidance(guidance)
    if needs_bridge and spec is not None and spec.family == "none":
        raise ConfigError(
            "the guidance 'none' has no bridge to examine: give svgt, svgt:CONFIG (for example "
            "svgt:paper) or svgt:FOLDER"
        )
    if spec is not None and spec.family not in ("none", "svgt"):
        raise ConfigError(
            f"the guidance '{spec}' has no value module, which the probes examine: give svgt, "
            "svgt:CONFIG (for example svgt:paper) or svgt:FOLDER"
        )
    model = load_backbone(backbone, device=device, dtype=dtype, backend=backend)
    if spec is None:
        spec = GuidanceSpec("svgt", "workbench")
        if not needs_bridge and not shipped_configs(model):
            typer.echo(
                f"no value module ships for {model.name}: only the residual stream is measured "
                "(--guidance svgt:FOLDER adds a value module of your own)",
                err=True,
            )
            spec = GuidanceSpec("none")
    bridge = load_guidance(spec, model)
    return Subject(
        model,
        bridge if isinstance(bridge, SVGTBridge) else None,
        {
            "backbone": {"name": model.name, "weights_hash": model.weights_hash},
            "guidance": {"name": str(spec), **identify_guidance(spec, model)},
        },
    )


# -------------------------------------------------------------------------------- what was asked


def names_in(text: str | None, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names separated by commas; everything known where nothing is said.

    Raises:
        ConfigError: One is unknown or named twice; the choices are named.
    """
    if text is None:
        return tuple(known)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {what} '{name}': choose from {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"a {what} is named twice in '{text}'; name each once")
    return names


def layers_in(text: str | None, backbone: FrozenBackbone) -> tuple[int, ...] | None:
    """Layers separated by commas; None where nothing is said.

    Raises:
        ConfigError: One is no number, not there, or named twice.
    """
    if text is None:
        return None
    known = [str(layer) for layer in range(EMBEDDINGS, backbone.n_layers)]
    return tuple(sorted(int(name) for name in names_in(text, known, "layer")))


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from: the embedded world, or a file.

    Attributes:
        contexts: Context frames.
        file: JSON Lines, None for the embedded world.
        examples: The file's examples in these contexts.
    """

    contexts: tuple[str, ...]
    file: Path | None
    examples: tuple[Example, ...] = ()

    @classmethod
    def of(cls, contexts: str | None, file: Path | None, limit: int | None) -> "Prompts":
        """What the options say.

        Raises:
            DataError: The file cannot be read.
            ConfigError: An unknown context (the choices are named), or a limit for a file.
        """
        if file is None:
            return cls(_embedded_contexts(contexts), None)
        if limit is not None:
            raise ConfigError(
                "--limit counts requests of the embedded world, and a file of --prompts is taken "
                "whole: leave --limit out, or give a file with fewer examples"
            )
        examples = read_examples(file)
        known = tuple(dict.fromkeys(example.context for example in examples))
        chosen = names_in(contexts, known, "context")
        return cls(chosen, file, tuple(e for e in examples if e.context in chosen))

    def describe(self, limit: int) -> dict[str, object]:
        """What a run folder keeps of them."""
        source: dict[str, object] = {"limit": limit}
        if self.file is not None:
            source = {"file": str(self.file), "sha256": file_sha256(self.file)}
        return {"contexts": list(self.contexts), **source}

    def pairs(self, limit: int, seed: int, *, harmless: bool = False) -> ReplyPairs:
        """Prompts with a safe and a harmful reply each.

        Args:
            limit: Intents in every context; a file is taken whole.
            seed: Of the prompts of the embedded world.
            harmless: Add as many harmless prompts of the embedded world; of a file, those it has.

        Raises:
            DataError: No prompt has two such replies, or fewer intents exist.
        """
        if self.file is not None:
            return pairs_of_examples(self.examples, harmless=harmless)
        return embedded_pairs(self.contexts, n_intents=limit, seed=seed, harmless=harmless)

    def few_pairs(self, most: int, seed: int) -> ReplyPairs:
        """Pairs of one context and few intents, for what is measured on long texts.

        Args:
            most: Harmful intents; harmless ones are added as far as there are as many.
            seed: Of the prompts of the embedded world.

        Returns:
            Of the embedded world, pairs of the first context. Of a file, those of the first
            context with a harmful pair, their intents in the file's order.

        Raises:
            DataError: No prompt has two such replies, or fewer intents exist.
        """
        if self.file is None:
            first = self.contexts[:1]
            return embedded_pairs(first, n_intents=most, seed=seed, harmless=True)
        pairs = pairs_of_examples(self.examples, harmless=True)
        rows = range(len(pairs))
        context = next(
            (pairs.contexts[row] for row in rows if pairs.prompt_harm[row]), pairs.contexts[0]
        )
        chosen: dict[bool, list[str]] = {True: [], False: []}
        kept = []
        for row in rows:
            if pairs.contexts[row] != context:
                continue
            intents, intent = chosen[pairs.prompt_harm[row]], pairs.groups[row]
            if intent not in intents and len(intents) < most:
                intents.append(intent)
            if intent in intents:
                kept.append(row)
        return pairs.rows(kept)


def _embedded_contexts(text: str | None) -> tuple[str, ...]:
    if text is None:
        return SINGLE_CONTEXTS
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < len(names):
        raise ConfigError(f"a context is named twice in '{text}'; name each once")
    try:
        for name in names:
            context_frames(name)
    except DataError as error:
        raise ConfigError(str(error)) from error
    return names


def tell_of_missing_pairs(
    examples: Sequence[Example],
    contrasts: Sequence[Contrast],
    estimators: Sequence[str],
    *,
    pooled: bool = False,
) -> None:
    """Say on standard error which estimators will find too few matched pairs.

    Args:
        examples: What will be compared.
        contrasts: How.
        estimators: Names of the estimators.
        pooled: One direction is fitted in all contexts together.

    Raises:
        DataError: None of the estimators could be measured in any context.
    """
    missing = lacking_pairs(examples, contrasts, estimators, pooled=pooled)
    hopeless = [
        found for found in missing if found.everywhere and len(estimators) == len(found.estimators)
    ]
    if hopeless and len(hopeless) == len(contrasts):
        raise DataError("; ".join(map(str, hopeless)))
    for found in missing:
        typer.echo(f"note: {found}", err=True)


# ------------------------------------------------------------------------------------- the output


@contextmanager
def probe_folder(
    out: Path,
    probe: str,
    asked: Mapping[str, object],
    *,
    seed: int,
    resume: bool,
    device: torch.device,
) -> Iterator[RunFolder]:
    """The run folder of a probe; a mistake met before anything was found leaves none behind.

    Args:
        out: Where.
        probe: Which probe.
        asked: Everything that determines what it finds.
        seed: Of everything random.
        resume: Go on with an unfinished one.
        device: Where the backbone computes.

    Raises:
        RunError: See :meth:`workbench.runs.RunFolder.create`.
    """
    is_new = not out.exists()
    try:
        with RunFolder.create(
            out, kind=run_kind(probe), config=asked, seed=seed, resume=resume, device=device
        ) as run:
            yield run
    except WorkbenchError:
        made = out.is_dir() and {path.name for path in out.iterdir()} <= {RUN_FILE, LOCK_FILE}
        if is_new and made:
            shutil.rmtree(out)
        raise


class Stages:
    """One progress bar a stage, shown when its first news arrives."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def of(self, name: str) -> Callable[[int, int], None]:
        """What a stage tells how much of how much is done."""

        def show(done: int, total: int) -> None:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total)
            self._progress.update(self._tasks[name], completed=done, total=total)

        return show


@contextmanager
def stages() -> Iterator[Stages]:
    """Progress bars on standard error."""
    with progress_bar() as progress:
        yield Stages(progress)


def print_found(out: Path, tables: Sequence[Table]) -> None:
    """Print result tables and where the rest is."""
    console = output()
    for table in tables:
        print_table(console, table)
    n_records = len(open_probe(out).records)
    console.print(f"{n_records} records are in {out / RECORDS_FILE}, the headline in summary.json")


def record_table(
    title: str,
    heading: str,
    rows: Sequence[tuple[str, Record]],
    form: Form,
    *,
    control: str = "",
) -> Table:
    """Named records as a table; a dash for what was not measured.

    Args:
        title: Above the table.
        heading: Of the estimates.
        rows: Names and records.
        form: How numbers are written.
        control: Heading of the nulls; none are shown without one.
    """
    table = new_table(title)
    table.add_column("", max_width=44, overflow="fold")
    for name in (heading, "95% interval", *([control] if control else []), "n"):
        table.add_column(name, justify="right", no_wrap=True)
    noted = any(math.isnan(record.estimate) for _, record in rows)
    if noted:
        table.add_column("", max_width=30, overflow="fold")
    for name, record in rows:
        ends = f"{form.number(record.low)} to {form.number(record.high)}"
        cells = [form.number(record.estimate), "" if math.isnan(record.low) else ends]
        if control:
            cells.append(form.number(record.null))
        why = [record.note if math.isnan(record.estimate) else ""] if noted else []
        table.add_row(name, *cells, str(record.n), *why)
    return table
