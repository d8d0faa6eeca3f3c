"""How much memory the states of stages 1 and 2 take, before they are read.

Both stages read the frozen backbone once and keep float32 states of every token: of the prompts in
every layer that the trigger, the encoder or the bridge reads, of the pairs in the encoder's layer.

    bytes = 4 d_model (tokens of the prompts x layers + tokens of the pairs)
"""

import os

from workbench.data.training import ValueData
from workbench.errors import DataError
from workbench.evaluation.reading import ReadingRoom
from workbench.svgt.config import SVGTConfig

_BYTES = 4


def state_bytes(data: ValueData, config: SVGTConfig, room: ReadingRoom) -> int:
    """Bytes that the states of one split take.

    Args:
        data: The split; every text can be read.
        config: The value module, which says what is read.
        room: Counts tokens.
    """
    layers = len({*config.trigger_layers, config.encoder_layer, config.layer})
    of_prompts = sum(room.prompt_length(row.prompt) or 0 for row in data.prompts)
    of_pairs = sum(
        (room.prompt_length(row.prompt) or 0) + (room.response_length(row.response) or 0)
        for row in data.pairs
    )
    return _BYTES * config.d_model * (of_prompts * layers + of_pairs)


def require_memory(needed: int) -> None:
    """Refuse what this machine cannot hold.

    Raises:
        DataError: It has less memory than that; both numbers are named, and what to lower.
    """
    if not hasattr(os, "sysconf"):  # not on Windows
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise DataError(
            f"the states of stages 1 and 2 need {needed / 1e9:.1f} GB of memory, this machine has "
            f"{there / 1e9:.1f} GB: lower --max-per-source or --max-tokens, or take a "
            "configuration whose trigger reads fewer layers (workbench-lstar, input-only)"
        )
