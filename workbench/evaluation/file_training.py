"""Files and published sets as training data.

There is no oracle here. The best state of stage 3 is chosen by its validation loss, as everywhere;
beside it the refusal-prefix judge says how many replies to some of the validation prompts of stage
3 begin like a refusal. That judge knows nothing of harm and English only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.data.assembly import AssemblyConfig, assemble
from workbench.data.assembly.groups import seeded_order
from workbench.data.example import Conversation, Example
from workbench.data.loading import digest_examples
from workbench.data.normalising import prompt_text
from workbench.data.training import ValueData
from workbench.errors import ConfigError, DataError
from workbench.evaluation.judges import RefusalPrefixJudge
from workbench.evaluation.measured_replies import sampled_replies
from workbench.evaluation.reading import ReadingRoom
from workbench.evaluation.state_memory import require_memory, state_bytes
from workbench.evaluation.training_data import PreparedData
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.curriculum.state_bank import BATCH_SIZE
from workbench.svgt.value_module import ValueModule

NEW_TOKENS = 32
"""Tokens of a measured reply: a refusal shows at its beginning."""


@dataclass(frozen=True, eq=False)
class FileData:
    """Labelled examples of sources and files.

    Attributes:
        sources: Examples by the name of their source.
        config: What is taken, and how it is split.
        against: Evaluation sets that the training should not hold, by name.
        max_tokens: Most tokens of prompt, bridge and reply together; longer rows are left out and
            counted. None: what the context holds.
        n_measured: Most validation prompts to which replies are generated; 0: none.
    """

    sources: Mapping[str, Sequence[Example]]
    config: AssemblyConfig = field(default_factory=AssemblyConfig)
    against: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    max_tokens: int | None = None
    n_measured: int = 32

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError("max_tokens must be at least 1")
        if self.n_measured < 0:
            raise ConfigError("n_measured must not be negative")

    def settings(self) -> Mapping[str, object]:
        """Every set by the hash of its content, and how it is used."""
        return {
            "sources": digest_examples(self.sources),
            "against": digest_examples(self.against),
            **to_mapping(self.config),
            "max_tokens": self.max_tokens,
            "n_measured": self.n_measured,
        }

    def says_the_same(self, kept: object) -> bool:
        """Whether settings are these."""
        return kept == self.settings()

    def prepare(
        self, backbone: Backbone, recipe: Recipe, *, seed: int, batch_size: int = BATCH_SIZE
    ) -> PreparedData:
        """Assemble the examples that this backbone can read.

        Raises:
            DataError: A stage has no examples or only one class, or the states would not fit into
                this machine's memory.
        """
        room = ReadingRoom(backbone, n_slots=recipe.module.n_bridge, max_tokens=self.max_tokens)
        try:
            assembled = assemble(
                self.sources,
                self.config,
                seed=seed,
                why_not=room.why_not,
                needs_contrast=recipe.curriculum.safety.kind == "contrastive",
                against=self.against,
            )
        except DataError as error:
            if not room.refused:
                raise
            raise DataError(f"{error}. The first text that was refused: {room.refused}") from error
        needed = sum(
            state_bytes(data, recipe.module, room)
            for data in (assembled.train, assembled.validation)
        )
        require_memory(needed)
        prompts = self._measured(backbone, recipe, assembled.validation, seed)
        return PreparedData(
            assembled.train,
            assembled.validation,
            assembled.report,
            _RefusalMeter(backbone, prompts, seed, batch_size) if prompts else None,
            len(prompts),
            needed,
        )

    def _measured(
        self, backbone: Backbone, recipe: Recipe, validation: ValueData, seed: int
    ) -> list[Conversation]:
        """Different prompts of stage 3 that leave room for a reply, in the seed's order."""
        room = ReadingRoom(backbone, n_slots=recipe.module.n_bridge, n_new=NEW_TOKENS)
        by_text = {prompt_text(target.prompt): target.prompt for target in validation.targets}
        fitting = {
            text: prompt for text, prompt in by_text.items() if room.why_not(prompt, None) is None
        }
        return [fitting[text] for text in seeded_order(fitting, seed)[: self.n_measured]]


@dataclass(frozen=True, eq=False)
class _RefusalMeter:
    """How many replies begin like a refusal, and how many say nothing."""

    backbone: Backbone
    prompts: Sequence[Conversation]
    seed: int
    batch_size: int

    def __call__(self, module: ValueModule) -> dict[str, float]:
        replies = sampled_replies(
            self.backbone,
            module,
            self.prompts,
            max_new_tokens=NEW_TOKENS,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        asked = [
            Example(str(number), prompt, reply)
            for number, (prompt, reply) in enumerate(zip(self.prompts, replies, strict=True))
        ]
        refused = [one.refused for one in RefusalPrefixJudge().judge(asked)]
        scored = [value for value in refused if value is not None]
        return {
            "refusal_rate": sum(scored) / len(scored) if scored else math.nan,
            "unscored_rate": 1 - len(scored) / len(refused),
        }
