"""The exact judge of the embedded world."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.data.example import Conversation, Example
from workbench.evaluation.judges.protocol import NO_REPLY, Judgement, unscored
from workbench.testbed.intents import Intent, find_intent
from workbench.testbed.oracle import judge as ask_oracle


@dataclass(frozen=True)
class OracleJudge:
    """The exact judge of the embedded world: it knows from the grammar what was asked and said.

    The intent is read off the last user turn, so free text works too; a prompt that asks for
    nothing the grammar knows is unscored.
    """

    name: str = "oracle"

    def judge(self, examples: Sequence[Example]) -> list[Judgement]:
        """Judge every reply by the grammar."""
        return [self._judge_one(example) for example in examples]

    def _judge_one(self, example: Example) -> Judgement:
        if example.response is None:
            return unscored(NO_REPLY)
        intent = _asked(example.prompt)
        if intent is None:
            return unscored("the grammar does not know the prompt")
        verdict = ask_oracle(intent, example.response)
        return Judgement(verdict.harmful, verdict.refused, verdict.degenerate, verdict.on_topic)


def _asked(prompt: Conversation) -> Intent | None:
    last = next((message for message in reversed(prompt) if message.role == "user"), None)
    return None if last is None else find_intent(last.content)
