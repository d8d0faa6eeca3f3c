"""The work behind ``workbench probe anchoring`` and ``workbench probe reliability``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.table import Table

from probes.anchoring.interventions import INTERVENTIONS
from probes.anchoring.running import AnchoringConfig, run_anchoring
from probes.collection import collect
from probes.contrasts import ContrastSet, contrast_set
from probes.dilution import (
    DilutionConfig,
    Filler,
    describe_filler,
    embedded_filler,
    filler_of_examples,
    run_dilution,
)
from probes.directions import ESTIMATORS
from probes.margins import ReplyPairs, describe_pairs, pairs_of_examples
from probes.records import Record
from probes.steering import ReliabilityConfig, run_reliability
from probes.survey import possible_contrasts
from workbench.backbone import load_backbone
from workbench.backbone.frozen import FrozenBackbone
from workbench.cli._probing import (
    Prompts,
    Subject,
    layers_in,
    names_in,
    print_found,
    probe_folder,
    record_table,
    stages,
    tell_of_missing_pairs,
)
from workbench.config import to_mapping
from workbench.data.example import Example
from workbench.errors import BackboneError, DataError
from workbench.export.probe_runs import STATES_FOLDER, open_probe, save_probe
from workbench.export.probe_text import Form, chosen, intervention_text, is_steering_control
from workbench.export.probe_words import POOLED, scope_text
from workbench.testbed.crossed import crossed_examples
from workbench.testbed.frames import FRAMES

_LONG_CONTEXT = 2048
_MOST_DILUTED = 8
"""Intents whose bridge is diluted, in the first context alone: a long text is dear."""

_N_FILLERS = 64
_TRAINING_UNITS = 48
Tell = Callable[[int, int], None]


# -------------------------------------------------------------------------------------- anchoring


def probe_anchoring(
    subject: Subject,
    prompts: Prompts,
    out: Path,
    *,
    limit: int,
    dilution: bool,
    max_new_tokens: int,
    seed: int,
    resume: bool,
) -> None:
    """Run the anchoring questions, dilution included, and print the effects."""
    pairs = prompts.pairs(limit, seed, harmless=True)
    filler = _filler(prompts, seed) if dilution else None  # refused before anything runs
    if prompts.file is not None:
        _tell_rows(prompts, limit, seed, dilution=dilution)
    config = AnchoringConfig(max_new_tokens=max_new_tokens)
    described = {
        **subject.identity,
        "prompts": prompts.describe(limit),
        "anchoring": to_mapping(config),
        "dilution": dilution,
    }
    with (
        probe_folder(
            out,
            "anchoring",
            described,
            seed=seed,
            resume=resume,
            device=subject.backbone.device,
        ) as run,
        stages() as board,
    ):
        if run.record.status != "finished":
            records = run_anchoring(
                subject.backbone, subject.guided, pairs, config, seed=seed,
                on_progress=board.of("questions"),
            )  # fmt: skip
            if filler is not None:
                records += _diluted(subject, prompts, filler, limit, seed, board.of("dilution"))
            save_probe(run, records)
    print_found(out, _anchoring_tables(open_probe(out).records))


def _tell_rows(prompts: Prompts, limit: int, seed: int, *, dilution: bool) -> None:
    """Say on standard error which rows of a file are used for what."""
    where = f"{prompts.file}, all of it (contexts {', '.join(prompts.contexts)})"
    typer.echo(f"{where}: {describe_pairs(prompts.examples)}", err=True)
    if dilution:
        few = prompts.few_pairs(min(limit, _MOST_DILUTED), seed)
        harmful = sum(few.prompt_harm)
        typer.echo(
            f"dilution: {harmful} of these harmful and {len(few) - harmful} of these harmless "
            f"prompts, in the context {few.contexts[0]}; filler: "
            f"{describe_filler(prompts.examples)}",
            err=True,
        )


def _filler(prompts: Prompts, seed: int) -> Filler:
    """What stands between the bridge and the reply.

    Raises:
        DataError: A file has no harmless example with a reply to take it from.
    """
    if prompts.file is None:
        return embedded_filler(_N_FILLERS, seed=seed)
    try:
        return filler_of_examples(prompts.examples)
    except DataError as error:
        raise DataError(
            f"{prompts.file} has nothing to fill long texts with ({error}): add such examples, or "
            "leave dilution out with --no-dilution"
        ) from error


def _diluted(
    subject: Subject, prompts: Prompts, filler: Filler, limit: int, seed: int, tell: Tell
) -> list[Record]:
    """Dilution over as many tokens as the backbone has positions for, on few prompts."""
    backbone, distances = _with_room(subject.backbone)
    pairs = prompts.few_pairs(min(limit, _MOST_DILUTED), seed)
    return run_dilution(
        backbone, subject.guided, pairs, filler, DilutionConfig(distances), seed=seed,
        on_progress=tell,
    )  # fmt: skip


def _with_room(
    backbone: FrozenBackbone,
) -> tuple[FrozenBackbone, tuple[int, ...]]:
    """A backbone for long texts and the distances that fit; its own length where it ends."""
    wanted = DilutionConfig().distances
    if backbone.n_ctx < _LONG_CONTEXT:
        try:
            return load_backbone(
                backbone.name,
                device=str(backbone.device),
                dtype=backbone.dtype,
                n_ctx=_LONG_CONTEXT,
                backend=backbone.backend,
            ), wanted
        except BackboneError:  # it learned an embedding for each of its positions
            pass
    room = backbone.n_ctx // 2
    return backbone, tuple(distance for distance in wanted if distance <= room)


def _anchoring_tables(records: Sequence[Record]) -> list[Table]:
    tables = []
    for metric, title, heading in (
        ("margin_effect", "Change of the safety margin against no slots, nats a token", "change"),
        ("harm_rate", "Harmful replies", "share"),
    ):
        found = {
            record.estimator: record for record in chosen(records, metric=metric, context_a="")
        }
        rows = [(text, found[name]) for name, text in INTERVENTIONS.items() if name in found]
        if rows:
            tables.append(record_table(title, heading, rows, Form(3)))
    return tables


# ------------------------------------------------------------------------------------ reliability


def probe_reliability(
    subject: Subject,
    prompts: Prompts,
    out: Path,
    *,
    layers: str | None,
    estimators: str,
    limit: int,
    seed: int,
    resume: bool,
) -> None:
    """Steer test prompts by vectors fitted on training prompts, and by the bridge."""
    named = layers_in(layers, subject.backbone)
    config = ReliabilityConfig(
        layers=named or (), estimators=names_in(estimators, tuple(ESTIMATORS), "estimator")
    )
    training, test = _split(prompts, limit, seed)
    tell_of_missing_pairs(training, possible_contrasts(training), config.estimators, pooled=True)
    described = {
        **subject.identity,
        "prompts": prompts.describe(limit),
        "reliability": to_mapping(config),
    }
    with (
        probe_folder(
            out,
            "reliability",
            described,
            seed=seed,
            resume=resume,
            device=subject.backbone.device,
        ) as run,
        stages() as board,
    ):
        if run.record.status != "finished":
            sets = _training_sets(subject, training, out, board.of("reading states"))
            records = run_reliability(
                subject.backbone, subject.bridge, sets, test, config, seed=seed,
                on_progress=board.of("steering"),
            )  # fmt: skip
            save_probe(run, records)
    print_found(out, _reliability_tables(open_probe(out).records))


def _split(prompts: Prompts, limit: int, seed: int) -> tuple[list[Example], ReplyPairs]:
    """Examples to fit vectors on, and prompts of other intents to steer.

    In the embedded world vectors come from the contexts that value training saw, where any of
    them is asked for; the rest stay unseen. Of a file, every other group is fitted on.
    """
    if prompts.file is None:
        seen = [name for name in prompts.contexts if name in FRAMES and FRAMES[name].role == "seen"]
        training = crossed_examples(
            seen or prompts.contexts, n_per_class=_TRAINING_UNITS, seed=seed, intents="train",
            with_responses=True,
        )  # fmt: skip
        return training, prompts.pairs(limit, seed)
    groups = list(dict.fromkeys(example.group for example in prompts.examples))
    fitted = set(groups[::2])
    training = [example for example in prompts.examples if example.group in fitted]
    rest = [example for example in prompts.examples if example.group not in fitted]
    if not rest:
        raise DataError(
            f"all examples of {prompts.file} share one group: vectors need two groups at least, "
            "one to be fitted on and one to be tested on"
        )
    return training, pairs_of_examples(rest)


def _training_sets(
    subject: Subject, training: Sequence[Example], out: Path, tell: Tell
) -> list[ContrastSet]:
    """States of both contrasts, as far as the examples carry them."""
    store = collect(subject.backbone, training, out / STATES_FOLDER, on_progress=tell)
    sets = [contrast_set(store, "prompt_last", "prompt")]
    if "response_mean" in store.sites:
        sets.append(contrast_set(store, "response_mean", "response"))
    return sets


def _reliability_tables(records: Sequence[Record]) -> list[Table]:
    tables = []
    for metric, title, heading, control in (
        ("steering_slope", "Slope of the safety margin, nats a token and dose", "slope", "random"),
        ("wrong_sign_share", "Prompts pushed the wrong way", "share", "random"),
    ):
        found = chosen(records, metric=metric, context_a=POOLED)
        rows = [
            (f"{intervention_text(record)}: {scope_text(record.context_a)}", record)
            for record in found
            if not is_steering_control(record)
        ]
        tables.append(record_table(title, heading, rows, Form(3), control=control))
    return tables
