"""The work behind ``workbench collect``: which examples, how much it will be, and a bar."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from probes.collection import SizeEstimate, StateStore, collect
from probes.collection.collect import plan_size
from probes.collection.sites import reads_response, require_residual_sites
from probes.collection.size import StoredType
from workbench.backbone.protocol import Backbone
from workbench.cli._console import error_console, output
from workbench.cli._probing import stages
from workbench.data.example import Example
from workbench.data.loading import load_named, split_specs
from workbench.errors import ConfigError, DataError
from workbench.evaluation.reading import ReadingRoom
from workbench.guidance.registry import load_module
from workbench.svgt.value_module import ValueModule


def layers_in(text: str | None) -> list[int] | None:
    """Layers of a comma-separated list; None for all.

    Raises:
        ConfigError: A piece is no whole number.
    """
    if text is None:
        return None
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--layers {text}: give whole numbers separated by commas; -1 is the embeddings"
        ) from error


def sites_in(text: str | None) -> tuple[str, ...] | None:
    """Sites of a comma-separated list; None for the default.

    Raises:
        ConfigError: One is unknown.
    """
    if text is None:
        return None
    return require_residual_sites([piece.strip() for piece in text.split(",")])


def modules_in(text: str | None, backbone: Backbone) -> dict[str, ValueModule]:
    """Value modules of a comma-separated list of configurations and folders, by short name."""
    specs = [] if text is None else [piece.strip() for piece in text.split(",")]
    return {Path(spec).name: load_module(spec, backbone) for spec in specs}


def read_prompts(
    text: str,
    backbone: Backbone,
    *,
    sites: Sequence[str] | None,
    limit: int | None,
    skip: bool,
) -> list[Example]:
    """The first examples of the sets named; where asked to, without those that cannot be read.

    Raises:
        DataError: A set cannot be read, or nothing is left.
    """
    sets = load_named(split_specs(text))
    examples = [
        example if len(sets) == 1 else replace(example, id=f"{name}: {example.id}")
        for name, found in sets.items()
        for example in found[:limit]
    ]
    if not skip:
        return examples
    needed = sites is not None and any(reads_response(site) for site in sites)
    kept = _readable(examples, backbone, replies_needed=needed)
    if not kept:
        raise DataError(f"{backbone.name} can read none of the {len(examples)} examples of {text}")
    return kept


def _readable(
    examples: Sequence[Example], backbone: Backbone, *, replies_needed: bool
) -> list[Example]:
    """Examples that fit, and have a reply where one is read; the others are counted on screen."""
    room = ReadingRoom(backbone)
    reasons: dict[str, int] = {}
    kept = []
    for example in examples:
        reason = room.why_not(example.prompt, example.response)
        if reason is None and replies_needed and example.response is None:
            reason = "without a reply"
        if reason is None:
            kept.append(example)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, n in reasons.items():
        error_console().print(f"left out: {n} examples {reason}", soft_wrap=True)
    return kept


def collect_with_progress(
    backbone: Backbone,
    examples: Sequence[Example],
    out: Path,
    *,
    layers: Sequence[int],
    sites: Sequence[str] | None,
    readers: Mapping[str, ValueModule],
    dtype: StoredType,
    batch_size: int,
) -> StateStore:
    """Say how much it will be, collect, and show how far it is."""

    def say(size: SizeEstimate) -> None:
        error_console().print(f"to be written: {size}", soft_wrap=True)

    with stages() as board:  # no bar before there is something to show
        return collect(
            backbone,
            examples,
            out,
            layers=layers,
            sites=sites,
            readers=readers,
            batch_size=batch_size,
            dtype=dtype,
            on_size=say,
            on_progress=board.of("reading states"),
        )


def print_size(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    layers: Sequence[int],
    sites: Sequence[str] | None,
    readers: Mapping[str, ValueModule],
    dtype: StoredType,
) -> None:
    """Print what would be written."""
    size = plan_size(backbone, examples, layers=layers, sites=sites, readers=readers, dtype=dtype)
    output().print(f"would be written: {size}", soft_wrap=True)


def print_store(store: StateStore) -> None:
    """Print what a finished collection holds."""
    output().print(
        f"{len(store)} examples, layers {', '.join(map(str, store.layers))}, sites "
        f"{', '.join(store.sites)} as {store.dtype} in {store.path}",
        soft_wrap=True,
    )
