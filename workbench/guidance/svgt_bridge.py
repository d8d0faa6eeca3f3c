"""SVGT: bridge tokens written into slots after the prompt, refreshed while the response grows.

    B_0 = write(prompt)                         at the prompt pass
    B   <- beta B + (1 - beta) write(prompt, current token)     every r new tokens

(SVGT, arXiv 2605.11712; r = 5, beta = 0.8 there.) A refresh costs no pass of its own: the slots are
fed again beside the current token, the trigger reads that token at block L, and the slots' keys
and values above L are written over. A module whose trigger reads the prompt alone gives the same
B at any time, so it is never fed again.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.protocol import Backbone, Prompt, TokenBatch
from workbench.errors import ConfigError
from workbench.guidance.protocol import DecoderPass, GuidanceSession, Reading
from workbench.guidance.receipts import Receipt, ReceiptCounter
from workbench.svgt.slots import (
    BridgeWriter,
    ClosedRows,
    States,
    slots_from_others,
    slots_written,
)
from workbench.svgt.value_module import BridgeWrite, ValueModule


@dataclass(frozen=True)
class SVGTBridge:
    """Guidance by a value module's bridge.

    Attributes:
        writer: The value module.
        gate_scale: Strength, handed to the writer; 1 as trained, 0 the bridge at rest.
        refresh: New tokens between two writes (r); None writes once.
        momentum: Share of the old bridge that a refresh keeps (beta).
        closed_rows: Where the responses of rows with a closed gate start: ``shifted`` at M+K like
            the others, ``plain`` at M, which equals no guidance exactly. ``plain`` needs a gate
            that cannot open later.

    Raises:
        ConfigError: A value out of range.
    """

    writer: BridgeWriter
    gate_scale: float = 1.0
    refresh: int | None = 5
    momentum: float = 0.8
    closed_rows: ClosedRows = "shifted"

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(
                f"refresh = {self.refresh}: give the number of new tokens between two writes of "
                "the bridge (1 or more), or none to write it once"
            )
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(
                f"momentum = {self.momentum}: the share of the old bridge lies in [0, 1)"
            )
        if self.closed_rows == "plain" and self.follows_response:
            raise ConfigError(
                "closed_rows = 'plain' needs a gate that is decided once: set refresh to none or "
                "use a module whose trigger reads the prompt"
            )

    @property
    def name(self) -> str:
        """``svgt:`` and the module's configuration."""
        return f"svgt:{self.writer.config.name}"

    @property
    def coefficient(self) -> float:
        """The gate scale."""
        return self.gate_scale

    @property
    def n_slots(self) -> int:
        """K."""
        return self.writer.config.n_bridge

    @property
    def follows_response(self) -> bool:
        """Whether the bridge can change while the response grows."""
        return self.refresh is not None and self.writer.config.trigger.mode == "current"

    def prepare(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as they are."""
        return prompts

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that writes the bridge of each prompt.

        Raises:
            CheckpointError: The writer is a value module that was trained for another backbone.
        """
        if isinstance(self.writer, ValueModule):
            self.writer.require_backbone(backbone)
        return _BridgeSession(self, backbone, prompt)


class _BridgeSession:
    """The bridge of one batch."""

    def __init__(self, guidance: SVGTBridge, backbone: Backbone, prompt: TokenBatch) -> None:
        self._guidance = guidance
        self._settings = guidance.writer.config
        self._backbone = backbone
        self._prompt = prompt
        self._prompt_states: dict[int, Float[Tensor, "batch seq d_model"]] = {}
        self._write: BridgeWrite | None = None
        self._counter = ReceiptCounter("slots", self._settings.layer)

    def feeds_slots(self, step: int) -> bool:
        refresh = self._guidance.refresh
        return self._guidance.follows_response and refresh is not None and step % refresh == 0

    def during(self, call: DecoderPass) -> AbstractContextManager[None]:
        hidden = slots_from_others(call.query_is_slot, call.key_is_slot)
        if not call.feeds_slots:
            return self._backbone.hide_keys(range(self._settings.layer + 1), lambda: hidden)
        return self._writing(call, hidden)

    @contextmanager
    def _writing(self, call: DecoderPass, hidden: Bool[Tensor, "query key"]) -> Iterator[None]:
        first = 0 if call.step else self._prompt.ids.shape[1]
        slots, layer = slice(first, first + self._settings.n_bridge), self._settings.layer
        with (
            slots_written(
                self._backbone,
                self._settings,
                read_layers=self._guidance.writer.capture_layers,
                slot_columns=slots,
                hidden=hidden,
                compose=self._from_newest if call.step else self._from_prompt,
                beside_token=call.step > 0,
            ) as late,
            self._backbone.capture([layer]) as handed_on,
        ):
            yield
            found = handed_on[layer][:, slots]
        self._write = late.value
        everywhere = torch.ones_like(found[..., 0], dtype=torch.bool)
        self._counter.add(
            late.value.bridge,
            found,
            everywhere,
            prompt_columns=0 if call.step else self._settings.n_bridge,
        )

    def _from_prompt(self, states: States) -> BridgeWrite:
        columns = slice(0, self._prompt.ids.shape[1])
        self._prompt_states = {layer: state[:, columns].float() for layer, state in states.items()}
        return self._guidance.writer.write_bridge(
            self._prompt_states, self._prompt.mask, gate_scale=self._guidance.gate_scale
        )

    def _from_newest(self, states: States) -> BridgeWrite:
        """B <- beta B + (1 - beta) B_new; score, correction and gate are the new ones."""
        new = self._guidance.writer.write_bridge(
            self._prompt_states,
            self._prompt.mask,
            current={layer: state[:, -1].float() for layer, state in states.items()},
            gate_scale=self._guidance.gate_scale,
        )
        old = self._latest().bridge
        return replace(new, bridge=torch.lerp(new.bridge, old, self._guidance.momentum))

    def _latest(self) -> BridgeWrite:
        assert self._write is not None, "the prompt pass comes first"
        return self._write

    @property
    def open(self) -> Bool[Tensor, " batch"] | None:
        return None if self._write is None else self._write.open

    def receipts(self) -> tuple[Receipt, ...]:
        return (self._counter.receipt(),)

    @property
    def response_shift(self) -> Int[Tensor, " batch"] | None:
        if self._write is None or self._guidance.closed_rows == "shifted":
            return None
        return self._write.open.long() * self._settings.n_bridge

    @property
    def slot_layers(self) -> range:
        return range(self._settings.layer + 1, self._backbone.n_layers)

    def reading(self) -> Reading | None:
        write = self._latest()
        return Reading(
            trigger_score=write.score, correction_norm=write.delta_z.norm(dim=-1), open=write.open
        )
