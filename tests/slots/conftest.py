from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session", params=("tiny-gpt2", "tiny-llama"))
def tiny_folder(request: pytest.FixtureRequest) -> Path:
    """Folder of a random 4-block model: learned positions, or rotary ones with grouped queries."""
    return FIXTURES / str(request.param)


@pytest.fixture(scope="session")
def backbone(tiny_folder: Path) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(tiny_folder)


@pytest.fixture(scope="session")
def plain(tiny_folder: Path) -> PreTrainedModel:
    """The same model as plain Hugging Face code runs it."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def two_passes(plain: PreTrainedModel) -> Callable[..., tuple[Tensor, Tensor]]:
    """The published procedure on one unpadded row, by Hugging Face modules alone.

    First pass: prompt and response through all blocks, response at positions M+K and on; take the
    states after block L. Second pass: blocks L+1 and up on [prompt, bridge, response].
    """

    def run(
        prompt: Sequence[int],
        response: Sequence[int],
        layer: int,
        n_slots: int,
        write: Callable[[list[Tensor]], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Logits that predict the response tokens, and states one block above L."""
        m, n = len(prompt), len(response)
        ids = torch.tensor([[*prompt, *response]])
        below = torch.tensor([[*range(m), *range(m + n_slots, m + n_slots + n)]])
        hidden = plain(ids, position_ids=below, output_hidden_states=True).hidden_states
        bridge = write([state[:, :m] for state in hidden])
        state = hidden[layer + 1]
        spliced = torch.cat([state[:, :m], bridge, state[:, m:]], dim=1)
        above = torch.arange(m + n_slots + n)[None]
        blocks, norm, inputs = _upper(plain, spliced, above)
        states = []
        for block in blocks[layer + 1 :]:
            spliced = block(spliced, **inputs)
            states.append(spliced)
        logits = plain.lm_head(norm(spliced))
        return logits[0, m + n_slots - 1 : -1], states[0][0]

    return run


def _upper(
    model: PreTrainedModel, states: Tensor, positions: Tensor
) -> tuple[Sequence[torch.nn.Module], torch.nn.Module, dict[str, object]]:
    """Blocks, final norm and block inputs of either architecture."""
    width = states.shape[1]
    mask = torch.full((width, width), torch.finfo(states.dtype).min).triu(1)[None, None]
    if model.config.model_type == "gpt2":
        return model.transformer.h, model.transformer.ln_f, {"attention_mask": mask}
    rotation = model.model.rotary_emb(states, positions)
    inputs = {"attention_mask": mask, "position_embeddings": rotation, "position_ids": positions}
    return model.model.layers, model.model.norm, inputs
