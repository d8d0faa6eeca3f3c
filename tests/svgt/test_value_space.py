"""Padding and batching change nothing; the layers equal torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench.errors import TokenError
from workbench.svgt.attention import EncoderLayer
from workbench.svgt.config import EncoderConfig, SVGTConfig
from workbench.svgt.value_space import ValueEncoder, last_valid

D_MODEL, D_VALUE = 16, 8
EXACT = {"atol": 2e-6, "rtol": 0.0}


def encoder(readout: str = "last-mlp", pooling: bool = False) -> ValueEncoder:
    torch.manual_seed(0)
    options = EncoderConfig(n_heads=2, readout=readout, pooling=pooling)
    return ValueEncoder(SVGTConfig(D_MODEL, 0, d_value=D_VALUE, encoder=options)).eval()


ENCODERS = [encoder("last-mlp"), encoder("encoder"), encoder("encoder", pooling=True)]
PATHWAYS = ("unconditional", "conditional", "prompt_path")


def pad(rows: list[Tensor], left: list[int], total: int, junk: float) -> tuple[Tensor, Tensor]:
    """Rows of states with padding on both sides, filled with `junk`."""
    states = torch.full((len(rows), total, D_MODEL), junk)
    mask = torch.zeros(len(rows), total, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(rows, left, strict=True)):
        states[number, start : start + len(row)] = row
        mask[number, start : start + len(row)] = True
    return states, mask


def read(model: ValueEncoder, pathway: str, states: Tensor, mask: Tensor) -> Tensor:
    if pathway == "conditional":
        # Prompt and response are both padded; the prompt is the reversed batch.
        return model.conditional(states.flip(0), states, mask.flip(0), mask)
    method = model.unconditional if pathway == "unconditional" else model.prompt_path
    return method(states, mask)


@pytest.mark.parametrize("pathway", PATHWAYS)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    extra=st.integers(0, 5),
    shifts=st.lists(st.integers(0, 11), min_size=4, max_size=4),
    junk=st.sampled_from([0.0, 50.0, float("nan"), float("inf")]),
    number=st.integers(0, 2),
)
def test_padding_and_batching_change_nothing(
    pathway: str, lengths: list[int], extra: int, shifts: list[int], junk: float, number: int
) -> None:
    model = ENCODERS[number]
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randn(length, D_MODEL, generator=generator) for length in lengths]
    total = max(lengths) + extra
    left = [shift % (total - length + 1) for shift, length in zip(shifts, lengths, strict=False)]
    states, mask = pad(rows, left, total, junk)
    together = read(model, pathway, states, mask)
    for index, row in enumerate(rows):
        valid = torch.ones(1, len(row), dtype=torch.bool)
        if pathway == "conditional":
            other = rows[len(rows) - 1 - index]
            alone = model.conditional(
                other[None], row[None], torch.ones(1, len(other), dtype=torch.bool), valid
            )
        else:
            alone = read(model, pathway, row[None], valid)
        torch.testing.assert_close(together[index : index + 1], alone, **EXACT)


def test_conditional_reads_prompt_and_response() -> None:
    """Negative control of the invariance above: what is not padding does matter."""
    model = ENCODERS[0]
    torch.manual_seed(1)
    prompt, response = torch.randn(1, 4, D_MODEL), torch.randn(1, 3, D_MODEL)
    masks = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    base = model.conditional(prompt, response, *masks)
    for part in (prompt, response):
        part[0, 1] += 1.0
        assert (model.conditional(prompt, response, *masks) - base).abs().max() > 1e-3
        part[0, 1] -= 1.0


def test_prompt_pathway_starts_small_and_fusion_scale_at_three() -> None:
    model = encoder()
    bound = 0.1 * (6 / (D_MODEL + D_VALUE)) ** 0.5  # Xavier uniform with gain 0.1
    assert model.prompt_projection.weight.abs().max() <= bound
    assert model.prompt_projection.weight.abs().max() > 0.9 * bound
    assert model.cross_scale.item() == 3.0


def test_encoder_layer_equals_torch() -> None:
    torch.manual_seed(2)
    theirs = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True
    )
    ours = EncoderLayer(8, 2, dropout=0.0)
    ours.load_state_dict(
        {
            "attention.in_projection.weight": theirs.self_attn.in_proj_weight,
            "attention.in_projection.bias": theirs.self_attn.in_proj_bias,
            "attention.out_projection.weight": theirs.self_attn.out_proj.weight,
            "attention.out_projection.bias": theirs.self_attn.out_proj.bias,
            "attention_norm.weight": theirs.norm1.weight,
            "attention_norm.bias": theirs.norm1.bias,
            "expand.weight": theirs.linear1.weight,
            "expand.bias": theirs.linear1.bias,
            "contract.weight": theirs.linear2.weight,
            "contract.bias": theirs.linear2.bias,
            "feed_forward_norm.weight": theirs.norm2.weight,
            "feed_forward_norm.bias": theirs.norm2.bias,
        }
    )
    x = torch.randn(3, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()
    difference = ours(x, mask) - theirs(x, src_key_padding_mask=~mask)
    assert difference[mask].abs().max() < 2e-6


def test_last_valid_finds_the_end_on_either_side() -> None:
    states = torch.arange(8.0).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    assert last_valid(states, mask).flatten().tolist() == [1.0, 7.0]


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_an_empty_row_is_named(pathway: str) -> None:
    mask = torch.ones(3, 2, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(TokenError, match="row 1"):
        read(ENCODERS[0], pathway, torch.zeros(3, 2, D_MODEL), mask)
