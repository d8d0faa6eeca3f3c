"""The one record that every data source yields and every consumer reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]
Label = str | int | float | bool | None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, in the roles of the Hugging Face chat templates."""

    role: Role
    content: str


Conversation = tuple[Message, ...]


def as_conversation(prompt: "str | Conversation") -> Conversation:
    """Return a plain string as the conversation of one user turn; pass conversations through."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return prompt


@dataclass(frozen=True)
class Example:
    """One prompt, possibly with a response, and everything known about them.

    Attributes:
        id: unique within its source.
        prompt: the conversation up to and including the last user turn.
        response: the assistant's reply, None where the source has only prompts.
        labels: what the source says of it, e.g. ``{"prompt_harm": 1, "category": "theft"}``.
        context: the context frame that the request stands in (``direct``, ``fiction``, ...).
        source: the name of the data set.
        group: examples that share a group share content and never straddle a split.
    """

    id: str
    prompt: Conversation
    response: str | None
    labels: Mapping[str, Label] = field(default_factory=dict)
    context: str = "direct"
    source: str = ""
    group: str = ""
