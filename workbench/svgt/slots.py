"""Late-bound slots: write bridge tokens into a running forward pass.

One pass over ``[left-padded prompt | K slots | response]`` (SVGT, arXiv 2605.11712, inserts the
bridge in a second pass; both give the same numbers):

1. Prompt tokens stand at positions 0 .. M-1, slots at M .. M+K-1, the response from M+K on, in
   every block.
2. In blocks up to and including L no other query sees the slots: their content does not exist yet.
3. At the output of block L the slots' residuals are replaced by the bridge B, computed right there
   from the prompt's residuals of this same pass.
4. Blocks above L see the slots like any earlier tokens. A row whose gate is closed never sees them,
   and its first response token is predicted from the prompt's last token.

Left padding puts the slots of a whole batch into the same columns. Nothing up to block L carries a
graph, so training through the slots costs the blocks above L only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.masks import additive_mask, causal_keys
from workbench.backbone.protocol import Backbone, TokenBatch, positions_from_mask
from workbench.errors import ConfigError
from workbench.svgt.config import Gate, TriggerMode
from workbench.svgt.value_module import BridgeWrite, ValueModule

ClosedRows = Literal["shifted", "plain"]
States = Mapping[int, Float[Tensor, "batch seq d_model"]]


@runtime_checkable
class TriggerSettings(Protocol):
    """Of a writer's trigger, what decoding needs to know."""

    @property
    def mode(self) -> TriggerMode:
        """Whether the prompt or the newest token is read."""
        ...


@runtime_checkable
class SlotSettings(Protocol):
    """Of a writer's configuration, what the slots need to know."""

    @property
    def name(self) -> str:
        """Name of the configuration."""
        ...

    @property
    def layer(self) -> int:
        """L: the block at whose output the bridge is written."""
        ...

    @property
    def n_bridge(self) -> int:
        """K: the number of slots."""
        ...

    @property
    def gate(self) -> Gate:
        """Whether rows can be closed."""
        ...

    @property
    def trigger(self) -> TriggerSettings:
        """The trigger."""
        ...


@runtime_checkable
class BridgeWriter(Protocol):
    """Whatever turns residual states into bridge tokens; a ``ValueModule`` is one."""

    @property
    def config(self) -> SlotSettings:
        """Where and how many slots it writes."""
        ...

    @property
    def capture_layers(self) -> tuple[int, ...]:
        """Layers it reads, none above its own; -1 stands for the embeddings."""
        ...

    def write_bridge(
        self,
        prompt: States,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: Mapping[int, Float[Tensor, "batch d_model"]] | None = None,
        gate_scale: float = 1.0,
    ) -> BridgeWrite:
        """Compute the bridge of every row."""
        ...


@dataclass(frozen=True)
class Columns:
    """Which columns of ``[prompt | slots | response]`` hold what.

    Attributes:
        n_prompt: Prompt columns, padding included.
        n_slots: Slot columns (K).
        n_response: Response columns.
    """

    n_prompt: int
    n_slots: int
    n_response: int

    @property
    def prompt(self) -> slice:
        """Prompt columns."""
        return slice(0, self.n_prompt)

    @property
    def slots(self) -> slice:
        """Slot columns."""
        return slice(self.n_prompt, self.n_prompt + self.n_slots)

    @property
    def response(self) -> slice:
        """Response columns."""
        return slice(self.n_prompt + self.n_slots, self.total)

    @property
    def total(self) -> int:
        """All columns."""
        return self.n_prompt + self.n_slots + self.n_response

    def is_slot(self, device: torch.device | str = "cpu") -> Bool[Tensor, "column"]:
        """True at slot columns."""
        flags = torch.zeros(self.total, dtype=torch.bool, device=device)
        flags[self.slots] = True
        return flags


@dataclass(frozen=True, eq=False)
class PairStates:
    """Residuals of a layer on prompt and response columns.

    Attributes:
        prompt: Meaningless at padded places.
        response: Likewise; carries a graph above the bridge's layer.
    """

    prompt: Float[Tensor, "batch context d_model"]
    response: Float[Tensor, "batch seq d_model"]


@dataclass(frozen=True, eq=False)
class SlotForward:
    """What one pass with slots gives.

    Attributes:
        response_logits: Row j predicts response token j.
        write: What the writer wrote; None without a writer.
        states: Residuals by captured layer.
    """

    response_logits: Float[Tensor, "batch seq vocab"]
    write: BridgeWrite | None
    states: Mapping[int, PairStates]


def slot_positions(
    prompt_mask: Bool[Tensor, "batch context"],
    n_slots: int,
    response_mask: Bool[Tensor, "batch seq"],
    response_shift: Int[Tensor, " batch"] | None = None,
) -> Int[Tensor, "batch column"]:
    """Positions of all columns: prompt 0 .. M-1, slots M .. M+K-1, response M+K and on.

    Args:
        prompt_mask: Real prompt tokens, padding on the left.
        n_slots: K.
        response_mask: Real response tokens, padding on the right, where the last position repeats.
        response_shift: Positions left for the slots before each row's response; K by default.
    """
    lengths = prompt_mask.sum(dim=1, keepdim=True)
    slots = lengths + torch.arange(n_slots, device=prompt_mask.device)
    shift = n_slots if response_shift is None else response_shift[:, None]
    response = lengths + shift + positions_from_mask(response_mask)
    return torch.cat([positions_from_mask(prompt_mask), slots, response], dim=1)


def visible_keys(
    prompt_mask: Bool[Tensor, "batch context"],
    n_slots: int,
    response_mask: Bool[Tensor, "batch seq"],
) -> Bool[Tensor, "batch query key"]:
    """Which key each query may see where slots count as ordinary earlier tokens."""
    real = torch.cat(
        [prompt_mask, prompt_mask.new_ones((len(prompt_mask), n_slots)), response_mask], dim=1
    )
    return causal_keys(real)


def slots_from_others(
    query_is_slot: Bool[Tensor, " query"], key_is_slot: Bool[Tensor, " key"]
) -> Bool[Tensor, "query key"]:
    """Pairs in which a query that is no slot looks at a slot."""
    return ~query_is_slot[:, None] & key_is_slot[None, :]


class LateWrite:
    """The bridge of the pass that is running; set at block L."""

    def __init__(self) -> None:
        self._write: BridgeWrite | None = None

    @property
    def value(self) -> BridgeWrite:
        """What was written."""
        assert self._write is not None, "block L has not run yet"
        return self._write

    def set(self, write: BridgeWrite) -> None:
        """Keep what was written."""
        self._write = write


@contextmanager
def slots_written(
    backbone: Backbone,
    settings: SlotSettings,
    *,
    read_layers: Sequence[int],
    slot_columns: slice,
    hidden: Bool[Tensor, "query key"],
    compose: Callable[[States], BridgeWrite],
    beside_token: bool = False,
) -> Iterator[LateWrite]:
    """Within, one forward pass computes the bridge at block L and the blocks above see it.

    Args:
        backbone: The model.
        settings: Layer, number of slots and gate.
        read_layers: Layers whose residuals ``compose`` reads; none above L.
        slot_columns: Query columns of the slots in this pass.
        hidden: The (query, slot key) pairs that blocks up to L hide, and that a closed row hides
            everywhere.
        compose: From this pass's residuals to the bridge.
        beside_token: The pass feeds the slots and one token after them, no prompt. Blocks up to L
            then run the token alone.

    Yields:
        Where the write can be read once the pass has run.

    Raises:
        ConfigError: A layer to read lies above L.
        HookError: The pass did not run through the slots' hooks.
        NonFiniteError: The bridge is not finite.
    """
    layer = settings.layer
    below = [read for read in read_layers if read != layer]
    if below and max(below) > layer:
        raise ConfigError(
            f"the bridge is written after block {layer} and cannot read block {max(below)} above it"
        )
    late = LateWrite()

    def overwrite(residual: Float[Tensor, "batch seq d_model"]) -> Tensor:
        late.set(compose({**captured, layer: residual}))
        bridge = late.value.bridge.to(residual.dtype)
        if beside_token:
            return torch.cat([bridge, residual], dim=1)
        before, after = residual[:, : slot_columns.start], residual[:, slot_columns.stop :]
        return torch.cat([before, bridge, after], dim=1)

    def closed() -> Bool[Tensor, "batch 1 query key"]:
        return hidden & ~late.value.open[:, None, None, None]

    with ExitStack() as stack:
        captured = stack.enter_context(backbone.capture(below))
        rows = len(hidden) if beside_token else None
        stack.enter_context(backbone.overwrite(layer, overwrite, rows=rows))
        if rows is not None:
            stack.enter_context(backbone.only_newest_row(layer, rows))
        below_hidden = hidden[-1:] if beside_token else hidden
        stack.enter_context(backbone.hide_keys(range(layer + 1), lambda: below_hidden))
        if settings.gate != "always":
            above = range(layer + 1, backbone.n_layers)
            stack.enter_context(backbone.hide_keys(above, closed))
        yield late


def forward_with_slots(
    backbone: Backbone,
    prompt: TokenBatch,
    response: TokenBatch,
    writer: BridgeWriter | None,
    *,
    capture_layers: Sequence[int] = (),
    gate_scale: float = 1.0,
    closed_rows: ClosedRows = "shifted",
) -> SlotForward:
    """One teacher-forced pass over prompt, slots and response.

    Args:
        backbone: The frozen model.
        prompt: Left-padded prompts.
        response: Right-padded responses.
        writer: Writes the bridge; None runs the plain model without slots.
        capture_layers: Layers whose residuals are wanted besides.
        gate_scale: Handed to the writer.
        closed_rows: ``shifted``: the response of a row whose gate is closed stays at M+K;
            ``plain``: it starts at M, and the row equals the plain model. The gate must then be
            known beforehand: a pass of the prompt through the lower blocks decides it.

    Returns:
        Differentiable with respect to the writer's parameters.

    Raises:
        CheckpointError: The writer is a value module that was trained for another backbone.
        ContextLengthError: Prompt, slots and response exceed the context.
    """
    if isinstance(writer, ValueModule):
        writer.require_backbone(backbone)
    n_slots = 0 if writer is None else writer.config.n_bridge
    columns = Columns(prompt.ids.shape[1], n_slots, response.ids.shape[1])
    longest = int((prompt.lengths + response.lengths).max())
    backbone.check_context(longest, n_slots=n_slots, n_new=0)
    shift = None
    if writer is not None and closed_rows == "plain" and writer.config.gate != "always":
        shift = n_slots * open_rows(backbone, prompt, writer).long()
    slot_ids = prompt.ids.new_full((len(prompt.ids), n_slots), backbone.pad_id)
    is_slot = columns.is_slot(prompt.ids.device)

    def compose(states: States) -> BridgeWrite:
        assert writer is not None
        on_prompt = {layer: state[:, columns.prompt].float() for layer, state in states.items()}
        return writer.write_bridge(on_prompt, prompt.mask, gate_scale=gate_scale)

    with ExitStack() as stack:
        captured = stack.enter_context(backbone.capture(list(capture_layers)))
        late = None
        if writer is not None:
            late = stack.enter_context(
                slots_written(
                    backbone,
                    writer.config,
                    read_layers=writer.capture_layers,
                    slot_columns=columns.slots,
                    hidden=slots_from_others(is_slot, is_slot),
                    compose=compose,
                )
            )
        logits = backbone.forward(
            torch.cat([prompt.ids, slot_ids, response.ids], dim=1),
            mask=additive_mask(visible_keys(prompt.mask, n_slots, response.mask), backbone.dtype),
            position_ids=slot_positions(prompt.mask, n_slots, response.mask, shift),
            columns=[columns.n_prompt - 1, *range(columns.slots.stop - 1, columns.total - 1)],
        )
    write = None if late is None else late.value
    return SlotForward(
        response_logits=_predicting(logits, None if write is None else write.open),
        write=write,
        states={
            layer: PairStates(state[:, columns.prompt], state[:, columns.response])
            for layer, state in captured.items()
        },
    )


def _predicting(
    logits: Float[Tensor, "batch column vocab"], opened: Bool[Tensor, " batch"] | None
) -> Float[Tensor, "batch seq vocab"]:
    """Logits of the response tokens from those of ``[prompt's end, last slot, response ...]``.

    A closed row's first token is predicted from the prompt's end. Without slots both first columns
    are the same one.
    """
    if opened is None or bool(opened.all()):
        return logits[:, 1:]
    first = torch.where(opened[:, None], logits[:, 1], logits[:, 0])
    return torch.cat([first[:, None], logits[:, 2:]], dim=1)


@torch.no_grad()
def open_rows(
    backbone: Backbone, prompt: TokenBatch, writer: BridgeWriter
) -> Bool[Tensor, " batch"]:
    """Which rows' gates open, decided from the prompt alone; runs the blocks up to L."""
    layers = sorted({*writer.capture_layers, writer.config.layer})
    with backbone.capture(layers) as captured:
        backbone.run_blocks(prompt.ids, mask=prompt.mask, last_layer=writer.config.layer)
    states = {layer: state.float() for layer, state in captured.items()}
    return writer.write_bridge(states, prompt.mask).open
