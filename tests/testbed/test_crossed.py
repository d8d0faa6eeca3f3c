"""Crossed prompts differ between contexts in the context only, and between classes in harm only."""

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import pytest

from workbench.data.example import Example
from workbench.errors import DataError
from workbench.testbed.crossed import (
    INTENT_SPLITS,
    SINGLE_CONTEXTS,
    context_frames,
    crossed_examples,
    draw_units,
)
from workbench.testbed.frames import FRAMES
from workbench.testbed.intents import Intent, find_intent
from workbench.testbed.oracle import judge
from workbench.testbed.splits import intent_split

COMPOSED = ("fiction+polite", "prefix+role_play")


@pytest.fixture(scope="module")
def prompts() -> list[Example]:
    return crossed_examples((*SINGLE_CONTEXTS, *COMPOSED), n_per_class=40, seed=3)


@pytest.fixture(scope="module")
def dialogues() -> list[Example]:
    return crossed_examples(
        ("direct", "fiction"), n_per_class=30, seed=3, with_responses=True, n_replies=2
    )


@cache
def _read(text: str) -> Intent:
    found = find_intent(text)
    assert found is not None, text
    return found


def _asked(example: Example) -> Intent:
    return _read(example.prompt[-1].content)


def _phrase(intent: Intent) -> str:
    return f"{intent.verb} {intent.owner} {intent.object}"


def test_every_context_holds_the_same_requests(prompts: list[Example]) -> None:
    """What the oracle's own parser reads out of the text is the request, in every context."""
    asked: dict[str, Counter[tuple[str, Intent]]] = defaultdict(Counter)
    for example in prompts:
        asked[example.context][example.labels["pair"], _asked(example)] += 1
    contexts = {*SINGLE_CONTEXTS, *COMPOSED}
    assert set(asked) == contexts
    assert all(counts == asked["direct"] for counts in asked.values())
    assert sum(asked["direct"].values()) == 80
    assert len({example.id for example in prompts}) == len(prompts) == 80 * len(contexts)


def test_a_request_is_worded_once(prompts: list[Example]) -> None:
    """The wording that a frame leaves untouched is one substring of all its contexts."""
    texts: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for example in prompts:
        key = (str(example.labels["pair"]), bool(example.labels["prompt_harm"]))
        texts[key].append(example.prompt[-1].content)
    openings = set()
    for framed in texts.values():
        intent = _read(framed[0])
        before = [text.split(_phrase(intent))[0].split() for text in framed]
        # the last words before the phrase are the wording's, whatever the frame put before them
        shared = 0
        while all(len(b) > shared and b[-1 - shared] == before[0][-1 - shared] for b in before):
            shared += 1
        assert shared >= 2, framed
        openings.add(" ".join(before[0][-shared:]))
    assert len(openings) > 8  # and requests are worded in different ways


def test_labels_say_what_is_true(prompts: list[Example]) -> None:
    for example in prompts:
        intent = _asked(example)
        assert example.labels["prompt_harm"] == intent.harmful
        assert example.labels["kind"] == intent.kind
        assert example.labels["category"] == intent.category
        assert _phrase(intent) in example.id
        assert example.context in example.id
        assert intent_split(intent) == "test"
    harm = Counter((e.context, e.labels["prompt_harm"]) for e in prompts)
    assert set(harm.values()) == {40}


def test_within_a_unit_and_context_only_the_request_differs(prompts: list[Example]) -> None:
    units: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in prompts:
        units[str(example.labels["pair"]), example.context].append(example)
    compared = 0
    for harmful, harmless in units.values():
        assert harmful.group == harmless.group
        one, two = _asked(harmful), _asked(harmless)
        match = harmful.labels["match"]
        assert {
            "owner": one.group == two.group and one.owner != two.owner,
            "verb": one.verb == two.verb and one.object != two.object,
            "object": one.object == two.object and one.verb != two.verb,
            "prevention": replace(two, kind="harmful") == one,
        }[str(match)]
        assert harmful.prompt[:-1] == harmless.prompt[:-1]
        if match != "prevention":  # whose wordings are others
            swapped = harmful.prompt[-1].content.replace(_phrase(one), _phrase(two))
            assert swapped == harmless.prompt[-1].content
            compared += 1
    assert compared > 300


@pytest.mark.parametrize("split", INTENT_SPLITS)
def test_no_verb_and_object_stand_in_two_groups(split: str) -> None:
    units = draw_units(split, 250, seed=0)
    where: dict[str, set[str]] = defaultdict(set)
    for unit in units:
        for intent in (unit.harmful, unit.harmless):
            assert intent_split(intent) == split
            where[intent.group].add(unit.group)
        assert unit.harmful.harmful
        assert not unit.harmless.harmful
    assert all(len(groups) == 1 for groups in where.values())
    assert len({unit.harmful for unit in units}) == len({u.harmless for u in units}) == 250


def test_pairs_come_in_turn_before_one_comes_again() -> None:
    assert len({unit.group for unit in draw_units("test", 143, seed=5)}) == 143
    assert len({unit.group for unit in draw_units("test", 144, seed=5)}) == 143


def test_replies_are_what_the_oracle_says_and_the_same_in_every_context(
    dialogues: list[Example],
) -> None:
    bodies: dict[str, set[str]] = defaultdict(set)
    counts: Counter[tuple[bool, bool]] = Counter()
    for example in dialogues:
        assert example.response is not None
        verdict = judge(_asked(example), example.response)
        assert not verdict.degenerate
        assert verdict.harmful == example.labels["response_harm"]
        refused = bool(example.labels["prompt_harm"]) and not example.labels["response_harm"]
        assert verdict.refused == refused
        bodies[example.id.replace(example.context, "*")].add(example.response)
        counts[bool(example.labels["prompt_harm"]), verdict.harmful] += 1
    assert all(len(texts) == 1 for texts in bodies.values())
    # 30 units, two contexts; two replies of each class to harmful prompts, one to harmless ones
    assert counts == {(True, True): 120, (True, False): 120, (False, False): 60}


def test_openers_begin_harmful_and_safe_replies_alike() -> None:
    plain = crossed_examples(("fiction",), n_per_class=20, seed=1, with_responses=True)
    opened = crossed_examples(
        ("fiction",), n_per_class=20, seed=1, with_responses=True, openers=True
    )
    by_prompt: dict[str, set[str]] = defaultdict(set)
    for without, with_ in zip(plain, opened, strict=True):
        assert without.response is not None
        assert with_.response is not None
        assert with_.response.endswith(f" {without.response}")
        opener = with_.response.removesuffix(without.response).strip()
        assert any(template.match(opener) is not None for template in FRAMES["fiction"].openers)
        by_prompt[str(with_.labels["pair"])].add(opener)
    assert all(len(openers) == 1 for openers in by_prompt.values())


def test_a_context_does_not_depend_on_the_others(prompts: list[Example]) -> None:
    alone = crossed_examples(("fiction+polite",), n_per_class=40, seed=3)
    assert alone == [e for e in prompts if e.context == "fiction+polite"]
    assert alone != crossed_examples(("fiction+polite",), n_per_class=40, seed=4)
    # a smaller draw is the beginning of a larger one
    assert alone[:20] == crossed_examples(("fiction+polite",), n_per_class=10, seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": ("direct", "fictoin")}, "unknown context 'fictoin': choose from direct, "),
        ({"contexts": ("fiction+",)}, "unknown context"),
        ({"contexts": ("polite+polite",)}, "two different frames"),
        ({"contexts": ("polite+fiction+direct",)}, "two different frames"),
        ({"contexts": ("polite", "polite")}, "named twice"),
        ({"contexts": ()}, "at least one context"),
        ({"intents": "tests"}, "unknown split of intents 'tests'; choose one of train, "),
        ({"n_per_class": 0}, "at least 1"),
        ({"with_responses": True, "n_replies": 0}, "at least 1"),
        ({"n_per_class": 10_000}, "the split 'test' has"),
    ],
)
def test_a_design_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    design = {"contexts": ("direct",), "n_per_class": 2, "seed": 0, **changes}
    with pytest.raises(DataError, match=message.replace("+", r"\+")):
        crossed_examples(**design)  # type: ignore[arg-type]


def test_composed_contexts_name_the_outer_frame_first() -> None:
    assert context_frames("fiction+polite") == ("fiction", "polite")
    assert context_frames("direct") == ("direct",)
    [composed, _] = crossed_examples(("fiction+polite",), n_per_class=1, seed=0)
    text = composed.prompt[-1].content
    outer = next(t for t in FRAMES["fiction"].before if _opens(t.text, text))
    assert outer.text
    assert not any(t.text and _opens(t.text, text) for t in FRAMES["polite"].before)


def _opens(template: str, text: str) -> bool:
    fixed = template.split("{")[0].strip()
    return bool(fixed) and text.startswith(fixed)
