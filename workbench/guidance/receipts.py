"""Receipts: what an intervention really did to the states, counted and measured.

A hook that never fires, that edits only the prompt, or that is added twice under a key-value cache
gives text that looks like any other. So every session keeps, for each place it edits, how often it
fired, on how many positions of prompt and response, how large the requested change was, and how
large the change is that the following blocks read:

    requested = sqrt(mean ||delta||^2)        measured = sqrt(mean ||after - before||^2)
    largest error = max ||(after - before) - delta|| / requested

over all edited positions, in float32. Slots are overwritten whole: there delta is what was written
and the states before count as zero; slots written with the prompt count as its positions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Receipt:
    """What happened at one place.

    Attributes:
        site: ``residual``, ``attention``, ``heads``, ``slots`` or ``weights``.
        layer: Block; None where the whole model is meant.
        passes: Forward passes in which it fired.
        prompt_positions: Edited positions of prompts, over all rows.
        response_positions: Edited positions of responses, over all rows.
        requested: Root mean square length of the change asked for, units of the residual stream.
        measured: The same of the change found in the states that were handed on.
        largest_error: Largest deviation of one position, relative to ``requested``; 0 where nothing
            was asked for.
    """

    site: str
    layer: int | None
    passes: int
    prompt_positions: int
    response_positions: int
    requested: float
    measured: float
    largest_error: float

    @property
    def positions(self) -> int:
        """Edited positions."""
        return self.prompt_positions + self.response_positions


class ReceiptCounter:
    """Counts one place's edits; holds tensors until asked, so that no pass waits for a number."""

    def __init__(self, site: str, layer: int | None) -> None:
        self._site, self._layer = site, layer
        self._passes = 0
        self._sums = torch.zeros(5, dtype=torch.float64)

    def add(
        self,
        requested: Float[Tensor, "batch query width"],
        measured: Float[Tensor, "batch query width"],
        edited: Bool[Tensor, "batch query"],
        *,
        prompt_columns: int,
    ) -> None:
        """Count one pass.

        Args:
            requested: The change asked for; anything where nothing is edited.
            measured: States handed on minus states received.
            edited: Positions that were edited.
            prompt_columns: How many of the first columns belong to the prompt.
        """
        wanted, found = requested.float(), measured.float()
        size = torch.where(edited, wanted.square().sum(dim=-1), 0.0)
        got = torch.where(edited, found.square().sum(dim=-1), 0.0)
        off = torch.where(edited, (found - wanted).square().sum(dim=-1), 0.0)
        on_prompt = edited[:, :prompt_columns].sum()
        new = torch.stack(
            [on_prompt, edited.sum() - on_prompt, size.sum(), got.sum(), off.amax()]
        ).double()
        self._sums = self._sums.to(new.device)
        self._sums = torch.cat([self._sums[:4] + new[:4], torch.maximum(self._sums[4:], new[4:])])
        self._passes += 1

    def receipt(self) -> Receipt:
        """What was counted so far."""
        prompt, response, size, got, off = self._sums.tolist()
        count = max(prompt + response, 1)
        requested = (size / count) ** 0.5
        return Receipt(
            site=self._site,
            layer=self._layer,
            passes=self._passes,
            prompt_positions=int(prompt),
            response_positions=int(response),
            requested=requested,
            measured=(got / count) ** 0.5,
            largest_error=off**0.5 / requested if requested > 0 else off**0.5,
        )


class ReceiptBook:
    """Receipts of many batches, one a place."""

    def __init__(self) -> None:
        self._receipts: dict[tuple[str, int | None], Receipt] = {}

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Put the receipts of one more batch to those of the same place."""
        for receipt in receipts:
            place = (receipt.site, receipt.layer)
            known = self._receipts.get(place)
            self._receipts[place] = receipt if known is None else _together(known, receipt)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """One a place, in the order of their first appearance."""
        return tuple(self._receipts.values())


def _together(first: Receipt, second: Receipt) -> Receipt:
    def pooled(name: str) -> float:
        parts = [(getattr(part, name) ** 2, part.positions) for part in (first, second)]
        total = sum(count for _, count in parts)
        return float((sum(value * count for value, count in parts) / max(total, 1)) ** 0.5)

    return replace(
        first,
        passes=first.passes + second.passes,
        prompt_positions=first.prompt_positions + second.prompt_positions,
        response_positions=first.response_positions + second.response_positions,
        requested=pooled("requested"),
        measured=pooled("measured"),
        largest_error=max(first.largest_error, second.largest_error),
    )
