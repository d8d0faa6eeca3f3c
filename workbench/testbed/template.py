"""Sentence templates that can be both filled and recognised.

A template is a string of words with slots, ``"how do i {verb} {owner} {object} ?"``. The same
template renders a text (:meth:`Template.fill`) and recognises it exactly (:meth:`Template.match`),
so that generator and judge cannot drift apart.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """A text with named slots, each slot with the finite set of phrases that may fill it."""

    text: str
    slots: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        missing = [name for name in self.slot_names if name not in self.slots]
        if missing:
            raise KeyError(f"template {self.text!r} has slots without fillers: {missing}")

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the slots in order of appearance, each once."""
        return tuple(dict.fromkeys(_SLOT.findall(self.text)))

    def fill(self, **values: str) -> str:
        """Render the template; a slot may be filled by the empty string."""
        return squeeze(_SLOT.sub(lambda match: values[match.group(1)], self.text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        seen: set[str] = set()
        parts = []
        for piece in self.text.split():
            slot = _SLOT.fullmatch(piece)
            if slot is None:
                parts.append(re.escape(piece) + " ")
                continue
            name = slot.group(1)
            if name in seen:
                parts.append(rf"(?P={name}) ")
                continue
            seen.add(name)
            # Longest first, so that "my own" is not read as "my" followed by an unknown word.
            fillers = sorted(self.slots[name], key=len, reverse=True)
            choices = "|".join(re.escape(filler) for filler in fillers if filler)
            optional = "?" if "" in fillers else ""
            parts.append(rf"(?:(?P<{name}>{choices}) ){optional}")
        return re.compile("".join(parts))

    def match(self, text: str) -> dict[str, str] | None:
        """Return the slot values if ``text`` is exactly this template, else None."""
        found = self._pattern.fullmatch(squeeze(text) + " ")
        return None if found is None else {k: v or "" for k, v in found.groupdict().items()}

    def search(self, text: str) -> list[dict[str, str]]:
        """Return the slot values of every occurrence of this template within ``text``."""
        padded = f" {squeeze(text)} "
        return [
            {k: v or "" for k, v in found.groupdict().items()}
            for found in re.finditer(rf"(?<= ){self._pattern.pattern}", padded)
        ]

    def words(self) -> set[str]:
        """Every word that the template or one of its fillers can produce."""
        literal = {piece for piece in self.text.split() if not _SLOT.fullmatch(piece)}
        fillers = (word for name in self.slot_names for f in self.slots[name] for word in f.split())
        return literal | set(fillers)


def squeeze(text: str) -> str:
    """Collapse runs of white space into single spaces."""
    return " ".join(text.split())
