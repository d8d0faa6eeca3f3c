"""The published insertion of a bridge, by Hugging Face modules alone: an oracle for the slots.

First pass: prompt and response through all blocks, the response at positions M+K and on; take the
states after block L. Second pass: blocks L+1 and up on [prompt, bridge, response]. Nothing of the
workbench takes part: masks are written out here, and the bridge enters as the input of a block.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The model's blocks."""
    n_layers = model.config.num_hidden_layers
    [blocks] = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return blocks


def masks_by_position(model: PreTrainedModel, positions: Sequence[int]) -> object:
    """What the model takes as its mask so that windows count positions, for one row."""
    full = torch.zeros((len(positions), len(positions)))
    for query in range(len(positions)):
        full[query, query + 1 :] = torch.finfo(full.dtype).min
    window = getattr(model.config, "sliding_window", None)
    if window is None:
        return full[None, None]
    sliding = full.clone()
    for query, there in enumerate(positions):
        for key, here in enumerate(positions):
            if there - here >= window:
                sliding[query, key] = torch.finfo(full.dtype).min
    if getattr(model.config, "layer_types", None) is None:
        return sliding[None, None]
    return {"full_attention": full[None, None], "sliding_attention": sliding[None, None]}


@torch.no_grad()
def two_passes(
    model: PreTrainedModel,
    prompt: Sequence[int],
    response: Sequence[int],
    layer: int,
    n_slots: int,
    write: Callable[[list[Tensor]], Tensor],
) -> tuple[Tensor, Tensor]:
    """Logits that predict the response tokens, and the states one block above L, of one row.

    Args:
        model: The plain model.
        prompt: Its tokens.
        response: Its tokens.
        layer: L.
        n_slots: K.
        write: From the prompt's states (embeddings first) to the bridge.
    """
    m, n = len(prompt), len(response)
    places = [*range(m), *range(m + n_slots, m + n_slots + n)]
    first = model(
        torch.tensor([[*prompt, *response]]),
        attention_mask=masks_by_position(model, places),
        position_ids=torch.tensor([places]),
        output_hidden_states=True,
        use_cache=False,
    )
    bridge = write([state[:, :m] for state in first.hidden_states])
    state = first.hidden_states[layer + 1]
    spliced = torch.cat([state[:, :m], bridge, state[:, m:]], dim=1)
    above: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return spliced, *args[1:]

    def leave(_module: nn.Module, _inputs: object, output: object) -> None:
        above.append(output[0] if isinstance(output, tuple) else output)

    block = blocks_of(model)[layer + 1]
    handles = block.register_forward_pre_hook(enter), block.register_forward_hook(leave)
    filler = [0] * n_slots
    logits = model(torch.tensor([[*prompt, *filler, *response]]), use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits[0, m + n_slots - 1 : -1], above[0][0]
