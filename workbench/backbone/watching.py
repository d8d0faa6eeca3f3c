"""Watch and change a forward pass, then leave no trace.

The contexts here know tensors and layers, not the library that runs the model: a library supplies
``Points``, places in the forward pass to which a function can be attached. Every context

1. counts how often each of its points fired, and raises ``HookError`` with its name where one did
   not;
2. checks shape, number type and finiteness of what it saw and of what it put back;
3. takes its functions off again on any exception, so the model is as before, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import HookError, NonFiniteError

EMBEDDING_LAYER = -1
"""Layer number of the residual stream before block 0: the token (and position) embeddings."""

Inputs = tuple[tuple[object, ...], dict[str, object]]
T = TypeVar("T")


@runtime_checkable
class Point(Protocol[T]):
    """A place in the forward pass that hands over what stands there."""

    @property
    def name(self) -> str:
        """Its name, for messages."""
        ...

    def attach(self, function: Callable[[T], T | None]) -> Callable[[], None]:
        """Call a function whenever the pass comes by; what it returns, if anything, goes on.

        Returns:
            What takes the function off again.
        """
        ...


@runtime_checkable
class Sites(Protocol):
    """The points of a model."""

    @property
    def residual(self) -> Mapping[int, Point[Tensor]]:
        """The residual stream after every block, and before block 0 under -1."""
        ...

    @property
    def scores(self) -> Mapping[int, Point[Tensor]]:
        """Masked attention scores before the softmax: (batch, head, query, key)."""
        ...

    @property
    def patterns(self) -> Mapping[int, Point[Tensor]]:
        """Attention patterns after the softmax: (batch, head, query, key)."""
        ...

    @property
    def inputs(self) -> Mapping[int, Point[Inputs]]:
        """Arguments of every block."""
        ...

    @property
    def blocks(self) -> Mapping[int, nn.Module]:
        """The blocks themselves."""
        ...

    def values(self, layer: int) -> Point[Tensor]:
        """Value vectors of a block by group of heads: (batch, seq, group, d_head_v).

        Raises:
            HookError: There is no such layer.
            BackboneError: The attention of this architecture cannot be taken apart by heads.
        """
        ...

    def attention(self, layer: int) -> Point[Tensor]:
        """What a block's attention hands on: (batch, seq, d_model).

        Raises:
            As :meth:`values`.
        """
        ...

    def mixes(self, layer: int) -> Point[Tensor]:
        """What each head of a block gathered: (batch, seq, head, d_head_v).

        Raises:
            As :meth:`values`.
        """
        ...

    def output_projection(self, layer: int) -> nn.Module:
        """The linear map from what a block's heads gathered to the residual stream.

        Raises:
            As :meth:`values`.
        """
        ...

    def readout(self) -> tuple[nn.Module, nn.Module]:
        """The final norm and the unembedding, as plain Hugging Face modules."""
        ...


class Captured(Mapping[int, Tensor]):
    """Tensors by layer, as the latest forward pass inside the context left them."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = dict(names)
        self._tensors: dict[int, Tensor] = {}
        self.firings: dict[int, int] = dict.fromkeys(names, 0)

    def record(self, layer: int, tensor: Tensor) -> None:
        """Keep a layer's tensor and count the firing."""
        self._tensors[layer] = tensor
        self.firings[layer] += 1

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self._names:
            raise HookError(
                f"layer {layer} is not captured here, only layers {sorted(self._names)} are: "
                "name it when opening the capture"
            )
        if layer not in self._tensors:
            raise HookError(f"hook '{self._names[layer]}' has not fired yet: run the model first")
        return self._tensors[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def capture_residuals(
    sites: Sites, layers: Sequence[int], d_model: int, dtype: torch.dtype, home: torch.device
) -> AbstractContextManager[Captured]:
    """Residuals after the given blocks (-1: before block 0), by layer.

    Raises:
        HookError: A layer does not exist, did not fire, or gave another shape or number type.
        NonFiniteError: A residual holds a NaN or an infinity.
    """
    points = {layer: at(sites.residual, layer) for layer in layers}
    return _capture_wide(points, d_model, dtype, home)


def capture_attention(
    sites: Sites, layers: Sequence[int], d_model: int, dtype: torch.dtype, home: torch.device
) -> AbstractContextManager[Captured]:
    """What the attention of the given blocks hands on, by layer.

    Raises:
        As :func:`capture_residuals`; or BackboneError: this attention cannot be watched.
    """
    points = {layer: sites.attention(layer) for layer in layers}
    return _capture_wide(points, d_model, dtype, home)


def _capture_wide(
    points: Mapping[int, Point[Tensor]], d_model: int, dtype: torch.dtype, home: torch.device
) -> AbstractContextManager[Captured]:
    """Tensors as wide as the residual stream."""

    def check(name: str, residual: Tensor) -> Tensor:
        if residual.ndim != 3 or residual.shape[-1] != d_model or residual.dtype != dtype:
            raise HookError(
                f"hook '{name}' gave {residual.dtype} of shape {tuple(residual.shape)}, expected "
                f"{dtype} of shape (batch, seq, {d_model})"
            )
        return residual

    return _capture(points, check, home)


def capture_patterns(
    sites: Sites, layers: Sequence[int], n_heads: int, home: torch.device
) -> AbstractContextManager[Captured]:
    """Attention patterns of the given blocks, by layer.

    Raises:
        HookError: A layer does not exist, did not fire, or gave another shape.
        NonFiniteError: A pattern holds a NaN.
    """

    def check(name: str, pattern: Tensor) -> Tensor:
        if pattern.ndim != 4 or pattern.shape[1] != n_heads:
            raise HookError(
                f"hook '{name}' gave shape {tuple(pattern.shape)}, expected "
                f"(batch, {n_heads}, query, key)"
            )
        return pattern

    return _capture({layer: at(sites.patterns, layer) for layer in layers}, check, home)


def capture_values(
    sites: Sites, layers: Sequence[int], n_heads: int, home: torch.device
) -> AbstractContextManager[Captured]:
    """Value vectors of the given blocks, by layer: (batch, head, key, d_head_v).

    Query heads that share a group of keys and values each get a copy.

    Raises:
        HookError: A layer does not exist, did not fire, or gave another shape.
        BackboneError: The architecture's attention cannot be taken apart by heads.
        NonFiniteError: A value holds a NaN or an infinity.
    """
    return _capture_heads({layer: sites.values(layer) for layer in layers}, n_heads, home)


def capture_mixes(
    sites: Sites, layers: Sequence[int], n_heads: int, home: torch.device
) -> AbstractContextManager[Captured]:
    """What each head of the given blocks gathered, by layer: (batch, head, query, d_head_v).

    Raises:
        As :func:`capture_values`.
    """
    return _capture_heads({layer: sites.mixes(layer) for layer in layers}, n_heads, home)


def _capture_heads(
    points: Mapping[int, Point[Tensor]], n_heads: int, home: torch.device
) -> AbstractContextManager[Captured]:
    def by_head(name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim != 4 or n_heads % tensor.shape[2]:
            raise HookError(
                f"hook '{name}' gave shape {tuple(tensor.shape)}, expected "
                f"(batch, seq, head, width) with a divisor of {n_heads} heads"
            )
        return tensor.transpose(1, 2).repeat_interleave(n_heads // tensor.shape[2], dim=1)

    return _capture(points, by_head, home)


@contextmanager
def _capture(
    points: Mapping[int, Point[Tensor]], read: Callable[[str, Tensor], Tensor], home: torch.device
) -> Iterator[Captured]:
    """Keep what ``read(name, tensor)``, which checks the shape, makes of the tensors, at home."""
    captured = Captured({layer: point.name for layer, point in points.items()})

    def watch(layer: int, name: str) -> Callable[[Tensor], None]:
        def see(tensor: Tensor) -> None:
            seen = read(name, tensor)
            _check_finite(name, seen)
            captured.record(layer, seen.to(home))

        return see

    with _attached([(point, watch(layer, point.name)) for layer, point in points.items()]):
        yield captured


def overwrite_residual(
    sites: Sites,
    layer: int,
    edit: Callable[[Tensor], Tensor],
    home: torch.device,
    rows: int | None = None,
) -> AbstractContextManager[None]:
    """Replace the residual after a block by ``edit(residual)``.

    Args:
        sites: Points of the model.
        layer: The block.
        edit: Gets the residual and returns one of the same shape and type.
        home: Where the edit gets it; what it returns goes back to the block.
        rows: Where ``only_newest_row`` runs up to this block: the rows that the pass was given and
            that the edit has to restore.

    Raises:
        HookError: The layer does not exist or did not fire, or the edit changed shape or type.
        NonFiniteError: The edit returned a NaN or an infinity.
    """
    return _overwrite_wide(at(sites.residual, layer), edit, home, rows)


def overwrite_attention(
    sites: Sites, layer: int, edit: Callable[[Tensor], Tensor], home: torch.device
) -> AbstractContextManager[None]:
    """Replace what the attention of a block hands on by ``edit`` of it: (batch, query, d_model).

    It goes from there to the residual stream, in some families through a norm.

    Raises:
        As :func:`overwrite_residual`; or BackboneError: this attention cannot be watched.
    """
    return _overwrite_wide(sites.attention(layer), edit, home)


@contextmanager
def _overwrite_wide(
    point: Point[Tensor],
    edit: Callable[[Tensor], Tensor],
    home: torch.device,
    rows: int | None = None,
) -> Iterator[None]:
    """Replace a tensor as wide as the residual stream."""

    def change(residual: Float[Tensor, "batch seq d_model"]) -> Tensor:
        edited = edit(residual.to(home)).to(residual.device)
        expected = residual if rows is None else residual[:, :1].expand(-1, rows, -1)
        _check_same(point.name, expected, edited)
        _check_finite(point.name, edited)
        return edited

    with _attached([(point, change)]):
        yield


@contextmanager
def overwrite_mixes(
    sites: Sites, layer: int, edit: Callable[[Tensor], Tensor], n_heads: int, home: torch.device
) -> Iterator[None]:
    """Replace what the heads of a block gathered by ``edit`` of it: (batch, head, query, d_head_v).

    Raises:
        HookError: The layer does not exist or did not fire, the hook gave another shape, or the
            edit changed shape or type.
        BackboneError: The architecture's attention cannot be taken apart by heads.
        NonFiniteError: The edit returned a NaN or an infinity.
    """
    point = sites.mixes(layer)

    def change(mixes: Tensor) -> Tensor:
        if mixes.ndim != 4 or mixes.shape[2] != n_heads:
            raise HookError(
                f"hook '{point.name}' gave shape {tuple(mixes.shape)}, expected "
                f"(batch, seq, {n_heads}, width)"
            )
        edited = edit(mixes.transpose(1, 2).to(home)).transpose(1, 2).to(mixes.device)
        _check_same(point.name, mixes, edited)
        _check_finite(point.name, edited)
        return edited

    with _attached([(point, change)]):
        yield


@contextmanager
def only_newest_row(sites: Sites, last_layer: int, rows: int) -> Iterator[None]:
    """Within, blocks up to ``last_layer`` run the last of the ``rows`` query rows alone.

    For a pass that feeds slots beside the newest token: up to the block that writes them the slots
    have no content, so their rows are work for nothing. The edit at ``last_layer`` must restore
    them (``overwrite_residual(..., rows=rows)``).

    Raises:
        HookError: A block did not run.
    """

    def narrow(given: Inputs) -> Inputs:
        args, kwargs = given
        return (
            tuple(_newest_row(item, rows) for item in args),
            {key: _newest_row(item, rows) for key, item in kwargs.items()},
        )

    with _attached([(at(sites.inputs, layer), narrow) for layer in range(last_layer + 1)]):
        yield


def _newest_row(value: object, rows: int) -> object:
    """A block's input with its query axis, where it has one of this length, cut to the last row."""
    if isinstance(value, Tensor):
        if value.ndim == 4 and value.shape[-2] == rows:
            return value[..., -1:, :]
        if value.ndim in (2, 3) and value.shape[1] == rows:
            return value[:, -1:]
        return value
    if isinstance(value, tuple):
        return tuple(_newest_row(item, rows) for item in value)
    if isinstance(value, dict):
        return {key: _newest_row(item, rows) for key, item in value.items()}
    return value


@contextmanager
def edit_scores(
    sites: Sites, layers: Sequence[int], edit: Callable[[Tensor, int], Tensor], home: torch.device
) -> Iterator[None]:
    """Replace the attention scores of the given blocks by ``edit(scores, layer)``.

    Scores already carry the mask: hidden keys stand at the lowest number of the type.

    Raises:
        HookError: A layer does not exist or did not fire, or the edit changed shape or type.
        NonFiniteError: The edit returned a NaN.
    """

    def changer(layer: int, name: str) -> Callable[[Tensor], Tensor]:
        def change(scores: Tensor) -> Tensor:
            edited = edit(scores.to(home), layer).to(scores.device)
            _check_same(name, scores, edited)
            if bool(edited.sum().isnan()):
                raise NonFiniteError(f"the edit at hook '{name}' returned a NaN")
            return edited

        return change

    points = {layer: at(sites.scores, layer) for layer in layers}
    with _attached([(point, changer(layer, point.name)) for layer, point in points.items()]):
        yield


@contextmanager
def hide_keys(
    sites: Sites, layers: Sequence[int], hidden: Callable[[], Bool[Tensor, "..."]]
) -> Iterator[None]:
    """Within, queries of the given blocks do not see the marked keys.

    The blocks' additive mask is exchanged, once for all blocks that share one: no block computes
    anything more, and nothing waits for the device.

    Args:
        sites: Points of the model.
        layers: The blocks.
        hidden: Asked when a block runs; (query, key), or with the axes of the mask. Where a block
            runs fewer queries (:func:`only_newest_row`), the last ones are meant.

    Raises:
        HookError: A layer does not exist, did not run, or was given no full mask of that shape.
    """
    exchanged: dict[object, tuple[Tensor, Tensor]] = {}

    def exchange(value: object, marked: Tensor) -> object:
        if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
            return value
        n_queries, n_keys = value.shape[-2:]
        if n_keys != marked.shape[-1] or n_queries > marked.shape[-2]:
            return value
        place = (value.device, value.data_ptr(), value.shape, value.stride())
        if place not in exchanged:  # the mask is kept, so that no other takes its memory
            lowest = torch.finfo(value.dtype).min
            cut = marked[..., -n_queries:, :]
            exchanged[place] = value, torch.where(cut.to(value.device), lowest, value)
        return exchanged[place][1]

    def changer(name: str) -> Callable[[Inputs], Inputs]:
        def change(given: Inputs) -> Inputs:
            args, kwargs = given
            marked = hidden()
            new_args = tuple(exchange(value, marked) for value in args)
            new_kwargs = {key: exchange(value, marked) for key, value in kwargs.items()}
            pairs = zip((*args, *kwargs.values()), (*new_args, *new_kwargs.values()), strict=True)
            if all(new is old for old, new in pairs):
                raise HookError(
                    f"'{name}' holds no additive mask of {tuple(marked.shape[-2:])} (query, key), "
                    "so keys cannot be hidden from it"
                )
            return new_args, new_kwargs

        return change

    points = {layer: at(sites.inputs, layer) for layer in layers}
    with _attached([(point, changer(point.name)) for point in points.values()]):
        yield


def at(points: Mapping[int, T], layer: int) -> T:
    """The point of a layer.

    Raises:
        HookError: There is no such layer.
    """
    if layer not in points:
        raise HookError(
            f"there is no layer {layer} here: choose one from {min(points)} to {max(points)}"
        )
    return points[layer]


@contextmanager
def _attached(hooks: Sequence[tuple[Point[T], Callable[[T], T | None]]]) -> Iterator[None]:
    """Attach the functions; detach them always; insist that each one fired."""
    fired = [0] * len(hooks)
    with ExitStack() as stack:
        for number, (point, function) in enumerate(hooks):
            stack.callback(point.attach(_counting(function, fired, number)))
        yield
    for (point, _), count in zip(hooks, fired, strict=True):
        if count == 0:
            raise HookError(
                f"hook '{point.name}' did not fire: no forward pass ran through it inside the "
                "context"
            )


def _counting(
    function: Callable[[T], T | None], fired: list[int], number: int
) -> Callable[[T], T | None]:
    def call(value: T) -> T | None:
        fired[number] += 1
        return function(value)

    return call


def _check_same(name: str, before: Tensor, after: Tensor) -> None:
    if after.shape != before.shape or after.dtype != before.dtype:
        raise HookError(
            f"the edit at hook '{name}' must return {before.dtype} of shape "
            f"{tuple(before.shape)}, it returned {after.dtype} of shape {tuple(after.shape)}"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise NonFiniteError(
            f"a NaN or an infinity stands at hook '{name}': look at the weights of the backbone "
            "and at what was written into the residual stream before it"
        )
