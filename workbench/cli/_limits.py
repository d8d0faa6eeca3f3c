"""What several commands ask of their options (light)."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import RunError

MAX_SEED = 2**63 - 1
"""Largest seed that every generator takes."""

MIN_FITTED = 22
"""Fewest training prompts of a rival: 3/8 of them, its safe replies, are still 8."""

Device = Annotated[
    str,
    typer.Option(
        help="Torch device: cpu, cuda, cuda:1, or auto, which spreads the blocks over all graphics "
        "cards. Replies use the same random numbers."
    ),
]

Backend = Annotated[
    str,
    typer.Option(
        help="Library that watches the model: transformer-lens, or nnsight. The numbers are the "
        "same."
    ),
]

Dtype = Annotated[
    str,
    typer.Option(
        help="Number type of the backbone: float32, bfloat16, float16. A value module stays "
        "float32, and fits the type it was trained on."
    ),
]

BatchSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="Texts the backbone reads at a time; lower it when memory runs out. Which random "
        "numbers a sampled reply gets depends on it.",
    ),
]

Temperature = Annotated[
    float,
    typer.Option(help="Above 0; 1: the model as it is, the paper uses 0.7."),
]

TopP = Annotated[float, typer.Option(help="Above 0, at most 1; 1: all tokens, the paper uses 0.9.")]


def check_resumable(out: Path, resume: bool) -> None:
    """Refuse to resume what is not there, for a misspelt folder would start all over.

    Raises:
        RunError: ``resume`` is wanted and the folder holds no run.
    """
    from workbench.runs import RUN_FILE  # heavy: only when the command runs

    if resume and not (out / RUN_FILE).is_file():
        raise RunError(f"nothing to resume: {out} holds no run; leave --resume out to start one")
