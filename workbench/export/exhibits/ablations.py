"""Exhibits of ``workbench ablate``: a table and a forest plot for each part, and curves."""

from pathlib import Path

from workbench.evaluation.ablations import RECORDS_FILE
from workbench.export.ablation_figures import (
    CURVE_HELP,
    DIFFERENCE_HELP,
    curve_figure,
    difference_figure,
)
from workbench.export.ablation_tables import (
    comparison_evidence,
    comparisons_in,
    paper_table,
    read_records,
)
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.runs import RunFolder


def ablation_exhibits(run: RunFolder) -> Exhibits:
    """Tables and figures of ablations; of an unfinished run, of those measured so far."""
    path = run.file(RECORDS_FILE)
    if not path.exists():
        return Exhibits()
    records = read_records(path)
    parts = comparisons_in(records)
    figures = []
    for ablation, reference, backbone in parts:
        name = f"{ablation}-of-{reference}-{Path(backbone).name}"
        evidence = comparison_evidence(records, ablation, reference, backbone)
        figures += [
            paper_figure(
                f"forest-{name}", f"Ablation {ablation} of {reference}",
                difference_figure(records, ablation, reference, backbone), DIFFERENCE_HELP,
                evidence,
            ),
            paper_figure(
                f"curve-{name}", f"Along {ablation} of {reference}",
                curve_figure(records, ablation, reference, backbone), CURVE_HELP, evidence,
            ),
        ]  # fmt: skip
    return Exhibits(tuple(paper_table(records, *part) for part in parts), joined(figures))
