"""Graphics cards that are not there: tensors that say where they are and refuse to be mixed.

A tensor of ``card(0)`` holds an ordinary one and reports the device it was sent to. Operations run
on the CPU, so every number is the CPU's, but as on real cards all tensors of an operation must be
on one device, save copies between devices, single numbers, and indices that come from the CPU.
PyTorch has no kernels for the device type ``lazy`` and needs none to be told of it, which is why
the cards bear its name.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

_KIND = "lazy"
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {
    torch.ops.aten.index.Tensor: 1,
    torch.ops.aten.index_put.default: 1,
    torch.ops.aten.index_put_.default: 1,
    torch.ops.aten._index_put_impl_.default: 1,
}
"""Operations whose argument of this number may stay on the CPU."""


def card(number: int) -> torch.device:
    """A pretended graphics card."""
    return torch.device(_KIND, number)


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of several devices."""


class _OnCard(Tensor):
    """A tensor on a pretended card."""

    held: Tensor

    @staticmethod
    def __new__(cls: type["_OnCard"], held: Tensor, device: torch.device) -> "_OnCard":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return _run(func, args, kwargs or {})


class _TensorsFromLists(TorchFunctionMode):
    """Lists and numbers become tensors below every dispatch: let them become ones on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func is torch.tensor and torch.device(given.get("device") or "cpu").type == _KIND:
            made = func(*args, **{**given, "device": "cpu"})
            assert isinstance(made, Tensor)
            return made.to(given["device"])
        if func is Tensor.tolist and isinstance(args[0], _OnCard):
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], _OnCard):
            index, *value = args[1:]
            parts = index if isinstance(index, tuple) else (index,)
            listed = tuple(torch.tensor(x) if isinstance(x, list) else x for x in parts)
            numbers = [torch.tensor(x) if isinstance(x, bool | int | float) else x for x in value]
            return func(args[0], listed, *numbers)
        return func(*args, **given)


class PretendedCards(TorchDispatchMode):
    """Within, tensors can be made on and sent to pretended cards.

    Attributes:
        moved: Bytes that went from one device to another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0
        self._from_lists = _TensorsFromLists()

    def __enter__(self) -> "PretendedCards":
        self._from_lists.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._from_lists.__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = _run(func, args, kwargs or {})
        if func in _COPIES and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if isinstance(source, Tensor) and source.device != result.device:
                self.moved += source.nbytes
        return result


def _run(
    func: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> object:
    device = _common_device(func, args, kwargs)
    asked = kwargs.get("device")
    if asked is not None:
        device = torch.device(asked)  # type: ignore[arg-type]
        if device.type == _KIND:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(_held, args), tree_map(_held, dict(kwargs))
    made = func(*plain_args, **plain_kwargs)
    if device is None or device.type != _KIND:
        return made
    where = device
    wrapped = tree_map(lambda x: _OnCard(x, where) if isinstance(x, Tensor) else x, made)
    if func is torch.ops.aten._to_copy.default:
        return wrapped
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped)


def _held(value: object) -> object:
    return value.held if isinstance(value, _OnCard) else value


def _common_device(
    func: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> torch.device | None:
    """Where an operation runs; None without tensors."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if func in _COPIES:
        return tensors[0].device
    if func in _INDEXING:
        indices = tree_leaves(args[_INDEXING[func]])
        from_cpu = {id(x) for x in indices if isinstance(x, Tensor) and x.device.type == "cpu"}
        tensors = [x for x in tensors if id(x) not in from_cpu]
    devices = dict.fromkeys(x.device for x in tensors if x.ndim or x.device.type != "cpu")
    if len(devices) > 1:
        raise MixedDevicesError(f"{func} was given tensors on {', '.join(map(str, devices))}")
    if devices:
        return next(iter(devices))
    return tensors[0].device if tensors else None
