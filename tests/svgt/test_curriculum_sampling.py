"""Which examples a step sees: every one once an epoch, whatever happened before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.svgt.curriculum.sampling import StepSampler

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**31)


def walk(n_examples: int, batch_size: int, steps: range, *, seed: int, stage: int) -> list[int]:
    drawn = [StepSampler(seed, stage, step).draw(n_examples, batch_size) for step in steps]
    return [int(index) for batch in drawn for index in batch]


@given(n_examples=SIZES, batch_size=SIZES, seed=SEEDS, stage=st.integers(0, 2))
def test_every_epoch_covers_every_example_exactly_once(
    n_examples: int, batch_size: int, seed: int, stage: int
) -> None:
    size = min(n_examples, batch_size)
    steps = -(-3 * n_examples // size)
    seen = walk(n_examples, batch_size, range(steps), seed=seed, stage=stage)
    assert len(seen) == steps * size
    for epoch in range(3):
        part = seen[epoch * n_examples : (epoch + 1) * n_examples]
        assert sorted(part) == list(range(n_examples))


@given(n_examples=SIZES, batch_size=SIZES, step=st.integers(0, 1000), seed=SEEDS)
def test_a_batch_has_its_size_or_is_the_whole_set(
    n_examples: int, batch_size: int, step: int, seed: int
) -> None:
    drawn = StepSampler(seed, 1, step).draw(n_examples, batch_size)
    assert len(drawn) == min(n_examples, batch_size)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < n_examples


@given(step=st.integers(0, 200), others=st.lists(st.tuples(SIZES, SIZES), max_size=12))
def test_a_draw_depends_on_nothing_drawn_before(step: int, others: list[tuple[int, int]]) -> None:
    """What a resumed run needs: other sets, other steps and the global generators do not matter."""
    fresh = StepSampler(5, 1, step).draw(23, 4).tolist()
    np.random.seed(len(others))
    used = StepSampler(5, 1, step)
    for n_examples, batch_size in others:
        used.draw(n_examples, batch_size)
        StepSampler(5, 1, step + 1).draw(n_examples, batch_size)
    assert used.draw(23, 4).tolist() == fresh


@pytest.mark.parametrize("change", [{"seed": 1}, {"stage": 2}])
def test_seeds_and_stages_have_their_own_order(change: dict[str, int]) -> None:
    base = {"seed": 0, "stage": 1}
    one, other = (walk(64, 8, range(8), **settings) for settings in (base, base | change))
    assert sorted(one) == sorted(other) == list(range(64))
    assert one != other


def test_epochs_are_shuffled_anew() -> None:
    seen = walk(64, 8, range(16), seed=0, stage=0)
    assert seen[:64] != seen[64:]
    assert seen[:64] != list(range(64))
