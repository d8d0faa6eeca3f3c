"""``workbench evaluate``: harm, refusals and fluency with and without guidance."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import (
    MAX_SEED,
    Backend,
    BatchSize,
    Device,
    Dtype,
    Temperature,
    TopP,
    check_resumable,
)
from workbench.errors import CheckpointError, ConfigError

_JUDGE = "refusal-prefix"
_GUIDANCE = "none,svgt"
_HELP = """Measure what guidance does: harm, refusals, broken replies and fluency.

The prompts come from the embedded world, whose oracle knows for every reply whether it is
harmful. Four test splits: held-out intents, held-out words, unseen frames, and two frames at
once. Name [bold]none[/bold] among the guidances to get the changes against the plain model, on
the same prompts with the same random numbers.

Example:

  workbench evaluate --backbone testbed-llama --guidance none,svgt --out runs/first

A quick look first, with 20 prompts of each kind and split:

  workbench evaluate --guidance none,svgt --out runs/quick --limit 20

With 300 of each, none and svgt together take about two minutes on one core.

Prompts of your own instead, or of published sets, on any backbone, with any judge of
[bold]workbench judge[/bold] (a reply that the judge cannot score stays unscored):

  workbench evaluate --backbone PATH --guidance none,svgt:runs/real
      --prompts harmbench:behaviors.csv,xstest:prompts.csv --judge refusal-prefix --out runs/hb

OUT gets summary.json (estimates with 95% intervals), metrics.parquet (every prompt),
replies.parquet (the texts) and run.json. After an interruption the same command with --resume
goes on where it stopped.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", help=_HELP)(evaluate)


def evaluate(
    out: Annotated[Path, typer.Option(help="A new folder for the results.")],
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ] = "testbed-llama",
    guidance: Annotated[
        str,
        typer.Option(
            help="Separated by commas: none, svgt, svgt:CONFIG, svgt:FOLDER, METHOD (caa, iti, "
            "...) or METHOD:FOLDER."
        ),
    ] = _GUIDANCE,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seed of prompts and sampling.")
    ] = 0,
    limit: Annotated[
        int,
        typer.Option(min=1, help="Most prompts of each kind and split; small for a quick look."),
    ] = 300,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas: SOURCE:PATH, SOURCE/PART (the hub), FILE.jsonl; the "
            "embedded world by default."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Who judges replies to --prompts; refusal-prefix by default."),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(help="Separated by commas; the four test splits by default."),
    ] = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of a reply.")] = 80,
    strength: Annotated[
        float,
        typer.Option(
            help="Factor on the guidance's own strength; 1 as trained or fitted. A system prompt "
            "is on (1) or off (0)."
        ),
    ] = 1.0,
    refresh: Annotated[
        int, typer.Option(min=0, help="New tokens between two writes of the bridge; 0: once.")
    ] = 5,
    beta: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the old bridge a refresh keeps.")
    ] = 0.8,
    batch_size: BatchSize = 128,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted evaluation.")
    ] = False,
) -> None:
    """Measure what guidance does; see ``_HELP``."""
    from workbench.backbone import load_backbone
    from workbench.cli._evaluating import (
        count_prompts,
        evaluate_with_progress,
        print_results,
        read_prompts,
        without_unaskable,
    )
    from workbench.evaluation import Evaluation, EvaluationConfig, embedded_benchmark
    from workbench.evaluation.judges.registry import check_judge_name
    from workbench.evaluation.running import RUN_KIND
    from workbench.guidance.registry import (
        GuidanceOptions,
        identify_guidance,
        load_guidance,
        parse_guidance_list,
    )
    from workbench.runs import RunFolder
    from workbench.testbed.splits import TEST_SPLITS

    check_resumable(out, resume)
    if prompts is None and judge is not None:
        raise ConfigError("--judge is for --prompts: the embedded world is judged by its oracle")
    if prompts is not None and splits is not None:
        raise ConfigError("--splits names parts of the embedded world; leave it out with --prompts")
    specs = parse_guidance_list(guidance)
    options = GuidanceOptions(strength=strength, refresh=refresh or None, momentum=beta)
    config = EvaluationConfig(
        temperature, top_p, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    if prompts is None:
        wanted = TEST_SPLITS if splits is None else [name.strip() for name in splits.split(",")]
        benchmark = embedded_benchmark(wanted, n_per_kind=limit, seed=seed)
    else:
        check_judge_name(judge or _JUDGE)
    model = load_backbone(backbone, device=device, dtype=dtype, backend=backend)
    try:
        guidances = {spec: load_guidance(spec, model, options) for spec in specs}
    except CheckpointError as error:
        if guidance != _GUIDANCE:
            raise
        raise CheckpointError(f"{error}; --guidance none measures the model alone") from error
    if prompts is None:
        benchmark = without_unaskable(benchmark, model, list(guidances.values()), max_new_tokens)
    else:
        benchmark = read_prompts(
            prompts,
            judge or _JUDGE,
            model,
            list(guidances.values()),
            limit=limit,
            max_new_tokens=max_new_tokens,
            seed=seed,
            batch_size=batch_size,
        )
    evaluation = Evaluation(
        model,
        guidances,
        benchmark,
        config,
        seed,
        {spec: identify_guidance(spec, model, options) for spec in specs},
    )
    with RunFolder.create(
        out,
        kind=RUN_KIND,
        config=evaluation.describe(),
        seed=seed,
        resume=resume,
        device=model.device,
    ) as run:
        if run.record.status == "finished":
            rows = run.read_summary()
        else:
            rows = evaluate_with_progress(evaluation, run)
    print_results(rows, benchmark.judge.name, count_prompts(benchmark), run)
