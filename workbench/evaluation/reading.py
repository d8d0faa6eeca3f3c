"""Whether a backbone can read a text at all, and how long it is: nothing is ever cut."""

from dataclasses import dataclass, field

from workbench.backbone.protocol import Backbone
from workbench.data.example import Conversation
from workbench.errors import ContextLengthError, TokenError

UNREADABLE = "that the tokenizer cannot read"
"""Why a text with words outside the vocabulary is not read."""


@dataclass(eq=False)
class ReadingRoom:
    """Counts tokens and says what does not fit.

    Attributes:
        backbone: Whose tokenizer and context.
        n_slots: Bridge tokens behind the prompt.
        n_new: Tokens that are to be generated behind them.
        max_tokens: Most tokens of prompt, slots and reply together; None: the context's length.
        refused: The first text that the tokenizer cannot read, as it says it; empty: none so far.
    """

    backbone: Backbone
    n_slots: int = 0
    n_new: int = 0
    max_tokens: int | None = None
    refused: str = ""
    _prompts: dict[Conversation, int | None] = field(default_factory=dict)
    _responses: dict[str, int | None] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """Most tokens, whatever says so."""
        most = self.backbone.n_ctx
        return most if self.max_tokens is None else min(most, self.max_tokens)

    def why_not(self, prompt: Conversation, response: str | None) -> str | None:
        """Why prompt, slots and response cannot be read, in words; None where they can."""
        lengths = [self.prompt_length(prompt)]
        if response is not None:
            lengths.append(self.response_length(response))
        counted = [length for length in lengths if length is not None]
        if len(counted) < len(lengths):
            return UNREADABLE
        if sum(counted) + self.n_slots + self.n_new > self.limit:
            return f"too long for {self.limit} tokens"
        return None

    def prompt_length(self, prompt: Conversation) -> int | None:
        """Tokens of a prompt with its template; None where the tokenizer cannot read it.

        What exceeds the context counts as one token more than that.
        """
        if prompt not in self._prompts:
            try:
                self._prompts[prompt] = int(self.backbone.encode([prompt]).lengths[0])
            except ContextLengthError:
                self._prompts[prompt] = self.backbone.n_ctx + 1
            except TokenError as error:
                self._prompts[prompt] = None
                self.refused = self.refused or str(error)
        return self._prompts[prompt]

    def response_length(self, text: str) -> int | None:
        """Tokens of a response with its end token; None where the tokenizer cannot read it."""
        if text not in self._responses:
            try:
                self._responses[text] = int(self.backbone.encode_responses([text]).lengths[0])
            except ContextLengthError:
                self._responses[text] = self.backbone.n_ctx + 1
            except TokenError as error:
                self._responses[text] = None
                self.refused = self.refused or str(error)
        return self._responses[text]
