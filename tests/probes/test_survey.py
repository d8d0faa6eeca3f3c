"""Every site that is compared is lined up once, with an untrained module beside the trained one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from probes.collection import collect
from probes.survey import (
    UNTRAINED,
    lacking_pairs,
    possible_contrasts,
    require_classes,
    survey_modules,
    survey_sets,
    survey_sites,
)
from workbench.data.example import Example, Label, as_conversation
from workbench.errors import DataError
from workbench.export import probe_words
from workbench.guidance.registry import load_guidance
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.testbed.crossed import crossed_examples

CONTEXTS = ("direct", "fiction")


@pytest.fixture(scope="module")
def bridge() -> SVGTBridge:
    from workbench.backbone import load_backbone

    guidance = load_guidance("svgt", load_backbone("testbed-llama"))
    assert isinstance(guidance, SVGTBridge)
    return guidance


def example(number: int, **labels: Label) -> Example:
    return Example(str(number), as_conversation(f"prompt {number}"), None, labels, "direct")


def test_one_store_serves_both_contrasts_at_every_site(bridge: SVGTBridge, tmp_path: Path) -> None:
    from workbench.backbone import load_backbone

    examples = crossed_examples(CONTEXTS, n_per_class=8, seed=0, with_responses=True)
    contrasts = possible_contrasts(examples)
    assert contrasts == ("prompt", "response")
    store = collect(
        load_backbone("testbed-llama"), examples, tmp_path / "states", layers=(3, 5),
        sites=survey_sites(contrasts, steps=True), readers=survey_modules(bridge, seed=0),
    )  # fmt: skip
    sets = survey_sets(store, contrasts, steps=(0, 2, 500))
    found = {(given.contrast, given.site) for given in sets}
    readings = {f"{kind}:{name}" for kind in ("z", "delta_z", "bridge")
                for name in ("workbench", UNTRAINED)}  # fmt: skip
    assert found == {
        *(("prompt", site) for site in ("prompt_last", *readings)),
        *(("response", f"z_response:{name}") for name in ("workbench", UNTRAINED)),
        ("response", "response_mean"),
        ("response", "response_tokens@0"),
        ("response", "response_tokens@2"),  # no reply has 500 tokens
    }
    assert len(sets) == len(found)
    prompts = next(given for given in sets if given.site == "prompt_last")
    assert len(prompts) == 2 * 2 * 8
    assert prompts.layers == (3, 5)


def test_the_control_is_untrained_and_its_seed_decides_it(bridge: SVGTBridge) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (survey_modules(bridge, seed=seed)[UNTRAINED] for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)

    def weights(module: torch.nn.Module) -> torch.Tensor:
        return torch.cat([parameter.flatten() for parameter in module.parameters()])

    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    trained = survey_modules(bridge, seed=1)["workbench"]
    assert trained is bridge.writer
    assert first.config == trained.config
    assert not torch.equal(weights(first), weights(trained))


def test_without_a_bridge_nothing_reads_along() -> None:
    assert survey_modules(None, seed=0) == {}


def test_prompts_without_replies_carry_one_contrast() -> None:
    assert possible_contrasts([example(0, prompt_harm=True)]) == ("prompt",)
    assert survey_sites(("prompt",), steps=True) == ("prompt_last",)


def test_a_context_with_too_few_of_a_class_is_named_before_anything_runs() -> None:
    enough = [example(number, prompt_harm=number < 8) for number in range(16)]
    require_classes(enough, ("prompt",))
    twice = [*enough[:15], enough[14]]  # the same prompt counts once
    with pytest.raises(DataError, match="'direct' has 7 harmless examples"):
        require_classes(twice, ("prompt",))
    with pytest.raises(DataError, match="none of the 16 examples has the label 'response_harm'"):
        require_classes(enough, ("response",))


def test_missing_pairs_are_told_by_context_and_only_where_they_are_needed() -> None:
    def prompts(context: str, n_paired: int) -> list[Example]:
        return [
            replace(
                example(number, prompt_harm=number % 2 == 0),
                labels={"prompt_harm": number % 2 == 0}
                | ({"pair": f"p{number // 2}"} if number < 2 * n_paired else {}),
                context=context,
            )
            for number in range(16)
        ]

    estimators = ("mean_difference", "lat", "ccs")
    full, few, none = prompts("full", 8), prompts("few", 3), prompts("none", 0)
    assert lacking_pairs([*full, *few], ("prompt",), ("lda",)) == ()
    assert lacking_pairs(full, ("prompt",), estimators) == ()
    (missing,) = lacking_pairs([*full, *few, *none], ("prompt",), estimators)
    assert (missing.estimators, missing.counts) == (("lat", "ccs"), {"few": 3, "none": 0})
    assert not missing.everywhere
    assert "lat and ccs cannot be measured in few (3), none (0)" in str(missing)
    (missing,) = lacking_pairs([*few, *none], ("prompt",), estimators)
    assert missing.everywhere
    assert 'the same "pair"' in str(missing)
    assert lacking_pairs([*few, *none], ("prompt",), estimators, pooled=True) == ()


def test_replies_to_one_prompt_are_its_pairs() -> None:
    answered = [
        Example(f"{number}/{harm}", as_conversation(f"ask {number}"), f"reply {number} {harm}",
                {"prompt_harm": True, "response_harm": harm}, "direct")
        for number in range(8) for harm in (True, False)
    ]  # fmt: skip
    assert lacking_pairs(answered, ("response",), ("lat",)) == ()
    (missing,) = lacking_pairs(answered[::2], ("response",), ("lat",))
    assert missing.counts == {"direct": 0}
    assert "a harmful and a safe reply" in str(missing)


def test_controls_have_one_name() -> None:
    assert probe_words.UNTRAINED == UNTRAINED
