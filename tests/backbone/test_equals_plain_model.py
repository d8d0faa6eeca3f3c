"""The wrapped model is the plain model: same numbers, frozen, untouched by looking at it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

PROMPTS = ["t1 t2 t3 t4 t5 t6 t7", "t9 t8", "t20 t21 t22 t23"]


def relative(a: Tensor, b: Tensor) -> object:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_fixtures_are_tiny(plain: PreTrainedModel) -> None:
    assert sum(p.numel() for p in plain.parameters()) < 250_000


def test_logits_equal_hugging_face_bit_for_bit(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    batch = backbone.encode(PROMPTS[:1])
    with torch.no_grad():
        assert torch.equal(backbone.logits(batch), plain(batch.ids).logits)


def test_residuals_equal_hugging_face_bit_for_bit(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    batch = backbone.encode(PROMPTS[:1])
    with torch.no_grad():
        hidden = plain(batch.ids, output_hidden_states=True).hidden_states
    states = backbone.read_states(batch, [-1, 0, 1, 2])
    for layer, state in states.items():
        assert torch.equal(state, hidden[layer + 1]), layer


def test_padded_equals_unpadded_and_batched_equals_single(
    backbone: "TransformerLensBackbone",
) -> None:
    batch = backbone.encode(PROMPTS)
    together = backbone.logits(batch)
    for row, prompt in enumerate(PROMPTS):
        alone = backbone.logits(backbone.encode([prompt]))
        n_real = alone.shape[1]
        assert relative(together[row, -n_real:], alone[0]) < 5e-6


def test_cached_equals_uncached(backbone: "TransformerLensBackbone") -> None:
    from workbench.backbone import positions_from_mask
    from workbench.backbone.masks import additive_mask
    from workbench.svgt.slots import visible_keys

    batch = backbone.encode(PROMPTS)
    width = batch.ids.shape[1]
    whole = backbone.logits(batch)
    none = batch.mask[:, :0]
    mask = additive_mask(visible_keys(batch.mask, 0, none), backbone.dtype)
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
    cached = torch.cat(parts, dim=1)
    assert relative(cached[batch.mask], whole[batch.mask]) < 5e-6


def test_chosen_columns_are_those_of_the_whole(backbone: "TransformerLensBackbone") -> None:
    batch = backbone.encode(PROMPTS)
    whole = backbone.logits(batch)
    some = backbone.forward(batch.ids, mask=batch.mask, columns=[3, 6])
    assert relative(some, whole[:, [3, 6]]) < 5e-6


def test_read_states_does_not_depend_on_batching_or_side_of_padding(
    backbone: "TransformerLensBackbone",
) -> None:
    from workbench.backbone import TokenBatch

    left = backbone.encode(PROMPTS)
    states = backbone.read_states(left, [1, 2], batch_size=2)
    right = TokenBatch(left.ids.clone(), left.mask.clone())
    for row, length in enumerate(left.lengths.tolist()):
        right.ids[row] = left.ids[row].roll(length)
        right.mask[row] = left.mask[row].roll(length)
    mirrored = backbone.read_states(right, [1, 2], batch_size=1)
    for layer in (1, 2):
        assert (states[layer][~left.mask] == 0).all()
        for row in range(len(PROMPTS)):
            there = mirrored[layer][row][right.mask[row]]
            assert relative(there, states[layer][row][left.mask[row]]) < 5e-6


def test_read_states_stops_above_the_highest_layer(backbone: "TransformerLensBackbone") -> None:
    batch = backbone.encode(PROMPTS)
    with backbone.capture([1]) as low:
        backbone.run_blocks(batch.ids, mask=batch.mask, last_layer=1)
    assert low.firings == {1: 1}
    from workbench.errors import HookError

    with (
        pytest.raises(HookError, match=r"blocks\.2\.hook_out' did not fire"),
        backbone.capture([2]),
    ):
        backbone.run_blocks(batch.ids, mask=batch.mask, last_layer=1)


def test_states_carry_no_graph(backbone: "TransformerLensBackbone") -> None:
    batch = backbone.encode(PROMPTS)
    assert not backbone.logits(batch).requires_grad
    assert not backbone.read_states(batch, [3])[3].requires_grad


def test_frozen_and_in_eval_mode(backbone: "TransformerLensBackbone") -> None:
    modules = list(backbone._bridge.modules()) + list(backbone._bridge.original_model.modules())
    assert not any(module.training for module in modules)
    assert not any(p.requires_grad for p in backbone._bridge.parameters())
    batch = backbone.encode(PROMPTS)
    assert torch.equal(backbone.logits(batch), backbone.logits(batch))


def test_weights_hash_sees_a_changed_weight(tiny_folder: Path) -> None:
    from workbench.backbone import load_backbone

    one, two = load_backbone(tiny_folder), load_backbone(tiny_folder)
    assert one.weights_hash == two.weights_hash
    assert one.tokenizer_hash == two.tokenizer_hash
    used = next(p for n, p in two._bridge.named_parameters() if ".attn." in n or "self_attn" in n)
    with torch.no_grad():
        used[0, 0] += 1e-3
    assert two.current_weights_hash() != two.weights_hash


def test_tokenizer_hash_sees_template_and_vocabulary(backbone: "TransformerLensBackbone") -> None:
    import copy

    from workbench.backbone.hashing import hash_tokenizer

    other = copy.deepcopy(backbone.tokenizer)
    assert hash_tokenizer(other) == backbone.tokenizer_hash
    other(["t1", "t2 t3"], padding=False, truncation=True, max_length=2)
    assert hash_tokenizer(other) == backbone.tokenizer_hash
    other.chat_template = "{{ messages[0]['content'] }}"
    assert hash_tokenizer(other) != backbone.tokenizer_hash
