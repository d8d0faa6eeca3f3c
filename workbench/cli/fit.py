"""``workbench fit``: fit a method of guidance, with a configuration given or tuned."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import MAX_SEED, MIN_FITTED, Device, Dtype, check_resumable
from workbench.errors import ConfigError

_HELP = """Fit one method of guidance on the embedded world's training split.

METHOD is one of caa, iti, re-control, refusal-addition, refusal-ablation, svgt-inject, dpo and
system-prompt. The configuration is the best of the method's candidates on the validation splits
([bold]--tune[/bold]), or the one in a YAML file ([bold]--config[/bold]), or the shipped one. The
test splits are never read. refusal-ablation is a control that should raise harm: there --tune takes
the candidate that prevents least of it.

Example:

  workbench fit caa --backbone testbed-llama --tune --out runs/tuned/testbed-llama/caa

  workbench generate --guidance caa:runs/tuned/testbed-llama/caa --prompt "..."

OUT gets guidance.safetensors and guidance.json; with --tune also tuning.parquet (every candidate's
utility with its interval). After an interruption the same command with --resume goes on.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", help=_HELP)(fit)


def fit(
    method: Annotated[str, typer.Argument(help="Name of the method.")],
    out: Annotated[Path, typer.Option(help="A new folder; use it as METHOD:FOLDER.")],
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ] = "testbed-llama",
    tune: Annotated[
        bool, typer.Option("--tune", help="Try every candidate on the validation splits.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the method's configuration.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of data, fit and sampling.")] = 0,
    limit: Annotated[
        int, typer.Option(min=1, help="Validation prompts of each kind and split.")
    ] = 16,
    examples: Annotated[
        int,
        typer.Option(
            min=MIN_FITTED, help="Training prompts, and as many pairs; safe replies: 3/8 of it."
        ),
    ] = 1600,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of a reply.")] = 80,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    engine: Annotated[
        str, typer.Option(help="local, processes[:N], or ray[:N] (one candidate a worker).")
    ] = "local",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted one.")
    ] = False,
) -> None:
    """Fit a method; see ``_HELP``."""
    from workbench.cli._benchmarking import Fitting, fit_with_progress, print_tuning
    from workbench.evaluation.benchmark import EvaluationConfig
    from workbench.evaluation.leaderboard.engines import make_engine
    from workbench.evaluation.leaderboard.plan import BackboneSource
    from workbench.evaluation.tuning import TuningConfig
    from workbench.guidance.methods import get_method
    from workbench.svgt.curriculum.recipe import DataConfig

    check_resumable(out, resume)
    get_method(method)
    if tune and config is not None:
        raise ConfigError(
            "--tune chooses the configuration and --config gives one: leave one of them out"
        )
    data = DataConfig(n_prompts=examples, n_pairs=examples, n_targets=examples * 3 // 8)
    budget = TuningConfig(
        limit, decoding=EvaluationConfig(max_new_tokens=max_new_tokens), data=data
    )
    fitting = Fitting(
        BackboneSource(backbone, device, dtype), method, seed, budget, tune=tune, config_file=config
    )
    fit_with_progress(fitting, out, make_engine(engine, device), resume=resume)
    if tune:
        print_tuning(out)
    typer.echo(f"{method} written to {out}; use it with --guidance {method}:{out}")
