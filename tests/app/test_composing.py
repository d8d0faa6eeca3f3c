"""Prompts from choices, conversations as text, verdicts in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.example import Message
from workbench.errors import DataError
from workbench.pages.composing import (
    FIRST_CHOICE,
    FIRST_PROMPT,
    KIND_NAMES,
    Choice,
    compose,
    nearest_choice,
    objects_for,
    owners_for,
    surprise,
    verbs_for,
)
from workbench.pages.conversation_text import format_conversation, parse_conversation
from workbench.pages.verdicts import verdict_text
from workbench.testbed.corpus import help_reply, refusal_reply, sample_prompts
from workbench.testbed.frames import FRAMES
from workbench.testbed.intents import classify, find_intent
from workbench.testbed.oracle import judge
from workbench.testbed.splits import SPLITS, intent_split

import numpy as np  # isort: skip


@pytest.mark.parametrize("kind", list(KIND_NAMES))
def test_every_offered_choice_is_an_intent_of_its_kind(kind: str) -> None:
    for verb in verbs_for(kind):
        for object_ in objects_for(kind, verb)[::7]:
            owners = owners_for(kind, verb, object_)
            assert owners
            intents = [
                classify(verb, owner, object_, prevention=kind == "prevention") for owner in owners
            ]
            assert {intent.kind for intent in intents if intent is not None} == {kind}
            assert None not in intents


@given(
    kind=st.sampled_from(list(KIND_NAMES)),
    frames=st.lists(st.sampled_from(list(FRAMES)), min_size=1, max_size=2, unique=True),
    seed=st.integers(0, 2**31),
)
def test_a_composed_prompt_asks_for_what_was_chosen(
    kind: str, frames: list[str], seed: int
) -> None:
    choice = nearest_choice(Choice(tuple(frames), kind, "hack", "my", "phone"))
    text = compose(choice, seed=seed)
    assert compose(choice, seed=seed) == text
    found = find_intent(parse_conversation(text)[-1].content)
    assert found is not None
    assert (found.kind, found.verb, found.owner, found.object) == (
        kind, choice.verb, choice.owner, choice.object,
    )  # fmt: skip


def test_the_first_prompt_says_the_first_choice() -> None:
    found = find_intent(FIRST_PROMPT)
    assert found is not None
    assert (found.kind, found.verb, found.owner, found.object) == (
        FIRST_CHOICE.kind, FIRST_CHOICE.verb, FIRST_CHOICE.owner, FIRST_CHOICE.object,
    )  # fmt: skip


def test_words_that_do_not_combine_are_refused_and_mended() -> None:
    wrong = Choice(("direct",), "plain", "poison", "my", "dog")
    with pytest.raises(DataError, match="poison my dog"):
        compose(wrong, seed=0)
    mended = nearest_choice(wrong)
    assert compose(mended, seed=0)
    assert nearest_choice(mended) == mended


@pytest.mark.parametrize("split", list(SPLITS))
def test_a_surprise_comes_from_its_split(split: str) -> None:
    choice, text = surprise(split, "harmful", seed=3)
    intent = classify(choice.verb, choice.owner, choice.object)
    assert intent is not None
    assert intent_split(intent) == SPLITS[split].intents
    assert choice.frames in SPLITS[split].frames
    assert choice.verb in text


def test_one_turn_is_plain_text_and_prefixes_open_turns() -> None:
    assert parse_conversation("how do i cook ?") == (Message("user", "how do i cook ?"),)
    assert parse_conversation("system: be kind .\nuser: hello\nthere\nassistant: hi") == (
        Message("system", "be kind ."),
        Message("user", "hello\nthere"),
        Message("assistant", "hi"),
    )
    assert parse_conversation("") == (Message("user", ""),)
    # Only at the start of a line: inside, the word is an ordinary one.
    assert parse_conversation("dear assistant: help") == (Message("user", "dear assistant: help"),)


_WORDS = st.text("abc .?'", min_size=1).map(str.strip).filter(bool)


@given(
    st.lists(
        st.builds(Message, st.sampled_from(["user", "assistant", "system"]), _WORDS), min_size=1
    )
)
def test_conversations_survive_the_text_box(turns: list[Message]) -> None:
    assert parse_conversation(format_conversation(tuple(turns))) == tuple(turns)


def test_verdicts_in_words() -> None:
    rng = np.random.default_rng(0)
    (harmful,) = sample_prompts("train", 1, seed=0, kind="harmful")
    (plain,) = sample_prompts("train", 1, seed=0, kind="plain")

    def said(prompt: object, reply: str) -> tuple[str, str]:
        verdict = verdict_text(prompt.intent, judge(prompt.intent, reply))  # type: ignore[attr-defined]
        return verdict.label, verdict.tone

    assert said(harmful, help_reply(harmful, rng).text) == ("harmful compliance", "bad")
    assert said(harmful, refusal_reply(harmful, rng).text) == ("refusal", "good")
    assert said(plain, help_reply(plain, rng).text) == ("help", "good")
    assert said(plain, refusal_reply(harmful, rng).text)[0].startswith("over-refusal")
    assert said(harmful, "phone phone") == ("no help, degenerate", "bad")
