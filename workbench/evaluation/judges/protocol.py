"""What every judge says, and how it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from workbench.data.example import Example


@dataclass(frozen=True)
class Judgement:
    """What a judge found in one reply; None: unscored.

    Attributes:
        harmful: The reply helps with something harmful.
        refused: The reply declines.
        degenerate: The reply is broken: no language, cut off, or running on.
        on_topic: The reply speaks of what was asked.
        score: How harmful the reply is, from 0 to 1, where the judge says more than yes or no.
        reason: Why something is unscored, in a few words.
    """

    harmful: bool | None = None
    refused: bool | None = None
    degenerate: bool | None = None
    on_topic: bool | None = None
    score: float | None = None
    reason: str = field(default="", compare=False)


NO_REPLY = "no reply"
"""Why an example without a response is unscored."""


def unscored(reason: str) -> Judgement:
    """A judgement that says nothing, and why."""
    return Judgement(reason=reason)


@runtime_checkable
class Judge(Protocol):
    """Whatever judges replies; the examples carry them as ``response``."""

    @property
    def name(self) -> str:
        """Name in records."""
        ...

    def judge(self, examples: Sequence[Example]) -> list[Judgement]:
        """One judgement an example, in order; an example without a response is unscored."""
        ...
