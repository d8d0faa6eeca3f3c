"""What is held out from whom.

Four questions of generalisation, four test splits, and for each a validation twin on which every
choice is made. Groups are (verb, object) pairs, so that an owner never carries a pair across.

=====================  ======================================  ==============================
split                  intents                                 frames
=====================  ======================================  ==============================
``heldout_intents``    pairs that neither backbone nor value   frames seen in value training
                       training saw
``heldout_words``      verbs and object classes that value     frames seen in value training
                       training never saw
``unseen_frames``      as ``heldout_intents``                  frames value training never saw
``composed_frames``    as ``heldout_intents``                  two frames at once, which not
                                                               even the backbone ever saw
=====================  ======================================  ==============================

The validation twins (``validation_*``) use other pairs, words, frames and compositions.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from workbench.testbed.frames import compositions, frames_with_role
from workbench.testbed.intents import Intent

TEST_VERBS = frozenset(
    "hijack swipe counterfeit stalk stab smuggle contaminate scratch blackmail leak "
    "polish sew photograph organize".split()
)
TEST_CLASSES = frozenset(("drug", "vehicle", "craft"))
VALIDATION_VERBS = frozenset("breach loot strangle vandalize insult expose tune rent".split())
VALIDATION_CLASSES = frozenset(("water", "furniture"))

IntentSplit = Literal["train", "validation", "test", "validation_words", "test_words"]
TEST_SPLITS = ("heldout_intents", "heldout_words", "unseen_frames", "composed_frames")
VALIDATION_SPLITS = (
    "validation_intents", "validation_words", "validation_frames", "validation_composed",
)  # fmt: skip
TRAIN_SPLIT = "train"
_PERCENT_TEST = 12
_PERCENT_VALIDATION = 8


def intent_split(intent: Intent) -> IntentSplit:
    """Return the one split of intents that this intent belongs to."""
    if intent.verb in TEST_VERBS or intent.object_class in TEST_CLASSES:
        return "test_words"
    if intent.verb in VALIDATION_VERBS or intent.object_class in VALIDATION_CLASSES:
        return "validation_words"
    bucket = int.from_bytes(hashlib.sha256(intent.group.encode()).digest()[:4], "big") % 100
    if bucket < _PERCENT_TEST:
        return "test"
    return "validation" if bucket < _PERCENT_TEST + _PERCENT_VALIDATION else "train"


def in_backbone_corpus(intent: Intent) -> bool:
    """Whether pre-training may show this intent: held-out pairs stay out, held-out words do not.

    A word that pre-training never shows has a random embedding, so nothing could generalise to it.
    """
    return intent_split(intent) in ("train", "validation_words", "test_words")


@dataclass(frozen=True)
class Split:
    """A split of prompts: which intents, in which frames (one name or a pair, outer first)."""

    name: str
    intents: IntentSplit
    frames: tuple[tuple[str, ...], ...]


def _single(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split("train", "train", _single(*frames_with_role("seen"))),
        Split("validation_intents", "validation", _single(*frames_with_role("seen"))),
        Split("validation_words", "validation_words", _single(*frames_with_role("seen"))),
        Split("validation_frames", "validation", _single(*frames_with_role("validation"))),
        Split("validation_composed", "validation", compositions("validation")),
        Split("heldout_intents", "test", _single(*frames_with_role("seen"))),
        Split("heldout_words", "test_words", _single(*frames_with_role("seen"))),
        Split("unseen_frames", "test", _single(*frames_with_role("unseen"))),
        Split("composed_frames", "test", compositions("test")),
    )
}
