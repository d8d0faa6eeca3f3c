"""What every judge says, and how it is asked."""

from collections import Counter
from collections.abc import Iterable, Sequence
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


_UNREADABLE = "the answer reads "
_QUOTED = 60


def unscored(reason: str) -> Judgement:
    """A judgement that says nothing, and why."""
    return Judgement(reason=reason)


def unreadable(answer: str, wanted: str) -> Judgement:
    """A judgement by an answer that is not what was asked for; its beginning is quoted."""
    return unscored(f"{_UNREADABLE}{answer[:_QUOTED]!r}, {wanted}")


def tell_unscored(judge: str, reasons: Iterable[str]) -> str | None:
    """What a judge left unscored and why, in words; the first unreadable answer is quoted.

    Where most answers cannot be read, another checkpoint than the judge's own may have given them.

    Args:
        judge: Its name.
        reasons: Of every judgement, in order; empty where the judge scored.

    Returns:
        None where everything is scored.
    """
    given = list(reasons)
    found = [reason for reason in given if reason]
    if not found:
        return None
    unread = [reason for reason in found if reason.startswith(_UNREADABLE)]
    counts = Counter(reason for reason in found if reason not in unread)
    parts = [f"{n} {reason}" for reason, n in counts.most_common()]
    if unread:
        parts.append(f"{len(unread)} with an answer that cannot be read (first: {unread[0]})")
    text = f"{judge} left {len(found)} of {len(given)} replies unscored: {'; '.join(parts)}"
    if 2 * len(unread) <= len(given):
        return text
    return f"{text}. The model that answers may not be the judge asked for: check its checkpoint"


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
