"""One frozen pass over prompts and responses, and everything that is read from it.

Unguided, a response stands directly after its prompt. Guided by a bridge, slots stand in between,
as decoding places them (``workbench.svgt.slots``); prompt states are the same, because no prompt
token sees a slot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.collection.sites import TOKEN_SITE, ResidualSite
from workbench.backbone.protocol import Backbone, pad_rows
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.slots import forward_with_slots
from workbench.svgt.value_module import ValueModule
from workbench.svgt.value_space import blank_padding, last_valid


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example.

    Attributes:
        prompt: The prompt, up to where the response begins.
        response: The response with its end token; empty where none is read.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def length(self) -> int:
        """All tokens."""
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, eq=False)
class PassStates:
    """Residuals of a few rows by layer, in float32, meaningless at padding.

    Attributes:
        prompt: States of the prompt, padded on either side.
        prompt_mask: True at prompt tokens.
        response: States of the response, right-padded; no columns where none was read.
        response_mask: True at response tokens.
    """

    prompt: Mapping[int, Float[Tensor, "batch context d_model"]]
    prompt_mask: Bool[Tensor, "batch context"]
    response: Mapping[int, Float[Tensor, "batch response d_model"]]
    response_mask: Bool[Tensor, "batch response"]


def plain_pass(
    backbone: Backbone, rows: Sequence[EncodedExample], layers: Sequence[int]
) -> PassStates:
    """Run the plain model; blocks above the highest layer do not run."""
    together = pad_rows(
        [(*row.prompt, *row.response) for row in rows],
        pad_id=backbone.pad_id,
        side="right",
        device=backbone.device,
    )
    with backbone.capture(layers) as captured:
        backbone.run_blocks(together.ids, mask=together.mask, last_layer=max(layers))
    n_prompt = torch.tensor([len(row.prompt) for row in rows], device=backbone.device)[:, None]
    n_response = torch.tensor([len(row.response) for row in rows], device=backbone.device)[:, None]
    context = torch.arange(int(n_prompt.max()), device=backbone.device)
    response = torch.arange(int(n_response.max()), device=backbone.device)
    # Columns beyond a short row's end are padding and read some column that exists.
    columns = (n_prompt + response).clamp(max=together.ids.shape[1] - 1)
    picked = torch.arange(len(rows), device=backbone.device)[:, None], columns
    return PassStates(
        prompt={layer: captured[layer][:, : len(context)].float() for layer in layers},
        prompt_mask=context < n_prompt,
        response={layer: captured[layer][picked].float() for layer in layers},
        response_mask=response < n_response,
    )


def guided_pass(
    backbone: Backbone,
    rows: Sequence[EncodedExample],
    layers: Sequence[int],
    guidance: SVGTBridge,
) -> PassStates:
    """Run the model with the bridge that decoding writes at the prompt pass."""
    prompt = pad_rows(
        [row.prompt for row in rows], pad_id=backbone.pad_id, side="left", device=backbone.device
    )
    response = pad_rows(
        [row.response for row in rows], pad_id=backbone.pad_id, side="right", device=backbone.device
    )
    forward = forward_with_slots(
        backbone,
        prompt,
        response,
        guidance.writer,
        capture_layers=layers,
        gate_scale=guidance.gate_scale,
        closed_rows=guidance.closed_rows,
    )
    return PassStates(
        prompt={layer: states.prompt.float() for layer, states in forward.states.items()},
        prompt_mask=prompt.mask,
        response={layer: states.response.float() for layer, states in forward.states.items()},
        response_mask=response.mask,
    )


def read_residuals(
    states: PassStates, layers: Sequence[int], sites: Sequence[ResidualSite]
) -> dict[str, Float[Tensor, "row layer d_model"]]:
    """The residual sites; rows are examples, or for ``response_tokens`` their tokens in turn."""
    readers = {
        "prompt_last": lambda layer: last_valid(states.prompt[layer], states.prompt_mask),
        "response_mean": lambda layer: _mean(states.response[layer], states.response_mask),
        TOKEN_SITE: lambda layer: states.response[layer][states.response_mask],
    }
    return {site: torch.stack([readers[site](layer) for layer in layers], dim=1) for site in sites}


def read_module(name: str, module: ValueModule, states: PassStates) -> dict[str, Tensor]:
    """What a value module makes of the rows, by site; without responses no ``z_response``.

    The harm observer of decoding reads the same ``z_response``: it scores it.
    """
    write = module.write_bridge(
        {layer: states.prompt[layer] for layer in module.capture_layers}, states.prompt_mask
    )
    readings = {
        "z": write.z,
        "delta_z": write.delta_z,
        "bridge": write.bridge.flatten(1),
        "score": write.score[:, None],
        "open": write.open[:, None],
    }
    if states.response_mask.shape[1]:
        layer = module.config.encoder_layer
        readings["z_response"] = module.encoder.conditional(
            states.prompt[layer], states.response[layer], states.prompt_mask, states.response_mask
        )
    return {f"{site}:{name}": reading for site, reading in readings.items()}


def module_layers(module: ValueModule, *, responses: bool) -> set[int]:
    """The layers that ``read_module`` needs."""
    return {*module.capture_layers, *([module.config.encoder_layer] if responses else [])}


def _mean(
    states: Float[Tensor, "batch response d_model"], mask: Bool[Tensor, "batch response"]
) -> Float[Tensor, "batch d_model"]:
    return blank_padding(states, mask).sum(dim=1) / mask.sum(dim=1, keepdim=True)
