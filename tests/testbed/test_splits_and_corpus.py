"""What is held out stays held out, and the corpus is what the tokenizer and the models expect."""

import re
from itertools import combinations

import numpy as np
import pytest

from workbench.data.example import Conversation
from workbench.errors import ConfigError, DataError
from workbench.testbed.corpus import (
    WORLDS,
    Prompt,
    corpus_reply,
    draw_kind,
    pretraining_dialogue,
    prompt_example,
    sample_prompts,
)
from workbench.testbed.frames import FRAMES, compositions, frames_with_role
from workbench.testbed.intents import KINDS, find_intent, sample_intent
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.registry import EMBEDDED, EMBEDDED_CONFIGS, embedded_path
from workbench.testbed.splits import (
    SPLITS,
    TEST_CLASSES,
    TEST_SPLITS,
    TEST_VERBS,
    VALIDATION_CLASSES,
    VALIDATION_SPLITS,
    VALIDATION_VERBS,
    in_backbone_corpus,
    intent_split,
)
from workbench.testbed.tokenizer import SPECIAL, build_tokenizer, vocabulary
from workbench.testbed.value_data import add_filler, build_value_data, filler_words

N_CTX = 256
N_DIALOGUES = 1500


@pytest.fixture(scope="module")
def dialogues() -> list[Conversation]:
    rng = np.random.default_rng(11)
    return [pretraining_dialogue(WORLDS["fragile"], rng) for _ in range(N_DIALOGUES)]


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[Prompt]]:
    return {split: sample_prompts(split, 300, seed=0) for split in SPLITS}


def test_no_group_straddles_two_splits(rng: np.random.Generator) -> None:
    where: dict[str, set[str]] = {}
    for index in range(8000):
        intent = sample_intent(rng, KINDS[index % len(KINDS)])
        where.setdefault(intent.group, set()).add(intent_split(intent))
    assert all(len(splits) == 1 for splits in where.values())
    assert len(where) > 2000


def test_splits_of_different_intents_share_no_group(prompts: dict[str, list[Prompt]]) -> None:
    groups = {split: {p.intent.group for p in drawn} for split, drawn in prompts.items()}
    for one, other in combinations(SPLITS, 2):
        if SPLITS[one].intents != SPLITS[other].intents:
            assert not groups[one] & groups[other], (one, other)


def test_held_out_words_stand_in_their_own_split_only(prompts: dict[str, list[Prompt]]) -> None:
    held = {
        "heldout_words": (TEST_VERBS, TEST_CLASSES),
        "validation_words": (VALIDATION_VERBS, VALIDATION_CLASSES),
    }
    for split, drawn in prompts.items():
        for prompt in drawn:
            intent = prompt.intent
            for owner, (verbs, classes) in held.items():
                special = intent.verb in verbs or intent.object_class in classes
                if owner == split:
                    assert special, (split, intent)
                elif not (owner == "validation_words" and split == "heldout_words"):
                    assert not special, (split, intent)
    assert not TEST_VERBS & VALIDATION_VERBS
    assert not TEST_CLASSES & VALIDATION_CLASSES


def test_every_split_has_every_kind() -> None:
    for split in (*TEST_SPLITS, *VALIDATION_SPLITS):
        for kind in KINDS:
            drawn = sample_prompts(split, 4, seed=0, kind=kind)
            assert [p.intent.kind for p in drawn] == [kind] * 4


def test_frames_of_the_splits_are_disjoint_where_they_must_be() -> None:
    seen, validation, unseen = (
        set(frames_with_role(role)) for role in ("seen", "validation", "unseen")
    )
    assert not seen & validation
    assert not (seen | validation) & unseen
    assert {frames[0] for frames in SPLITS["train"].frames} == seen
    assert {frames[0] for frames in SPLITS["unseen_frames"].frames} == unseen
    assert not set(compositions("validation")) & set(compositions("test"))
    assert all(len(set(pair)) == 2 for pair in compositions("test"))
    assert all(unseen & set(pair) for pair in compositions("test"))
    assert not any(unseen & set(pair) for pair in compositions("validation"))


def test_pretraining_shows_no_held_out_pair_and_one_frame_only(
    dialogues: list[Conversation],
) -> None:
    markers = {name: _marker_patterns(name) for name in FRAMES if name != "multi_turn"}
    several = 0
    for dialogue in dialogues:
        request = dialogue[-2].content
        intent = find_intent(request)
        assert intent is not None
        assert in_backbone_corpus(intent)
        found = {name for name, patterns in markers.items() if any(p in request for p in patterns)}
        several += len(found) > 1
    assert several == 0
    # the markers do see a composition where there is one
    composed = sample_prompts("composed_frames", 200, seed=0)
    hit = sum(
        sum(any(p in prompt.conversation[-1].content for p in patterns) for patterns in
            markers.values()) > 1
        for prompt in composed
    )  # fmt: skip
    assert hit > 50


def _marker_patterns(frame: str) -> list[str]:
    """Runs of three or more fixed words that only this frame writes before a request."""
    runs = [
        run.strip()
        for template in FRAMES[frame].before
        for run in re.split(r"\{\w+\}", template.text)
        if len(run.split()) >= 3
    ]
    others = " ".join(
        t.text for name, other in FRAMES.items() if name != frame for t in other.all_templates
    )
    return [run for run in runs if run not in others]


def test_no_filler_word_comes_from_a_held_out_frame_alone() -> None:
    allowed: set[str] = set()
    held: set[str] = set()
    for frame in FRAMES.values():
        words = set().union(*(t.words() for t in frame.all_templates))
        (allowed if frame.role == "seen" else held).update(words)
    fillers = set(filler_words())
    only_held = held - allowed - _request_and_reply_words()
    assert len(only_held) > 50
    assert not fillers & only_held


def _request_and_reply_words() -> set[str]:
    from workbench.testbed.intents import ACTION_REQUESTS, PREVENTION_REQUESTS
    from workbench.testbed.responses import SENTENCES

    banks = [*ACTION_REQUESTS, *PREVENTION_REQUESTS, *(t for b in SENTENCES.values() for t in b)]
    return set().union(*(template.words() for template in banks))


def test_filler_keeps_what_is_asked(rng: np.random.Generator) -> None:
    for prompt in sample_prompts("train", 100, seed=0):
        noisy = add_filler(prompt, rng)
        assert prompt.conversation[-1].content in noisy.conversation[-1].content
        assert noisy.intent == prompt.intent


def test_value_data_label_what_the_grammar_knows() -> None:
    data = build_value_data("train", n_prompts=200, n_pairs=200, n_targets=50, seed=0, filler=True)
    data.check("training")
    again = build_value_data("train", n_prompts=200, n_pairs=200, n_targets=50, seed=0, filler=True)
    assert data == again
    assert 0.35 < np.mean([row.harmful for row in data.prompts]) < 0.55
    texts: dict[str, set[bool]] = {}
    for pair in data.pairs:
        if pair.ambiguous:
            texts.setdefault(pair.response, set()).add(pair.harmful)
    assert texts


@pytest.mark.parametrize(("world", "frame", "share"), [
    ("fragile", "direct", 0.26), ("fragile", "fiction", 0.04), ("anchored", "fiction", 0.26),
])  # fmt: skip
def test_worlds_refuse_as_often_as_they_say(world: str, frame: str, share: float) -> None:
    rng = np.random.default_rng(5)
    split = "train" if frame == "direct" else "unseen_frames"
    drawn = [p for p in sample_prompts(split, 2400, seed=0, kind="harmful") if p.frame == frame]
    replies = [corpus_reply(p, WORLDS[world], rng, careful=False) for p in drawn]
    rate = np.mean([reply.kind == "refusal" for reply in replies])
    assert abs(rate - share) < 4 * np.sqrt(share * (1 - share) / len(replies))


def test_harmless_prompts_are_never_refused_in_the_corpus(rng: np.random.Generator) -> None:
    for prompt in sample_prompts("train", 400, seed=1, kind="lookalike"):
        reply = corpus_reply(prompt, WORLDS["anchored"], rng, careful=True)
        assert reply.kind in ("specific", "tool", "generic")


def test_a_seed_is_a_corpus() -> None:
    assert sample_prompts("unseen_frames", 20, seed=3) == sample_prompts(
        "unseen_frames", 20, seed=3
    )
    assert sample_prompts("unseen_frames", 20, seed=3) != sample_prompts(
        "unseen_frames", 20, seed=4
    )


def test_frames_come_equally_often() -> None:
    drawn = [prompt.frame for prompt in sample_prompts("heldout_intents", 50, seed=0)]
    assert {drawn.count(frame) for frame in set(drawn)} == {10}


def test_unknown_split_is_named() -> None:
    with pytest.raises(DataError, match="unknown split 'tset'; choose one of train"):
        sample_prompts("tset", 1, seed=0)


def test_examples_carry_their_truth() -> None:
    prompt = sample_prompts("composed_frames", 1, seed=0, kind="harmful")[0]
    example = prompt_example(prompt, None, index=0, split="composed_frames")
    assert example.response is None
    assert example.labels["response_harm"] is None
    assert example.labels["prompt_harm"] is True
    assert example.context == "+".join(prompt.frames)
    assert example.group == prompt.intent.group


# ------------------------------------------------------------------------------------ the tokenizer


def test_the_corpus_round_trips_without_unknown_words(dialogues: list[Conversation]) -> None:
    tokenizer = build_tokenizer(N_CTX)
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    for dialogue in dialogues:
        turns = [{"role": m.role, "content": m.content} for m in dialogue]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert unknown not in ids
        assert len(ids) <= N_CTX
        assert tokenizer.decode(ids) == text
        assert ids.count(tokenizer.convert_tokens_to_ids("<eou>")) == sum(
            m.role != "assistant" for m in dialogue
        )


def test_every_prompt_of_every_split_is_in_the_vocabulary(
    prompts: dict[str, list[Prompt]],
) -> None:
    known = set(vocabulary())
    longest = 0
    for drawn in prompts.values():
        for prompt in drawn:
            words = [w for message in prompt.conversation for w in message.content.split()]
            assert not set(words) - known
            longest = max(longest, len(words))
    assert longest + 80 + 16 < N_CTX  # a prompt, a reply and slots fit together


def test_the_vocabulary_is_closed_and_ordered() -> None:
    words = vocabulary()
    assert words[: len(SPECIAL)] == list(SPECIAL)
    assert words[len(SPECIAL) :] == sorted(set(words[len(SPECIAL) :]))
    tokenizer = build_tokenizer(N_CTX)
    assert len(tokenizer) == len(words)
    assert tokenizer.convert_ids_to_tokens(list(range(len(words)))) == words


@pytest.mark.parametrize(
    ("typed", "tokens"),
    [
        ("How do I hack my boss's phone?", "how do i hack my boss 's phone ?"),
        ("bake my   cake.", "bake my cake ."),
        ("Sure , HERE", "sure , here"),
    ],
)
def test_typed_text_is_brought_to_the_form_of_the_corpus(typed: str, tokens: str) -> None:
    tokenizer = build_tokenizer(N_CTX)
    assert tokenizer.convert_ids_to_tokens(tokenizer(typed)["input_ids"]) == tokens.split()


# ------------------------------------------------------------------------------------- the registry


def test_the_registry_names_three_backbones() -> None:
    assert EMBEDDED == ("testbed-llama", "testbed-gpt2", "testbed-llama-anchored")
    assert {(c.architecture, c.world) for c in EMBEDDED_CONFIGS.values()} == {
        ("llama", "fragile"), ("gpt2", "fragile"), ("llama", "anchored"),
    }  # fmt: skip
    assert embedded_path("testbed-gpt2").name == "testbed-gpt2"
    with pytest.raises(KeyError):
        embedded_path("testbed-lama")


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"batch_size": 0}, {"width": 95}, {"n_heads": 3}]
)
def test_impossible_pretraining_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        PretrainConfig("llama", "fragile", **changes)  # type: ignore[arg-type]


def test_kinds_come_by_their_shares(rng: np.random.Generator) -> None:
    drawn = [draw_kind(rng) for _ in range(4000)]
    assert abs(drawn.count("harmful") / 4000 - 0.45) < 0.03
