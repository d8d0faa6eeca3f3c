"""What the three training stages read, whatever source it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.data.example import Conversation
from workbench.errors import DataError


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt and whether complying with it would be harmful (stage 1, and the trigger)."""

    prompt: Conversation
    harmful: bool
    group: str = ""


@dataclass(frozen=True)
class LabelledPair:
    """A prompt, a response, and whether that response is harmful there (stage 2).

    ``ambiguous`` marks responses whose text alone does not tell: the same words are harmless
    under another prompt.
    """

    prompt: Conversation
    response: str
    harmful: bool
    group: str = ""
    ambiguous: bool = False


@dataclass(frozen=True)
class SafeTarget:
    """A harmful prompt with the response it should get and one that it should not (stage 3)."""

    prompt: Conversation
    safe_response: str
    harmful_response: str | None = None
    group: str = ""


@dataclass(frozen=True)
class ValueData:
    """The three stages' examples of one split."""

    prompts: Sequence[LabelledPrompt]
    pairs: Sequence[LabelledPair]
    targets: Sequence[SafeTarget]

    def check(self, what: str) -> None:
        """Check that every stage can be trained.

        Raises:
            DataError: if a stage has no examples, or only one class.
        """
        for name, rows in (("prompts", self.prompts), ("pairs", self.pairs)):
            labels = {row.harmful for row in rows}
            if labels != {True, False}:
                raise DataError(
                    f"the {what} {name} hold {'only one class' if labels else 'no examples'}; "
                    "both harmful and harmless ones are needed"
                )
        if not self.targets:
            raise DataError(f"the {what} data hold no safe responses for stage 3")
