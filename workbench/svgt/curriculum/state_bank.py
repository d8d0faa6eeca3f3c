"""The frozen backbone's states of a training set, read once and kept.

Stages 1 and 2 only ever read states that do not depend on what is trained, so the backbone runs
once over every text, whatever the number of epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import LabelledPair, LabelledPrompt
from workbench.svgt.slots import slot_positions


@dataclass(frozen=True, eq=False)
class PromptBank:
    """States of labelled prompts, left-padded.

    Attributes:
        states: Residuals by layer; zero at padding.
        mask: True at tokens.
        labels: 1 where complying would be harmful.
    """

    states: Mapping[int, Float[Tensor, "n seq d_model"]]
    mask: Bool[Tensor, "n seq"]
    labels: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Int[Tensor, " batch"]) -> "PromptBank":
        """Some rows, without the columns that are padding in all of them."""
        start = self.mask.shape[1] - int(self.mask[index].sum(dim=1).max())
        return PromptBank(
            {layer: state[index, start:] for layer, state in self.states.items()},
            self.mask[index, start:],
            self.labels[index],
        )

    def layer_statistics(
        self, layers: Sequence[int]
    ) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]:
        """Mean and standard deviation of every coordinate over all tokens, layer by layer."""
        tokens = [self.states[layer][self.mask] for layer in layers]
        std = torch.stack([token.std(dim=0) for token in tokens])
        return torch.stack([token.mean(dim=0) for token in tokens]), torch.where(std > 0, std, 1.0)


@dataclass(frozen=True, eq=False)
class PairBank:
    """States of labelled pairs: prompts left-padded, responses right-padded.

    Attributes:
        prompt: Prompt states, zero at padding.
        response: Response states, end token included.
        prompt_mask: True at prompt tokens.
        response_mask: True at response tokens.
        labels: 1 where the response is harmful there.
        ambiguous: True where the response's text alone does not tell.
    """

    prompt: Float[Tensor, "n context d_model"]
    response: Float[Tensor, "n seq d_model"]
    prompt_mask: Bool[Tensor, "n context"]
    response_mask: Bool[Tensor, "n seq"]
    labels: Float[Tensor, " n"]
    ambiguous: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Int[Tensor, " batch"]) -> "PairBank":
        """Some rows, without the columns that are padding in all of them."""
        start = self.prompt_mask.shape[1] - int(self.prompt_mask[index].sum(dim=1).max())
        stop = int(self.response_mask[index].sum(dim=1).max())
        return PairBank(
            self.prompt[index, start:],
            self.response[index, :stop],
            self.prompt_mask[index, start:],
            self.response_mask[index, :stop],
            self.labels[index],
            self.ambiguous[index],
        )


def bank_prompts(
    backbone: Backbone, prompts: Sequence[LabelledPrompt], layers: Sequence[int]
) -> PromptBank:
    """Run the backbone over labelled prompts and keep the states of some layers."""
    batch = backbone.encode([row.prompt for row in prompts])
    return PromptBank(
        backbone.read_states(batch, layers),
        batch.mask,
        torch.tensor([row.harmful for row in prompts], dtype=torch.float32),
    )


def bank_pairs(
    backbone: Backbone, pairs: Sequence[LabelledPair], *, layer: int, n_slots: int
) -> PairBank:
    """Run the backbone over labelled pairs and keep the states of one layer.

    Responses stand at positions M + K and on, as in guided decoding.
    """
    prompt = backbone.encode([row.prompt for row in pairs])
    response = backbone.encode_responses([row.response for row in pairs])
    positions = slot_positions(prompt.mask, n_slots, response.mask)
    width = prompt.ids.shape[1]
    together = TokenBatch(
        torch.cat([prompt.ids, response.ids], dim=1),
        torch.cat([prompt.mask, response.mask], dim=1),
    )
    states = backbone.read_states(
        together,
        [layer],
        position_ids=torch.cat([positions[:, :width], positions[:, width + n_slots :]], dim=1),
    )[layer]
    return PairBank(
        states[:, :width],
        states[:, width:],
        prompt.mask,
        response.mask,
        torch.tensor([row.harmful for row in pairs], dtype=torch.float32),
        torch.tensor([row.ambiguous for row in pairs]),
    )
