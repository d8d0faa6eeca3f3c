"""No guidance: the plain model, bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.backbone.protocol import Backbone, Prompt, TokenBatch
from workbench.guidance.protocol import GuidanceSession, SlotlessSession


@dataclass(frozen=True)
class NoGuidance:
    """Leaves prompts and activations alone; the baseline of every comparison."""

    name: str = "none"
    coefficient: float = 0.0
    n_slots: int = 0

    def prepare(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as they are."""
        return prompts

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that does nothing."""
        return SlotlessSession()
