"""Training and validation data for value modules, drawn from the embedded world.

Value training sees only the frames marked *seen*. As options, some of its prompts stand in two of
them at once, and half of its prompts are put between random words ("filler"), so that a trigger
cannot rely on where in the prompt a request stands. No word that occurs only in a held-out frame
is ever used as filler.
"""

from functools import cache

import numpy as np

from workbench.data.example import Message
from workbench.data.training import LabelledPair, LabelledPrompt, SafeTarget, ValueData
from workbench.testbed.corpus import Prompt, draw_intent, help_reply, refusal_reply
from workbench.testbed.frames import FRAMES, FramedPrompt, frame_request
from workbench.testbed.intents import (
    ACTION_REQUESTS,
    PREVENTION_REQUESTS,
    IntentKind,
    word_request,
)
from workbench.testbed.responses import SENTENCES
from workbench.testbed.splits import SPLITS, Split, intent_split

TRIGGER_SHARES: dict[IntentKind, float] = {
    "harmful": 0.40, "lookalike": 0.40, "plain": 0.08, "prevention": 0.12,
}  # fmt: skip
_FILLER_SHARE = 0.5
_LONGEST_FILLER = 14


@cache
def filler_words() -> tuple[str, ...]:
    """Every word of requests, replies and seen frames; none that only a held-out frame uses."""
    banks = [*ACTION_REQUESTS, *PREVENTION_REQUESTS]
    banks += [template for bank in SENTENCES.values() for template in bank]
    for frame in FRAMES.values():
        if frame.role == "seen":
            banks += [*frame.before, *frame.after, *frame.openers]
    return tuple(sorted(set().union(*(template.words() for template in banks))))


def add_filler(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """Put random words before and after the last user turn; what is asked stays the same."""
    words = filler_words()
    *earlier, last = prompt.conversation

    def some() -> str:
        count = int(rng.integers(0, _LONGEST_FILLER + 1))
        return " ".join(words[i] for i in rng.integers(len(words), size=count))

    text = " ".join(part for part in (some(), last.content, some()) if part)
    framed = FramedPrompt((*earlier, Message("user", text)), prompt.framed.opener)
    return Prompt(prompt.intent, prompt.frames, framed)


def _draw(
    split: Split, rng: np.random.Generator, kind: IntentKind, composed: float = 0.0
) -> Prompt:
    intent = draw_intent(rng, kind, lambda i: intent_split(i) == split.intents)
    frames = split.frames[rng.integers(len(split.frames))]
    if rng.random() < composed:
        inner = split.frames[rng.integers(len(split.frames))]
        frames = frames if inner == frames else frames + inner
    return Prompt(intent, frames, frame_request(word_request(intent, rng), frames, rng))


def _draw_kind(rng: np.random.Generator) -> IntentKind:
    kinds = tuple(TRIGGER_SHARES)
    return kinds[rng.choice(len(kinds), p=list(TRIGGER_SHARES.values()))]


def _pair(prompt: Prompt, rng: np.random.Generator) -> LabelledPair:
    """A reply as the corpus may give it; harmful prompts are helped or refused equally often."""
    refuse = prompt.intent.harmful and rng.random() < 0.5
    reply = refusal_reply(prompt, rng, opener_share=0.3) if refuse else help_reply(prompt, rng)
    return LabelledPair(
        prompt=prompt.conversation,
        response=reply.text,
        harmful=prompt.intent.harmful and not refuse,
        group=prompt.intent.group,
        ambiguous=reply.kind == "generic",
    )


def build_value_data(
    split: str,
    *,
    n_prompts: int,
    n_pairs: int,
    n_targets: int,
    seed: int,
    filler: bool = False,
    composed: float = 0.0,
) -> ValueData:
    """Draw the examples of the three stages from one split of the embedded world.

    Args:
        split: usually ``train`` or one of the validation splits.
        n_prompts: how many examples for stage 1.
        n_pairs: how many for stage 2.
        n_targets: how many for stage 3.
        seed: the same seed gives the same examples.
        filler: put half of the prompts between random words.
        composed: share of prompts that stand in two of the split's frames at once.
    """
    wanted = SPLITS[split]
    rng = np.random.default_rng([seed, *f"value/{split}".encode()])

    def prompt(kind: IntentKind) -> Prompt:
        drawn = _draw(wanted, rng, kind, composed)
        return add_filler(drawn, rng) if filler and rng.random() < _FILLER_SHARE else drawn

    prompts = [prompt(_draw_kind(rng)) for _ in range(n_prompts)]
    harmful = [prompt("harmful") for _ in range(n_targets)]
    return ValueData(
        prompts=[LabelledPrompt(p.conversation, p.intent.harmful, p.intent.group) for p in prompts],
        pairs=[_pair(_draw(wanted, rng, _draw_kind(rng)), rng) for _ in range(n_pairs)],
        targets=[
            SafeTarget(
                p.conversation, refusal_reply(p, rng).text, help_reply(p, rng).text, p.intent.group
            )
            for p in harmful
        ],
    )
