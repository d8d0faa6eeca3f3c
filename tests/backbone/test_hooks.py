"""Hooks prove that they fired, check what they carry, and leave the model as it was."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from workbench.backbone import TokenBatch, TransformerLensBackbone


@pytest.fixture
def batch(backbone: "TransformerLensBackbone") -> object:
    return backbone.encode(["t1 t2 t3", "t4 t5 t6 t7"])


@pytest.fixture
def untouched(backbone: "TransformerLensBackbone", batch: "TokenBatch") -> object:
    """Logits before; checked again after the test."""
    before = backbone.logits(batch)
    yield before
    assert torch.equal(backbone.logits(batch), before)
    points = backbone._bridge.hook_dict.values()
    assert not any(point.fwd_hooks or point._forward_hooks for point in points)
    assert not any(block._forward_pre_hooks for block in backbone._bridge.blocks)


def test_capture_counts_and_returns_the_residual(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    with backbone.capture([0, 2]) as captured:
        backbone.logits(batch)
        backbone.logits(batch)
    assert captured.firings == {0: 2, 2: 2}
    assert (
        torch.equal(captured[2], backbone.read_states(batch, [2])[2])
        or captured[2].isfinite().all()
    )
    assert set(captured) == {0, 2}


def test_patterns_are_causal_distributions(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    with backbone.capture_patterns([1]) as patterns:
        backbone.logits(batch)
    pattern = patterns[1]
    assert pattern.shape == (2, backbone.n_heads, 4, 4)
    assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-6)
    assert pattern[1].triu(1).abs().max() == 0
    assert pattern[0, :, 1:, 0].abs().max() == 0, "a padded key is attended to"


def test_overwrite_changes_what_blocks_above_see(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    with backbone.capture([2]) as captured, backbone.overwrite(2, torch.zeros_like):
        changed = backbone.logits(batch)
    assert not torch.equal(changed, untouched)
    with backbone.overwrite(2, lambda residual: residual):
        assert torch.equal(backbone.logits(batch), untouched)
    assert set(captured) == {2}


def test_edited_scores_hide_a_key(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    def hide_second(scores: Tensor, layer: int) -> object:
        hidden = scores.clone()
        hidden[:, :, 2:, 1] = torch.finfo(scores.dtype).min
        return hidden

    with backbone.edit_scores([1], hide_second), backbone.capture_patterns([1, 2]) as patterns:
        backbone.logits(batch)
    assert patterns[1][:, :, 2:, 1].abs().max() == 0
    assert patterns[2][:, :, 2:, 1].abs().max() > 0


def test_hidden_keys_are_keys_whose_scores_are_lowest(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.backbone.protocol import positions_from_mask
    from workbench.svgt.slots import additive_mask, visible_keys

    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[2:, 1] = True
    full = {
        "mask": additive_mask(visible_keys(batch.mask, 0, batch.mask[:, :0]), backbone.dtype),
        "position_ids": positions_from_mask(batch.mask),
    }

    def hide(scores: Tensor, layer: int) -> object:
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)

    with backbone.edit_scores([0, 1], hide):
        wanted = backbone.forward(batch.ids, **full)
    with backbone.hide_keys([0, 1], lambda: hidden), backbone.capture_patterns([1, 2]) as seen:
        found = backbone.forward(batch.ids, **full)
    assert torch.equal(found[batch.mask], wanted[batch.mask])
    assert not torch.equal(found[batch.mask], untouched[batch.mask])
    assert seen[1][1, :, 2:, 1].abs().max() == 0
    assert seen[2][1, :, 2:, 1].abs().max() > 0


def test_keys_cannot_be_hidden_without_a_full_mask(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.errors import HookError

    wrong = torch.zeros(3, 3, dtype=torch.bool)
    with (
        pytest.raises(HookError, match=r"blocks\.0 .* no additive mask of \(3, 3\)"),
        backbone.hide_keys([0], lambda: wrong),
    ):
        backbone.logits(batch)


@pytest.mark.parametrize("open_context", ["capture", "patterns", "overwrite", "scores"])
def test_a_hook_that_does_not_fire_is_an_error_naming_it(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor, open_context: str
) -> None:
    from workbench.errors import HookError

    contexts = {
        "capture": (lambda: backbone.capture([1]), "blocks.1.hook_out"),
        "patterns": (lambda: backbone.capture_patterns([1]), "blocks.1.attn.hook_pattern"),
        "overwrite": (lambda: backbone.overwrite(1, lambda r: r), "blocks.1.hook_out"),
        "scores": (lambda: backbone.edit_scores([1], lambda s, _: s), "hook_attn_scores"),
    }
    context, name = contexts[open_context]
    with pytest.raises(HookError, match="did not fire") as error, context():
        pass
    assert name in str(error.value)


def test_no_such_layer(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.errors import HookError

    with pytest.raises(HookError, match="there is no layer 9"), backbone.capture([1, 9]):
        backbone.logits(batch)
    with pytest.raises(HookError, match="no layer 9"):
        backbone.read_states(batch, [9])


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r[:, :, :1],
        lambda r: r[:1],
        lambda r: r.mean(dim=1, keepdim=True),
        lambda r: r.double(),
    ],
    ids=["width", "batch", "broadcastable", "dtype"],
)
def test_wrong_shape_or_type_is_an_error(
    backbone: "TransformerLensBackbone",
    batch: "TokenBatch",
    untouched: Tensor,
    edit: Callable[[Tensor], Tensor],
) -> None:
    from workbench.errors import HookError

    with pytest.raises(HookError, match="must return"), backbone.overwrite(1, edit):
        backbone.logits(batch)


def test_nan_is_an_error_naming_the_hook(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.errors import NonFiniteError

    with (
        pytest.raises(NonFiniteError, match=r"blocks\.1\.hook_out"),
        backbone.overwrite(1, lambda r: r * float("nan")),
    ):
        backbone.logits(batch)
    with (
        pytest.raises(NonFiniteError, match="hook_attn_scores"),
        backbone.edit_scores([1], lambda s, _: s * float("nan")),
    ):
        backbone.logits(batch)


def test_an_exception_in_the_body_restores_and_is_passed_on(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    with (
        pytest.raises(KeyError, match="mine"),
        backbone.capture([0]),
        backbone.overwrite(1, torch.zeros_like),
        backbone.edit_scores([0], lambda s, _: s),
        backbone.only_newest_row(0, 3),
    ):
        raise KeyError("mine")


def test_an_exception_in_an_edit_restores(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    def fail(residual: Tensor) -> object:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        backbone.capture([0]),
        backbone.overwrite(1, fail),
    ):
        backbone.logits(batch)


def test_asking_for_what_was_not_captured(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.errors import HookError

    with backbone.capture([0]) as captured:
        with pytest.raises(HookError, match="has not fired yet"):
            captured[0]
        backbone.logits(batch)
    with pytest.raises(HookError, match="layer 3 is not captured"):
        captured[3]
