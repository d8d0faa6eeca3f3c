"""Exhibits of ``workbench probe reliability``: slopes, wrong signs, dose and response."""

from collections.abc import Sequence

from probes.records import Record
from workbench.export import probe_reliability_figures as figures
from workbench.export.exhibits.exhibit import Exhibits, PaperFigure, joined, paper_figure
from workbench.export.exhibits.probes import probe_exhibits
from workbench.export.probe_tables import records_evidence
from workbench.export.probe_text import chosen
from workbench.runs import RunFolder

_SITES = {"residual": "vectors", "bridge": "bridge"}


def reliability_exhibits(run: RunFolder) -> Exhibits:
    """Tables of the headline, and figures of vectors and bridge."""
    return probe_exhibits(run, _figures)


def _figures(records: Sequence[Record]) -> tuple[PaperFigure, ...]:
    def evidence(metric: str) -> str:
        return records_evidence(chosen(records, metric=metric))

    return joined(
        [
            *(
                paper_figure(
                    f"slopes-{text}", f"Steering slope by context: {text}",
                    figures.slopes_figure(records, site=site), figures.slopes_help,
                    evidence("steering_slope"),
                )
                for site, text in _SITES.items()
            ),
            paper_figure(
                "wrong-signs", "Prompts pushed the wrong way", figures.wrong_sign_figure(records),
                figures.wrong_sign_help, evidence("wrong_sign_share"),
            ),
            *(
                paper_figure(
                    f"dose-response-{text}", f"Dose and response: {text}",
                    figures.steering_curve(records, site=site), figures.curve_help,
                    evidence("steering_margin"),
                )
                for site, text in _SITES.items()
            ),
            paper_figure(
                "comparison", "Wrong signs, bridge against vectors",
                figures.comparison_figure(records), figures.COMPARISON_HELP,
                evidence("wrong_sign_difference"),
            ),
        ]
    )  # fmt: skip
