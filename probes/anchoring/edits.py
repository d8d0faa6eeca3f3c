"""What can be done to a bridge: pure functions from the bridges of all prompts to edited ones.

============== ======================================================= ====================
edit           the response sees                                       on the manifold?
============== ======================================================= ====================
knocked_out    no slots; its positions stay                            yes: as a closed gate
replaced       bridges given by hand: mean, transplanted, resting ...  depends on them
taken_from     the bridge of another prompt of the same set            yes
shuffled       the prompt's own bridge tokens in another order         no
randomised     noise of each bridge token's own norm                   no
first_tokens   the first k bridge tokens; the response moves up        no
last_tokens    the last k bridge tokens; likewise                      no
============== ======================================================= ====================

An edit off the manifold may break what it only meant to remove; where the two disagree, believe
the ones on it (arXiv 2309.16042, 2404.15255).

*Where* an edited bridge acts is the business of ``EditedWriter`` (writes anew, for decoding) and
``ReplayedWriter`` (gives bridges computed before, for teacher-forced passes); *when* is that of the
contexts in ``workbench.svgt.slots``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.backbone.protocol import Backbone, Prompt
from workbench.svgt.config import Gate
from workbench.svgt.slots import BridgeWriter, SlotSettings, States, TriggerSettings
from workbench.svgt.value_module import BridgeWrite

BridgeEdit = Callable[[BridgeWrite], BridgeWrite]


def unchanged(write: BridgeWrite) -> BridgeWrite:
    """The bridge as it is."""
    return write


def knocked_out(write: BridgeWrite) -> BridgeWrite:
    """Slots that no response query sees; the first token is predicted from the prompt's end."""
    return replace(write, open=torch.zeros_like(write.open))


def replaced(bridges: Float[Tensor, "batch bridge d_model"]) -> BridgeEdit:
    """These bridges instead, seen by every row."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        return replace(write, bridge=bridges, open=torch.ones_like(write.open))

    return edit


def taken_from(donors: Int[Tensor, " batch"]) -> BridgeEdit:
    """Row i gets the bridge of row ``donors[i]``."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        return replace(write, bridge=write.bridge[donors])

    return edit


def shuffled(order: Int[Tensor, "batch bridge"]) -> BridgeEdit:
    """Slot k of row i gets that row's bridge token ``order[i, k]``."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        rows = torch.arange(len(order), device=order.device)[:, None]
        return replace(write, bridge=write.bridge[rows, order])

    return edit


def randomised(noise: Float[Tensor, "batch bridge d_model"]) -> BridgeEdit:
    """Every bridge token becomes this noise, scaled to the token's own norm."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        norms = write.bridge.norm(dim=-1, keepdim=True)
        return replace(write, bridge=norms * noise / noise.norm(dim=-1, keepdim=True))

    return edit


def first_tokens(count: int) -> BridgeEdit:
    """Only the first tokens of the bridge, at least one."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        return replace(write, bridge=write.bridge[:, :count])

    return edit


def last_tokens(count: int) -> BridgeEdit:
    """Only the last tokens of the bridge, at least one."""

    def edit(write: BridgeWrite) -> BridgeWrite:
        return replace(write, bridge=write.bridge[:, -count:])

    return edit


def rows_of(write: BridgeWrite, index: Int[Tensor, " row"]) -> BridgeWrite:
    """What was written for some of the rows."""
    return BridgeWrite(
        bridge=write.bridge[index],
        z=write.z[index],
        score=write.score[index],
        delta_z=write.delta_z[index],
        capped=write.capped[index],
        open=write.open[index],
    )


@dataclass(frozen=True)
class EditedSettings:
    """Settings of a writer whose rows an edit may close.

    Attributes:
        name: Name of the configuration.
        layer: L.
        n_bridge: K.
        trigger: The original's trigger.
        gate: Always by threshold, so that passes look at which rows are open.
    """

    name: str
    layer: int
    n_bridge: int
    trigger: TriggerSettings
    gate: Gate = "threshold"


@dataclass(frozen=True, eq=False)
class EditedWriter:
    """A writer whose every write passes through an edit.

    The edit sees the rows of one batch; one that knows rows by number needs all of them in it.

    Attributes:
        writer: The original.
        edit: What is done to a write.
        n_bridge: Tokens that the edit leaves.
    """

    writer: BridgeWriter
    edit: BridgeEdit
    n_bridge: int

    @property
    def config(self) -> SlotSettings:
        """The original's settings, with rows that may close."""
        return _settings(self.writer.config, self.n_bridge)

    @property
    def capture_layers(self) -> tuple[int, ...]:
        """The original's."""
        return self.writer.capture_layers

    def write_bridge(
        self,
        prompt: States,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: Mapping[int, Float[Tensor, "batch d_model"]] | None = None,
        gate_scale: float = 1.0,
    ) -> BridgeWrite:
        """The original's write, edited."""
        return self.edit(self.writer.write_bridge(prompt, prompt_mask, current, gate_scale))


@dataclass(frozen=True, eq=False)
class ReplayedWriter:
    """Gives what was written before; reads nothing.

    Attributes:
        settings: Of the original writer.
        write: One row for each of the batch.
    """

    settings: SlotSettings
    write: BridgeWrite

    @property
    def config(self) -> SlotSettings:
        """The original's settings, with rows that may close."""
        return _settings(self.settings, self.write.bridge.shape[1])

    @property
    def capture_layers(self) -> tuple[int, ...]:
        """None."""
        return ()

    def write_bridge(
        self,
        prompt: States,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: Mapping[int, Float[Tensor, "batch d_model"]] | None = None,
        gate_scale: float = 1.0,
    ) -> BridgeWrite:
        """What was written before."""
        return self.write


def _settings(original: SlotSettings, n_bridge: int) -> EditedSettings:
    return EditedSettings(original.name, original.layer, n_bridge, original.trigger)


@torch.no_grad()
def write_bridges(
    backbone: Backbone, prompts: tuple[Prompt, ...], writer: BridgeWriter, gate_scale: float = 1.0
) -> BridgeWrite:
    """What a writer writes behind every prompt, from one pass through the blocks up to L."""
    batch = backbone.encode(prompts)
    states = backbone.read_states(batch, sorted({*writer.capture_layers, writer.config.layer}))
    return writer.write_bridge(states, batch.mask, gate_scale=gate_scale)
