"""``workbench benchmark``: every method of guidance under one protocol."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import (
    MAX_SEED,
    MIN_FITTED,
    BatchSize,
    Device,
    Dtype,
    Temperature,
    TopP,
    check_resumable,
)

_HELP = """Compare methods of guidance: one benchmark, one decoder, one judge, several seeds.

Every method gets the same prompts of the embedded world's test splits. A method's seed decides its
fit and the random numbers of its replies. Measured are harm, success of jailbreaks, refusals,
over-refusal, broken replies, perplexity, diversity, and time and memory beside the plain model;
every method is tested against svgt, paired by prompt, with Holm's correction. A test prompt that
stands word for word in what a method learned from or was tuned on is refused.

Example:

  workbench benchmark --backbone testbed-llama --methods all --seeds 5 --out runs/board

A quick look first:

  workbench benchmark --methods none,svgt --seeds 1 --limit 20 --out runs/quick

[bold]all[/bold] takes every method that ships or was tuned for the backbone (`workbench fit METHOD
--tune --out TUNED/BACKBONE/METHOD`), and fits it anew for every seed; value modules of other seeds
are found in [bold]--modules[/bold] as MODULES/BACKBONE/CONFIG/SEED.

OUT gets leaderboard.parquet and summary.json (estimates with 95% intervals), comparisons.parquet,
costs.parquet, metrics.parquet, replies.parquet, and the leaderboard as Markdown, LaTeX and figure.
After an interruption the same command with --resume goes on with the first shard that is missing;
with more --seeds or --methods it adds those and keeps the rest.

Time is worth measuring on a quiet machine only. Measure everything else wherever it is fast, and
add the costs there:

  workbench benchmark --methods all --out runs/board --device cuda --no-costs

  workbench benchmark --methods all --out runs/board --resume
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("benchmark", help=_HELP)(benchmark)


def benchmark(
    out: Annotated[Path, typer.Option(help="A new folder for the results.")],
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ] = "testbed-llama",
    methods: Annotated[
        str,
        typer.Option(
            help="all, or separated by commas: none, svgt, svgt:CONFIG, METHOD, METHOD:FOLDER."
        ),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every method, from 0.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Prompts of each kind and split.")] = 100,
    splits: Annotated[
        str | None, typer.Option(help="Separated by commas; the four test splits by default.")
    ] = None,
    modules: Annotated[
        Path | None,
        typer.Option(help="Folder of trained value modules.", exists=True, file_okay=False),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(help="Folder of tuned methods.", exists=True, file_okay=False)
    ] = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of a reply.")] = 80,
    prompt_seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the prompts.")] = 0,
    examples: Annotated[
        int,
        typer.Option(
            min=MIN_FITTED, help="Training prompts a method is fitted on, see workbench fit."
        ),
    ] = 1600,
    costs: Annotated[
        bool,
        typer.Option(
            help="Measure time and memory, in this process; --no-costs leaves them out, and the "
            "same command with --resume --costs adds them to a finished run."
        ),
    ] = True,
    cost_rounds: Annotated[
        int, typer.Option(min=1, help="Interleaved rounds of the time measurement.")
    ] = 9,
    batch_size: BatchSize = 128,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process; processes[:N]: N of them, or one a core; ray: workers "
            "(RAY_ADDRESS or this machine), with --device cuda one a card, or N with ray:N."
        ),
    ] = "local",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted benchmark, or add seeds and methods to one."
        ),
    ] = False,
) -> None:
    """Compare methods; see ``_HELP``."""
    from workbench.cli._benchmarking import (
        enter_methods,
        print_leaderboard,
        run_with_progress,
    )
    from workbench.evaluation.benchmark import EvaluationConfig
    from workbench.evaluation.leaderboard.costs import CostConfig
    from workbench.evaluation.leaderboard.engines import make_engine
    from workbench.evaluation.leaderboard.plan import BackboneSource, PromptPlan
    from workbench.evaluation.testbed_benchmark import embedded_benchmark
    from workbench.svgt.curriculum.recipe import DataConfig
    from workbench.testbed.splits import TEST_SPLITS

    check_resumable(out, resume)
    names = TEST_SPLITS if splits is None else tuple(name.strip() for name in splits.split(","))
    embedded_benchmark(names, n_per_kind=1, seed=0)  # refuses what is unknown before any loading
    worker = make_engine(engine, device)
    plan = enter_methods(
        BackboneSource(backbone, device, dtype),
        methods,
        seeds=seeds,
        run=out,
        modules=modules,
        tuned=tuned,
        prompts=PromptPlan(names, limit, prompt_seed),
        decoding=EvaluationConfig(
            temperature, top_p, max_new_tokens=max_new_tokens, batch_size=batch_size
        ),
        data=DataConfig(n_prompts=examples, n_pairs=examples, n_targets=examples * 3 // 8),
    )
    timing = CostConfig(rounds=cost_rounds, new_tokens=min(48, max_new_tokens)) if costs else None
    run_with_progress(plan, out, worker, timing, resume=resume)
    print_leaderboard(out)
