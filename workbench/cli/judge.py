"""``workbench judge``: replies by one or more judges, and how far the judges agree."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli._limits import MAX_SEED, check_resumable

_HELP = """Judge replies, and report how far judges agree with each other and with people.

FILE is a JSON Lines file of your own (keys prompt and response; response_harm and refusal, true or
false, say what people found), or a published benchmark with replies as NAME:PATH (a local file) or
NAME (the Hugging Face hub).

Example, refusals in XSTest's completions by their beginnings, against its human labels:

  workbench judge xstest:xstest_v2_completions_gpt4.csv --judges refusal-prefix --out runs/xstest

Two judges on replies of one's own, one of them a language model behind an endpoint, whose key
stands in the environment variable SVGT_JUDGE_API_KEY:

  workbench judge replies.jsonl --judges "oracle,endpoint:MODEL@https://host/v1" --out runs/judged

Judges: oracle, refusal-prefix, wildguard:PATH, harmbench:PATH, llama-guard:PATH, beaver-dam:PATH,
strongreject:PATH (a checkpoint folder or hub id), endpoint:MODEL@URL. What a judge cannot tell,
and an example whose reply is missing or blank, stays unscored and is counted.

OUT gets metrics.parquet (every judgement), summary.json (rates, agreement, accuracy, with 95%
intervals) and run.json. After an interruption the same command with --resume goes on where it
stopped.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("judge", help=_HELP)(judge)


def judge(
    file: Annotated[str, typer.Argument(help="Examples with replies, or NAME:PATH.")],
    out: Annotated[Path, typer.Option(help="A new folder for the results.")],
    judges: Annotated[str, typer.Option(help="Separated by commas.")] = "refusal-prefix",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many examples.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the bootstrap.")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Texts a judge's model reads at a time, 8 by default; lower it when memory runs "
            "out.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
) -> None:
    """Judge replies; see ``_HELP``."""
    from workbench.cli._judging import (
        describe,
        judge_all,
        print_agreement,
        read_replies,
        same_replies,
        split_judges,
    )
    from workbench.runs import RunFolder

    check_resumable(out, resume)
    specs = split_judges(judges)
    examples = read_replies(file, limit)
    config = describe(file, examples, specs, batch_size)
    with RunFolder.create(
        out, kind="judge", config=config, seed=seed, resume=resume, grows=same_replies
    ) as run:
        if run.record.status == "finished":
            rows = run.read_summary()
        else:
            rows = judge_all(examples, specs, run, batch_size)
    print_agreement(rows, examples, run)
