"""Every family gives Hugging Face's numbers, alone or in a batch, cached or not."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from families import WINDOW
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

PROMPTS = ["Tell me how to bake bread, how to mend a lock, and why.", "Help!", "the cat sat"]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_logits_and_states_equal_hugging_face_bit_for_bit(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    for prompt in PROMPTS:
        batch = backbone.encode([prompt])
        with torch.no_grad():
            theirs = plain(batch.ids, output_hidden_states=True)
        assert torch.equal(backbone.logits(batch), theirs.logits)
        states = backbone.read_states(batch, [-1, 0, 1, 2])
        for layer, state in states.items():
            assert torch.equal(state, theirs.hidden_states[layer + 1]), layer
    assert backbone.encode(PROMPTS[:1]).ids.shape[1] > 2 * WINDOW, "windows were put to use"


def test_windows_are_put_to_use(backbone: "TransformerLensBackbone", family: str) -> None:
    """A control: without its windows a sliding model gives other numbers."""
    slides = {"mistral": 4, "phi3": 4, "gemma2": 2, "gemma3": 3}.get(family, 0)
    assert len(backbone._windows) == slides
    batch = backbone.encode(PROMPTS[:1])
    kept, backbone._windows = backbone._windows, {}
    try:
        ids, mask = batch.ids, torch.zeros((1, 1, *2 * batch.ids.shape[1:]))
        mask = mask.masked_fill(torch.ones_like(mask).triu(1).bool(), torch.finfo(mask.dtype).min)
        positions = torch.arange(ids.shape[1])[None]
        everything = backbone.forward(ids, mask=mask, position_ids=positions)
    finally:
        backbone._windows = kept
    gap = relative(everything, backbone.logits(batch))
    assert gap > 0.05 if slides else gap == 0


def test_batched_equals_single(backbone: "TransformerLensBackbone") -> None:
    together = backbone.logits(backbone.encode(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone = backbone.logits(backbone.encode([prompt]))[0]
        # Float32 sums in another order: a few units in the last place, over four blocks.
        assert relative(together[row, -len(alone) :], alone) < 1e-5


def test_cached_equals_uncached(backbone: "TransformerLensBackbone") -> None:
    from workbench.backbone import positions_from_mask
    from workbench.backbone.masks import additive_mask, causal_keys

    batch = backbone.encode(PROMPTS)
    width = batch.ids.shape[1]
    mask = additive_mask(causal_keys(batch.mask), backbone.dtype)
    positions = positions_from_mask(batch.mask)
    cache = backbone.new_cache(width)
    parts = [
        backbone.forward(
            batch.ids[:, part],
            mask=mask[:, :, part, : part.stop],
            position_ids=positions[:, part],
            cache=cache,
        )
        for part in (slice(0, 4), slice(4, 5), slice(5, width))
    ]
    whole = backbone.logits(batch)
    assert relative(torch.cat(parts, dim=1)[batch.mask], whole[batch.mask]) < 1e-5


def test_unguided_greedy_text_equals_hugging_face_generate(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    from workbench.guidance import GREEDY, NoGuidance, generate

    replies = generate(backbone, PROMPTS, NoGuidance(), max_new_tokens=8, sampling=GREEDY, stop=())
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        start = backbone.encode([prompt]).ids
        theirs = plain.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=backbone.pad_id,
        )
        assert list(reply.ids) == theirs[0, start.shape[1] :].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder: Path, family: str, dtype: torch.dtype) -> None:
    """Half-precision numbers are Hugging Face's; guided, batched, cached ones differ by rounding.

    The value module stays in float32. Tolerances: a unit in the last place is 2^-8 of a number in
    bfloat16 and 2^-11 in float16; sums in another order may move the last place of every residual
    of four blocks, of the norms and of the readout, so 16 such units are allowed.
    """
    from workbench.backbone import load_backbone
    from workbench.guidance import GREEDY, SVGTBridge, generate
    from workbench.svgt import SVGTConfig, ValueModule
    from workbench.svgt.slots import forward_with_slots

    backbone = load_backbone(folder, dtype=dtype)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=dtype
    ).eval()
    assert backbone.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    together = backbone.logits(backbone.encode(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        batch = backbone.encode([prompt])
        alone = backbone.logits(batch)
        with torch.no_grad():
            theirs = plain(batch.ids).logits
        if family == "gpt_neox":  # its fused projection is cut in three: sums in another order
            assert relative(alone, theirs) < tolerance
        else:
            assert torch.equal(alone, theirs)
        assert relative(together[row, -alone.shape[1] :], alone[0]) < tolerance
    torch.manual_seed(0)
    module = ValueModule(SVGTConfig(d_model=backbone.d_model, layer=1, d_value=32)).eval()
    prompt, response = backbone.encode(PROMPTS), backbone.encode_responses(["the dog slept"] * 3)
    with torch.no_grad():
        guided = forward_with_slots(backbone, prompt, response, module)
        single = forward_with_slots(
            backbone, backbone.encode(PROMPTS[1:2]), response.rows(slice(1)), module
        )
    assert guided.write is not None
    assert guided.write.bridge.dtype == torch.float32
    assert relative(guided.response_logits[1], single.response_logits[0]) < tolerance
    [reply, *_] = generate(
        backbone, PROMPTS, SVGTBridge(module), max_new_tokens=4, sampling=GREEDY, stop=()
    )
    assert len(reply.ids) == 4
    assert all(p.dtype == torch.float32 for p in module.parameters())
