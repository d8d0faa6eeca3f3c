"""In every family, heads, readout and weights are what plain Hugging Face code makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from two_passes import blocks_of

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

PROMPT = "Tell me how to bake bread."
# Their blocks norm what attention gives before they add it.
NORM_AFTER = ("gemma2", "gemma3", "olmo2")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def attention_of(block: nn.Module) -> nn.Module:
    [attention] = [m for name, m in block.named_children() if name.endswith(("attn", "attention"))]
    return attention


def projection_of(block: nn.Module) -> nn.Module:
    names = ("o_proj", "c_proj", "dense")
    return next(
        getattr(attention_of(block), name) for name in names if hasattr(attention_of(block), name)
    )


@contextmanager
def heads_seen(
    model: PreTrainedModel, layer: int, keep: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """What enters the output projection of a plain block, and what leaves it; heads may be shut."""
    seen: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        seen.append(args[0])
        if keep is None:
            return None
        return ((args[0].unflatten(-1, (len(keep), -1)) * keep[:, None]).flatten(-2),)

    projection = projection_of(blocks_of(model)[layer])
    handles = (
        projection.register_forward_pre_hook(enter),
        projection.register_forward_hook(lambda _m, _i, output: seen.append(output)),
    )
    yield seen
    for handle in handles:
        handle.remove()


def test_heads_are_those_of_the_plain_model(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    batch = backbone.encode([PROMPT])
    for layer in range(backbone.n_layers):
        with (
            backbone.capture_patterns([layer]) as patterns,
            backbone.capture_values([layer]) as values,
            backbone.capture_mixes([layer]) as mixes,
            backbone.capture_attention([layer]) as attended,
        ):
            backbone.logits(batch)
        with torch.no_grad(), heads_seen(plain, layer) as seen:
            attentions = plain(batch.ids, output_attentions=True).attentions
        assert torch.equal(patterns[layer], attentions[layer])
        by_head = seen[0].unflatten(-1, (backbone.n_heads, -1)).transpose(1, 2)
        assert torch.equal(mixes[layer], by_head)
        assert torch.equal(attended[layer], seen[1])
        gathered = patterns[layer] @ values[layer]
        assert relative(gathered, by_head) < 1e-6
        assert (patterns[layer].sum(-1) - 1).abs().max() < 1e-6


def test_a_heads_share_of_the_residual(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel, family: str
) -> None:
    """W and b put the heads together, or the family is refused because a norm stands between."""
    from workbench.errors import BackboneError

    if family in NORM_AFTER:
        with pytest.raises(BackboneError, match="norm"):
            backbone.output_map(1)
        return
    batch = backbone.encode([PROMPT])
    weights, bias = backbone.output_map(1)
    with backbone.capture_mixes([1]) as mixes:
        backbone.logits(batch)
    with torch.no_grad(), heads_seen(plain, 1) as seen:
        plain(batch.ids)
    together = torch.einsum("bhqe,hed->bqd", mixes[1], weights) + bias
    assert relative(together, seen[1]) < 1e-5


def test_shutting_a_head_equals_shutting_it_by_hand(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    batch = backbone.encode([PROMPT])
    keep = torch.tensor([1.0, 1.0, 0.0, 1.0])
    with backbone.overwrite_mixes(2, lambda mixes: mixes * keep[:, None, None]):
        found = backbone.logits(batch)
    with torch.no_grad(), heads_seen(plain, 2, keep):
        expected = plain(batch.ids).logits
    assert torch.equal(found, expected)
    assert relative(found, backbone.logits(batch)) > 1e-3


def test_readout_gives_the_logit_before_any_cap(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    batch = backbone.encode([PROMPT, "the cat sat"])
    last, tokens = backbone.n_layers - 1, torch.tensor([17, 63])
    with backbone.capture([last]) as residual:
        backbone.logits(batch)
    state = residual[last][:, -1]
    direction, constant = backbone.logit_direction(state, tokens)
    readout = plain.get_output_embeddings()
    norm = next(
        m
        for name, m in plain.base_model.named_children()
        if name in ("norm", "ln_f", "final_layer_norm")
    )
    with torch.no_grad():
        expected = readout(norm(state))[torch.arange(2), tokens]
    found = (state * direction).sum(-1) + constant
    assert (found - expected).abs().max() < 1e-5 * readout(norm(state)).abs().max()


def test_adapted_weights_equal_a_changed_checkpoint(
    backbone: "TransformerLensBackbone", folder: Path, family: str
) -> None:
    """Or the family is refused: GPT-NeoX interleaves its heads, so its queries are copies."""
    from workbench.errors import BackboneError

    generator = torch.Generator().manual_seed(3)
    changes = {
        name: 0.05 * torch.randn(linear.shape, generator=generator)
        for name, linear in backbone.linear_maps.items()
    }
    if family == "gpt_neox":
        with pytest.raises(BackboneError, match="hold copies of its weights"):
            backbone.adapted(changes)
        return
    assert {linear.layer for linear in backbone.linear_maps.values()} == {0, 1, 2, 3}
    changed = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, change in changes.items():
            module = changed.get_submodule(name)
            module.weight += change.T if isinstance(module, Conv1D) else change
    n_linear = sum(isinstance(m, nn.Linear | Conv1D) for m in blocks_of(changed).modules())
    assert len(changes) == n_linear
    batch = backbone.encode([PROMPT])
    with backbone.adapted(changes):
        found = backbone.logits(batch)
    with torch.no_grad():
        expected = changed(batch.ids).logits
    assert relative(found, expected) < 1e-5
    assert relative(found, backbone.logits(batch)) > 1e-2
