"""Contrasts hold the right examples, in the right class, beside the right counterpart."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from workbench.data.example import Example, as_conversation
from workbench.errors import DataError, NonFiniteError, RunError

if TYPE_CHECKING:
    from probes.collection import StateStore
    from probes.contrasts import ContrastSet
    from workbench.backbone import TransformerLensBackbone

FIXTURES = Path(__file__).parents[1] / "fixtures"
N = 9  # of each class in each context


@pytest.fixture(scope="module")
def backbone() -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FIXTURES / "tiny-gpt2")


def make_examples() -> list[Example]:
    """Prompts of two contexts in pairs, the harmful ones with two harmful and two safe replies."""
    examples = []
    for context, word in (("a", "t1"), ("b", "t2")):
        for number in range(N):
            request = f"{word} t{10 + number}"
            shared = {"context": context, "group": f"g{number}", "source": "planted"}
            labels = {"pair": f"p{number}"}
            for reply in range(4):
                harmful = reply % 2 == 0
                examples.append(
                    Example(
                        id=f"{context}{number}/harmful/{reply}",
                        prompt=as_conversation(f"{request} t90"),
                        response=" ".join(["t5"] * (1 + reply) + [f"t{50 + number}"]),
                        labels={**labels, "prompt_harm": True, "response_harm": harmful},
                        **shared,  # type: ignore[arg-type]
                    )
                )
            examples.append(
                Example(
                    id=f"{context}{number}/harmless",
                    prompt=as_conversation(f"{request} t91 t92"),
                    response="t7",
                    labels={**labels, "prompt_harm": False, "response_harm": False},
                    **shared,  # type: ignore[arg-type]
                )
            )
    order = np.random.default_rng(1).permutation(len(examples))
    return [examples[i] for i in order]


@pytest.fixture(scope="module")
def store(
    backbone: "TransformerLensBackbone", tmp_path_factory: pytest.TempPathFactory
) -> "StateStore":
    from probes.collection import collect

    folder = tmp_path_factory.mktemp("contrasts") / "s"
    sites = ("prompt_last", "response_mean", "response_tokens")
    return collect(backbone, make_examples(), folder, sites=sites, batch_size=16)


def row_of(store: "StateStore", name: str) -> int:
    return int(np.flatnonzero(store.examples["id"] == name)[0])


def test_the_prompt_contrast_counts_every_prompt_once(store: "StateStore") -> None:
    from probes.contrasts import contrast_set

    found = contrast_set(store, "prompt_last", "prompt")
    assert len(found) == 2 * 2 * N
    assert sorted(found.contexts) == ["a", "b"]
    assert found.layers == store.layers == (-1, 0, 1, 2, 3)
    assert found.site == "prompt_last"
    for context in "ab":
        within = found.in_context(context)
        assert int(within.positive.sum()) == N
        assert len(within) == 2 * N
    # a harmless prompt has one token more: states, lengths and classes belong together
    assert torch.equal(found.lengths == 4, ~found.positive)
    for context in "ab":
        for number in range(N):
            for name, positive in (("harmful/0", True), ("harmless", False)):
                row = row_of(store, f"{context}{number}/{name}")
                matching = [
                    i
                    for i in range(len(found))
                    if found.context[i] == context
                    and found.group[i] == f"g{number}"
                    and bool(found.positive[i]) == positive
                ]
                assert len(matching) == 1
                torch.testing.assert_close(
                    found.states[:, matching[0]],
                    torch.stack(
                        [store.states("prompt_last", layer)[row] for layer in store.layers]
                    ),
                    rtol=0,
                    atol=1e-4,  # the same prompt before another reply
                )


def test_prompts_of_one_unit_are_a_pair_within_their_context(store: "StateStore") -> None:
    from probes.contrasts import contrast_set

    found = contrast_set(store, "prompt_last", "prompt")
    assert int((found.pair >= 0).sum()) == len(found)
    for one, two in enumerate(found.pair.tolist()):
        assert found.group[one] == found.group[two]
        assert found.context[one] == found.context[two]
        assert bool(found.positive[one]) != bool(found.positive[two])
        assert int(found.pair[two]) == one


def test_the_response_contrast_takes_replies_to_harmful_prompts(store: "StateStore") -> None:
    from probes.contrasts import contrast_set

    found = contrast_set(store, "response_mean", "response")
    assert len(found) == 2 * N * 4
    assert int(found.positive.sum()) == 2 * N * 2
    kept = store.examples[store.examples["prompt_harm"].astype(bool)]
    torch.testing.assert_close(
        found.states[2], store.states("response_mean", 1)[torch.tensor(kept.index.to_numpy())]
    )
    assert found.positive.tolist() == kept["response_harm"].astype(bool).tolist()
    assert found.lengths.tolist() == kept["n_response"].tolist()
    # two pairs a prompt, each of replies to that very prompt
    assert int((found.pair >= 0).sum()) == len(found)
    prompts = kept["prompt"].tolist()
    for one, two in enumerate(found.pair.tolist()):
        assert prompts[one] == prompts[two]
        assert bool(found.positive[one]) != bool(found.positive[two])


def test_a_step_reads_one_token_and_leaves_shorter_responses_out(store: "StateStore") -> None:
    from probes.contrasts import contrast_set

    step = 3  # replies have 3, 4, 5 or 6 tokens with the end token
    found = contrast_set(store, "response_tokens", "response", step=step)
    assert found.site == "response_tokens@3"
    assert sorted(set(found.lengths.tolist())) == [4, 5, 6]
    kept = store.examples[
        store.examples["prompt_harm"].astype(bool) & (store.examples["n_response"] > step)
    ]
    for layer in (-1, 2):
        tokens = store.tokens(layer)
        expected = tokens.padded(torch.tensor(kept.index.to_numpy()), "right")[0][:, step]
        assert torch.equal(found.states[store.layers.index(layer)], expected)
    # harmful replies have 3 and 5 tokens, safe ones 4 and 6: one harmful reply is left to pair
    assert int((found.pair >= 0).sum()) == 2 * 2 * N
    assert int((found.pair < 0).sum()) == 2 * N


def test_examples_without_the_label_are_left_out(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect
    from probes.contrasts import contrast_set

    examples = [
        replace(example, labels={}) if example.group == "g0" else example
        for example in make_examples()
    ]
    store = collect(backbone, examples, tmp_path / "s", layers=(0,))
    for site, contrast, n in (("prompt_last", "prompt", 2), ("response_mean", "response", 4)):
        found = contrast_set(store, site, contrast)
        assert len(found) == n * 2 * (N - 1)
        assert "g0" not in found.group


def test_too_few_examples_are_named_unless_they_are_wanted(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect
    from probes.contrasts import MIN_PER_CLASS, contrast_set

    few = [
        example
        for example in make_examples()
        if example.context == "a" or example.labels["prompt_harm"] or example.group > "g1"
    ]
    store = collect(backbone, few, tmp_path / "s", layers=(0,))
    with pytest.raises(DataError, match=f"context 'b' has {N - 2} harmless .* {MIN_PER_CLASS} are"):
        contrast_set(store, "prompt_last", "prompt")
    found = contrast_set(store, "prompt_last", "prompt", allow_sparse=True)
    assert len(found) == 4 * N - 2
    assert int((found.pair < 0).sum()) == 2
    one_class = [example for example in few if example.labels["prompt_harm"]]
    store = collect(backbone, one_class, tmp_path / "one", layers=(0,))
    with pytest.raises(DataError, match=r"context '[ab]' has 0 harmless examples"):
        contrast_set(store, "prompt_last", "prompt")
    assert bool(contrast_set(store, "prompt_last", "prompt", allow_sparse=True).positive.all())
    unlabelled = [replace(example, labels={}) for example in few]
    store = collect(backbone, unlabelled, tmp_path / "none", layers=(0,))
    with pytest.raises(DataError, match="carries the contrast 'prompt': label prompts with"):
        contrast_set(store, "prompt_last", "prompt", allow_sparse=True)


@pytest.mark.parametrize(
    ("site", "contrast", "step", "message"),
    [
        ("prompt_last", "response", None, "a state of the prompt and cannot carry .* 'response'"),
        ("response_mean", "prompt", None, "a state of the response and cannot carry"),
        ("z_response:m", "prompt", None, "a state of the response"),
        ("z:m", "response", None, "a state of the prompt"),
        ("response_tokens", "response", None, "needs a step"),
        ("response_mean", "response", 1, "the site 'response_mean' has none"),
        ("response_tokens", "response", -1, "steps count from 0"),
        ("response_tokens", "response", 99, "no response reaches step 99"),
    ],
)
def test_questions_that_a_site_cannot_answer_are_refused(
    store: "StateStore", site: str, contrast: str, step: int | None, message: str
) -> None:
    from probes.contrasts import contrast_set

    with pytest.raises(DataError, match=message):
        contrast_set(store, site, contrast, step=step)  # type: ignore[arg-type]


def test_a_site_that_was_not_collected_is_named(store: "StateStore") -> None:
    from probes.contrasts import contrast_set

    with pytest.raises(RunError, match="the site 'z:m' was not collected"):
        contrast_set(store, "z:m", "prompt")


# ------------------------------------------------------------- a contrast set made of tensors


def planted(**changes: object) -> "ContrastSet":
    from probes.contrasts import ContrastSet

    fields: dict[str, object] = {
        "states": torch.arange(2 * 6 * 3, dtype=torch.float32).reshape(2, 6, 3),
        "layers": (0, 1),
        "positive": torch.tensor([True, False, True, False, True, False]),
        "context": ("a", "a", "b", "b", "a", "a"),
        "group": ("g", "g", "g", "g", "h", "h"),
        "pair": torch.tensor([1, 0, 3, 2, -1, -1]),
        "site": "planted",
        "contrast": "prompt",
        "lengths": torch.tensor([1, 2, 3, 4, 5, 6]),
    }
    return ContrastSet(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_context_is_cut_out_with_its_pairs() -> None:
    whole = planted()
    assert len(whole) == 6
    assert whole.contexts == ("a", "b")
    cut = whole.in_context("a")
    assert cut.pair.tolist() == [1, 0, -1, -1]
    assert cut.lengths.tolist() == [1, 2, 5, 6]
    assert cut.group == ("g", "g", "h", "h")
    assert torch.equal(cut.states, whole.states[:, [0, 1, 4, 5]])
    assert whole.in_context("b").pair.tolist() == [1, 0]
    with pytest.raises(DataError, match="no example stands in the context 'c'; there are a, b"):
        whole.in_context("c")


def test_picking_rows_ends_pairs_that_lose_one_half() -> None:
    picked = planted().rows(torch.tensor([3, 0, 2]))
    assert picked.pair.tolist() == [2, -1, 0]
    assert picked.positive.tolist() == [False, True, True]
    assert picked.context == ("b", "a", "b")
    with pytest.raises(DataError, match="picked twice"):
        planted().rows(torch.tensor([1, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0,)}, "1 layers are named for states of 2"),
        ({"context": ("a",) * 5}, "'context' has 5 entries for 6 examples"),
        ({"group": ("g",) * 7}, "'group' has 7 entries for 6"),
        ({"pair": torch.tensor([6, 0, 3, 2, -1, -1])}, "outside the 6 examples"),
        ({"pair": torch.tensor([1, 0, 3, 2, -2, -1])}, "outside the 6 examples"),
        ({"pair": torch.tensor([1, 0, 3, -1, -1, -1])}, "not mutual"),
        ({"pair": torch.tensor([2, -1, 0, -1, -1, -1])}, "two examples of one class"),
        ({"pair": torch.tensor([3, -1, -1, 0, -1, -1])}, r"two contexts \(a, b\)"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        planted(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_refused_by_example_and_layer(value: float) -> None:
    states = torch.zeros(2, 6, 3)
    states[1, 4, 2] = value
    with pytest.raises(NonFiniteError, match=r"state of example 4 \(planted, layer 1\)"):
        planted(states=states)


# -------------------------------------------------------------------------- a planted effect


@pytest.mark.slow
def test_on_crossed_prompts_the_value_module_separates_and_permuted_labels_do_not(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """End to end on the embedded world: the score is known to read harm, in every context."""
    from probes.collection import collect
    from probes.contrasts import contrast_set
    from workbench.backbone import load_backbone
    from workbench.guidance.registry import load_module
    from workbench.statistics import auroc
    from workbench.testbed.crossed import crossed_examples

    backbone = load_backbone("testbed-llama")
    module = load_module("workbench", backbone)
    examples = crossed_examples(("direct", "fiction+polite"), n_per_class=40, seed=0)
    store = collect(backbone, examples, tmp_path / "s", layers=(3,), readers={"svgt": module})
    found = contrast_set(store, "score:svgt", "prompt")
    assert int((found.pair >= 0).sum()) == len(found) == 160
    permuted = rng.permutation(80)
    for context in found.contexts:
        within = found.in_context(context)
        score, harmful = within.states[0, :, 0].numpy(), within.positive.numpy()
        groups = np.array(within.group)
        assert auroc(score, harmful, clusters=groups, rng=rng).low > 0.85
        null = auroc(score, harmful[permuted], clusters=groups, rng=rng)
        assert abs(null.estimate - 0.5) < 4 * 0.065  # its standard error, with 40 a class
