"""``workbench collect``: states of many prompts, on disk."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import Backend, Device, Dtype, check_resumable
from workbench.errors import ConfigError, RunError

_HELP = """Read the residual stream of many prompts once and keep it on disk.

Before anything is read you are told how large it gets; a disk that would not hold it is refused.
Whatever cannot be read is refused by name, or left out and counted with --skip; nothing is cut.
float16 and bfloat16 halve the size and round (float16 by at most 2^-11 of a number, bfloat16 by
2^-8); states are read back as float32.

Example:

  workbench collect --backbone PATH --prompts xstest:xstest_prompts.csv --layers 8,12,16
      --store-dtype bfloat16 --out runs/states

How large would it be?

  workbench collect --backbone PATH --prompts mine.jsonl --sites response_tokens --estimate

Positions: prompt_last (the prompt's last token), response_mean, response_tokens. In Python:

  from probes.collection import StateStore

  StateStore.open("runs/states").states("prompt_last", layer=12)

A collection that was cut off goes on with --resume and ends with the same files.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("collect", help=_HELP)(collect)


def collect(
    backbone: Annotated[
        str, typer.Option(help="Embedded name, checkpoint folder or Hugging Face id.")
    ],
    prompts: Annotated[
        str,
        typer.Option(help="Separated by commas: SOURCE:PATH, SOURCE/PART (the hub), FILE.jsonl."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Separated by commas, -1: the embeddings; all by default.")
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(help="prompt_last, response_mean, response_tokens, separated by commas."),
    ] = None,
    modules: Annotated[
        str | None,
        typer.Option(help="Value modules that read along: configurations or folders."),
    ] = None,
    store_dtype: Annotated[
        str, typer.Option(help="On disk: float32, float16 or bfloat16.")
    ] = "float32",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most examples of each set, from the first on.")
    ] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out (and count) what cannot be read.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Texts the backbone reads at a time; lower it when memory runs out."
        ),
    ] = 64,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say how large it would be; write nothing.")
    ] = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    backend: Backend = "transformer-lens",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a collection that was cut off.")
    ] = False,
) -> None:
    """Collect states; see ``_HELP``."""
    from probes.collection.collect import known_layers
    from probes.collection.size import stored_type
    from workbench.backbone import load_backbone
    from workbench.cli import _collecting
    from workbench.runs import RUN_FILE

    chosen, kept_as = _collecting.sites_in(sites), stored_type(store_dtype)
    named = _collecting.layers_in(layers)
    if out is not None:
        check_resumable(out, resume)
        if not resume and (out / RUN_FILE).is_file():
            raise RunError(f"{out} holds a run already: add --resume to go on, or name another")
    elif not estimate:
        raise ConfigError("name the folder to write with --out FOLDER, or add --estimate")
    model = load_backbone(backbone, device=device, dtype=dtype, backend=backend)
    wanted = known_layers(named, model)  # before prompts are read and counted
    readers = _collecting.modules_in(modules, model)
    examples = _collecting.read_prompts(prompts, model, sites=chosen, limit=limit, skip=skip)
    if out is None or estimate:
        _collecting.print_size(
            model, examples, layers=wanted, sites=chosen, readers=readers, dtype=kept_as
        )
        return
    _collecting.print_store(
        _collecting.collect_with_progress(
            model,
            examples,
            out,
            layers=wanted,
            sites=chosen,
            readers=readers,
            dtype=kept_as,
            batch_size=batch_size,
        )
    )
