"""A key-value cache whose slot columns can be written again.

Columns stand in the order of the sequence: ``[prompt | slots | response]``. An ordinary forward
appends its keys and values. A forward run inside ``replacing(columns)`` first writes over these
columns and appends the rest: so ``[K slots, current token]`` fed together refresh the slots and
extend the response in one pass. Room is taken once, so a step copies nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from workbench.errors import ContextLengthError


@dataclass
class _Target:
    """Where the next keys and values go, shared by the layers of one cache."""

    replace: slice | None = None
    first_layer: int = 0


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one block in a buffer of fixed capacity."""

    is_sliding = False

    def __init__(self, index: int, capacity: int, target: _Target) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self.capacity = capacity
        self.length = 0
        self.target = target

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        batch, heads, _, width = states.shape
        return states.new_zeros((batch, heads, self.capacity, width))

    def update(
        self,
        key_states: Float[Tensor, "batch head new d_head"],
        value_states: Float[Tensor, "batch head new d_head_v"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns and return all columns so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        replaced = self.target.replace if self.index >= self.target.first_layer else None
        n_replaced = 0 if replaced is None else replaced.stop - replaced.start
        end = self.length + key_states.shape[-2] - n_replaced
        if end > self.capacity:
            raise ContextLengthError(
                f"the key-value cache holds {self.capacity} columns, {end} are needed: "
                "ask for a larger capacity"
            )
        assert self.keys is not None
        assert self.values is not None
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            if replaced is not None:
                buffer[:, :, replaced] = states[:, :, :n_replaced]
            buffer[:, :, self.length : end] = states[:, :, n_replaced:]
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class SlotCache(Cache):
    """Keys and values of all blocks, with columns that can be written again."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        self._target = _Target()
        self._positions: Tensor | None = None
        super().__init__(
            layers=[_SlotLayer(layer, capacity, self._target) for layer in range(n_layers)]
        )

    @contextmanager
    def replacing(self, columns: slice, first_layer: int = 0) -> Iterator[None]:
        """Within, the first new columns of a forward replace the given ones.

        Args:
            columns: Range of columns already in the cache.
            first_layer: Blocks below this one get no new content for them and only append.
        """
        self._target.replace, self._target.first_layer = columns, first_layer
        try:
            yield
        finally:
            self._target.replace, self._target.first_layer = None, 0

    def place(self, positions: Int[Tensor, "batch new"]) -> Int[Tensor, "batch key"]:
        """Positions of all columns as the coming forward pass will leave them.

        Args:
            positions: Of the new columns, in the order in which they will be fed.
        """
        held = positions[:, :0] if self._positions is None else self._positions.clone()
        replaced = self._target.replace
        if replaced is not None:
            n_replaced = replaced.stop - replaced.start
            held[:, replaced] = positions[:, :n_replaced]
            positions = positions[:, n_replaced:]
        self._positions = torch.cat([held, positions], dim=1)
        return self._positions

    def keys(self, layer: int) -> Float[Tensor, "batch head key d_head"]:
        """Keys held for a block."""
        held = self.layers[layer]
        assert isinstance(held, _SlotLayer)
        if held.keys is None:
            return torch.empty(0)
        return held.keys[:, :, : held.length]
