"""Values of the wrong type, told in words: arguments of public functions, fields of configurations.

Types are read from the signature (or the dataclass) itself, so nothing is written twice. A ``str``
is no sequence of texts, ``True`` no number, a list no tuple; a whole number may stand for any
number. Tensors are checked for their number type and dimensions, protocols for the names that they
promise, without evaluating a property.

Python's own error for a misspelt or missing argument is clear and stays what it is.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as hints_of

from workbench.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class AtLeast:
    """Stands in ``Annotated[int, AtLeast(1)]``: smaller numbers are refused."""

    low: int


Seed = Annotated[int, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]

_ONE: dict[object, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text",
    NoneType: "None",
}  # fmt: skip
_MANY: dict[object, str] = {
    bool: "True or False", int: "whole numbers", float: "numbers", str: "texts",
}  # fmt: skip
_LONGEST = 60


def typed_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function or method that refuses arguments of another type than its signature names.

    Raises:
        ConfigError: By the function that comes out; argument, value and what is needed are named.
    """
    signature = inspect.signature(function)
    # Looked up at the first call: by then all classes that are named in text exist.
    hints = cache(lambda: hints_of(function, include_extras=True))

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints():  # a method's self has no hint
                _require(name, value, hints()[name])
        return function(*args, **kwargs)

    return checked


def require_field_types(config: Any) -> None:  # noqa: ANN401
    """Check every field of a dataclass; to be called first in its ``__post_init__``.

    Raises:
        ConfigError: A field holds a value of another type; both are named.
    """
    for name, hint in _field_hints(type(config)).items():
        _require(name, getattr(config, name), hint)


def _field_hints(kind: type) -> dict[str, object]:
    hints = hints_of(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _require(name: str, value: object, hint: object) -> None:
    misfit = _misfit(name, value, hint)
    if misfit is not None:
        where, found, needed = misfit
        raise ConfigError(f"{where} = {_show(found)}: {_one(needed)} is needed")


def _show(value: Any) -> str:  # noqa: ANN401
    """A value in one line, with its type."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of {value.dtype}, shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'} ({kind})"


Misfit = tuple[str, object, object]
"""The name of what does not fit, its value, and the type that is needed."""


def _misfit(name: str, value: object, hint: object) -> Misfit | None:
    """The first thing in a value that does not fit; None where all of it does."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _misfit(name, value, parts[0]) or _too_low(name, value, hint)
    if origin in (Union, UnionType):
        return _misfit_of_union(name, value, hint)
    if origin is tuple:
        return _misfit_of_tuple(name, value, hint)
    if origin is Sequence:
        fits = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return _misfit_of_items(name, value, parts[0]) if fits else (name, value, hint)
    if origin is Mapping:
        fits = isinstance(value, Mapping)
        return _misfit_of_entries(name, value, parts) if fits else (name, value, hint)
    return None if _fits(value, hint, origin) else (name, value, hint)


def _too_low(name: str, value: Any, hint: object) -> Misfit | None:  # noqa: ANN401
    return None if value >= _low(hint) else (name, value, hint)


def _low(hint: object) -> int:
    """What an annotated number must reach."""
    return next(limit.low for limit in get_args(hint)[1:] if isinstance(limit, AtLeast))


def _misfit_of_union(name: str, value: object, hint: object) -> Misfit | None:
    members = get_args(hint)
    found = [_misfit(name, value, member) for member in members]
    if None in found:
        return None
    others = [misfit for misfit in found if misfit is not None and misfit[2] is not NoneType]
    # With one choice besides None, what is wrong in it says more than that none of them fits.
    return others[0] if len(others) == 1 else (name, value, hint)


def _misfit_of_tuple(name: str, value: object, hint: object) -> Misfit | None:
    if not isinstance(value, tuple):
        return name, value, hint
    parts = get_args(hint)
    if len(parts) == 2 and parts[1] is Ellipsis:
        return _misfit_of_items(name, value, parts[0])
    if len(parts) != len(value):
        return name, value, hint
    pairs = enumerate(zip(value, parts, strict=True))
    return _first(_misfit(f"{name}[{place}]", item, part) for place, (item, part) in pairs)


def _misfit_of_items(name: str, value: Any, part: object) -> Misfit | None:  # noqa: ANN401
    return _first(_misfit(f"{name}[{place}]", item, part) for place, item in enumerate(value))


def _misfit_of_entries(
    name: str,
    value: Any,  # noqa: ANN401
    parts: Sequence[object],
) -> Misfit | None:
    keys = (_misfit(f"a key of {name}", key, parts[0]) for key in value)
    entries = (_misfit(f"{name}[{key!r}]", entry, parts[1]) for key, entry in value.items())
    return _first(keys) or _first(entries)


def _first(misfits: Iterable[Misfit | None]) -> Misfit | None:
    return next((misfit for misfit in misfits if misfit is not None), None)


def _fits(value: object, hint: object, origin: object) -> bool:
    """Whether a value is of a type that has no parts to look into."""
    if origin is Literal:
        return any(type(choice) is type(value) and choice == value for choice in get_args(hint))
    if hint is bool or hint is int:
        return type(value) is hint
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    kind = origin or hint
    if kind is Callable:
        return callable(value)
    if getattr(kind, "_is_protocol", False):
        return _promises(value, kind)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _promises(value: object, protocol: object) -> bool:
    """Whether all names of a protocol are there; whatever makes its own names is believed."""
    kind = type(value)
    there = getattr(value, "__dict__", {})
    return hasattr(kind, "__getattr__") or all(
        hasattr(kind, name) or name in there for name in _names(protocol)
    )


@cache
def _names(protocol: Any) -> frozenset[str]:  # noqa: ANN401
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    names = {
        name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", ()))
    }
    return frozenset(name for name in names if not name.startswith("_"))


def _one(hint: object) -> str:
    """A type in words, as one thing."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_one(parts[0])} from {_low(hint)}"
    if origin in (Union, UnionType):
        return " or ".join(_one(member) for member in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple and (len(parts) != 2 or parts[1] is not Ellipsis):
        return f"a tuple of {len(parts)} values"
    if origin is tuple:
        return f"a tuple of {_many(parts[0])}"
    if origin is Sequence:
        return f"a list of {_many(parts[0])}"
    if origin is Mapping:
        return f"a mapping to {_many(parts[1])}"
    if origin is Callable:
        return "a function"
    return _ONE.get(hint, f"a value of the type {getattr(origin or hint, '__name__', hint)}")


def _many(hint: object) -> str:
    """A type in words, as many things."""
    if get_origin(hint) is Literal:
        return f"choices from {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_many(member) for member in get_args(hint))
    if get_origin(hint) in (tuple, Sequence):
        return f"lists of {_many(get_args(hint)[0])}"
    return _MANY.get(hint, f"values of the type {getattr(hint, '__name__', hint)}")
