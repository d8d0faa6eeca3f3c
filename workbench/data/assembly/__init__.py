"""Labelled examples of any source as the three training stages' data, with a report.

What a source says decides what its rows are used for:

==========  =====================================================================================
prompts     stage 1, and the trigger: every prompt with ``prompt_harm``
pairs       stage 2: every reply with ``response_harm``
targets     stage 3: safe replies, unless their prompt is labelled harmless; with a harmful reply
            to the same prompt where there is one
==========  =====================================================================================

Nothing leaves silently: every row that is not used is counted under its reason.
"""

from workbench.data.assembly.assemble import Assembled, assemble
from workbench.data.assembly.config import AssemblyConfig
from workbench.data.assembly.report import ClassCount, DataReport, LeftOut, SetOverlap
from workbench.data.assembly.selection import WhyNot

__all__ = [
    "Assembled",
    "AssemblyConfig",
    "ClassCount",
    "DataReport",
    "LeftOut",
    "SetOverlap",
    "WhyNot",
    "assemble",
]
