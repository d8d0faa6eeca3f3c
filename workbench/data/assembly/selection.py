"""Which rows come into question: labelled, short enough, and within the source's limit."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.data.assembly.groups import joined_groups, seeded_order
from workbench.data.assembly.truth import Row
from workbench.data.example import Conversation

WhyNot = Callable[[Conversation, str | None], str | None]
"""Why the model cannot read a prompt (with its reply), in words; None where it can."""
Tally = Counter[tuple[str, str]]
"""Rows by source and reason."""


@dataclass(frozen=True)
class GroupedRow:
    """A row with the name of its group."""

    row: Row
    group: str


def grouped(rows: Sequence[Row]) -> list[GroupedRow]:
    """Rows that share a prompt, or a group of their source, share a group."""
    names = joined_groups(
        [(f"prompt {row.prompt_key}", f"group {row.example.group}") for row in rows]
    )
    return [GroupedRow(row, name) for row, name in zip(rows, names, strict=True)]


def labelled(rows: Sequence[Row], tally: Tally) -> list[Row]:
    """The rows with a label that some stage reads; what is missing is counted, stage by stage."""
    kept = []
    for row in rows:
        if row.prompt_harm is None:
            tally[row.source, "prompt not labelled (stage 1)"] += 1
        if not row.response_key:
            tally[row.source, "no reply (stages 2 and 3)"] += 1
        elif row.response_harm is None:
            tally[row.source, "reply not labelled (stages 2 and 3)"] += 1
        if row.prompt_harm is not None or row.response_harm is not None:
            kept.append(row)
    return kept


def readable(
    rows: Sequence[GroupedRow], limit: int | None, why_not: WhyNot, seed: int, tally: Tally
) -> list[GroupedRow]:
    """Whole groups in the seed's order, source by source, until the limit is reached.

    A row whose prompt cannot be read is left out; one whose reply cannot be read keeps its prompt.
    """
    by_source: dict[str, dict[str, list[GroupedRow]]] = defaultdict(lambda: defaultdict(list))
    for one in rows:
        by_source[one.row.source][one.group].append(one)
    kept: list[GroupedRow] = []
    for source, groups in by_source.items():
        taken, full = 0, False
        for name in seeded_order(groups, seed):
            full = full or (limit is not None and 0 < taken > limit - len(groups[name]))
            if full:
                tally[source, "beyond the limit for a source"] += len(groups[name])
                continue
            found = list(_readable(groups[name], why_not, tally))
            taken += len(found)
            kept += found
    return kept


def _readable(rows: Sequence[GroupedRow], why_not: WhyNot, tally: Tally) -> Iterator[GroupedRow]:
    for one in rows:
        row = one.row
        reason = why_not(row.example.prompt, None)
        if reason is not None:
            tally[row.source, f"prompt {reason}"] += 1
            continue
        if row.response_harm is not None:
            reason = why_not(row.example.prompt, row.example.response)
        if reason is None:
            yield one
            continue
        tally[row.source, f"reply {reason} (its prompt is kept where labelled)"] += 1
        if row.prompt_harm is not None:
            alone = replace(row, example=replace(row.example, response=None), response_key="")
            yield replace(one, row=alone)
