"""The work behind ``workbench probe instability``: read states, compare directions, draw states."""

from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.table import Table

from probes.collection import collect
from probes.contrasts import CONTRASTS, Contrast
from probes.directions import ESTIMATORS
from probes.instability import InstabilityConfig, run_instability
from probes.projection import project_all
from probes.records import Record
from probes.survey import (
    possible_contrasts,
    require_classes,
    survey_modules,
    survey_sets,
    survey_sites,
)
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
from workbench.export.probe_runs import STATES_FOLDER, open_probe, save_probe
from workbench.export.probe_text import Form, chosen
from workbench.export.probe_words import (
    contrast_text,
    estimator_text,
    layer_text,
    place_text,
    site_text,
)
from workbench.testbed.crossed import crossed_examples

Tell = Callable[[int, int], None]
_NARROW = (
    "note: intervals of mass_mean are too narrow where examples are few for the width; for a claim "
    "take mean_difference"
)


def probe_instability(
    subject: Subject,
    prompts: Prompts,
    out: Path,
    *,
    layers: str | None,
    estimators: str | None,
    contrasts: str | None,
    limit: int,
    seed: int,
    resume: bool,
) -> None:
    """Collect states, compare directions at every site, and print the instability indices."""
    named = layers_in(layers, subject.backbone)
    plain = InstabilityConfig()
    config = InstabilityConfig(
        estimators=plain.estimators
        if estimators is None
        else names_in(estimators, tuple(ESTIMATORS), "estimator")
    )
    examples, compared = _examples(prompts, contrasts, config.estimators, limit, seed)
    described = {
        **subject.identity,
        "prompts": prompts.describe(limit),
        "contrasts": list(compared),
        "layers": None if named is None else list(named),
        "instability": to_mapping(config),
    }
    with (
        probe_folder(
            out,
            "instability",
            described,
            seed=seed,
            resume=resume,
            device=subject.backbone.device,
        ) as run,
        stages() as board,
    ):
        if run.record.status != "finished":
            store = collect(
                subject.backbone, examples, out / STATES_FOLDER, layers=named,
                sites=survey_sites(compared, steps=True),
                readers=survey_modules(subject.bridge, seed=seed),
                on_progress=board.of("reading states"),
            )  # fmt: skip
            sets = survey_sets(store, compared)
            records = run_instability(
                sets, config, backbone=subject.backbone.name, seed=seed,
                on_progress=board.of("comparing directions"),
            )  # fmt: skip
            save_probe(run, records, project_all(sets))
    bridge_block = None if subject.bridge is None else subject.bridge.writer.config.layer
    print_found(out, _tables(open_probe(out).records, bridge_block))


def _examples(
    prompts: Prompts, contrasts: str | None, estimators: Sequence[str], limit: int, seed: int
) -> tuple[Sequence[Example], tuple[Contrast, ...]]:
    """The prompts with their replies, and the contrasts that they carry."""
    examples: Sequence[Example] = prompts.examples
    if prompts.file is None:
        examples = crossed_examples(
            prompts.contexts, n_per_class=limit, seed=seed, with_responses=True
        )
    wanted = possible_contrasts(examples)
    if contrasts is not None:
        named = names_in(contrasts, CONTRASTS, "contrast")
        wanted = tuple(contrast for contrast in CONTRASTS if contrast in named)
    if "mass_mean" in estimators:
        typer.echo(_NARROW, err=True)
    require_classes(examples, wanted)
    tell_of_missing_pairs(examples, wanted, estimators)
    return examples, wanted


def _tables(records: Sequence[Record], bridge_block: int | None) -> list[Table]:
    """Indices of the first estimator, and differences at one block; the rest is in the records.

    The block is the one whose states the value module reads, fixed before anything was measured: a
    block chosen for its index would come out too high.
    """
    indices = chosen(records, metric="instability_index")
    first = indices[0].estimator
    tables = []
    for contrast in dict.fromkeys(record.contrast for record in indices):
        of_contrast = chosen(records, contrast=contrast, estimator=first)
        found = chosen(of_contrast, metric="instability_index")
        rows = [(place_text(record.site, record.layer), record) for record in found]
        about = f"{contrast_text(contrast)}, {estimator_text(first)}"
        title = f"Instability index, {about}\n0: one direction serves all contexts; 1: unrelated"
        tables.append(record_table(title, "index", rows, Form(3)))
        tables += _differences(of_contrast, bridge_block)
    return tables


def _differences(records: Sequence[Record], block: int | None) -> list[Table]:
    rows = [
        (site_text(record.site), record)
        for record in chosen(records, metric="instability_difference", layer=block)
    ]
    if block is None or not rows:
        return []
    title = f"How much more the residual stream turns where the bridge enters, {layer_text(block)}"
    return [record_table(title, "difference", rows, Form(3, signed=True))]
