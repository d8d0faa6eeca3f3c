"""States that are read once and padded again are the very states of each text on its own."""

from collections.abc import Callable, Sequence
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
from workbench.evaluation.leaderboard.costs import LiveTensors
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
    monkeypatch.setattr(state_bank, "_TOKENISED_AT_ONCE", 4)  # the sets span three reads


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


# -------------------------------------------------------------------------------------- memory


@pytest.fixture
def many() -> list[LabelledPrompt]:
    rng = np.random.default_rng(2)
    return [LabelledPrompt(asked(words(rng, 20)), bool(i % 2)) for i in range(300)]


def passes(backbone: TransformerLensBackbone, monkeypatch: pytest.MonkeyPatch) -> list[TokenBatch]:
    """What the backbone is given from now on, pass by pass."""
    seen: list[TokenBatch] = []
    run_blocks = backbone.run_blocks

    def watched(ids: Tensor, *, mask: Tensor, **rest: object) -> None:
        seen.append(TokenBatch(ids, mask))
        run_blocks(ids, mask=mask, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "run_blocks", watched)
    return seen


def test_a_bank_is_bit_for_bit_what_reading_256_texts_by_64_gives(
    backbone: TransformerLensBackbone, many: list[LabelledPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shipped modules were trained on such states: the passes are the same, and so the last bit."""
    monkeypatch.setattr(state_bank, "_TOKENISED_AT_ONCE", 256)
    seen = passes(backbone, monkeypatch)
    bank = bank_prompts(backbone, many, LAYERS)
    given = [batch.ids for batch in seen]
    seen.clear()
    for layer in LAYERS:
        parts = []
        for start in range(0, len(many), 256):
            batch = backbone.encode([row.prompt for row in many[start : start + 256]])
            parts.append(backbone.read_states(batch, LAYERS, batch_size=64)[layer][batch.mask])
        assert torch.equal(bank.states[layer].tokens, torch.cat(parts))
    assert [len(ids) for ids in given] == [64, 64, 64, 64, 44]
    again = [batch.ids for batch in seen[: len(given)]]
    assert all(torch.equal(ids, other) for ids, other in zip(given, again, strict=True))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_pass_holds_more_texts_than_the_batch_size(
    backbone: TransformerLensBackbone,
    prompts: list[LabelledPrompt],
    pairs: list[LabelledPair],
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    usual = (
        bank_prompts(backbone, prompts, LAYERS),
        bank_pairs(backbone, pairs, layer=LAYER, n_slots=N_SLOTS),
    )
    seen = passes(backbone, monkeypatch)
    found = (
        bank_prompts(backbone, prompts, LAYERS, batch_size=batch_size),
        bank_pairs(backbone, pairs, layer=LAYER, n_slots=N_SLOTS, batch_size=batch_size),
    )
    assert max(len(batch.ids) for batch in seen) == batch_size
    assert sum(len(batch.ids) for batch in seen) == len(prompts) + len(pairs)
    for layer in LAYERS:
        assert_same(found[0].states[layer].tokens, usual[0].states[layer].tokens)
    assert_same(found[1].prompt.tokens, usual[1].prompt.tokens)
    assert_same(found[1].response.tokens, usual[1].response.tokens)


def test_long_texts_are_read_fewer_at_a_time(
    backbone: TransformerLensBackbone, many: list[LabelledPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """States and attention scores of every pass stay within the budget, and no text is lost."""
    usual = bank_prompts(backbone, many, LAYERS)
    budget = 200_000
    monkeypatch.setattr("workbench.backbone.frozen._PASS_BYTES", budget)
    seen = passes(backbone, monkeypatch)
    found = bank_prompts(backbone, many, LAYERS)
    for batch in seen:
        rows, width = batch.ids.shape
        numbers = rows * width * (len(LAYERS) * backbone.d_model + backbone.n_heads * width)
        assert 4 * numbers <= budget or rows == 1
    assert sum(len(batch.ids) for batch in seen) == len(many)
    for layer in LAYERS:
        assert_same(found.states[layer].tokens, usual.states[layer].tokens)


def peak(task: Callable[[], object]) -> int:
    """Bytes of live tensors at most, over those that the task leaves behind."""
    with LiveTensors() as live:
        kept = task()
    left = sum(t.nbytes for t in kept) if isinstance(kept, list) else 0
    return live.peak - left


def test_memory_of_reading_does_not_grow_with_the_number_of_texts(
    backbone: TransformerLensBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the bank itself; what reads all texts into one tensor grows with them."""
    budget = 100_000
    monkeypatch.setattr("workbench.backbone.frozen._PASS_BYTES", budget)
    monkeypatch.setattr(state_bank, "_TOKENISED_AT_ONCE", 256)
    text = " ".join(f"t{i}" for i in range(40))
    weights = sum(p.nbytes for p in backbone._root.parameters())

    def bank(n: int) -> list[Tensor]:
        prompts = [LabelledPrompt(asked(text), bool(i % 2)) for i in range(n)]
        return [kept.tokens for kept in bank_prompts(backbone, prompts, LAYERS).states.values()]

    few, more = peak(lambda: bank(16)), peak(lambda: bank(256))
    ids = 256 * 42 * (8 + 1)
    assert more - few < 3 * ids  # token ids, masks and places, not states
    assert few - weights < 5 * budget  # what a block computes on the way comes on top of the states
    batch = backbone.encode([asked(text)] * 256)
    whole = peak(lambda: backbone.read_states(batch, LAYERS))
    assert whole - few > 256 * 40 * len(LAYERS) * backbone.d_model * 4 - budget


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
