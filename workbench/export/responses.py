"""One generated response along its tokens: the record behind the Playground's figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import pandas as pd

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenRecord:
    """One generated token with its traces; None where not measured.

    Attributes:
        text: the token as a person reads it.
        harm_score: s_t of the response up to this token, a logit; above 0 means harmful.
        trigger_score: score of the state that the bridge in use was made from.
        correction_norm: size of its correction in units of the value space.
        open: whether the gate was open when this token was predicted.
        slot_attention: share of attention on all slots, by layer and head.
    """

    text: str
    harm_score: float | None = None
    trigger_score: float | None = None
    correction_norm: float | None = None
    open: bool | None = None
    slot_attention: tuple[tuple[float, ...], ...] | None = None

    @property
    def harm_probability(self) -> float | None:
        """The logistic function of the harm score."""
        if self.harm_score is None:
            return None
        half = math.tanh(self.harm_score / 2)  # does not overflow, whatever the score
        return 0.5 + half / 2

    @property
    def mean_slot_attention(self) -> float | None:
        """Attention on the slots, mean over heads and the blocks that see them."""
        if self.slot_attention is None:
            return None
        shares = [share for heads in self.slot_attention for share in heads]
        return sum(shares) / len(shares)


@dataclass(frozen=True)
class ResponseRecord:
    """One response under one guidance.

    Attributes:
        guidance: the guidance's name, ``none`` or ``svgt:CONFIG``.
        tokens: its tokens, the stop token included.
        text: the text without special tokens.
        finish: ``stop`` at a stop token, ``length`` at the limit, None while it is being written.
        slot_layers: the blocks that the rows of ``slot_attention`` stand for.
    """

    guidance: str
    tokens: tuple[TokenRecord, ...] = ()
    text: str = ""
    finish: Finish | None = None
    slot_layers: tuple[int, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """What each token adds to the text; together they are the text, spaces included."""
        return added_texts([token.text for token in self.tokens], self.text)

    @property
    def scored(self) -> bool:
        """Whether any token has a harm score."""
        return any(token.harm_score is not None for token in self.tokens)

    @property
    def attended(self) -> bool:
        """Whether attention on slots was recorded."""
        return any(token.slot_attention is not None for token in self.tokens)


def added_texts(pieces: Sequence[str], text: str) -> tuple[str, ...]:
    """Part a text among the tokens that spell it: tokenizers differ in where they keep spaces.

    A special token adds nothing, and of several tokens that only spell a character together the
    last one adds it.

    Args:
        pieces: Each token as it reads alone.
        text: What they read together, special tokens left out.

    Returns:
        One text a token; joined, they are ``text``.
    """
    ends: list[int] = []
    end, unread = 0, False
    for piece in pieces:
        word = piece.strip()
        found = text.find(word, end) if word else -1
        between = text[end:found].rstrip()
        taken = found >= 0 and (unread or not between)
        if taken:
            if unread:
                ends[-1] = end + len(between)  # what the tokens before spell together
            end = found + len(word)
        unread = not taken
        ends.append(end)
    if ends:
        ends[-1] = len(text)
    return tuple(text[start:stop] for start, stop in pairwise([0, *ends]))


def trace_frame(records: Sequence[ResponseRecord]) -> pd.DataFrame:
    """The traces as a tidy table, one row a token; empty cells were not measured."""
    columns = [
        "guidance", "token_index", "token", "harm_score", "harm_probability", "trigger_score",
        "correction_norm", "gate_open", "slot_attention",
    ]  # fmt: skip
    rows = [
        (
            record.guidance, index, token.text, token.harm_score, token.harm_probability,
            token.trigger_score, token.correction_norm, token.open, token.mean_slot_attention,
        )
        for record in records
        for index, token in enumerate(record.tokens)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    measured = ["harm_score", "harm_probability", "trigger_score", "correction_norm"]
    types = dict.fromkeys([*measured, "slot_attention"], "float64")
    return frame.astype({**types, "gate_open": "boolean"})
