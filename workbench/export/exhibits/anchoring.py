"""Exhibits of ``workbench probe anchoring``: knock-outs, doses, attention, paths, dilution."""

from collections.abc import Callable, Iterable, Sequence

import plotly.graph_objects as go

from probes.records import Record
from workbench.export import probe_anchoring_figures as figures
from workbench.export.exhibits.exhibit import Exhibits, PaperFigure, joined, paper_figure
from workbench.export.exhibits.probes import probe_exhibits
from workbench.export.probe_tables import records_evidence
from workbench.export.probe_text import chosen
from workbench.runs import RunFolder

_DOSES = {
    "gate": "gate scale", "first": "first bridge tokens", "last": "last bridge tokens",
    "refresh": "refresh of the bridge",
}  # fmt: skip
_EFFECTS = {
    "margin_effect": "safety margin", "margin_lost": "lost share of the margin's change",
    "harm_rate": "harmful replies", "harm_lost": "lost share of the harm reduction",
}  # fmt: skip


def anchoring_exhibits(run: RunFolder) -> Exhibits:
    """Tables of the headline, and figures of every part of the probe."""
    return probe_exhibits(run, _figures)


def _figures(records: Sequence[Record]) -> tuple[PaperFigure, ...]:
    def shown(
        name: str,
        title: str,
        figure: go.Figure,
        reading: str | Callable[[go.Figure], str],
        metric: str,
    ) -> Iterable[PaperFigure]:
        evidence = records_evidence(chosen(records, metric=metric))
        return paper_figure(name, title, figure, reading, evidence)

    return joined(
        [
            *(
                shown(
                    f"knock-outs-{metric.replace('_', '-')}",
                    f"Interventions on the bridge: {text}",
                    figures.effects_figure(records, metric), figures.effects_help, metric,
                )
                for metric, text in _EFFECTS.items()
            ),
            *(
                shown(
                    f"dose-{dose}-{metric.removeprefix('dose_').replace('_', '-')}",
                    f"Dose and response: {text}", figures.dose_figure(records, dose, metric),
                    figures.doses_help, metric,
                )
                for dose, text in _DOSES.items()
                for metric in figures.DOSE_METRICS
            ),
            shown(
                "attention-map", "Attention on the bridge by block and head",
                figures.attention_map(records), figures.ATTENTION_MAP_HELP, "attention_mass",
            ),
            shown(
                "attention-course", "Attention on the bridge along the reply",
                figures.attention_course(records), figures.attention_course_help,
                "attention_mass",
            ),
            shown(
                "readers", "Readers of the bridge", figures.readers_figure(records),
                figures.readers_help, "path_share",
            ),
            shown(
                "paths", "Heads as readers of the bridge", figures.paths_figure(records),
                figures.paths_help, "path_share",
            ),
            shown(
                "attribution", "What writes towards the first safe word",
                figures.attribution_parts(records), figures.attribution_help, "logit_attribution",
            ),
            shown(
                "first-order", "Predicted and measured change of the margin",
                figures.prediction_figure(records), figures.PREDICTION_HELP,
                "first_order_measured",
            ),
            shown(
                "trajectory", "Harm score along the reply", figures.trajectory_figure(records),
                figures.trajectory_help, "trajectory",
            ),
            *(
                shown(
                    metric.replace("_", "-"), f"Dilution of the bridge: {text.partition(' (')[0]}",
                    figures.dilution_figure(records, metric), figures.dilution_help, metric,
                )
                for metric, text in figures.DILUTION_METRICS.items()
            ),
        ]
    )  # fmt: skip
