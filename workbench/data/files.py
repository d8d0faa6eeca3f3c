"""Examples from a file of one's own: JSON Lines, one example a line.

    {"prompt": "how do i ...", "prompt_harm": true, "context": "fiction"}
    {"prompt": [{"role": "user", "content": "..."}], "response": "...", "response_harm": false}

==================  ============================================================================
``prompt``          a text (one user turn), or a list of turns with ``role`` and ``content`` that
                    ends with the user's; the only key that is needed
``response``        the assistant's reply; a blank one counts as none
``prompt_harm``     true where complying would be harmful
``response_harm``   true where the response is harmful
``refusal``         true where the response declines, false where it complies; left out where it
                    does both
``context``         the context that the request stands in; ``direct`` by default
``pair``            a name that a harmful prompt and its harmless counterpart share, in every
                    context that both stand in; needed by estimators of paired differences
``group``           examples that share content and belong together; by default those of its
                    ``pair``, else its own
``id``              unique name; by default the file's name and the line
==================  ============================================================================

Reading is strict, because a misspelt key would silently drop a label. A file in which several
examples have neither ``group`` nor ``pair`` is read with a warning: whatever they share, intervals
take them for independent.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.config import from_mapping
from workbench.data.example import Conversation, Example, Label, Message, as_conversation
from workbench.errors import ConfigError, DataError, WorkbenchWarning


@dataclass(frozen=True)
class ExampleLine:
    """One line as it stands in a file; see the module."""

    prompt: object
    response: str | None = None
    prompt_harm: bool | None = None
    response_harm: bool | None = None
    refusal: bool | None = None
    context: str = "direct"
    pair: str = ""
    group: str = ""
    id: str = ""


def read_examples(path: str | Path) -> list[Example]:
    """Read the examples of a JSON Lines file; blank lines are skipped.

    Warns:
        WorkbenchWarning: More than one example has no group, not even that of a pair.

    Raises:
        DataError: The file is missing or empty, or a line is not UTF-8, no JSON object, lacks a
            prompt, has an unknown key, a key twice, a value of the wrong type, the id of an
            earlier line, or another group than its pair has. File and line are named.
    """
    path = Path(path)
    examples: list[Example] = []
    seen: dict[str, int] = {}
    group_of: dict[Label, tuple[str, int]] = {}
    n_alone = 0
    for number, text in _lines(path):
        where = f"{path}, line {number}"
        line = _parse(text, where)
        n_alone += not (line.group or line.pair)
        example = _example(line, where, source=path.stem, number=number)
        if example.id in seen:
            raise DataError(
                f"{where}: the id '{example.id}' stands in line {seen[example.id]} already; "
                "give every example its own"
            )
        seen[example.id] = number
        if (pair := example.labels.get("pair")) is not None:
            group, first = group_of.setdefault(pair, (example.group, number))
            if example.group != group:
                raise DataError(
                    f"{where}: the pair '{pair}' has the group '{example.group}' here and "
                    f"'{group}' in line {first}; give a pair one group, or it is torn apart"
                )
        examples.append(example)
    if not examples:
        raise DataError(f"{path} holds no examples: write one JSON object a line")
    if n_alone > 1:
        warnings.warn(
            f"{path}: {n_alone} of {len(examples)} examples have no 'group' and count as "
            "independent of each other: where several share a request, intervals come out too "
            "narrow, and training validates on what it has seen; give those the same 'group'",
            WorkbenchWarning,
            stacklevel=2,
        )
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from error
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not UTF-8 text (byte {error.start}); "
                "save the file as UTF-8"
            ) from error
        if text.strip():
            yield number, text


def _parse(text: str, where: str) -> ExampleLine:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except (json.JSONDecodeError, _KeyTwiceError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{where} holds a {type(content).__name__}, a JSON object is needed")
    try:
        return from_mapping(ExampleLine, content, where=where)
    except ConfigError as error:
        raise DataError(str(error)) from error


class _KeyTwiceError(Exception):
    """A JSON object names a key twice."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _KeyTwiceError(f"the key '{twice}' stands there twice")
    return found


def _example(line: ExampleLine, where: str, *, source: str, number: int) -> Example:
    name = line.id or f"{source}/{number}"
    labels = {
        "prompt_harm": line.prompt_harm,
        "response_harm": line.response_harm,
        "refusal": line.refusal,
        "pair": line.pair or None,
    }
    return Example(
        id=name,
        prompt=_conversation(line.prompt, where),
        response=line.response if (line.response or "").strip() else None,
        labels={name: label for name, label in labels.items() if label is not None},
        context=line.context,
        source=source,
        group=line.group or line.pair or name,
    )


def _conversation(prompt: object, where: str) -> Conversation:
    if isinstance(prompt, str):
        conversation = as_conversation(prompt)
    elif isinstance(prompt, list):
        conversation = tuple(
            _message(turn, f"{where}, turn {number}") for number, turn in enumerate(prompt, 1)
        )
    else:
        raise DataError(
            f"{where}: the prompt is a {type(prompt).__name__}; give a text or a list of turns"
        )
    if not conversation or conversation[-1].role != "user":
        raise DataError(
            f"{where}: the prompt must end with a user turn; put the reply into 'response'"
        )
    if not conversation[-1].content.strip():
        raise DataError(f"{where}: the prompt is empty")
    return conversation


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where}: an object with 'role' and 'content' is needed")
    try:
        return from_mapping(Message, turn, where=where)
    except ConfigError as error:
        raise DataError(str(error)) from error
