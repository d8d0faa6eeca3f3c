"""Sources by name, as command lines spell them.

``NAME:PATH``                a local file
``NAME[/PART][@REVISION]``   a set on the Hugging Face hub, at its pinned revision by default
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from workbench.data.example import Example
from workbench.data.sources.advbench import ADVBENCH
from workbench.data.sources.beavertails import BEAVERTAILS
from workbench.data.sources.harmbench import HARMBENCH
from workbench.data.sources.hh_rlhf import HH_RLHF
from workbench.data.sources.jailbreakbench import JAILBREAKBENCH
from workbench.data.sources.pku_saferlhf import PKU_SAFERLHF
from workbench.data.sources.source import Source
from workbench.data.sources.strongreject import STRONGREJECT
from workbench.data.sources.wildguardmix import WILDGUARDMIX
from workbench.data.sources.xstest import XSTEST
from workbench.errors import DataError

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.name: source
        for source in (
            WILDGUARDMIX, BEAVERTAILS, PKU_SAFERLHF, HARMBENCH, ADVBENCH, JAILBREAKBENCH,
            STRONGREJECT, XSTEST, HH_RLHF,
        )
    }
)  # fmt: skip
"""Every source by its name."""

_ON_HUB = re.compile(r"(?P<name>[^/@]+)(?:/(?P<part>[^@]+))?(?:@(?P<revision>.+))?")


@dataclass(frozen=True)
class SourceSpec:
    """One source as it was asked for: a local file, or a part on the hub."""

    name: str
    path: str | None = None
    part: str | None = None
    revision: str | None = None


def is_source(spec: str) -> bool:
    """Whether a text begins with the name of a source rather than being a file's path."""
    return re.split("[:/@]", spec, maxsplit=1)[0] in SOURCES


def parse_source(spec: str) -> SourceSpec:
    """Read a spelling; see the module.

    Raises:
        DataError: The name is unknown or a piece is empty.
    """
    name, colon, path = spec.partition(":")
    if colon:
        found = SourceSpec(name, path=path)
        if not path:
            raise DataError(f"'{spec}' lacks the file: {name}:PATH")
    else:
        match = _ON_HUB.fullmatch(spec)
        if match is None:
            raise DataError(f"'{spec}' is no source; write NAME:PATH or NAME/PART@REVISION")
        found = SourceSpec(match["name"], part=match["part"], revision=match["revision"])
    if found.name not in SOURCES:
        close = difflib.get_close_matches(found.name, SOURCES, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise DataError(f"unknown source '{found.name}'{hint}; known: {', '.join(SOURCES)}")
    return found


def load_source(spec: str) -> list[Example]:
    """The examples of ``NAME:PATH`` or ``NAME[/PART][@REVISION]``.

    Raises:
        DataError: See :func:`parse_source` and :meth:`Source.load`.
        ConfigError: The hub is asked for and the ``data`` extra is not installed.
    """
    found = parse_source(spec)
    layouts = {name: source.layouts for name, source in SOURCES.items()}
    return SOURCES[found.name].load(
        found.path, part=found.part, revision=found.revision, others=layouts
    )
