"""A block's attention is the sum of its heads, and a logit the sum of what is written for it."""

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TokenBatch, TransformerLensBackbone


@pytest.fixture
def batch(backbone: "TransformerLensBackbone") -> object:
    return backbone.encode(["t1 t2 t3 t9 t11", "t4 t5 t6 t7"])


@pytest.fixture
def untouched(backbone: "TransformerLensBackbone", batch: "TokenBatch") -> object:
    """Logits before; checked again after the test."""
    before = backbone.logits(batch)
    yield before
    assert torch.equal(backbone.logits(batch), before)
    points = backbone._bridge.hook_dict.values()
    assert not any(point.fwd_hooks or point._forward_hooks for point in points)


def attention_outputs(plain: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """What every attention block of the plain model writes, by its own code, one row."""
    gpt2 = plain.config.model_type == "gpt2"
    modules = (
        [block.attn for block in plain.transformer.h]
        if gpt2
        else [layer.self_attn for layer in plain.model.layers]
    )
    outputs: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output: outputs.append(output[0]))
        for module in modules
    ]
    with torch.no_grad():
        plain(ids[None])
    for handle in handles:
        handle.remove()
    return [output.reshape(len(ids), -1) for output in outputs]


def test_heads_sum_to_the_attention_output_of_the_plain_model(
    backbone: "TransformerLensBackbone",
    plain: PreTrainedModel,
    batch: "TokenBatch",
    untouched: Tensor,
) -> None:
    layers = range(backbone.n_layers)
    with (
        backbone.capture_patterns(layers) as patterns,
        backbone.capture_values(layers) as values,
        backbone.capture_mixes(layers) as mixes,
    ):
        backbone.logits(batch)
    for row in range(2):
        real = batch.mask[row]
        expected = attention_outputs(plain, batch.ids[row][real])
        for layer in layers:
            weights, bias = backbone.output_map(layer)
            assert values[layer].shape[1] == backbone.n_heads, "grouped heads are expanded"
            gathered = patterns[layer][row] @ values[layer][row]
            assert (gathered - mixes[layer][row])[:, real].abs().max() < 1e-6
            heads = torch.einsum("hqe,hed->qd", gathered, weights) + bias
            scale = expected[layer].abs().max()
            assert (heads[real] - expected[layer]).abs().max() < 5e-6 * scale


def test_hidden_heads_share_what_they_should(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    """Heads of one group read equal values, heads of two groups different ones."""
    with backbone.capture_values([1]) as values:
        backbone.logits(batch)
    n_groups = backbone._bridge.cfg.n_key_value_heads or backbone.n_heads
    size = backbone.n_heads // n_groups
    by_group = values[1].unflatten(1, (n_groups, size))
    assert torch.equal(by_group, by_group[:, :, :1].expand_as(by_group))
    assert (by_group[:, 0] - by_group[:, 1]).abs().max() > 1e-3


def test_logit_attribution_sums_to_the_logits(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    """Embedding, heads, biases and MLPs, each read out by itself, add up to the logit."""
    layers = range(backbone.n_layers)
    with (
        backbone.capture([-1, *layers]) as residual,
        backbone.capture_mixes(layers) as mixes,
    ):
        logits = backbone.logits(batch)[:, -1]
    tokens = torch.tensor([17, 63])
    final = residual[backbone.n_layers - 1][:, -1]
    direction, constant = backbone.logit_direction(final, tokens)
    parts = [residual[-1][:, -1]]
    for layer in layers:
        weights, bias = backbone.output_map(layer)
        heads = torch.einsum("bhe,hed->hbd", mixes[layer][:, :, -1], weights)
        rest = residual[layer] - residual[layer - 1]
        mlp = rest[:, -1] - heads.sum(0) - bias
        parts += [*heads, bias.expand_as(mlp), mlp]
    total = torch.stack([(part * direction).sum(-1) for part in parts]).sum(0) + constant
    expected = logits[range(2), tokens]
    assert expected.abs().min() > 1e-2
    assert (total - expected).abs().max() < 1e-5 * logits.abs().max()


def test_the_readout_is_the_derivative_where_the_scale_does_not_move(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    last = backbone.n_layers - 1
    tokens = torch.tensor([5, 6])
    with backbone.capture([last]) as residual:
        backbone.logits(batch)
    final = residual[last][:, -1]
    centred = final - final.mean(dim=-1, keepdim=True)
    noise = torch.randn(final.shape, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(torch.stack([centred, torch.ones_like(final)], dim=-1)).Q
    step = noise - (basis @ (basis.mT @ noise[..., None])).squeeze(-1)
    step = step * (0.03 * final.norm() / step.norm())

    def logits(sign: int) -> Tensor:
        def move(state: Tensor) -> object:
            return torch.cat([state[:, :-1], state[:, -1:] + sign * step[:, None]], dim=1)

        with backbone.overwrite(last, move):
            return backbone.logits(batch)[range(2), -1, tokens]

    direction, _ = backbone.logit_direction(final, tokens)
    predicted = (step * direction).sum(-1)
    measured = (logits(1) - logits(-1)) / 2
    assert predicted.abs().max() > 3e-3
    assert (measured - predicted).abs().max() < 2e-3 * predicted.abs().max()


@pytest.mark.parametrize("context", ["capture_values", "capture_mixes"])
def test_heads_prove_that_they_fired(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor, context: str
) -> None:
    from workbench.errors import HookError

    capture = getattr(backbone, context)
    with pytest.raises(HookError, match="did not fire"), capture([1]):
        pass
    with pytest.raises(HookError, match="there is no layer 9"), capture([9]):
        backbone.logits(batch)
    with capture([1, 2]) as captured:
        backbone.logits(batch)
    assert captured.firings == {1: 1, 2: 1}
    with pytest.raises(HookError, match="there is no layer 9"):
        backbone.output_map(9)


def test_an_architecture_without_these_heads_is_named(
    backbone: "TransformerLensBackbone", batch: "TokenBatch", untouched: Tensor
) -> None:
    from workbench.errors import BackboneError

    points = backbone._sites._points
    name = "blocks.1.attn.hook_v"
    kept = points.pop(name)
    try:
        with (
            pytest.raises(BackboneError, match=r"no 'blocks\.1\.attn\.hook_v'"),
            backbone.capture_values([1]),
        ):
            backbone.logits(batch)
    finally:
        points[name] = kept
