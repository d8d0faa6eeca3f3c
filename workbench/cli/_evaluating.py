"""The work behind ``workbench evaluate``: a progress bar while it runs, tables at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.cli._console import output, progress_bar
from workbench.cli._tables import result_tables
from workbench.evaluation import Evaluation, ShardDone, run_evaluation
from workbench.runs import RunFolder


def evaluate_with_progress(evaluation: Evaluation, run: RunFolder) -> list[dict[str, object]]:
    """Run what is missing; gives the summary's rows."""
    with progress_bar() as progress:
        task = progress.add_task("reading prompts", total=evaluation.n_prompts)

        def show(done: ShardDone) -> None:
            progress.update(
                task, advance=done.prompts, description=f"{done.guidance} on {done.split}"
            )

        return run_evaluation(evaluation, run, on_progress=show)


def print_results(rows: Sequence[Mapping[str, object]], n_per_kind: int, out: Path) -> None:
    """Print the tables, the number of prompts behind them, and where the rest is."""
    console = output()
    for table in result_tables(rows):
        console.print(table)
    console.print(
        f"{n_per_kind} prompts each of harmful, look-alike and benign kind in every split; single "
        f"frames, prompts and replies are in {out}"
    )
