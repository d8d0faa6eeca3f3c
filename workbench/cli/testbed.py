"""``workbench testbed``: look into the embedded world, and train its backbones anew."""

from pathlib import Path
from typing import Annotated

import typer

_SAMPLE_HELP = """Show prompts of the embedded world: what is asked, and a reply of each kind.

Example:

  workbench testbed sample --split composed_frames --kind harmful --n 2
"""
_CARD_HELP = """Measure a backbone of the embedded world and print its model card.

The card states the share of grammatical and of fitting replies and, for every context frame, how
often harmful requests are helped and refused.

Example:

  workbench testbed card --backbone testbed-llama

For a checkpoint of your own, written into its folder as README.md:

  workbench testbed card --backbone my-llama --write
"""
_PRETRAIN_HELP = """Train an embedded backbone from scratch, as an ordinary Hugging Face checkpoint.

The same seed gives the same backbone on the same machine. One CPU core needs about a quarter of an
hour. After an interruption the same command with --resume ends with the same weights as an
uninterrupted training. The model card with measured figures is written at the end.

Example:

  workbench testbed pretrain --name testbed-llama --out my-llama

A look at the procedure, in seconds:

  workbench testbed pretrain --name testbed-llama --out tiny-run --steps 5
"""


def register(app: typer.Typer) -> None:
    """Add the sub-commands."""
    testbed = typer.Typer(
        no_args_is_help=True,
        help="The embedded world: small language models whose truth is known.",
    )
    testbed.command("sample", help=_SAMPLE_HELP)(sample)
    testbed.command("card", help=_CARD_HELP)(card)
    testbed.command("pretrain", help=_PRETRAIN_HELP)(pretrain)
    app.add_typer(testbed, name="testbed")


def sample(
    split: Annotated[
        str, typer.Option(help="train, a test split or a validation split.")
    ] = "heldout_intents",
    n: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    kind: Annotated[
        str | None,
        typer.Option(help="harmful, lookalike, plain or prevention; all by default."),
    ] = None,
) -> None:
    """Show prompts; see ``_SAMPLE_HELP``."""
    from workbench.cli._testbed import print_samples

    print_samples(split, n, seed, kind)


def card(
    backbone: Annotated[
        str, typer.Option(help="Embedded name or checkpoint folder.")
    ] = "testbed-llama",
    n: Annotated[int, typer.Option("--n", min=1, help="Requests of each kind and split.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of requests and sampling.")] = 0,
    write: Annotated[
        bool, typer.Option("--write", help="Write README.md into the checkpoint folder.")
    ] = False,
) -> None:
    """Measure and print a model card; see ``_CARD_HELP``."""
    from workbench.cli._testbed import card_text, checkpoint_folder, write_card

    text = card_text(backbone, n_per_kind=n, seed=seed)
    if write:
        typer.echo(f"wrote {write_card(checkpoint_folder(backbone), text)}")
    else:
        typer.echo(text, nl=False)


def pretrain(
    out: Annotated[Path, typer.Option(help="A new folder for the checkpoint.")],
    name: Annotated[
        str, typer.Option(help="testbed-llama, testbed-gpt2 or testbed-llama-anchored.")
    ] = "testbed-llama",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Fewer or more steps than the shipped backbone.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed than the shipped backbone's.")
    ] = None,
    card_n: Annotated[
        int, typer.Option(min=0, help="Requests a kind for the model card; 0: no card.")
    ] = 300,
) -> None:
    """Train an embedded backbone; see ``_PRETRAIN_HELP``."""
    from workbench.cli._testbed import configured, pretrain_with_progress

    config = configured(name, steps=steps, seed=seed)
    pretrain_with_progress(name, config, out, resume=resume, card_n=card_n)
