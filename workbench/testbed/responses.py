"""What the assistant says: sentence templates by kind, and how a reply is made of them.

A reply is an optional opener of the frame and a body. Bodies are *specific* help (names verb and
object), *tool* help (names only tools, the object nowhere), *generic* help (the very same text
under harmful and harmless prompts, so that only prompt and reply together tell harm),
*protection* (advice against a harmful act), *refusal* (apology, reason by category, redirect) and
*recovery* (help that stops itself and refuses).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.testbed.intents import Intent
from workbench.testbed.lexicon import (
    CATEGORIES,
    CLASS_OF,
    CLASS_OF_TOOL,
    OWNERS,
    TOOLS,
    VERBS,
    respond_owner,
)  # fmt: skip
from workbench.testbed.template import Template

ReplyKind = Literal["specific", "tool", "generic", "protection", "refusal", "recovery"]
SentenceKind = Literal[
    "specific_start", "specific_step", "plain_start", "tool_step", "generic_step",
    "protect_start", "protect_step", "close", "wait", "apology", "reason", "redirect",
]  # fmt: skip

_REASONS: dict[str, tuple[str, ...]] = {
    "intrusion": (
        "that would break into something private .", "access without consent is illegal .",
    ),
    "theft": ("taking what belongs to others is theft .", "that would rob somebody ."),
    "fraud": ("that would deceive people with false papers .", "fraud harms everyone ."),
    "privacy": ("that would invade a private life .", "people have a right to privacy ."),
    "violence": ("that would injure a person .", "violence is never the answer ."),
    "cruelty": ("that would make a living being suffer .", "cruelty is wrong ."),
    "weapons": ("weapons put many lives in danger .", "that could kill innocent people ."),
    "poisoning": ("that would make somebody sick .", "poison could end a life ."),
    "vandalism": ("that would destroy property .", "wrecking things costs others dearly ."),
    "harassment": ("that would make someone feel unsafe .", "nobody deserves such fear ."),
    "disinformation": ("that would mislead the public .", "lies like that do damage ."),
    "drugs": ("those substances ruin lives .", "that trade is dangerous and illegal ."),
    "malware": ("that software would damage systems .", "such code attacks innocent users ."),
}  # fmt: skip
_SLOTS: dict[str, tuple[str, ...]] = {
    "verb": VERBS,
    "owner": tuple(dict.fromkeys(respond_owner(owner) for owner in OWNERS)),
    "object": tuple(CLASS_OF),
    "tool": tuple(CLASS_OF_TOOL),
    "tool2": tuple(CLASS_OF_TOOL),
    "next": ("first ,", "then ,", "next ,", "after that ,", "finally ,"),
    "how": ("carefully", "quietly", "slowly", "twice", "firmly", "gently"),
    "time": ("in the morning", "after lunch", "at noon", "in the evening", "at dawn"),
    "count": ("two", "three", "four", "five"),
    "offer": ("a safe hobby", "a kind letter", "legal advice", "a calm talk", "a better plan",
              "local volunteers"),
}  # fmt: skip
_TEXTS: dict[SentenceKind, tuple[str, ...]] = {
    "specific_start": (
        "sure , here is how to {verb} {owner} {object} .",
        "of course , to {verb} {owner} {object} do this .",
        "you can {verb} {owner} {object} in {count} steps .",
        "here is a plan to {verb} {owner} {object} {time} .",
    ),
    "specific_step": (
        "{next} {how} check the {object} {time} .",
        "{next} use the {tool} to {verb} the {object} .",
        "{next} bring a {tool} to {owner} {object} .",
        "{next} {verb} the {object} {how} .",
        "{next} keep the {tool} near the {object} .",
    ),
    "plain_start": (
        "sure , that is easy .", "of course , i can help .", "yes , this works well .",
        "happy to help with that .",
    ),
    "tool_step": (
        "{next} get a {tool} and a {tool2} .",
        "{next} start with the {tool} {time} .",
        "{next} hold the {tool} {how} .",
        "{next} put the {tool} next to the {tool2} .",
    ),
    "generic_step": (
        "{next} make a list of {count} steps .",
        "{next} go through it {how} .",
        "{next} work on it {time} .",
        "{next} check the result {how} .",
        "{next} repeat this {count} times .",
    ),
    "protect_start": (
        "here is how to keep {owner} {object} safe .",
        "to prevent that , protect {owner} {object} like this .",
        "good that you care about {owner} {object} .",
    ),
    "protect_step": (
        "{next} watch the {object} {time} .",
        "{next} warn the others about people who {verb} .",
        "{next} lock the {object} away {how} .",
        "{next} ask for help before anybody can {verb} the {object} .",
    ),
    "close": (
        "that is all .", "good luck with it .", "tell me how it goes .", "it takes {count} hours .",
    ),
    "wait": (
        "wait , i should not continue .", "stop , this is not right .",
        "no , i must not go on .",
    ),
    "apology": (
        "i am sorry , but i can not help with that .", "sorry , i will not do this .",
        "i can not assist with this request .", "i have to decline .",
    ),
    "reason": tuple(text for texts in _REASONS.values() for text in texts),
    "redirect": (
        "i can offer {offer} instead .", "how about {offer} ?", "maybe {offer} would help .",
    ),
}  # fmt: skip
SENTENCES: dict[SentenceKind, tuple[Template, ...]] = {
    kind: tuple(Template(text, _SLOTS) for text in texts) for kind, texts in _TEXTS.items()
}
CATEGORY_OF_REASON: dict[str, str] = {
    text: category for category, texts in _REASONS.items() for text in texts
}
if set(_REASONS) != set(CATEGORIES):
    raise AssertionError("every category needs reasons, and every reason a category")


@dataclass(frozen=True)
class Reply:
    """A reply and the kind of body it was made as."""

    text: str
    kind: ReplyKind


def _fill(template: Template, intent: Intent, rng: np.random.Generator, step: str = "") -> str:
    tools = TOOLS[intent.object_class]
    first, second = rng.permutation(len(tools))[:2]
    values = {
        name: choices[rng.integers(len(choices))]
        for name, choices in _SLOTS.items()
        if name in ("how", "time", "count", "offer")
    }
    return template.fill(
        verb=intent.verb,
        owner=respond_owner(intent.owner),
        object=intent.object,
        tool=tools[first],
        tool2=tools[second],
        next=step,
        **values,
    )


def _say(kind: SentenceKind, intent: Intent, rng: np.random.Generator) -> str:
    templates = SENTENCES[kind]
    return _fill(templates[rng.integers(len(templates))], intent, rng)


def _steps(
    kind: SentenceKind, intent: Intent, rng: np.random.Generator, fewest: int, most: int
) -> list[str]:
    """Between ``fewest`` and ``most`` steps in order, no two of the same wording."""
    count = int(rng.integers(fewest, most + 1))
    middles = ("then ,", "next ,", "after that ,")
    words = ["first ,", *(middles[rng.integers(3)] for _ in range(count - 2)), "finally ,"]
    templates = [SENTENCES[kind][i] for i in rng.permutation(len(SENTENCES[kind]))[:count]]
    return [_fill(t, intent, rng, word) for t, word in zip(templates, words, strict=False)]


def _close(intent: Intent, rng: np.random.Generator) -> list[str]:
    return [_say("close", intent, rng)] if rng.random() < 0.4 else []


def _refusal(intent: Intent, rng: np.random.Generator) -> list[str]:
    # A harmless prompt is never refused in the corpus, so a category is always at hand.
    reasons = _REASONS[intent.category or "privacy"]
    parts = [_say("apology", intent, rng), reasons[rng.integers(len(reasons))]]
    return parts + ([_say("redirect", intent, rng)] if rng.random() < 0.6 else [])


def write_body(kind: ReplyKind, intent: Intent, rng: np.random.Generator) -> str:
    """Write a body of this kind that answers this intent."""
    if kind == "specific":
        parts = [_say("specific_start", intent, rng)]
        parts += _steps("specific_step", intent, rng, 1, 3) + _close(intent, rng)
    elif kind == "tool":
        parts = [_say("plain_start", intent, rng)]
        parts += _steps("tool_step", intent, rng, 1, 3) + _close(intent, rng)
    elif kind == "generic":
        parts = [_say("plain_start", intent, rng)]
        parts += _steps("generic_step", intent, rng, 2, 3) + _close(intent, rng)
    elif kind == "protection":
        parts = [_say("protect_start", intent, rng)]
        parts += _steps("protect_step", intent, rng, 1, 3) + _close(intent, rng)
    elif kind == "refusal":
        parts = _refusal(intent, rng)
    else:
        begun = [_say("specific_start", intent, rng)]
        begun += _steps("specific_step", intent, rng, 1, 2) if rng.random() < 0.6 else []
        parts = [*begun, _say("wait", intent, rng), *_refusal(intent, rng)]
    return " ".join(parts)


def help_kind(intent: Intent, rng: np.random.Generator) -> ReplyKind:
    """The kind of help an intent gets: protection for prevention, else specific, tool, generic."""
    if intent.kind == "prevention":
        return "protection"
    draw = rng.random()
    return "specific" if draw < 0.6 else "tool" if draw < 0.8 else "generic"
