"""Text to put between a bridge and the reply it should steer: of the world, or of harmless prompts.

Two *stretches* of text, both teacher-forced and the same for all arms:

============  ======================================================================
``turn``      the assistant's turn goes on: short sentences, one after another
``dialogue``  the assistant answers, small talk follows turn by turn, and in the end the
              user makes the same request again
============  ======================================================================

A row's text at a short distance is the end of its text at a long one: what stands just before the
reply does not change with the distance, only how much stands before that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from probes.margins import ReplyPairs
from workbench.arguments import Count, Seed, typed_arguments
from workbench.backbone.protocol import Backbone
from workbench.data.example import Conversation, Example, Message, as_conversation
from workbench.errors import DataError
from workbench.testbed.frames import FRAMES, frame_request

Stretch = Literal["turn", "dialogue"]
STRETCHES: tuple[Stretch, ...] = get_args(Stretch)
LAST_TURN = -1
"""Chunk number of the turn that repeats the request."""

_MULTI_TURN = "multi_turn"


@dataclass(frozen=True)
class Filler:
    """Text in the model's own style.

    Attributes:
        sentences: What an assistant may say and go on; for ``turn``.
        turns: A user's message and the assistant's answer; for ``dialogue``.

    Raises:
        DataError: One of them is empty.
    """

    sentences: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not self.sentences or not self.turns:
            raise DataError("filler needs at least one sentence and one turn of small talk")


@dataclass(frozen=True, eq=False)
class FillerTokens:
    """The text before each prompt's reply, of the same length in every row.

    Attributes:
        ids: Tokens.
        chunk: Which sentence or turn of the row a token belongs to; ``LAST_TURN`` for the turn that
            repeats the request.
    """

    ids: Int[Tensor, "batch token"]
    chunk: Int[Tensor, "batch token"]

    @property
    def shortest(self) -> int:
        """Tokens that hold the repeated request of every row."""
        return int((self.chunk == LAST_TURN).sum(dim=1).max())

    def last(self, distance: int) -> "FillerTokens":
        """The last tokens of every row; at least ``shortest``."""
        start = self.ids.shape[1] - distance
        return FillerTokens(self.ids[:, start:], self.chunk[:, start:])

    def rows(self, index: Int[Tensor, " row"]) -> "FillerTokens":
        """Some rows."""
        return FillerTokens(self.ids[index], self.chunk[index])


@typed_arguments
def embedded_filler(n: Count, *, seed: Seed) -> Filler:
    """Filler of the embedded world.

    Sentences are the openers of its context frames (*let me see .*), with which its assistant may
    begin any answer; turns are the small talk of its dialogues. Of the texts that were tried these
    leave the model's own loss the lowest.

    Args:
        n: Sentences, and turns.
        seed: The same seed gives the same filler.
    """
    rng = np.random.default_rng([seed, *b"filler"])
    names = tuple(FRAMES)
    sentences = [frame_request("", (names[index % len(names)],), rng).opener for index in range(n)]
    turns = [turn for _ in range(n) for turn in _small_talk(rng)][:n]
    return Filler(tuple(sentences), tuple(turns))


def _small_talk(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    *history, _ = frame_request("", (_MULTI_TURN,), rng).conversation
    for user, assistant in zip(history[::2], history[1::2], strict=True):
        yield user.content, assistant.content


@typed_arguments
def filler_of_examples(examples: Sequence[Example]) -> Filler:
    """Filler from the prompts that are labelled harmless and all replies they got.

    What has no label ``prompt_harm`` is no filler: among pairs it counts as harmful. Whatever the
    replies are labelled, they are taken; :func:`describe_filler` counts them.

    Raises:
        DataError: No prompt labelled harmless has a reply.
    """
    turns = tuple((one.prompt[-1].content, one.response or "") for one in _harmless(examples))
    if not turns:
        raise DataError("no example with prompt_harm false has a response")
    return Filler(tuple(reply for _, reply in turns), turns)


def describe_filler(examples: Sequence[Example]) -> str:
    """Which replies :func:`filler_of_examples` takes, and by which labels, in words."""
    harms = [example.labels.get("response_harm") for example in _harmless(examples)]
    return (
        f"{len(harms)} replies to prompts with prompt_harm false ({harms.count(False)} with "
        f"response_harm false, {harms.count(True)} with response_harm true, {harms.count(None)} "
        "without that label)"
    )


def _harmless(examples: Sequence[Example]) -> list[Example]:
    return [one for one in examples if one.response and one.labels.get("prompt_harm") is False]


def tokenise_filler(
    backbone: Backbone,
    pairs: ReplyPairs,
    filler: Filler,
    stretch: Stretch,
    length: int,
    *,
    rng: np.random.Generator,
) -> FillerTokens:
    """``length`` tokens of filler for every prompt, each row from a place of its own.

    Raises:
        DataError: The chat template writes earlier turns differently once others follow.
        TokenError: Words outside the vocabulary.
    """
    ring = _Ring.of(backbone, filler, stretch, rng)
    starts = rng.integers(len(ring.chunks), size=len(pairs)).tolist()
    ends = ring.endings(pairs, starts) if stretch == "dialogue" else [[]] * len(pairs)
    rows = [ring.row(start, end, length) for start, end in zip(starts, ends, strict=True)]
    ids = torch.tensor([ids for ids, _ in rows], dtype=torch.long, device=backbone.device)
    chunk = torch.tensor([chunk for _, chunk in rows], dtype=torch.long, device=backbone.device)
    return FillerTokens(ids.reshape(len(pairs), length), chunk.reshape(len(pairs), length))


@dataclass(frozen=True, eq=False)
class _Ring:
    """Tokenised sentences or turns in a closed order; turn k answers what the user said before.

    Attributes:
        backbone: Whose tokenizer.
        turns: User and assistant of every chunk; empty for sentences.
        chunks: Tokens of each.
    """

    backbone: Backbone
    turns: Sequence[tuple[str, str]]
    chunks: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, backbone: Backbone, filler: Filler, stretch: Stretch, rng: np.random.Generator
    ) -> "_Ring":
        if stretch == "turn":
            order = rng.permutation(len(filler.sentences))
            batch = backbone.encode_responses([filler.sentences[i] for i in order])
            tokens = [row[mask].tolist() for row, mask in zip(batch.ids, batch.mask, strict=True)]
            return cls(backbone, (), [row[:-1] for row in tokens])  # the turn does not end
        turns = [filler.turns[i] for i in rng.permutation(len(filler.turns))]
        following = [user for user, _ in (*turns[1:], turns[0])]
        return cls(backbone, turns, _answers(backbone, turns, following))

    def endings(self, pairs: ReplyPairs, starts: Sequence[int]) -> Sequence[Sequence[int]]:
        """The last answer and the repeated request, for every prompt."""
        requests = [as_conversation(prompt)[-1].content for prompt in pairs.prompts]
        return _answers(self.backbone, [self.turns[start] for start in starts], requests)

    def row(self, start: int, end: Sequence[int], length: int) -> tuple[list[int], list[int]]:
        """The last ``length`` tokens up to a place of the ring and an end, with their chunks."""
        pieces, numbers = [list(end)], [[LAST_TURN] * len(end)]
        total, step = len(end), 0
        while total < length:
            step += 1
            chunk = self.chunks[(start - step) % len(self.chunks)]
            pieces.append(list(chunk))
            numbers.append([step] * len(chunk))
            total += len(chunk)
        ids = [token for piece in reversed(pieces) for token in piece]
        chunks = [number for piece in reversed(numbers) for number in piece]
        return ids[total - length :], chunks[total - length :]


def _answers(
    backbone: Backbone, turns: Sequence[tuple[str, str]], following: Sequence[str]
) -> list[list[int]]:
    """Tokens of each turn's answer and of what the user says next, up to the next answer."""
    asked = [(Message("user", user),) for user, _ in turns]
    whole: list[Conversation] = [
        (*before, Message("assistant", answer), Message("user", then))
        for before, (_, answer), then in zip(asked, turns, following, strict=True)
    ]
    begun = backbone.encode(asked)
    done = backbone.encode(whole)
    added = []
    for before, before_mask, after, after_mask in zip(
        begun.ids, begun.mask, done.ids, done.mask, strict=True
    ):
        start, ids = before[before_mask].tolist(), after[after_mask].tolist()
        if ids[: len(start)] != start:
            raise DataError(
                f"the chat template of {backbone.name} writes a turn differently once another "
                "follows: only the stretch 'turn' can be measured on it"
            )
        added.append(ids[len(start) :])
    return added
