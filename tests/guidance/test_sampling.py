"""Tokens are drawn from the right distribution, reproducibly, and row by row."""

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

PROMPTS = ["t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22"]


def test_greedy_takes_the_likeliest() -> None:
    from workbench.guidance import GREEDY
    from workbench.guidance.sampling import choose_tokens

    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 2.0]])
    assert choose_tokens(logits, GREEDY, None).tolist() == [1, 0]


def test_inverts_the_cumulative_distribution() -> None:
    from workbench.guidance import Sampling
    from workbench.guidance.sampling import choose_tokens

    probabilities = torch.tensor([0.2, 0.5, 0.3])
    uniform = torch.tensor([0.0, 0.499, 0.501, 0.799, 0.801, 0.999999], dtype=torch.float64)
    logits = probabilities.log().expand(6, -1)
    chosen = choose_tokens(logits, Sampling(), uniform)
    assert chosen.tolist() == [1, 1, 2, 2, 0, 0]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    from workbench.guidance import Sampling
    from workbench.guidance.sampling import choose_tokens

    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(101, -1)
    uniform = torch.linspace(0, 1 - 1e-9, 101, dtype=torch.float64)
    for top_p, kept in ((0.4, {1}), (0.6, {1, 2}), (0.79, {1, 2}), (0.81, {0, 1, 2})):
        assert set(choose_tokens(logits, Sampling(top_p=top_p), uniform).tolist()) == kept
    chosen = choose_tokens(logits, Sampling(top_p=0.6), uniform)
    assert (chosen == 1).float().mean() == pytest.approx(0.5 / 0.8, abs=0.02)


def test_temperature_sharpens() -> None:
    from workbench.guidance import Sampling
    from workbench.guidance.sampling import choose_tokens

    logits = torch.tensor([1.0, 2.0]).expand(1000, -1)
    uniform = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    for temperature in (0.5, 1.0, 2.0):
        chosen = choose_tokens(logits, Sampling(temperature=temperature), uniform)
        expected = torch.sigmoid(torch.tensor(1 / temperature))
        assert chosen.float().mean() == pytest.approx(float(expected), abs=2e-3)


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 1),
)
def test_never_leaves_the_vocabulary_or_the_kept_set(
    logits: list[float], uniform: float, top_p: float
) -> None:
    from workbench.guidance import Sampling
    from workbench.guidance.sampling import choose_tokens

    row = torch.tensor([logits])
    [token] = choose_tokens(
        row, Sampling(top_p=top_p), torch.tensor([uniform], dtype=torch.float64)
    ).tolist()
    probabilities = torch.softmax(row[0].double(), dim=-1)
    likelier = float(probabilities[probabilities > probabilities[token]].sum())
    assert likelier < top_p


def test_a_row_does_not_depend_on_how_prompts_are_batched(
    backbone: "TransformerLensBackbone",
) -> None:
    from workbench.guidance import NoGuidance, Sampling, generate

    def sampled(batches: list[list[str]], seed: int) -> list[tuple[int, ...]]:
        generator = torch.Generator().manual_seed(seed)
        results = [
            generate(
                backbone,
                batch,
                NoGuidance(),
                max_new_tokens=8,
                sampling=Sampling(temperature=2.0, top_p=0.9),
                generator=generator,
                stop=(),
            )
            for batch in batches
        ]
        return [row.ids for batch in results for row in batch]

    together = sampled([PROMPTS], 0)
    assert together == sampled([PROMPTS], 0)
    assert together == sampled([PROMPTS[:1], PROMPTS[1:]], 0)
    assert together == sampled([[prompt] for prompt in PROMPTS], 0)
    assert together != sampled([PROMPTS], 1)


def test_the_same_prompt_twice_is_sampled_twice(backbone: "TransformerLensBackbone") -> None:
    from workbench.guidance import NoGuidance, Sampling, generate

    first, second = generate(
        backbone,
        PROMPTS[:1] * 2,
        NoGuidance(),
        max_new_tokens=8,
        sampling=Sampling(temperature=3.0),
        generator=torch.Generator().manual_seed(0),
        stop=(),
    )
    assert first.ids != second.ids


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], named: str) -> None:
    from workbench.errors import ConfigError
    from workbench.guidance import Sampling

    with pytest.raises(ConfigError, match=named):
        Sampling(**settings)  # type: ignore[arg-type]
