"""What became of every row: used where, left out why, and what is shared with other sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]
StageData = Literal["prompts", "pairs", "targets"]
Kind = Literal["harmful", "harmless", "with contrast", "without contrast"]


@dataclass(frozen=True)
class ClassCount:
    """How many examples of one class a source gives to a stage.

    Attributes:
        source: Name of the source.
        stage: What they are used for.
        split: Training or validation.
        kind: ``harmful`` or ``harmless``; for targets, whether a harmful reply to the same prompt
            stands beside the safe one.
        n: How many.
    """

    source: str
    stage: StageData
    split: Split
    kind: Kind
    n: int


@dataclass(frozen=True)
class LeftOut:
    """Rows that a stage does not use.

    Attributes:
        source: Name of the source.
        reason: Why, in words.
        n: How many rows.
    """

    source: str
    reason: str
    n: int


@dataclass(frozen=True)
class SetOverlap:
    """Prompts of this training that another set holds too.

    Attributes:
        ours: ``train``, or ``train and validation``.
        other: Name of the other set.
        n_ours: Different prompts here.
        n_other: Prompts there.
        exact: Prompts there that stand here word for word, once normalised.
        near: Prompts there that nearly stand here.
        dropped: Prompts here that were left out for it.
        pairs: Some of the pairs, as ``id here = id there``.
    """

    ours: str
    other: str
    n_ours: int
    n_other: int
    exact: int
    near: int
    dropped: int
    pairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """All of it.

    Attributes:
        counts: What is used.
        left_out: What is not.
        overlaps: What is shared with other sets.
    """

    counts: Sequence[ClassCount]
    left_out: Sequence[LeftOut] = ()
    overlaps: Sequence[SetOverlap] = ()

    def total(self, stage: StageData, split: Split, kind: Kind | None = None) -> int:
        """Examples of a stage and split, of one kind or of all."""
        return sum(
            count.n
            for count in self.counts
            if (count.stage, count.split) == (stage, split) and kind in (None, count.kind)
        )
