"""The safety margin equals its formula on the plain model, and its parts behave at their edges."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

if TYPE_CHECKING:
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module", params=("tiny-gpt2", "tiny-llama"))
def folder(request: pytest.FixtureRequest) -> Path:
    return FIXTURES / str(request.param)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def pairs() -> "ReplyPairs":
    from probes.margins import ReplyPairs

    return ReplyPairs(
        prompts=("t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22"),
        safe=("t7 t7 t9", "t30", "t40 t41 t42 t43"),
        harmful=("t11 t12", "t50 t51 t52 t53 t54 t55", "t60 t61"),
        groups=("a", "b", "c"),
        contexts=("x", "x", "y"),
        prompt_harm=(True, True, False),
    )


@pytest.fixture
def module() -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    torch.manual_seed(5)
    return ValueModule(SVGTConfig(d_model=64, layer=1, d_value=32, n_bridge=3)).eval()


def plain_margin(
    backbone: "TransformerLensBackbone",
    plain: PreTrainedModel,
    pairs: "ReplyPairs",
    n_tokens: int | None = None,
) -> Tensor:
    """By the formula, one reply at a time, from the Hugging Face model's own logits."""

    def per_token(prompt: object, reply: str) -> Tensor:
        before = backbone.encode([prompt]).ids[0].tolist()  # type: ignore[list-item]
        after = backbone.encode_responses([reply]).ids[0].tolist()[:n_tokens]
        logits = plain(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
        return logits.log_softmax(-1)[range(len(after)), after].mean()

    with torch.no_grad():
        return torch.stack(
            [
                per_token(prompt, safe) - per_token(prompt, harmful)
                for prompt, safe, harmful in zip(
                    pairs.prompts, pairs.safe, pairs.harmful, strict=True
                )
            ]
        )


@pytest.mark.parametrize("n_tokens", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [64, 2])
def test_the_margin_is_its_formula(
    backbone: "TransformerLensBackbone",
    plain: PreTrainedModel,
    pairs: "ReplyPairs",
    n_tokens: int | None,
    batch_size: int,
) -> None:
    from probes.margins import safety_margin

    measured = safety_margin(backbone, pairs, None, n_tokens=n_tokens, batch_size=batch_size)
    expected = plain_margin(backbone, plain, pairs, n_tokens)
    assert expected.abs().min() > 1e-3
    assert (measured - expected).abs().max() < 1e-5  # float32, log-probabilities of order 10


def test_a_batch_with_slots_is_its_rows(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    from probes.margins import safety_margin

    with torch.no_grad():
        together = safety_margin(backbone, pairs, module)
        alone = torch.cat([safety_margin(backbone, pairs.rows([i]), module) for i in range(3)])
        plain = safety_margin(backbone, pairs, None)
    assert (together - alone).abs().max() < 1e-5
    assert (together - plain).abs().max() > 1e-3


def test_swapping_the_replies_turns_the_sign(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs"
) -> None:
    from dataclasses import replace

    from probes.margins import safety_margin

    swapped = replace(pairs, safe=pairs.harmful, harmful=pairs.safe)
    assert torch.equal(
        safety_margin(backbone, swapped, None), -safety_margin(backbone, pairs, None)
    )


def test_the_gradient_is_a_finite_difference(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs"
) -> None:
    from probes.margins import safety_margin

    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(64, generator=generator)

    def margin(strength: Tensor) -> Tensor:
        with backbone.overwrite(1, lambda residual: residual + strength * direction):
            return safety_margin(backbone, pairs, None).sum()

    strength = torch.zeros((), requires_grad=True)
    margin(strength).backward()
    assert strength.grad is not None
    step = torch.tensor(0.01)
    with torch.no_grad():
        numeric = (margin(step) - margin(-step)) / (2 * step)
    assert abs(float(strength.grad)) > 1e-2
    assert float(numeric) == pytest.approx(float(strength.grad), rel=0.01)
    assert all(tensor.grad is None for tensor in backbone._weights.values())


def test_the_first_tokens_of_another_run(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    from probes.margins import ReplyBatch, reply_log_probs
    from workbench.svgt.slots import SlotForward, forward_with_slots

    def plain(batch: ReplyBatch) -> SlotForward:
        return forward_with_slots(backbone, batch.prompt, batch.response, None)

    def guided(batch: ReplyBatch) -> SlotForward:
        return forward_with_slots(backbone, batch.prompt, batch.response, module)

    with torch.no_grad():
        with_slots, without = (reply_log_probs(backbone, pairs, run) for run in (guided, plain))
    mixed = with_slots.with_first(without)
    assert torch.equal(mixed.safe.values[:, 0], without.safe.values[:, 0])
    assert torch.equal(mixed.harmful.values[:, 1:], with_slots.harmful.values[:, 1:])


def test_pairs_of_examples_match_the_two_replies_of_a_prompt() -> None:
    from probes.margins import pairs_of_examples
    from workbench.data.example import Example, as_conversation
    from workbench.errors import DataError

    def example(prompt: str, reply: str | None, harm: bool | None) -> Example:
        labels = {"response_harm": harm}
        return Example("", as_conversation(prompt), reply, labels, context="x", group=prompt)

    examples = [
        example("p", "help", True),
        example("q", "help q", True),
        example("p", "no", False),
        example("p", "never", False),
        example("r", None, None),
    ]
    pairs = pairs_of_examples(examples)
    assert (pairs.safe, pairs.harmful, pairs.groups) == (("no",), ("help",), ("p",))
    with pytest.raises(DataError, match="no prompt has both"):
        pairs_of_examples(examples[:2])


def test_pairs_of_examples_know_which_prompts_are_harmless() -> None:
    from probes.margins import pairs_of_examples
    from workbench.data.example import Example, as_conversation

    def pair(prompt: str, harm: bool | None) -> list[Example]:
        return [
            Example(
                "",
                as_conversation(prompt),
                reply,
                {"response_harm": reply == "help", "prompt_harm": harm},
                context="x",
                group=prompt,
            )
            for reply in ("help", "no")
        ]

    examples = [*pair("steal", True), *pair("paint", False), *pair("hack", None)]
    every = pairs_of_examples(examples, harmless=True)
    assert dict(zip(every.groups, every.prompt_harm, strict=True)) == {
        "steal": True, "paint": False, "hack": True,
    }  # fmt: skip
    assert pairs_of_examples(examples).groups == ("steal", "hack")


def test_embedded_pairs_are_what_the_oracle_says_and_equal_in_every_context() -> None:
    from probes.margins import embedded_pairs
    from workbench.testbed.intents import find_intent
    from workbench.testbed.oracle import judge

    contexts = ("direct", "fiction", "fiction+polite")
    pairs = embedded_pairs(contexts, n_intents=12, seed=3, harmless=True)
    again = embedded_pairs(contexts, n_intents=12, seed=3, harmless=True)
    other = embedded_pairs(contexts, n_intents=12, seed=4, harmless=True)
    assert pairs == again
    assert pairs != other
    assert len(pairs) == 2 * 12 * 3
    assert sum(pairs.prompt_harm) == 12 * 3
    for row, prompt in enumerate(pairs.prompts):
        intent = find_intent(prompt[-1].content)  # type: ignore[union-attr]
        assert intent is not None
        assert intent.harmful == pairs.prompt_harm[row]
        assert judge(intent, pairs.safe[row]).kind == "refusal"
        assert judge(intent, pairs.harmful[row]).harmful == intent.harmful
        first = row - row % 3
        assert (pairs.safe[row], pairs.harmful[row]) == (pairs.safe[first], pairs.harmful[first])
    assert set(pairs.where(prompt_harm=False).groups) == set(pairs.groups)


def test_what_cannot_be_a_set_of_pairs_is_refused(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs"
) -> None:
    from dataclasses import replace

    from probes.margins import embedded_pairs, safety_margin
    from workbench.errors import DataError

    with pytest.raises(DataError, match="'safe' has 1 entries for 3"):
        replace(pairs, safe=("t1",))
    with pytest.raises(DataError, match="there are no prompts"):
        pairs.rows([0, 1]).where(prompt_harm=False)
    with pytest.raises(DataError, match="n_tokens = 0"):
        safety_margin(backbone, pairs, None, n_tokens=0)
    with pytest.raises(DataError, match="at least one context"):
        embedded_pairs((), n_intents=2, seed=0)
