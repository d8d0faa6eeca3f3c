"""Ablations: which parts of SVGT do the work.

Each takes one part of a named recipe away, or varies it, and measures what changes on the same
prompts with the same random numbers.
"""

from workbench.evaluation.ablations.catalogue import (
    CATALOGUE,
    Ablation,
    Decoding,
    Variant,
    find_ablation,
)
from workbench.evaluation.ablations.comparing import (
    ALL_SEEDS,
    AblationRecord,
    Compared,
    compare,
    records_frame,
)
from workbench.evaluation.ablations.dependence import Dependence, bridge_dependence
from workbench.evaluation.ablations.running import (
    RECORDS_FILE,
    RUN_KIND,
    AblationPlan,
    Comparison,
    Remaining,
    grows_into,
    headline,
    remaining,
    run_ablations,
)

__all__ = [
    "ALL_SEEDS",
    "CATALOGUE",
    "RECORDS_FILE",
    "RUN_KIND",
    "Ablation",
    "AblationPlan",
    "AblationRecord",
    "Compared",
    "Comparison",
    "Decoding",
    "Dependence",
    "Remaining",
    "Variant",
    "bridge_dependence",
    "compare",
    "find_ablation",
    "grows_into",
    "headline",
    "records_frame",
    "remaining",
    "run_ablations",
]
