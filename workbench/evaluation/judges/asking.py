"""What all model judges do alike: which examples they ask about, and what they call the request."""

from collections.abc import Callable, Sequence

from workbench.data.example import Example
from workbench.evaluation.judges.protocol import NO_REPLY, Judgement, unscored

AskAll = Callable[[Sequence[Example]], list[Judgement]]
Refuse = Callable[[Example], str | None]


def judge_replies(
    examples: Sequence[Example], ask: AskAll, refuse: Refuse = lambda example: None
) -> list[Judgement]:
    """Ask about the examples that hold a reply; the others are unscored.

    Args:
        examples: Some with, some without a reply.
        ask: Judges examples that all hold a reply; called once, or not at all.
        refuse: A reason not to judge an example, or None.
    """
    reasons = [_reason(example, refuse) for example in examples]
    asked = [index for index, reason in enumerate(reasons) if reason is None]
    answers = ask([examples[index] for index in asked]) if asked else []
    judged = dict(zip(asked, answers, strict=True))
    return [
        judged[index] if reason is None else unscored(reason)
        for index, reason in enumerate(reasons)
    ]


def request(example: Example) -> str:
    """The last user turn: what single-turn judges are told was asked."""
    turns = [message.content for message in example.prompt if message.role == "user"]
    return turns[-1] if turns else ""


def _reason(example: Example, refuse: Refuse) -> str | None:
    if not (example.response or "").strip():
        return NO_REPLY
    return refuse(example)
