"""What determines an embedded backbone; kept apart so that reading it needs no torch."""

from dataclasses import dataclass
from typing import Literal

from workbench.errors import ConfigError


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that determines an embedded backbone.

    Attributes:
        architecture: *llama* (rotary positions, grouped-query attention) or *gpt2* (learned
            positions).
        world: *fragile* or *anchored*, see :class:`workbench.testbed.corpus.World`.
        steps, batch_size: amount of training; a batch is that many dialogues.
        matrix_rate, vector_rate: peak learning rates of Muon and AdamW.
        prompt_weight: weight of the loss on tokens that the assistant does not say.
        shifted_share: share of dialogues whose positions start at a random offset, so that every
            position of the context is trained although most dialogues are short.
        early_refusal: share of refusals, wherever the world refuses at its ordinary rate, during
            the first ``early_share`` of the steps. Rare refusals teach what is harmful only
            slowly; frames in which the fragile world hardly refuses stay as they are throughout.
        early_share: see ``early_refusal``.
    """

    architecture: Literal["llama", "gpt2"]
    world: Literal["fragile", "anchored"]
    steps: int = 2000
    batch_size: int = 64
    width: int = 96
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    feed_forward: int = 256
    n_ctx: int = 256
    matrix_rate: float = 0.02
    vector_rate: float = 5e-3
    warmup: int = 40
    prompt_weight: float = 0.2
    shifted_share: float = 0.3
    early_refusal: float = 0.75
    early_share: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError("steps and batch_size must be at least 1")
        if self.width % self.n_heads or self.n_heads % self.n_kv_heads:
            raise ConfigError("width must divide by n_heads, and n_heads by n_kv_heads")
