"""The frozen backbone's states of a training set, read once and kept.

Stages 1 and 2 only ever read states that do not depend on what is trained, so the backbone runs
once over every text, whatever the number of epochs. Only real tokens are kept; padding is added
again for the few rows that a step looks at. Banks stay in the computer's own memory, which is
larger than a graphics card's: the states of every pass go there before the next pass begins, and a
step's rows go to the module's device when they are looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import LabelledPair, LabelledPrompt
from workbench.svgt.slots import slot_positions

_Row = TypeVar("_Row")
BATCH_SIZE = 64
"""Texts that the backbone reads at a time, unless it is told otherwise."""
_TOKENISED_AT_ONCE = 256
"""Texts among which those of similar length are looked for."""


@dataclass(frozen=True, eq=False)
class TokenStates:
    """States of many texts of different lengths, one after the other without padding.

    Attributes:
        tokens: One row a token.
        lengths: Tokens of each text.
    """

    tokens: Float[Tensor, "token d_model"]
    lengths: Int[Tensor, " n"]

    def padded(
        self, index: Int[Tensor, " batch"], side: Literal["left", "right"]
    ) -> tuple[Float[Tensor, "batch seq d_model"], Bool[Tensor, "batch seq"]]:
        """Some texts as a batch, zero at padding, with the mask of the tokens."""
        lengths = self.lengths[index, None]
        starts = (self.lengths.cumsum(0) - self.lengths)[index, None]
        columns = torch.arange(int(lengths.max()))
        within = columns - (lengths.max() - lengths) if side == "left" else columns[None]
        mask = (within >= 0) & (within < lengths)
        states = self.tokens[(starts + within).clamp(0, len(self.tokens) - 1)]
        return torch.where(mask[:, :, None], states, 0.0), mask


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """States of a few labelled prompts, left-padded.

    Attributes:
        states: Residuals by layer; zero at padding.
        mask: True at tokens.
        labels: 1 where complying would be harmful.
    """

    states: Mapping[int, Float[Tensor, "batch seq d_model"]]
    mask: Bool[Tensor, "batch seq"]
    labels: Float[Tensor, " batch"]

    def to(self, device: torch.device) -> "PromptBatch":
        """The same on a device."""
        states = {layer: states.to(device) for layer, states in self.states.items()}
        return PromptBatch(states, self.mask.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class PromptBank:
    """States of labelled prompts by layer."""

    states: Mapping[int, TokenStates]
    labels: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(
        self, index: Int[Tensor, " batch"], layers: Sequence[int] | None = None
    ) -> PromptBatch:
        """Some prompts as a batch, with their states of some layers, or of all."""
        chosen = self.states if layers is None else layers
        padded = {layer: self.states[layer].padded(index, "left") for layer in chosen}
        mask = next(iter(padded.values()))[1]
        return PromptBatch(
            {layer: states for layer, (states, _) in padded.items()}, mask, self.labels[index]
        )

    def last_states(self, layer: int) -> Float[Tensor, "n d_model"]:
        """State of every prompt's last token."""
        kept = self.states[layer]
        return kept.tokens[kept.lengths.cumsum(0) - 1]

    def layer_statistics(
        self, layers: Sequence[int]
    ) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]:
        """Mean and standard deviation of every coordinate over all tokens, layer by layer.

        A coordinate that never varies gets the standard deviation 1.
        """
        tokens = [self.states[layer].tokens for layer in layers]
        std = torch.stack([token.std(dim=0) for token in tokens])
        return torch.stack([token.mean(dim=0) for token in tokens]), torch.where(std > 0, std, 1.0)


@dataclass(frozen=True, eq=False)
class PairBatch:
    """States of a few labelled pairs: prompts left-padded, responses right-padded.

    Attributes:
        prompt: Prompt states, zero at padding.
        response: Response states, end token included.
        prompt_mask: True at prompt tokens.
        response_mask: True at response tokens.
        labels: 1 where the response is harmful there.
    """

    prompt: Float[Tensor, "batch context d_model"]
    response: Float[Tensor, "batch seq d_model"]
    prompt_mask: Bool[Tensor, "batch context"]
    response_mask: Bool[Tensor, "batch seq"]
    labels: Float[Tensor, " batch"]

    def to(self, device: torch.device) -> "PairBatch":
        """The same on a device."""
        return PairBatch(
            self.prompt.to(device),
            self.response.to(device),
            self.prompt_mask.to(device),
            self.response_mask.to(device),
            self.labels.to(device),
        )


@dataclass(frozen=True, eq=False)
class PairBank:
    """States of labelled pairs.

    Attributes:
        prompt: Prompt states.
        response: Response states, end token included.
        labels: 1 where the response is harmful there.
        ambiguous: True where the response's text alone does not tell.
    """

    prompt: TokenStates
    response: TokenStates
    labels: Float[Tensor, " n"]
    ambiguous: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Int[Tensor, " batch"]) -> PairBatch:
        """Some pairs as a batch."""
        prompt, prompt_mask = self.prompt.padded(index, "left")
        response, response_mask = self.response.padded(index, "right")
        return PairBatch(prompt, response, prompt_mask, response_mask, self.labels[index])


def bank_prompts(
    backbone: Backbone,
    prompts: Sequence[LabelledPrompt],
    layers: Sequence[int],
    *,
    batch_size: int = BATCH_SIZE,
) -> PromptBank:
    """Run the backbone over labelled prompts and keep the states of some layers.

    Args:
        backbone: The frozen model.
        prompts: The texts.
        layers: Blocks whose output is kept; -1 stands for the embeddings.
        batch_size: Most texts that the backbone reads at a time.
    """
    texts = [row.prompt for row in prompts]
    read = [backbone.encode(part) for part in _parts(texts)]
    shelf = _Shelf.for_texts(read, layers, backbone.d_model)
    for batch in read:
        _read_into({shelf: batch.mask}, backbone, batch, batch_size)
    return PromptBank(
        {layer: TokenStates(tokens, shelf.lengths) for layer, tokens in shelf.tokens.items()},
        torch.tensor([row.harmful for row in prompts], dtype=torch.float32),
    )


def bank_pairs(
    backbone: Backbone,
    pairs: Sequence[LabelledPair],
    *,
    layer: int,
    n_slots: int,
    batch_size: int = BATCH_SIZE,
) -> PairBank:
    """Run the backbone over labelled pairs and keep the states of one layer.

    Responses stand at positions M + K and on, as in guided decoding.

    Args:
        backbone: The frozen model.
        pairs: The texts.
        layer: The block whose output is kept.
        n_slots: K, the positions left free between a prompt and its response.
        batch_size: Most pairs that the backbone reads at a time.

    Raises:
        ContextLengthError: A prompt, the slots and its response exceed the context.
    """
    prompts = [backbone.encode([row.prompt for row in part]) for part in _parts(pairs)]
    replies = [[row.response for row in part] for part in _parts(pairs)]
    responses = [backbone.encode_responses(part) for part in replies]
    of_prompts = _Shelf.for_texts(prompts, [layer], backbone.d_model)
    of_responses = _Shelf.for_texts(responses, [layer], backbone.d_model)
    for prompt, response in zip(prompts, responses, strict=True):
        longest = int((prompt.lengths + response.lengths).max())
        backbone.check_context(longest, n_slots=n_slots, n_new=0)
        together = TokenBatch(
            torch.cat([prompt.ids, response.ids], dim=1),
            torch.cat([prompt.mask, response.mask], dim=1),
        )
        positions = slot_positions(prompt.mask, n_slots, response.mask)
        width = prompt.ids.shape[1]
        without_slots = torch.cat([positions[:, :width], positions[:, width + n_slots :]], dim=1)
        is_prompt = torch.arange(together.ids.shape[1], device=together.mask.device) < width
        wanted = {
            of_prompts: together.mask & is_prompt,
            of_responses: together.mask & ~is_prompt,
        }
        _read_into(wanted, backbone, together, batch_size, without_slots)
    return PairBank(
        TokenStates(of_prompts.tokens[layer], of_prompts.lengths),
        TokenStates(of_responses.tokens[layer], of_responses.lengths),
        torch.tensor([row.harmful for row in pairs], dtype=torch.float32),
        torch.tensor([row.ambiguous for row in pairs]),
    )


@dataclass(eq=False)
class _Shelf:
    """Room for the states of texts, filled batch by batch.

    Attributes:
        tokens: By layer, one row a token.
        lengths: Tokens of each text.
        filled: Tokens of the batches before.
    """

    tokens: Mapping[int, Float[Tensor, "token d_model"]]
    lengths: Int[Tensor, " n"]
    filled: int = 0

    @classmethod
    def for_texts(
        cls, batches: Sequence[TokenBatch], layers: Sequence[int], d_model: int
    ) -> "_Shelf":
        """Room for every token of some batches in some layers."""
        lengths = torch.cat([batch.lengths.cpu() for batch in batches])
        shape = (int(lengths.sum()), d_model)
        return cls({layer: torch.empty(shape) for layer in layers}, lengths)


def _parts(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    for start in range(0, len(rows), _TOKENISED_AT_ONCE):
        yield rows[start : start + _TOKENISED_AT_ONCE]


def _read_into(
    wanted: Mapping[_Shelf, Bool[Tensor, "batch seq"]],
    backbone: Backbone,
    batch: TokenBatch,
    batch_size: int,
    position_ids: Int[Tensor, "batch seq"] | None = None,
) -> None:
    """Read a batch and lay the states of each shelf's own tokens behind what stands there."""
    places = {}
    for shelf, mask in wanted.items():
        n_new = int(mask.sum())
        place = torch.zeros(mask.shape, dtype=torch.long)
        place[mask.cpu()] = torch.arange(shelf.filled, shelf.filled + n_new)
        places[shelf] = place
        shelf.filled += n_new

    def lay(rows: Tensor, columns: slice, states: Mapping[int, Tensor]) -> None:
        for shelf, mask in wanted.items():
            chosen = mask[rows, columns]
            at = places[shelf][rows.cpu(), columns][chosen.cpu()]
            for layer, tokens in shelf.tokens.items():
                found = states[layer]
                tokens[at] = found[chosen.to(found.device)].cpu().float()

    layers = sorted({layer for shelf in wanted for layer in shelf.tokens})
    backbone.visit_states(batch, layers, lay, batch_size=batch_size, position_ids=position_ids)
