"""Positions and masks of [prompt | slots | response], for any padding."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

Case = tuple[Tensor, int, Tensor]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Left-padded prompts, a number of slots, right-padded responses."""
    n_rows = draw(st.integers(1, 4))
    n_slots = draw(st.integers(0, 4))
    prompts = draw(st.lists(st.integers(1, 6), min_size=n_rows, max_size=n_rows))
    responses = draw(st.lists(st.integers(1, 5), min_size=n_rows, max_size=n_rows))
    columns = torch.arange(max(prompts))
    prompt_mask = columns >= max(prompts) - torch.tensor(prompts)[:, None]
    response_mask = torch.arange(max(responses)) < torch.tensor(responses)[:, None]
    return prompt_mask, n_slots, response_mask


@given(cases())
def test_positions_are_consecutive_over_the_real_columns_of_every_row(case: Case) -> None:
    from workbench.svgt.slots import slot_positions

    prompt_mask, n_slots, response_mask = case
    positions = slot_positions(*case)
    slots = torch.ones(len(prompt_mask), n_slots, dtype=torch.bool)
    real = torch.cat([prompt_mask, slots, response_mask], dim=1)
    for row in range(len(real)):
        assert positions[row][real[row]].tolist() == list(range(int(real[row].sum())))


@given(cases())
def test_no_column_exceeds_the_rows_last_position(case: Case) -> None:
    from workbench.svgt.slots import slot_positions

    prompt_mask, n_slots, response_mask = case
    lengths = prompt_mask.sum(1) + n_slots + response_mask.sum(1)
    positions = slot_positions(*case)
    assert (positions >= 0).all()
    assert (positions < lengths[:, None]).all()


@given(cases())
def test_a_response_that_is_not_shifted_starts_right_after_the_prompt(case: Case) -> None:
    from workbench.svgt.slots import slot_positions

    prompt_mask, n_slots, _ = case
    shift = torch.zeros(len(prompt_mask), dtype=torch.long)
    first = slot_positions(*case, shift)[:, prompt_mask.shape[1] + n_slots]
    assert torch.equal(first, prompt_mask.sum(1))


@given(cases())
def test_queries_see_exactly_the_real_columns_up_to_themselves(case: Case) -> None:
    from workbench.svgt.slots import visible_keys

    prompt_mask, n_slots, response_mask = case
    slots = torch.ones(len(prompt_mask), n_slots, dtype=torch.bool)
    real = torch.cat([prompt_mask, slots, response_mask], dim=1)
    visible = visible_keys(*case)
    for query in range(real.shape[1]):
        assert torch.equal(visible[:, query, : query + 1], real[:, : query + 1])
        assert not visible[:, query, query + 1 :].any()


@given(cases())
def test_additive_mask_is_zero_or_the_lowest_number(case: Case) -> None:
    from workbench.backbone.masks import additive_mask
    from workbench.svgt.slots import visible_keys

    visible = visible_keys(*case)
    mask = additive_mask(visible, torch.float32)
    assert mask.shape == (len(visible), 1, *visible.shape[1:])
    assert (mask[:, 0][visible] == 0).all()
    assert (mask[:, 0][~visible] == torch.finfo(torch.float32).min).all()


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 4))
def test_hidden_pairs_are_slots_seen_by_others(n_prompt: int, n_slots: int, n_new: int) -> None:
    from workbench.svgt.slots import Columns, slots_from_others

    columns = Columns(n_prompt, n_slots, n_new)
    is_slot = columns.is_slot()
    hidden = slots_from_others(is_slot, is_slot)
    assert int(hidden.sum()) == n_slots * (n_prompt + n_new)
    assert not hidden[columns.slots].any()
    assert not hidden[:, columns.prompt].any()
    assert not hidden[:, columns.response].any()
