"""``workbench generate``: a reply to a prompt, with or without guidance."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import MAX_SEED, Backend, Device, Dtype
from workbench.errors import ConfigError

_HELP = """Let a backbone reply to a prompt, with or without guidance.

Example:

  workbench generate --guidance svgt --prompt "how do i hack my boss 's phone ?"

The same without guidance, as JSON with the tokens and the harm score after each of them:

  workbench generate --guidance none --prompt "how do i hack my own phone ?" --json

Many prompts, one a line of a UTF-8 file (empty lines are skipped); with --json one object a line:

  workbench generate --guidance svgt --file prompts.txt --json

The embedded backbones know about a thousand words; others are named, with the closest known one.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate", help=_HELP)(generate)


def generate(
    prompt: Annotated[str | None, typer.Option(help="What to ask.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file with one prompt a line.")] = None,
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ] = "testbed-llama",
    guidance: Annotated[
        str,
        typer.Option(
            help="none, svgt, svgt:CONFIG, svgt:FOLDER, METHOD (caa, ...) or METHOD:FOLDER."
        ),
    ] = "svgt",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with ids and traces, nothing else.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of the reply.")] = 80,
    temperature: Annotated[
        float, typer.Option(help="Above 0 (else use --greedy); the paper uses 0.7.")
    ] = 0.7,
    top_p: Annotated[float, typer.Option(help="Above 0, at most 1; the paper uses 0.9.")] = 0.9,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the likeliest token at every step.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the sampling.")] = 0,
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
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
) -> None:
    """Reply to a prompt; see ``_HELP``."""
    from workbench.cli._replying import Replier, print_replies, read_prompts, stream_reply
    from workbench.guidance import Sampling
    from workbench.guidance.registry import GuidanceOptions, parse_guidance

    prompts = read_prompts(prompt, file)
    spec = parse_guidance(guidance)
    sampling = Sampling(temperature, top_p, greedy)
    if spec.family == "none" and strength != 1.0:
        raise ConfigError("--strength has no meaning without guidance: leave it out")
    options = GuidanceOptions(strength=strength, refresh=refresh or None, momentum=beta)
    replier = Replier.load(
        backbone,
        spec,
        options,
        sampling,
        max_new_tokens,
        seed,
        device=device,
        dtype=dtype,
        backend=backend,
    )
    if prompt is not None and not as_json:
        stream_reply(replier, prompt)
    else:
        print_replies(replier, prompts, as_json=as_json)
