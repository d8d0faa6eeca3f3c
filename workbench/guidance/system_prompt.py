"""A system message that asks for caution, put in front of every conversation.

The oldest rival and the cheapest: nothing is fitted and no activation is touched, the text goes
through the backbone's own chat template. A conversation that has a system turn keeps its words
after the new ones, in one turn. A message is there or not, so the only strengths are 1 and 0.

The candidates are the safety prompts that came with Llama 2 (arXiv 2307.09288) and Mistral 7B
(arXiv 2310.06825), and the self-reminder (Xie et al., Nature Machine Intelligence 5, 2023). A
backbone of the embedded world cannot read them; it is asked in the words of its corpus, where such
a turn went with more refusals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from workbench.backbone.protocol import Backbone, Prompt, TokenBatch
from workbench.data.example import Conversation, Message, as_conversation
from workbench.data.training import ValueData
from workbench.errors import ConfigError, TokenError
from workbench.guidance.artifact import load_artifact, read_config, save_artifact, take_tensors
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession, SlotlessSession
from workbench.testbed.corpus import SYSTEM_CAREFUL

NAME = "system-prompt"
SAFETY_PROMPTS: tuple[str, ...] = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe. Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\nIf a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information.",
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid "
    "harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness and "
    "positivity.",
    "You should be a responsible assistant and should not generate harmful or misleading content! "
    "Please answer the following user query in a responsible way.",
)


@dataclass(frozen=True)
class SystemPromptConfig:
    """What is tuned.

    Attributes:
        text: The message.
        strength: 1: there, 0: not there.

    Raises:
        ConfigError: An empty text, or another strength.
    """

    text: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("text is empty: write the system message")
        _check_there_or_not("strength", self.strength)


def _check_there_or_not(what: str, value: float) -> None:
    if value not in (0, 1):
        raise ConfigError(
            f"{what} {value:g}: a system message is a switch, on (strength 1) or off (strength 0); "
            "for shades of it write another text"
        )


@dataclass(frozen=True, eq=False)
class SystemPrompt(WithoutSlots):
    """The message as a guidance.

    Attributes:
        config: What it says.
        about: Nothing but what was measured: nothing is fitted.
        factor: 1 as configured, 0 no guidance.

    Raises:
        ConfigError: Another factor.
    """

    config: SystemPromptConfig
    about: Mapping[str, object] = field(default_factory=dict)
    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_there_or_not(f"{NAME} at strength", self.factor)

    @property
    def name(self) -> str:
        """Name in records."""
        return NAME

    def prepare(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts behind the message."""
        if self.coefficient == 0:
            return prompts
        return [behind_system_message(self.config.text, prompt) for prompt in prompts]

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session without hooks: all was said in the prompt."""
        return SlotlessSession()

    def scaled(self, factor: float) -> "SystemPrompt":
        """There (1) or not (0).

        Raises:
            ConfigError: Another factor.
        """
        return replace(self, factor=factor)

    @classmethod
    def fit(
        cls, backbone: Backbone, data: ValueData, config: SystemPromptConfig, *, seed: int
    ) -> "SystemPrompt":
        """Check that the backbone takes the message; neither data nor seed are used.

        Raises:
            ConfigError: Its chat template has no system turn, or words are unknown to it.
        """
        require_system_turn(backbone, config.text)
        return cls(config)

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write the message; see :func:`workbench.guidance.artifact.save_artifact`."""
        save_artifact(
            folder, NAME, self.config, {}, backbone=backbone, about={**self.about, **(about or {})}
        )

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> "SystemPrompt":
        """Read it back.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`.
        """
        artifact = load_artifact(folder, NAME, backbone)
        take_tensors(artifact, {}, folder)
        config = read_config(artifact, SystemPromptConfig, folder)
        return cls(config, artifact.record.about)


def behind_system_message(text: str, prompt: Prompt) -> Conversation:
    """The conversation with one system turn, which begins with ``text``."""
    conversation = as_conversation(prompt)
    said = [message.content for message in conversation if message.role == "system"]
    others = (message for message in conversation if message.role != "system")
    return (Message("system", "\n\n".join([text, *said])), *others)


def require_system_turn(backbone: Backbone, text: str) -> None:
    """Check that a backbone reads this system message, in front of what was asked.

    Raises:
        ConfigError: Its chat template refuses or drops system turns, or words are unknown to it.
    """
    asked = (Message("user", text),)
    try:
        without = backbone.encode([asked])
    except TokenError as error:
        raise ConfigError(f"{backbone.name} cannot read this system message: {error}") from error
    try:
        message = backbone.encode([(Message("system", text), *asked)])
    except TokenError as error:
        raise ConfigError(_no_system_turn(backbone, "refuses")) from error
    if torch.equal(message.ids, without.ids):
        raise ConfigError(_no_system_turn(backbone, "drops"))


def _no_system_turn(backbone: Backbone, does: str) -> str:
    return (
        f"the chat template of {backbone.name} {does} system turns: choose another method, or a "
        "backbone whose template has them"
    )


def grid(backbone: Backbone) -> tuple[SystemPromptConfig, ...]:
    """The safety prompts in use, or those of the embedded world where they cannot be read.

    Raises:
        ConfigError: The backbone can read neither.
    """
    try:
        backbone.encode([SAFETY_PROMPTS[0]])
        texts = SAFETY_PROMPTS
    except TokenError:
        texts = SYSTEM_CAREFUL
    for text in texts:
        require_system_turn(backbone, text)
    return tuple(SystemPromptConfig(text) for text in texts)


FITTED = (
    Method(
        name=NAME,
        title="System prompt",
        source="safety prompts of arXiv 2307.09288 and 2310.06825; self-reminder (Xie et al. 2023)",
        config_type=SystemPromptConfig,
        grid=grid,
        fit=SystemPrompt.fit,
        load=SystemPrompt.load,
    ),
)
