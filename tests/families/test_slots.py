"""In every family, slots equal the published two passes, and guided decoding equals slots."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from two_passes import two_passes

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.svgt import BridgeWrite, ValueModule

PROMPTS = ["Tell me how to bake bread at home.", "Help!", "the cat sat"]
RESPONSES = ["here is a safer way to do it", "I cannot help with that, sorry.", ""]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def make_module(backbone: "TransformerLensBackbone", layer: int, mode: str) -> "ValueModule":
    from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

    torch.manual_seed(layer)
    config = SVGTConfig(
        d_model=backbone.d_model, layer=layer, d_value=32, trigger=TriggerConfig(mode=mode)
    )
    module = ValueModule(config).eval()
    with torch.no_grad():
        module.bridge.gate_logit += 4  # a bridge that is felt, and moves with its trigger
    return module


def oracle_write(module: "ValueModule", length: int) -> Callable[[list[Tensor]], Tensor]:
    def write(hidden: list[Tensor]) -> Tensor:
        states = {layer: hidden[layer + 1] for layer in module.capture_layers}
        return module.write_bridge(states, torch.ones((1, length), dtype=torch.bool)).bridge

    return write


@pytest.mark.parametrize("layer", [0, 2])
def test_equals_the_published_two_passes(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel, layer: int
) -> None:
    from workbench.svgt.slots import forward_with_slots

    module = make_module(backbone, layer, "prompt")
    prompt, response = backbone.encode(PROMPTS), backbone.encode_responses(RESPONSES)
    with torch.no_grad():
        ours = forward_with_slots(backbone, prompt, response, module, capture_layers=[layer + 1])
        unguided = forward_with_slots(backbone, prompt, response, None)
        for row in range(len(PROMPTS)):
            ids = prompt.ids[row][prompt.mask[row]].tolist()
            answer = response.ids[row][response.mask[row]].tolist()
            n, write = len(ids), oracle_write(module, len(ids))
            logits, above = two_passes(plain, ids, answer, layer, 5, write)
            found = ours.response_logits[row, : len(answer)]
            states = ours.states[layer + 1]
            assert relative(found, logits) < 1e-5
            assert relative(states.response[row, : len(answer)], above[n + 5 :]) < 1e-5
            assert relative(states.prompt[row][prompt.mask[row]], above[:n]) < 1e-5
            # Not a test of nothing: the bridge moves the logits far more than the tolerance.
            assert relative(found, unguided.response_logits[row, : len(answer)]) > 1e-2


def test_zero_slots_are_the_plain_model(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    from workbench.svgt.slots import forward_with_slots

    prompt, response = backbone.encode(PROMPTS[:1]), backbone.encode_responses(RESPONSES[:1])
    found = forward_with_slots(backbone, prompt, response, None).response_logits
    with torch.no_grad():
        theirs = plain(torch.cat([prompt.ids, response.ids], dim=1)).logits
    assert torch.equal(found, theirs[:, prompt.ids.shape[1] - 1 : -1])


class FromPrompt:
    """A writer that always writes what the prompt tells, with all gates open or all shut."""

    def __init__(self, module: "ValueModule", *, opened: bool) -> None:
        self.module, self.opened = module, opened
        self.config = replace(module.config, gate="always" if opened else "threshold")
        self.capture_layers = module.capture_layers

    def write_bridge(
        self,
        prompt: Mapping[int, Tensor],
        prompt_mask: Tensor,
        current: Mapping[int, Tensor] | None = None,
        gate_scale: float = 1.0,
    ) -> "BridgeWrite":
        write = self.module.write_bridge(prompt, prompt_mask, None, gate_scale)
        return replace(write, open=torch.full_like(write.open, self.opened))


def test_rows_left_alone_are_the_plain_model(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    """Hidden slots take no room, in a sliding window either."""
    from workbench.guidance import GREEDY, NoGuidance, SVGTBridge, generate
    from workbench.svgt.slots import forward_with_slots

    writer = FromPrompt(make_module(backbone, 1, "prompt"), opened=False)
    prompt, response = backbone.encode(PROMPTS[:2]), backbone.encode_responses(RESPONSES[:2])
    with torch.no_grad():
        found = forward_with_slots(backbone, prompt, response, writer, closed_rows="plain")
        for row in range(2):
            ids = torch.cat([prompt.ids[row][prompt.mask[row]], response.ids[row]])
            theirs = plain(ids[None]).logits[0, int(prompt.lengths[row]) - 1 : -1]
            real = response.mask[row]
            assert relative(found.response_logits[row][real], theirs[real]) < 1e-5
    guided = SVGTBridge(writer, closed_rows="plain")
    texts = [
        [r.ids for r in generate(backbone, PROMPTS, way, max_new_tokens=12, sampling=GREEDY)]
        for way in (guided, NoGuidance())
    ]
    assert texts[0] == texts[1]


def test_guided_decoding_equals_one_pass_over_everything(
    backbone: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cache and refresh: with an unchanging bridge every step's logits are those of one pass."""
    from workbench.backbone import TokenBatch
    from workbench.guidance import GREEDY, SVGTBridge, generate
    from workbench.svgt.slots import forward_with_slots

    writer = FromPrompt(make_module(backbone, 1, "current"), opened=True)
    steps: list[Tensor] = []
    forward = backbone.forward

    def recording(*args: object, **options: object) -> Tensor:
        logits = forward(*args, **options)  # type: ignore[arg-type]
        steps.append(logits[:, -1])
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "forward", recording)
        replies = generate(
            backbone,
            PROMPTS,
            SVGTBridge(writer, refresh=2),
            max_new_tokens=12,
            sampling=GREEDY,
            stop=(),
        )
    ids = torch.tensor([reply.ids for reply in replies])
    response = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        whole = forward_with_slots(backbone, backbone.encode(PROMPTS), response, writer)
    assert relative(torch.stack(steps, dim=1), whole.response_logits) < 1e-5
