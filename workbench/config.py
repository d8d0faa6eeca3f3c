"""Strict loading of frozen dataclasses from plain mappings and YAML files.

A configuration is a frozen dataclass. :func:`from_mapping` builds one from what a YAML or JSON
file holds and refuses whatever it does not understand: an unknown key is named together with the
closest valid one, a value of the wrong type together with the type it should have. Nothing is
coerced except an ``int`` given for a ``float`` and a list given for a tuple.

Field types understood: ``bool``, ``int``, ``float``, ``str``, ``None``, ``Literal[...]``,
``tuple[T, ...]``, ``tuple[A, B]``, ``Mapping[str, T]``, other dataclasses, unions of these, and
``object`` for a value that is taken as it is.
Ranges are the dataclass's own business: a ``ConfigError`` or ``ValueError`` raised in its
``__post_init__`` is passed on with the place it came from.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from collections.abc import Mapping as AbstractMapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from workbench.errors import ConfigError, one_line

T = TypeVar("T")

_MISSING = dataclasses.MISSING
_TYPE_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "null",
}


def from_mapping(cls: type[T], mapping: Mapping[str, object], *, where: str) -> T:
    """Build the dataclass ``cls`` from ``mapping``, refusing anything it does not understand.

    Args:
        cls: a dataclass; fields without a default are required.
        mapping: field names to values, as YAML or JSON gives them.
        where: what the reader calls the source (a file name, "command line"); starts every
            message.

    Raises:
        ConfigError: unknown or missing key, wrong type, or a range refused by ``__post_init__``.
    """
    return _build(cls, mapping, where=where, prefix="")


def to_mapping(config: object) -> dict[str, object]:
    """Turn a dataclass into a JSON-able mapping.

    The inverse of :func:`from_mapping`: ``from_mapping(type(c), to_mapping(c), ...) == c``.

    Raises:
        ConfigError: ``config`` is no dataclass instance, or holds a value JSON cannot express.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"expected a dataclass instance, got {_show(config)}")
    return {
        field.name: _plain(getattr(config, field.name), f"{type(config).__name__}.{field.name}")
        for field in dataclasses.fields(config)
        if field.init
    }


def load_yaml(cls: type[T], path: str | Path) -> T:
    """Build the dataclass ``cls`` from a YAML file; an empty file means all defaults.

    Unlike YAML 1.1, ``1e-3`` is a number here; a key given twice is refused.

    Raises:
        ConfigError: the file is missing, is not UTF-8, is not YAML, or see :func:`from_mapping`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path}: cannot read the configuration ({reason})") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({one_line(error)})") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {_show(content)}")
    return _build(cls, content, where=str(path), prefix="")


def dump_yaml(config: object) -> str:
    """A configuration as the YAML that :func:`load_yaml` reads back.

    Raises:
        ConfigError: see :func:`to_mapping`.
    """
    return yaml.safe_dump(to_mapping(config), sort_keys=False, default_flow_style=None)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _build(cls: type[T], mapping: Mapping[Any, object], *, where: str, prefix: str) -> T:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            raise ConfigError(_unknown_key(f"{prefix}{key}", str(key), fields, where))
    missing = [
        name
        for name, field in fields.items()
        if name not in mapping and field.default is _MISSING and field.default_factory is _MISSING
    ]
    if missing:
        names = ", ".join(f"'{prefix}{name}'" for name in missing)
        raise ConfigError(f"{where}: missing key {names}, which has no default")
    hints = get_type_hints(cls)
    values = {
        key: _convert(value, hints[key], where=where, key=f"{prefix}{key}")
        for key, value in mapping.items()
    }
    try:
        # mypy cannot know that a dataclass takes its own fields.
        return cast(T, cast(Any, cls)(**values))
    except (ConfigError, ValueError) as error:
        place = f"{where}: {prefix.rstrip('.')}" if prefix else where
        raise ConfigError(f"{place}: {error}") from error


def _convert(value: object, hint: object, *, where: str, key: str) -> object:
    if hint is object:
        return value
    origin = get_origin(hint)
    if origin is Literal:
        return _convert_literal(value, get_args(hint), where=where, key=key)
    if origin in (Union, UnionType):
        return _convert_union(value, get_args(hint), where=where, key=key)
    if origin is tuple:
        return _convert_tuple(value, get_args(hint), where=where, key=key)
    if origin in (dict, AbstractMapping):
        return _convert_mapping(value, get_args(hint)[1], where=where, key=key)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise _wrong_type(value, f"a group of keys ({hint.__name__})", where, key)
        return _build(hint, value, where=where, prefix=f"{key}.")
    if hint not in _TYPE_NAMES:
        raise TypeError(f"configuration field '{key}' has the unsupported type {hint!r}")
    return _convert_scalar(value, hint, where=where, key=key)


def _convert_scalar(value: object, hint: object, *, where: str, key: str) -> object:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # `is`, since True is an int to isinstance
        raise _wrong_type(value, _TYPE_NAMES[hint], where, key)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong_type(value, "a finite number", where, key)
    return value


def _convert_literal(value: object, choices: tuple[Any, ...], *, where: str, key: str) -> object:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    options = ", ".join(repr(choice) for choice in choices)
    hint = _suggestion(value, [choice for choice in choices if isinstance(choice, str)])
    raise ConfigError(f"{where}: key '{key}' must be one of {options}, got {_show(value)}{hint}")


def _convert_union(value: object, members: tuple[Any, ...], *, where: str, key: str) -> object:
    if value is None and NoneType in members:
        return None
    others = [member for member in members if member is not NoneType]
    failures: list[ConfigError] = []
    for member in others:
        try:
            return _convert(value, member, where=where, key=key)
        except ConfigError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise _wrong_type(value, " or ".join(_describe(member) for member in members), where, key)


def _convert_tuple(value: object, items: tuple[Any, ...], *, where: str, key: str) -> object:
    if not isinstance(value, list | tuple):
        raise _wrong_type(value, "a list", where, key)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise ConfigError(
            f"{where}: key '{key}' must be a list of {len(items)} values, got {len(value)}"
        )
    return tuple(
        _convert(item, hint, where=where, key=f"{key}[{index}]")
        for index, (item, hint) in enumerate(zip(value, items, strict=True))
    )


def _convert_mapping(value: object, item: object, *, where: str, key: str) -> object:
    if not isinstance(value, Mapping):
        raise _wrong_type(value, "a group of keys", where, key)
    return {
        str(name): _convert(entry, item, where=where, key=f"{key}.{name}")
        for name, entry in value.items()
    }


def _plain(value: object, name: str) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    raise ConfigError(f"{name} holds {_show(value)}, which a configuration file cannot express")


def _unknown_key(full: str, key: str, valid: Iterable[str], where: str) -> str:
    names = list(valid)
    known = ", ".join(names) if names else "none"
    return f"{where}: unknown key '{full}'{_suggestion(key, names)}; valid keys: {known}"


def _suggestion(value: object, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _wrong_type(value: object, expected: str, where: str, key: str) -> ConfigError:
    return ConfigError(f"{where}: key '{key}' must be {expected}, got {_show(value)}")


def _describe(hint: object) -> str:
    if get_origin(hint) is tuple:
        return "a list"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    return _TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _show(value: object) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f"{short} ({type(value).__name__})"
