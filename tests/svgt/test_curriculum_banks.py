"""States that are read once and padded again are the very states of each text on its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workbench.backbone import TransformerLensBackbone, load_backbone
from workbench.backbone.protocol import TokenBatch
from workbench.data.example import Conversation, Message
from workbench.data.training import LabelledPair, LabelledPrompt
from workbench.errors import ContextLengthError
from workbench.svgt.curriculum import state_bank
from workbench.svgt.curriculum.state_bank import (
    PromptBank,
    TokenStates,
    bank_pairs,
    bank_prompts,
)

FIXTURES = Path(__file__).parent.parent / "fixtures"
N_SLOTS = 3
LAYER = 2
LAYERS = (-1, 0, 2)


# ------------------------------------------------------------------------------------- padding


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    data=st.data(),
    side=st.sampled_from(["left", "right"]),
)
def test_padded_rows_are_the_texts_own_states(
    lengths: list[int], data: st.DataObject, side: Literal["left", "right"]
) -> None:
    texts = [torch.randn(length, 3) for length in lengths]
    kept = TokenStates(torch.cat(texts), torch.tensor(lengths))
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    states, mask = kept.padded(torch.tensor(index), side)
    assert states.shape == (len(index), max(lengths[i] for i in index), 3)
    for row, text in enumerate(index):
        length = lengths[text]
        columns = slice(-length, None) if side == "left" else slice(0, length)
        assert torch.equal(states[row, columns], texts[text])
        assert mask[row, columns].all()
        assert int(mask[row].sum()) == length
    assert not states[~mask].any()


def test_padding_hides_even_states_that_are_not_finite() -> None:
    """A neighbour's NaN must not reach a row through the places that are padding."""
    tokens = torch.tensor([[1.0], [2.0], [float("nan")], [3.0]])
    kept = TokenStates(tokens, torch.tensor([2, 1, 1]))
    for side in ("left", "right"):
        states, _ = kept.padded(torch.tensor([0, 2]), side)
        assert states.isfinite().all()


# --------------------------------------------------------------------------------- the backbone


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-gpt2"])
def backbone(request: pytest.FixtureRequest) -> TransformerLensBackbone:
    return load_backbone(FIXTURES / request.param)


def words(rng: np.random.Generator, longest: int) -> str:
    return " ".join(f"t{i}" for i in rng.integers(0, 100, size=rng.integers(1, longest + 1)))


def asked(text: str) -> Conversation:
    return (Message("user", text),)


@pytest.fixture(scope="module")
def prompts() -> list[LabelledPrompt]:
    rng = np.random.default_rng(0)
    return [LabelledPrompt(asked(words(rng, 9)), bool(i % 3 == 0)) for i in range(11)]


@pytest.fixture(scope="module")
def pairs() -> list[LabelledPair]:
    rng = np.random.default_rng(1)
    return [
        LabelledPair(asked(words(rng, 9)), words(rng, 6), bool(i % 2), ambiguous=bool(i % 3))
        for i in range(11)
    ]


@pytest.fixture(autouse=True)
def _several_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_bank, "_READ_AT_ONCE", 4)  # the sets span three reads


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal up to rounding: 1e-5 of the largest coordinate."""
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def alone(backbone: TransformerLensBackbone, text: Conversation, layer: int) -> Tensor:
    return backbone.read_states(backbone.encode([text]), [layer])[layer][0]


def test_banked_prompts_equal_each_prompt_alone(
    backbone: TransformerLensBackbone, prompts: list[LabelledPrompt]
) -> None:
    bank = bank_prompts(backbone, prompts, LAYERS)
    assert len(bank) == len(prompts)
    assert bank.labels.tolist() == [float(row.harmful) for row in prompts]
    chosen = torch.tensor([7, 0, 10, 4])
    batch = bank.rows(chosen)
    assert batch.labels.tolist() == [float(prompts[i].harmful) for i in chosen]
    for layer in LAYERS:
        for row, text in enumerate(chosen):
            expected = alone(backbone, prompts[text].prompt, layer)
            assert_same(batch.states[layer][row, batch.mask[row]], expected)
        last = bank.last_states(layer)
        ends = torch.stack([alone(backbone, row.prompt, layer)[-1] for row in prompts])
        assert_same(last, ends)


def pair_alone(backbone: TransformerLensBackbone, pair: LabelledPair, gap: int) -> Tensor:
    """States of prompt and response in one unpadded row; ``gap`` positions between them."""
    prompt = backbone.encode([pair.prompt])
    response = backbone.encode_responses([pair.response])
    m, n = prompt.ids.shape[1], response.ids.shape[1]
    ids = torch.cat([prompt.ids, response.ids], dim=1)
    positions = torch.tensor([[*range(m), *range(m + gap, m + gap + n)]])
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    return backbone.read_states(batch, [LAYER], position_ids=positions)[LAYER][0]


def test_banked_pairs_equal_each_pair_alone_with_the_response_behind_the_slots(
    backbone: TransformerLensBackbone, pairs: list[LabelledPair]
) -> None:
    bank = bank_pairs(backbone, pairs, layer=LAYER, n_slots=N_SLOTS)
    assert len(bank) == len(pairs)
    assert bank.labels.tolist() == [float(pair.harmful) for pair in pairs]
    assert bank.ambiguous.tolist() == [pair.ambiguous for pair in pairs]
    chosen = torch.tensor([9, 3, 3, 0])
    batch = bank.rows(chosen)
    elsewhere = 0.0
    for row, index in enumerate(chosen):
        found = torch.cat(
            [
                batch.prompt[row, batch.prompt_mask[row]],
                batch.response[row, batch.response_mask[row]],
            ]
        )
        expected = pair_alone(backbone, pairs[index], N_SLOTS)
        assert_same(found, expected)
        elsewhere += float((found - pair_alone(backbone, pairs[index], 0)).abs().max())
    assert elsewhere > 1e-3  # the position does matter, so the comparison above proves it


def test_the_end_token_is_part_of_the_response(
    backbone: TransformerLensBackbone, pairs: list[LabelledPair]
) -> None:
    bank = bank_pairs(backbone, pairs, layer=LAYER, n_slots=N_SLOTS)
    assert bank.response.lengths.tolist() == [len(pair.response.split()) + 1 for pair in pairs]


def test_a_pair_that_does_not_fit_the_context_is_an_error_with_numbers(
    backbone: TransformerLensBackbone,
) -> None:
    half = " ".join(["t1"] * (backbone.n_ctx // 2))
    with pytest.raises(ContextLengthError, match=rf"{N_SLOTS} slots.*{backbone.n_ctx}"):
        bank_pairs(backbone, [LabelledPair(asked(half), half, True)], layer=LAYER, n_slots=N_SLOTS)


# ---------------------------------------------------------------------------------- statistics


def planted(tokens: Tensor, lengths: Sequence[int]) -> PromptBank:
    kept = TokenStates(tokens, torch.tensor(lengths))
    return PromptBank({0: kept, 1: TokenStates(2 * tokens + 1, kept.lengths)}, torch.ones(2))


def test_layer_statistics_weigh_every_token_once() -> None:
    tokens = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    mean, std = planted(tokens, [1, 2]).layer_statistics([1, 0])
    torch.testing.assert_close(mean, torch.tensor([[7.0, 11.0], [3.0, 5.0]]))
    spread = 7**0.5  # of 1, 2, 6
    # a coordinate that never varies is left at its size
    torch.testing.assert_close(std, torch.tensor([[2 * spread, 1.0], [spread, 1.0]]))
