"""The frozen backbone's states of a training set, read once and kept.

Stages 1 and 2 only ever read states that do not depend on what is trained, so the backbone runs
once over every text, whatever the number of epochs. Only real tokens are kept; padding is added
again for the few rows that a step looks at. Banks stay in the computer's own memory, which is
larger than a graphics card's: a step's rows go to the module's device when they are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import LabelledPair, LabelledPrompt
from workbench.svgt.slots import slot_positions

_READ_AT_ONCE = 256


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

    def rows(self, index: Int[Tensor, " batch"]) -> PromptBatch:
        """Some prompts as a batch."""
        padded = {layer: kept.padded(index, "left") for layer, kept in self.states.items()}
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
    backbone: Backbone, prompts: Sequence[LabelledPrompt], layers: Sequence[int]
) -> PromptBank:
    """Run the backbone over labelled prompts and keep the states of some layers."""
    tokens: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    lengths: list[Tensor] = []
    for start in range(0, len(prompts), _READ_AT_ONCE):
        batch = backbone.encode([row.prompt for row in prompts[start : start + _READ_AT_ONCE]])
        lengths.append(batch.lengths.cpu())
        for layer, states in backbone.read_states(batch, layers).items():
            tokens[layer].append(states[batch.mask].cpu())
    counts = torch.cat(lengths)
    return PromptBank(
        {layer: TokenStates(torch.cat(parts), counts) for layer, parts in tokens.items()},
        torch.tensor([row.harmful for row in prompts], dtype=torch.float32),
    )


def bank_pairs(
    backbone: Backbone, pairs: Sequence[LabelledPair], *, layer: int, n_slots: int
) -> PairBank:
    """Run the backbone over labelled pairs and keep the states of one layer.

    Responses stand at positions M + K and on, as in guided decoding.

    Raises:
        ContextLengthError: A prompt, the slots and its response exceed the context.
    """
    kept: dict[str, list[Tensor]] = {"prompt": [], "response": []}
    lengths: dict[str, list[Tensor]] = {"prompt": [], "response": []}
    for start in range(0, len(pairs), _READ_AT_ONCE):
        rows = pairs[start : start + _READ_AT_ONCE]
        prompt = backbone.encode([row.prompt for row in rows])
        response = backbone.encode_responses([row.response for row in rows])
        states = _read_together(backbone, prompt, response, layer, n_slots)
        width = prompt.ids.shape[1]
        kept["prompt"].append(states[:, :width][prompt.mask].cpu())
        kept["response"].append(states[:, width:][response.mask].cpu())
        lengths["prompt"].append(prompt.lengths.cpu())
        lengths["response"].append(response.lengths.cpu())
    return PairBank(
        TokenStates(torch.cat(kept["prompt"]), torch.cat(lengths["prompt"])),
        TokenStates(torch.cat(kept["response"]), torch.cat(lengths["response"])),
        torch.tensor([row.harmful for row in pairs], dtype=torch.float32),
        torch.tensor([row.ambiguous for row in pairs]),
    )


def _read_together(
    backbone: Backbone, prompt: TokenBatch, response: TokenBatch, layer: int, n_slots: int
) -> Float[Tensor, "batch column d_model"]:
    width = prompt.ids.shape[1]
    longest = int((prompt.lengths + response.lengths).max())
    backbone.check_context(longest, n_slots=n_slots, n_new=0)
    positions = slot_positions(prompt.mask, n_slots, response.mask)
    together = TokenBatch(
        torch.cat([prompt.ids, response.ids], dim=1),
        torch.cat([prompt.mask, response.mask], dim=1),
    )
    without_slots = torch.cat([positions[:, :width], positions[:, width + n_slots :]], dim=1)
    return backbone.read_states(together, [layer], position_ids=without_slots)[layer]
