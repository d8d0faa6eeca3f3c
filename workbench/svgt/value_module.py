"""The value module: everything SVGT adds to a frozen backbone, as one float32 module.

    h (residual states) -> trigger -> z -> discriminator -> s
                                        -> correction -> delta_z -> bridge -> B

It takes and gives tensors only; where its states come from and where B goes is the business of the
slots (`workbench.svgt.slots`) and of the backbone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import ConfigError
from workbench.svgt.config import SVGTConfig
from workbench.svgt.correction import correct, require_finite
from workbench.svgt.latent_bridge import build_bridge
from workbench.svgt.origin import BackboneIdentity, BackboneRecord, require_made_for
from workbench.svgt.trigger import build_trigger
from workbench.svgt.value_space import Discriminator, ValueEncoder, last_valid

Part = Literal["encoder", "trigger", "discriminator", "bridge"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class BridgeWrite:
    """What the value module decided for each row.

    Attributes:
        bridge: B, the bridge tokens, in the scale of the residual stream.
        z: The value state that was read.
        score: s = D(z); above 0 means harmful.
        delta_z: The correction, zero where s <= 0.
        capped: True where the correction was shortened to `correction.max_norm`.
        open: True where the slots are to be seen; False hides them (gate "threshold").
    """

    bridge: Float[Tensor, "batch bridge d_model"]
    z: Float[Tensor, "batch d_value"]
    score: Float[Tensor, " batch"]
    delta_z: Float[Tensor, "batch d_value"]
    capped: Bool[Tensor, " batch"]
    open: Bool[Tensor, " batch"]


class ValueModule(nn.Module):
    """Encoder, trigger, discriminator and bridge of one configuration.

    Always float32, whatever the backbone computes in: in bfloat16, steps of the size its training
    takes round to nothing. Casting it is refused; moving it to a device is not.

    Attributes:
        config: What was built.
        made_for: The backbone it was trained for; None for one that is untrained or imported.
    """

    def __init__(self, config: SVGTConfig) -> None:
        """Build an untrained module from torch's global random generator."""
        super().__init__()
        self.config = config
        self.made_for: BackboneRecord | None = None
        self._frozen: frozenset[Part] = frozenset()
        self.encoder = ValueEncoder(config)
        self.trigger = build_trigger(config)
        self.discriminator = Discriminator(config.d_value, config.encoder.dropout)
        self.bridge = build_bridge(config)
        self.float()

    @property
    def capture_layers(self) -> tuple[int, ...]:
        """Layers whose states `write_bridge` reads: the trigger's and the bridge's own, sorted.

        -1 stands for the token embeddings, the input of block 0.
        """
        return tuple(sorted({*self.config.trigger_layers, self.config.layer}))

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.parameters()).device

    def require_backbone(self, backbone: BackboneIdentity) -> None:
        """Make sure that it is used with the backbone it was trained for, if that is known.

        Raises:
            CheckpointError: Weights or tokenizer differ; both backbones are named.
        """
        if self.made_for is not None:
            require_made_for(
                self.made_for,
                backbone,
                made=f"the value module '{self.config.name}' was trained for",
                otherwise="take a module of this one",
            )

    @property
    def frozen_parts(self) -> frozenset[Part]:
        """The parts that do not learn."""
        return self._frozen

    def freeze(self, *parts: Part) -> "ValueModule":
        """Freeze the named parts, or all: no gradient, and eval mode even after `train()`."""
        self._frozen = self._frozen | frozenset(parts or PARTS)
        return self._apply_freeze()

    def unfreeze(self, *parts: Part) -> "ValueModule":
        """Let the named parts, or all, learn again."""
        self._frozen = self._frozen - frozenset(parts or PARTS)
        return self._apply_freeze()

    def _apply_freeze(self) -> "ValueModule":
        for part in PARTS:
            self.get_submodule(part).requires_grad_(part not in self._frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "ValueModule":
        """Set the training mode; frozen parts stay in eval mode, so dropout never touches them."""
        super().train(mode)
        for part in self._frozen:
            self.get_submodule(part).eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ValueModule":
        if fn(torch.empty(0)).dtype != torch.float32:
            raise ConfigError(
                "a value module stays in float32; move it with .to(device) and cast the backbone"
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def write_bridge(
        self,
        prompt: Mapping[int, Float[Tensor, "batch seq d_model"]],
        prompt_mask: Bool[Tensor, "batch seq"],
        current: Mapping[int, Float[Tensor, "batch d_model"]] | None = None,
        gate_scale: float = 1.0,
    ) -> BridgeWrite:
        """Read the trigger, correct it and write the bridge.

        Args:
            prompt: States of the prompt after each of `capture_layers`.
            prompt_mask: True at prompt tokens; padding may stand on either side.
            current: States of the newest generated token, for trigger mode "current"; the mode
                "prompt" ignores them, and without them both modes read the prompt's last token.
            gate_scale: Multiplies the signal the bridge adds to its resting state (1: as trained).

        Raises:
            TokenError: A row of the prompt is empty.
            NonFiniteError: A state, score or bridge is NaN or infinite; the row is named.
        """
        z = self.trigger(self.encoder, prompt, prompt_mask, current)
        correction = correct(z, self.discriminator, self.config.correction)
        score = self.discriminator(z)
        bridge = self.bridge(
            self._trigger_state(prompt, prompt_mask, current), correction.delta_z, gate_scale
        )
        require_finite(bridge, "bridge")
        return BridgeWrite(
            bridge=bridge,
            z=z,
            score=score,
            delta_z=correction.delta_z,
            capped=correction.capped,
            open=self._open(score),
        )

    def score_response(
        self,
        prompt: Float[Tensor, "batch context d_model"],
        response: Float[Tensor, "batch seq d_model"],
        prompt_mask: Bool[Tensor, "batch context"],
        response_mask: Bool[Tensor, "batch seq"],
    ) -> Float[Tensor, " batch"]:
        """Harm score of each response given its prompt; sigmoid of it is the harm probability."""
        z = self.encoder.conditional(prompt, response, prompt_mask, response_mask)
        score: Tensor = self.discriminator(z)
        return score

    def _trigger_state(
        self,
        prompt: Mapping[int, Float[Tensor, "batch seq d_model"]],
        prompt_mask: Bool[Tensor, "batch seq"],
        current: Mapping[int, Float[Tensor, "batch d_model"]] | None,
    ) -> Float[Tensor, "batch d_model"]:
        layer = self.config.layer
        if self.config.trigger.mode == "current" and current is not None:
            return current[layer].float()
        return last_valid(prompt[layer], prompt_mask).float()

    def _open(self, score: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        if self.config.gate == "always":
            return torch.ones_like(score, dtype=torch.bool)
        return score.detach() > self.config.threshold
