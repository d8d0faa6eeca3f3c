"""Examples of whatever a command line names: a published set, or a file of one's own."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.arguments import typed_arguments
from workbench.data.example import Example
from workbench.data.files import read_examples
from workbench.data.sources import SOURCES, is_source, load_source
from workbench.errors import DataError


def split_specs(text: str) -> list[str]:
    """The pieces of a comma-separated list.

    Raises:
        DataError: Nothing is named, or something twice.
    """
    specs = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not specs:
        raise DataError(f"'{text}' names no data: give NAME:PATH, NAME/PART, or FILE.jsonl")
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise DataError(f"'{twice}' is named twice")
    return specs


def load_examples(spec: str) -> list[Example]:
    """The examples of ``NAME:PATH``, ``NAME[/PART][@REVISION]`` or ``FILE.jsonl``.

    Raises:
        DataError: The file or set cannot be read, or breaks its own schema.
        ConfigError: The hub is asked for and the ``data`` extra is not installed.
    """
    if Path(spec).exists():
        return read_examples(spec)
    if is_source(spec) or not Path(spec).suffix:
        return load_source(spec)
    name = spec.partition(":")[0]
    close = difflib.get_close_matches(name, SOURCES, n=1) if ":" in spec else []
    hint = f"; did you mean {close[0]}:PATH?" if close else ""
    raise DataError(f"cannot read {spec}: there is no such file, and it names no source{hint}")


@typed_arguments
def load_named(specs: Sequence[str]) -> dict[str, list[Example]]:
    """The examples of several specs, each under a short name that no other has.

    Raises:
        DataError: See :func:`load_examples`.
        ConfigError: See :func:`load_examples`.
    """
    short = [_short_name(spec) for spec in specs]
    names = [
        name if short.count(name) == 1 else spec for spec, name in zip(specs, short, strict=True)
    ]
    return {name: load_examples(spec) for name, spec in zip(names, specs, strict=True)}


def _short_name(spec: str) -> str:
    path = Path(spec)
    return path.stem if path.exists() or not is_source(spec) else spec.partition(":")[0]


def digest_examples(named: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, object]]:
    """How many examples each set has, and the SHA-256 of all that they say."""
    return {
        name: {"examples": len(examples), "sha256": hash_examples(examples)}
        for name, examples in named.items()
    }


def hash_examples(examples: Sequence[Example]) -> str:
    """SHA-256 of ids, prompts, responses, labels, contexts and groups, in order."""
    digest = hashlib.sha256()
    for example in examples:
        content = {
            "id": example.id,
            "prompt": [{"role": turn.role, "content": turn.content} for turn in example.prompt],
            "response": example.response,
            "labels": dict(example.labels),
            "context": example.context,
            "group": example.group,
        }
        digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()
