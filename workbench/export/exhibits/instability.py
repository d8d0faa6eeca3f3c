"""Exhibits of ``workbench probe instability``: turning by layer, contexts, transfer, controls."""

import math
from collections.abc import Iterable, Sequence

from probes.records import Record
from workbench.export import probe_instability_figures as figures
from workbench.export.exhibits.exhibit import Exhibits, PaperFigure, joined, paper_figure
from workbench.export.exhibits.probes import probe_exhibits
from workbench.export.probe_tables import records_evidence
from workbench.export.probe_text import chosen, distinct, layers_of
from workbench.export.probe_words import (
    contrast_text,
    estimator_text,
    family,
    is_control,
    layer_text,
    site_text,
)
from workbench.runs import RunFolder

_NO_ESTIMATOR = ("", "random", "random_matched")


def instability_exhibits(run: RunFolder) -> Exhibits:
    """Tables of the headline; figures of every contrast with the run's first estimator."""
    return probe_exhibits(run, _figures)


def _figures(records: Sequence[Record]) -> tuple[PaperFigure, ...]:
    indices = chosen(records, metric="instability_index")
    if not indices:
        return ()
    estimator = indices[0].estimator
    shown = chosen(records, estimator=(estimator, *_NO_ESTIMATOR))
    return joined(
        [
            _of_contrast(chosen(shown, contrast=contrast), contrast, estimator)
            for contrast in distinct(record.contrast for record in indices)
        ]
    )


def _of_contrast(
    records: Sequence[Record], contrast: str, estimator: str
) -> tuple[PaperFigure, ...]:
    indices = chosen(records, metric="instability_index")
    residual = [r for r in records if family(r.site) == "residual" and not is_control(r.site)]
    layers = layers_of(chosen(residual, metric="reliability"))
    last = layers[-1] if layers else None
    sites = distinct(r.site for r in chosen(residual, metric="reliability", layer=last))
    there = chosen(records, site=tuple(sites[:1]), layer=last)
    where = f"{site_text(sites[0])}, {layer_text(last)}" if sites else ""
    what = f"{contrast_text(contrast)}, {estimator_text(estimator)}"

    def shown(
        name: str, title: str, figure: object, reading: object, metric: str
    ) -> Iterable[PaperFigure]:
        return paper_figure(
            f"{contrast}-{name}", f"{title} ({what})", figure, reading,  # type: ignore[arg-type]
            records_evidence(chosen(records, metric=metric)),
        )  # fmt: skip

    return joined(
        [
            shown(
                "stability-by-layer", "Stability of value directions by layer",
                figures.stability_figure(records), figures.stability_help, "instability_index",
            ),
            shown(
                "index", "Instability index",
                figures.index_figure(chosen(indices, layer=(None, last))), figures.index_help,
                "instability_index",
            ),
            shown(
                "difference", f"Residual stream, {layer_text(last)}, against the other sites",
                figures.difference_figure(_differences(records)), figures.DIFFERENCE_HELP,
                "instability_difference",
            ),
            shown(
                "cosines", f"Cosines between contexts, {where}",
                figures.cosine_heatmap(there), figures.cosine_help, "cosine_corrected",
            ),
            shown(
                "transfer", f"Transfer between contexts, {where}",
                figures.transfer_heatmap(there), figures.TRANSFER_HELP, "transfer_auroc",
            ),
            shown(
                "controls", f"Controls, {where}",
                figures.controls_figure([*there, *chosen(records, metric="length_auroc")]),
                figures.controls_help, "permutation_auroc",
            ),
            shown(
                "layer-drift", "From block to block",
                figures.layer_drift_figure(chosen(residual, site=tuple(sites[:1]))),
                figures.LAYER_DRIFT_HELP, "layer_cosine",
            ),
            shown(
                "step-drift", f"Along the reply, {layer_text(last)}",
                figures.step_drift_figure(chosen(residual, metric="step_cosine", layer=last)),
                figures.STEP_DRIFT_HELP, "step_cosine",
            ),
        ]
    )  # fmt: skip


def _differences(records: Sequence[Record]) -> list[Record]:
    """Against the last block that was compared."""
    compared = chosen(records, metric="instability_difference")
    layers = layers_of(record for record in compared if not math.isnan(record.estimate))
    return chosen(compared, layer=layers[-1]) if layers else []
