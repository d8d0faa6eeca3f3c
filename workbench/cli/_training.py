"""The work behind ``workbench train``: its data, what is said of them, and its progress bars."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from workbench.cli._console import error_console
from workbench.cli._layout import new_table, print_table
from workbench.data.assembly import AssemblyConfig, ClassCount, DataReport, SetOverlap
from workbench.data.loading import load_named, split_specs
from workbench.errors import ConfigError
from workbench.evaluation.file_training import FileData
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.training_data import PreparedData, TrainingData
from workbench.evaluation.value_training import n_behind
from workbench.svgt.curriculum import TrainingEvent
from workbench.svgt.curriculum.recipe import DataConfig

TESTBED = "testbed"
_STAGES = {"prompts": "1 prompts", "pairs": "2 pairs", "targets": "3 targets"}
_TITLES = {
    "unconditional": "1 texts  ",
    "conditional": "2 pairs  ",
    "bridge": "3 bridge ",
}
_SHOWN = {
    "unconditional": ("bce", "accuracy", "f1", "auroc"),
    "conditional": ("bce", "accuracy", "f1", "auroc", "ambiguous_auroc", "trigger_auroc"),
    "bridge": ("ce", "safety", "norm", "harm_rate", "refusal_rate", "unscored_rate"),
}


def named_data(
    text: str,
    amounts: DataConfig,
    assembly: AssemblyConfig,
    *,
    check_against: str,
    max_tokens: int | None,
    n_measured: int,
) -> TrainingData:
    """The data that ``--data`` names: the embedded world, or sources and files.

    Raises:
        ConfigError: The embedded world is mixed with files, or options for files are given with it.
        DataError: A source or file cannot be read.
    """
    if text.strip() != TESTBED:
        specs = split_specs(text)
        if TESTBED in specs:
            raise ConfigError(
                "the embedded world cannot be mixed with files: give one or the other"
            )
        against = load_named(split_specs(check_against)) if check_against else {}
        return FileData(load_named(specs), assembly, against, max_tokens, n_measured)
    if check_against or max_tokens is not None or assembly != AssemblyConfig():
        raise ConfigError(
            "--check-against, --max-tokens, --max-per-source, --balance, --validation-share and "
            "--drop-overlaps are for files; name them with --data"
        )
    return TestbedData(amounts)


def show_data(prepared: PreparedData) -> None:
    """Say on standard error what the data are, what was left out, and what is shared."""
    console = error_console()
    report = prepared.report
    print_table(console, _count_table(report))
    if report.left_out:
        print_table(console, _left_out_table(report))
    for overlap in report.overlaps:
        _print_overlap(console, overlap)
    if prepared.state_bytes:
        console.print(
            f"states of stages 1 and 2: {prepared.state_bytes / 1e9:.3g} GB of memory", style="dim"
        )


def _count_table(report: DataReport) -> Table:
    """Examples by stage, source and class, with the class's share of source and stage."""
    table = _table("Examples", "stage", "source", "class", numbers=("train", "validation"))
    for key in dict.fromkeys((count.stage, count.source, count.kind) for count in report.counts):
        stage, source, kind = key
        cells = [
            _share(
                [c for c in report.counts if (c.stage, c.source, c.split) == (*key[:2], split)],
                kind,
            )
            for split in ("train", "validation")
        ]
        table.add_row(_STAGES[stage], source, kind, *cells)
    return table


def _share(counts: Sequence[ClassCount], kind: str) -> str:
    n = sum(count.n for count in counts if count.kind == kind)
    total = sum(count.n for count in counts)
    return f"{n} ({n / total:.0%})" if total else "0"


def _left_out_table(report: DataReport) -> Table:
    table = _table("Not used", "source", "why", numbers=("rows",))
    for left in report.left_out:
        table.add_row(left.source, left.reason, str(left.n))
    return table


def _table(title: str, *words: str, numbers: Sequence[str]) -> Table:
    table = new_table(title)
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print_overlap(console: Console, overlap: SetOverlap) -> None:
    found = overlap.exact + overlap.near
    line = (
        f"{overlap.ours} against {overlap.other}: of its {overlap.n_other} prompts "
        f"{overlap.exact} stand here word for word, {overlap.near} nearly"
    )
    if overlap.dropped:
        line += f"; {overlap.dropped} of our prompts were left out for it"
    elif found:
        line += "; --drop-overlaps leaves them out"
    console.print(line, style="yellow" if found and not overlap.dropped else "", soft_wrap=True)


def training_progress() -> Progress:
    """One bar a stage, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=error_console(),
    )


class StageBoard:
    """One progress bar a stage, with its live loss; validations are printed as they come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._prepared: PreparedData | None = None

    def show_data(self, prepared: PreparedData) -> None:
        """Say what is trained on, and keep how much there is to validate on."""
        self._prepared = prepared
        show_data(prepared)

    def show(self, event: TrainingEvent) -> None:
        """Show one event."""
        if event.stage not in self._tasks:
            self._progress.start()  # not before: a mistake in what was asked is one line, no bars
            self._tasks[event.stage] = self._progress.add_task(
                _TITLES[event.stage], total=event.n_steps, numbers=""
            )
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
        self._progress.update(self._tasks[event.stage], completed=event.step, numbers=numbers)
        if event.metrics is not None and self._prepared is not None:
            shown = _metrics_text(event.stage, event.metrics, self._prepared)
            self._progress.console.print(
                f"{_TITLES[event.stage]} step {event.step:>5}  validation  {shown}", soft_wrap=True
            )


def _metrics_text(stage: str, metrics: Mapping[str, float], prepared: PreparedData) -> str:
    """Metrics in their order, n after the last of those that were taken on as many examples."""
    named = [name for name in _SHOWN[stage] if name in metrics]
    counted = [(name, n_behind(stage, name, metrics, prepared)) for name in named]
    parts = []
    for n, group in groupby(counted, key=lambda pair: pair[1]):
        parts += [f"{name} {metrics[name]:.3f}" for name, _ in group]
        parts[-1] += f" (n {n})"
    return "  ".join(parts)
