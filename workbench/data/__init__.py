"""Examples and where they come from; nothing here loads a model."""

from workbench.data.example import Conversation, Example, Message, as_conversation

__all__ = ["Conversation", "Example", "Message", "as_conversation"]
