"""Every family gives Hugging Face's numbers, alone or in a batch, cached or not."""

from typing import TYPE_CHECKING

import torch
from families import WINDOW
from torch import Tensor
from transformers import PreTrainedModel

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
