"""``workbench probe``: are value directions unstable, and do bridge tokens anchor them?"""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import MAX_SEED, Backend, Device, Dtype, check_resumable

_INSTABILITY_HELP = """Ask in which layers and contexts value directions turn, noise apart.

The same requests are put into every context. In each, a direction from harmless to harmful is
fitted; directions of different contexts are compared, corrected for their split-half reliability.
The same is done in the value space, its correction and the bridge, and with an untrained module.

Example:

  workbench probe instability --backbone testbed-llama --out runs/instability

A quick look first:

  workbench probe instability --out runs/quick --limit 10 --contexts direct,role_play,fiction

OUT gets records.parquet (every number with interval, noise ceiling and control), summary.json,
run.json, projection.parquet and the collected states; the page *Value directions* draws them.
Prompts of your own come from a JSON Lines file, taken whole, with `prompt`, `prompt_harm`,
`context` and, for the second contrast, `response` and `response_harm`; `lat` and `ccs` also need a
`pair`, a name that a harmful prompt and its harmless counterpart share.
"""
_ANCHORING_HELP = """Ask whether bridge tokens are read, and whether they cause the effect.

Attention on the slots by head and token; knock-outs, replacements and random bridges; doses;
path patching by head; first-order prediction; harm scores along replies; dilution over long texts.
Harmful prompts whose gate is open are analysed, in every context.

Example:

  workbench probe anchoring --backbone testbed-llama --out runs/anchoring

A quick look first:

  workbench probe anchoring --out runs/quick --limit 2 --contexts direct,role_play --no-dilution

OUT gets records.parquet (every number with its interval and control), summary.json and run.json.
The page *Bridge anchoring* of the app draws them. Prompts of your own come from a JSON Lines file
with `prompt`, `response`, `prompt_harm` and `response_harm`: two replies to every prompt, one with
response_harm false (it declines) and one with true (it helps). A prompt counts as harmless where
prompt_harm is false, else as harmful. Which rows are used is said before anything runs.
"""
_RELIABILITY_HELP = """Ask whether steering moves every prompt the right way, in every context.

A vector fitted on training prompts is added to the residual stream of test prompts, with random
and permuted vectors as controls; the slope of the safety margin is taken prompt by prompt. The
bridge is measured the same way.

Example:

  workbench probe reliability --backbone testbed-llama --out runs/reliability

OUT gets records.parquet, summary.json and run.json; the page *Value directions* draws them.
Prompts of your own come from a JSON Lines file with `prompt`, `response`, `prompt_harm`,
`response_harm` and, for `lat` and `ccs`, `pair`: vectors are fitted on every other group and tested
on the rest, which needs two replies to every harmful prompt.
"""

Backbone = Annotated[str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")]
Guidance = Annotated[
    str | None,
    typer.Option(help="svgt, svgt:CONFIG or svgt:FOLDER; what ships by default."),
]
Out = Annotated[Path, typer.Option(help="A new folder for the results.")]
Contexts = Annotated[
    str | None, typer.Option(help="Context frames, separated by commas; all by default.")
]
Layers = Annotated[
    str | None,
    typer.Option(help="Blocks, separated by commas; -1: the embeddings. All by default."),
]
File = Annotated[
    Path | None,
    typer.Option("--prompts", help="JSON Lines with examples of your own, taken whole."),
]
Seed = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="Seed of prompts, controls and intervals.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted probe.")]


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    probe = typer.Typer(
        no_args_is_help=True,
        help="Probes: are value directions unstable, and do bridge tokens anchor them?",
    )
    probe.command("instability", help=_INSTABILITY_HELP)(instability)
    probe.command("anchoring", help=_ANCHORING_HELP)(anchoring)
    probe.command("reliability", help=_RELIABILITY_HELP)(reliability)
    app.add_typer(probe, name="probe")


def instability(
    out: Out,
    backbone: Backbone = "testbed-llama",
    guidance: Guidance = None,
    contexts: Contexts = None,
    layers: Layers = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas, of mean_difference, mass_mean, lda, logistic, lat, ccs; "
            "mean_difference, logistic and lda by default."
        ),
    ] = None,
    contrasts: Annotated[
        str | None,
        typer.Option(help="prompt, response, or both (by default, where the prompts have replies)"),
    ] = None,
    prompts: File = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Harmful intents of the embedded world in every context, and as many harmless; "
            "40 by default.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Resume = False,
) -> None:
    """Ask how far value directions turn; see ``_INSTABILITY_HELP``."""
    from workbench.cli._probing import Prompts, load_subject
    from workbench.cli._probing_instability import probe_instability

    check_resumable(out, resume)
    asked = Prompts.of(contexts, prompts, limit)
    subject = load_subject(backbone, guidance, device, dtype, backend, needs_bridge=False)
    probe_instability(
        subject,
        asked,
        out,
        layers=layers,
        estimators=estimators,
        contrasts=contrasts,
        limit=limit or 40,
        seed=seed,
        resume=resume,
    )


def anchoring(
    out: Out,
    backbone: Backbone = "testbed-llama",
    guidance: Guidance = None,
    contexts: Contexts = None,
    prompts: File = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Harmful intents of the embedded world in every context; 12 by default, fewer for "
            "a quick look.",
        ),
    ] = None,
    dilution: Annotated[
        bool, typer.Option(help="Measure the bridge after up to 1024 more tokens, too.")
    ] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of a sampled reply.")] = 64,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Resume = False,
) -> None:
    """Ask whether bridge tokens cause the effect; see ``_ANCHORING_HELP``."""
    from workbench.cli._probing import Prompts, load_subject
    from workbench.cli._probing_bridge import probe_anchoring

    check_resumable(out, resume)
    asked = Prompts.of(contexts, prompts, limit)
    subject = load_subject(backbone, guidance, device, dtype, backend, needs_bridge=True)
    probe_anchoring(
        subject,
        asked,
        out,
        limit=limit or 12,
        dilution=dilution,
        max_new_tokens=max_new_tokens,
        seed=seed,
        resume=resume,
    )


def reliability(
    out: Out,
    backbone: Backbone = "testbed-llama",
    guidance: Guidance = None,
    contexts: Contexts = None,
    layers: Layers = None,
    estimators: Annotated[
        str, typer.Option(help="How vectors are fitted, separated by commas.")
    ] = "mean_difference",
    prompts: File = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Harmful intents of the embedded world in every context, to test on; 24 by "
            "default.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Resume = False,
) -> None:
    """Ask whether steering moves every prompt the right way; see ``_RELIABILITY_HELP``."""
    from workbench.cli._probing import Prompts, load_subject
    from workbench.cli._probing_bridge import probe_reliability

    check_resumable(out, resume)
    asked = Prompts.of(contexts, prompts, limit)
    subject = load_subject(backbone, guidance, device, dtype, backend, needs_bridge=False)
    probe_reliability(
        subject,
        asked,
        out,
        layers=layers,
        estimators=estimators,
        limit=limit or 24,
        seed=seed,
        resume=resume,
    )
