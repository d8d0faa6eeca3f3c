"""The work behind ``workbench evaluate``: a progress bar while it runs, tables at the end."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from workbench.backbone.protocol import Backbone
from workbench.cli._console import error_console, output, progress_bar
from workbench.cli._judging import note_unscored
from workbench.cli._layout import print_table
from workbench.cli._tables import result_tables
from workbench.data.loading import load_named, split_specs
from workbench.evaluation import Benchmark, Evaluation, ShardDone, run_evaluation
from workbench.evaluation.judges import judge_named
from workbench.evaluation.judges.language_models import BATCH_SIZE
from workbench.evaluation.prompt_benchmark import (
    PromptBenchmark,
    askable,
    leave_out_unaskable,
    prompt_benchmark,
)
from workbench.evaluation.running import REPLIES_FILE, n_measured
from workbench.evaluation.summaries import RATES
from workbench.files import read_parquet
from workbench.guidance.protocol import Guidance
from workbench.runs import RunFolder


def evaluate_with_progress(evaluation: Evaluation, run: RunFolder) -> list[dict[str, object]]:
    """Run what is missing; gives the summary's rows."""
    with progress_bar() as progress:
        task = progress.add_task(
            "reading prompts",
            total=evaluation.n_prompts,
            completed=n_measured(evaluation, run),
        )

        def show(done: ShardDone) -> None:
            progress.update(
                task, advance=done.prompts, description=f"{done.guidance} on {done.split}"
            )

        return run_evaluation(evaluation, run, on_progress=show)


def print_results(
    rows: Sequence[Mapping[str, object]], judge: str, prompts: str, run: RunFolder
) -> None:
    """Print the tables, what was not scored and why, the prompts, and where the rest is."""
    console = output()
    for table in result_tables(rows):
        print_table(console, table)
    for line in _unscored(run.read_metrics()):
        console.print(line)
    replies = read_parquet(run.file(REPLIES_FILE))
    if "reason" in replies:  # folders of earlier versions keep none
        note_unscored(judge, replies["reason"])
    console.print(f"{prompts}; single frames, prompts and replies are in {run.path}")


def _unscored(measurements: pd.DataFrame) -> Iterator[str]:
    """One line for every rate that lacks some replies."""
    judged = measurements[measurements["metric"].isin(RATES)]
    for metric, part in judged.groupby("metric", sort=False):
        missing = int(part["value"].isna().sum())
        if missing:
            yield f"unscored: {metric} of {missing} of {len(part)} replies"


def read_prompts(
    text: str,
    judge: str,
    model: Backbone,
    guidances: Sequence[Guidance],
    *,
    limit: int | None,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> Benchmark:
    """The benchmark of the prompts that ``--prompts`` names; what is left out is said.

    A judge's model reads no more texts at a time than ``batch_size``.

    Raises:
        DataError: A set cannot be read, or has no prompt that can be asked.
        ConfigError: The judge is unknown.
    """
    sets = load_named(split_specs(text))
    made = prompt_benchmark(
        sets,
        judge_named(judge, batch_size=min(batch_size, BATCH_SIZE)),
        limit=limit,
        seed=seed,
        why_not=askable(model, guidances, max_new_tokens),
    )
    return _told(made)


def without_unaskable(
    benchmark: Benchmark, model: Backbone, guidances: Sequence[Guidance], max_new_tokens: int
) -> Benchmark:
    """What of a benchmark can be asked under every guidance; what is left out is said.

    Raises:
        DataError: Nothing can.
    """
    return _told(leave_out_unaskable(benchmark, model, guidances, max_new_tokens))


def _told(made: PromptBenchmark) -> Benchmark:
    for left in made.left_out:
        error_console().print(f"{left.source}: {left.n} left out: {left.reason}", soft_wrap=True)
    return made.benchmark


def count_prompts(benchmark: Benchmark) -> str:
    """How many prompts of which kind each split has, in words."""
    parts = []
    for split in benchmark.splits:
        kinds = Counter(str(example.labels["kind"]) for example in split.examples)
        parts.append(f"{split.name}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
    return f"prompts of {'; '.join(parts)}; judged by {benchmark.judge.name}"
