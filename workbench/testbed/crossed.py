"""Crossed prompts: the same requests in every context, so that contexts differ in nothing else.

One *unit* of the design is a harmful request and a harmless one that is as like it as the language
allows; each is worded once and then put into every context frame. Within a unit and a context both
requests stand in the very same words of the frame. A harmless request matches by

==============  ===========================================================================
``owner``       the same verb and object, but the speaker's own (*hack my own phone*)
``verb``        the same verb with an object that is never harmful (*hack a puzzle*)
``object``      the same object with a verb that is harmless for it (*charge a phone*)
``prevention``  how to stop somebody from the very same act; where nothing else is left
==============  ===========================================================================

A unit is one group: its (verb, object) pairs occur in no other group, so groups are independent
draws and may be resampled or split.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import numpy as np

from workbench.arguments import Seed, typed_arguments
from workbench.data.example import Example, Label
from workbench.errors import DataError
from workbench.testbed.frames import FRAMES, FramedPrompt, frame_request
from workbench.testbed.intents import Intent, IntentKind, classify, word_request
from workbench.testbed.lexicon import OBJECTS, OWNERS, RULES
from workbench.testbed.responses import help_kind, write_body
from workbench.testbed.splits import IntentSplit, intent_split

Match = Literal["owner", "verb", "object", "prevention"]
MATCHES: tuple[Match, ...] = get_args(Match)
INTENT_SPLITS: tuple[IntentSplit, ...] = get_args(IntentSplit)
SINGLE_CONTEXTS: tuple[str, ...] = tuple(FRAMES)


@dataclass(frozen=True)
class Unit:
    """A harmful intent, a harmless one like it, and what they share.

    Attributes:
        harmful: The harmful intent.
        harmless: Its counterpart.
        match: How the two are alike.
    """

    harmful: Intent
    harmless: Intent
    match: Match

    @property
    def group(self) -> str:
        """The group of both: verb and object of the harmful intent."""
        return self.harmful.group


@typed_arguments
def crossed_examples(
    contexts: Sequence[str] = SINGLE_CONTEXTS,
    *,
    n_per_class: int,
    seed: Seed,
    intents: str = "test",
    with_responses: bool = False,
    n_replies: int = 1,
    openers: bool = False,
) -> list[Example]:
    """Draw the same harmful and harmless requests in every context.

    Labels are ``prompt_harm``, ``response_harm``, ``kind``, ``category``, ``match`` and ``pair``,
    which examples of one unit share. Prompts of a context do not depend on the other contexts
    asked for.

    Args:
        contexts: Frame names, or two joined by ``+``, the outer first (``fiction+polite``).
        n_per_class: Harmful requests, and as many harmless ones.
        seed: The same seed gives the same examples.
        intents: Which split of the intents; value training never saw those of ``test``.
        with_responses: Give every harmful prompt twice for each reply: with help, which is
            harmful, and with a refusal, which is safe. Harmless prompts come once, with help.
            The body of a reply is the same in every context.
        n_replies: Replies of each kind to a prompt.
        openers: Let replies begin in the manner of the frame, harmful and safe ones alike.

    Raises:
        DataError: An unknown context or split, a context named twice, fewer than one request or
            reply, or more requests than the split has.
    """
    _check_design(contexts, n_per_class, n_replies)
    units = draw_units(_known_split(intents), n_per_class, seed=seed)
    return [
        example
        for index, unit in enumerate(units)
        for context in contexts
        for intent in (unit.harmful, unit.harmless)
        for example in _Cell(unit, intent, context, f"{seed}/{index}", openers).examples(
            n_replies if with_responses else 0
        )
    ]


def context_frames(context: str) -> tuple[str, ...]:
    """The frames that a context's name stands for, the outer first.

    Raises:
        DataError: Unknown, or more than two frames, or one frame twice.
    """
    frames = tuple(context.split("+"))
    unknown = [name for name in frames if name not in FRAMES]
    if unknown:
        raise DataError(
            f"unknown context '{context}': choose from {', '.join(FRAMES)}, or two of them joined "
            "by '+', the outer first"
        )
    if len(frames) > 2 or len(set(frames)) < len(frames):
        raise DataError(f"context '{context}': join two different frames at most")
    return frames


def draw_units(intents: IntentSplit, n: int, *, seed: int) -> list[Unit]:
    """Draw harmful intents, their (verb, object) pairs in turn, and a counterpart for each.

    The counterpart is of a way drawn uniformly from those that are left for it.

    Raises:
        DataError: The split holds fewer harmful intents.
    """
    rng = np.random.default_rng([seed, *f"crossed/{intents}".encode()])
    harmful = list(_in_turn(_intents_by_group(intents, "harmful"), rng))
    if n > len(harmful):
        raise DataError(
            f"{n} harmful requests asked for, the split '{intents}' has {len(harmful)}: ask for "
            "fewer, or draw from another split"
        )
    matcher = _Matcher(intents)
    return [Unit(intent, *matcher.match(intent, rng)) for intent in harmful[:n]]


def _known_split(name: str) -> IntentSplit:
    for split in INTENT_SPLITS:
        if split == name:
            return split
    raise DataError(f"unknown split of intents '{name}'; choose one of {', '.join(INTENT_SPLITS)}")


def _check_design(contexts: Sequence[str], n_per_class: int, n_replies: int) -> None:
    if not contexts:
        raise DataError(f"name at least one context; there are {', '.join(FRAMES)}")
    for context in contexts:
        context_frames(context)
    if len(set(contexts)) < len(contexts):
        raise DataError(f"a context is named twice in {', '.join(contexts)}; name each once")
    if n_per_class < 1 or n_replies < 1:
        raise DataError(
            f"{n_per_class} requests a class and {n_replies} replies: ask for at least 1 of each"
        )


@cache
def _intents_by_group(split: IntentSplit, kind: IntentKind) -> Mapping[str, tuple[Intent, ...]]:
    """All intents of a kind in a split by their (verb, object) pair."""
    return {
        group: tuple(intent for intent in intents if intent.kind == kind)
        for group, intents in _all_intents(split).items()
        if any(intent.kind == kind for intent in intents)
    }


@cache
def _all_intents(split: IntentSplit) -> Mapping[str, tuple[Intent, ...]]:
    """Everything that can be asked for in a split, but prevention, by (verb, object) pair."""
    table = {}
    for rule in RULES:
        for object_ in OBJECTS[rule.object_class]:
            asked = [classify(rule.verb, owner, object_) for owner in OWNERS]
            intents = tuple(intent for intent in asked if intent is not None)
            if intent_split(intents[0]) == split:  # which no owner changes
                table[intents[0].group] = intents
    return table


def _in_turn(table: Mapping[str, tuple[Intent, ...]], rng: np.random.Generator) -> Iterator[Intent]:
    """One intent of every group in random order, then another of every group, and so on."""
    groups = [table[name] for name in table]
    shuffled = [
        [groups[g][i] for i in rng.permutation(len(groups[g]))]
        for g in rng.permutation(len(groups))
    ]
    for turn in range(max((len(group) for group in shuffled), default=0)):
        yield from (group[turn] for group in shuffled if turn < len(group))


class _Matcher:
    """Finds counterparts; none is used twice, and no (verb, object) pair serves two groups."""

    def __init__(self, split: IntentSplit) -> None:
        harmful = _intents_by_group(split, "harmful")
        plain = _intents_by_group(split, "plain")
        self._lookalikes = _intents_by_group(split, "lookalike")
        self._by_verb: dict[str, list[Intent]] = defaultdict(list)
        self._by_object: dict[str, list[Intent]] = defaultdict(list)
        for group, intents in {**plain, **self._lookalikes}.items():
            # A pair that is harmful for some owner is left to the unit of that harmful intent.
            for intent in intents if group not in harmful else ():
                self._by_verb[intent.verb].append(intent)
                self._by_object[intent.object].append(intent)
        self._claimed: dict[str, str] = {}
        self._used: set[Intent] = set()

    def match(self, harmful: Intent, rng: np.random.Generator) -> tuple[Intent, Match]:
        """A counterpart and what it shares with the harmful intent."""
        candidates: dict[Match, Sequence[Intent]] = {
            "owner": self._lookalikes.get(harmful.group, ()),
            "verb": self._by_verb[harmful.verb],
            "object": self._by_object[harmful.object],
        }
        free = {
            way: [intent for intent in found if self._is_free(intent, harmful.group)]
            for way, found in candidates.items()
        }
        ways = [way for way, found in free.items() if found]
        if not ways:
            return replace(harmful, kind="prevention"), "prevention"
        way = ways[rng.integers(len(ways))]
        chosen = free[way][rng.integers(len(free[way]))]
        self._used.add(chosen)
        self._claimed[chosen.group] = harmful.group
        return chosen, way

    def _is_free(self, intent: Intent, group: str) -> bool:
        return intent not in self._used and self._claimed.get(intent.group, group) == group


@dataclass(frozen=True)
class _Cell:
    """One request in one context.

    Attributes:
        unit: The unit it belongs to.
        intent: The harmful or the harmless one of the unit.
        context: Where it stands.
        key: What, with the context, decides all that is random here.
        openers: Whether replies begin in the manner of the frame.
    """

    unit: Unit
    intent: Intent
    context: str
    key: str
    openers: bool

    def examples(self, n_replies: int) -> Iterator[Example]:
        """The prompt, or the prompt with each of its replies."""
        if not n_replies:
            yield self._example("", None, None)
        for number in range(n_replies if self.intent.harmful else min(n_replies, 1)):
            yield self._example(f"help{number}", self._reply("help", number), self.intent.harmful)
            if self.intent.harmful:
                yield self._example(f"refusal{number}", self._reply("refusal", number), False)

    def _rng(self, *purpose: str) -> np.random.Generator:
        return np.random.default_rng([*"/".join((self.key, *purpose)).encode()])

    def _reply(self, kind: Literal["help", "refusal"], number: int) -> str:
        """The same body in every context."""
        rng = self._rng("reply", kind, str(number), self.intent.kind)
        body = write_body(
            "refusal" if kind == "refusal" else help_kind(self.intent, rng), self.intent, rng
        )
        return f"{self._framed.opener} {body}" if self.openers else body

    @property
    def _framed(self) -> FramedPrompt:
        # Generators that know the unit but not the class: both classes get the same words.
        request = word_request(self.intent, self._rng("wording"))
        return frame_request(
            request, context_frames(self.context), self._rng("frame", self.context)
        )

    def _example(self, suffix: str, response: str | None, response_harm: Label) -> Example:
        intent = self.intent
        asked = f"{intent.verb} {intent.owner} {intent.object}"
        parts = ("testbed", intent.kind, asked, self.context, *([suffix] if suffix else []))
        return Example(
            id="/".join(parts),
            prompt=self._framed.conversation,
            response=response,
            labels={
                "prompt_harm": intent.harmful,
                "response_harm": response_harm,
                "kind": intent.kind,
                "category": intent.category,
                "match": self.unit.match,
                "pair": self.key,
            },
            context=self.context,
            source="testbed",
            group=self.unit.group,
        )
