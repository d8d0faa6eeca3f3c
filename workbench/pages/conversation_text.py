"""A conversation in one text box (light).

A line that starts with ``user:``, ``assistant:`` or ``system:`` opens a turn; text without any
such line is one user turn.
"""

import re

from workbench.data.example import Conversation, Message

_TURN = re.compile(r"^[ \t]*(system|user|assistant):[ \t]*", re.MULTILINE)


def parse_conversation(text: str) -> Conversation:
    """Read the turns of a text."""
    pieces = _TURN.split(text)
    turns = [Message("user", pieces[0].strip())] if pieces[0].strip() or len(pieces) == 1 else []
    for role, content in zip(pieces[1::2], pieces[2::2], strict=True):
        turns.append(Message(role, content.strip()))  # type: ignore[arg-type]
    return tuple(turns)


def format_conversation(conversation: Conversation) -> str:
    """Write a conversation as such a text; one user turn is written plainly."""
    if len(conversation) == 1 and conversation[0].role == "user":
        return conversation[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in conversation)
