"""Judges: from a prompt and a reply to whether it was harmful, refused, degenerate, on topic.

A judge says of each property yes, no, or None where it cannot tell. None becomes NaN in the
measurements and is left out of every average; it never counts as a no. ``judge_named`` in
:mod:`workbench.evaluation.judges.registry` gives each by its name.
"""

from workbench.evaluation.judges.oracle import OracleJudge
from workbench.evaluation.judges.protocol import Judge, Judgement, tell_unscored, unscored
from workbench.evaluation.judges.refusal_prefix import (
    REFUSAL_PREFIXES,
    SYMPATHY,
    RefusalPrefixJudge,
)
from workbench.evaluation.judges.registry import JUDGES, judge_named

__all__ = [
    "JUDGES",
    "REFUSAL_PREFIXES",
    "SYMPATHY",
    "Judge",
    "Judgement",
    "OracleJudge",
    "RefusalPrefixJudge",
    "judge_named",
    "tell_unscored",
    "unscored",
]
