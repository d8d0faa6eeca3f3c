"""Which rows belong together, and which groups are held out for validation."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence


def joined_groups(keys: Sequence[Sequence[str]]) -> list[str]:
    """One name a row, equal for rows that share a key, directly or along a chain of others.

    Args:
        keys: What each row shares with others, for example its prompt and its source's group.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (up := parent.setdefault(key, key)) != key:
            parent[key] = key = parent[up]
        return key

    for first, *others in keys:
        for other in others:
            one, two = sorted((root(first), root(other)))
            parent[two] = one
    return [root(first) for first, *_ in keys]


def seeded_order(names: Iterable[str], seed: int) -> list[str]:
    """The names in an order that the seed decides; a name's place depends on no other name."""

    def place(name: str) -> bytes:
        return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()

    return sorted(set(names), key=place)


def held_out_groups(signatures: Mapping[str, Hashable], share: float, seed: int) -> frozenset[str]:
    """Groups for validation: the same share of every kind of group.

    Args:
        signatures: What each group holds (its sources, stages and classes); groups that hold the
            same are one stratum.
        share: Share of each stratum, rounded; at least one group of a stratum with several.
        seed: Decides which.
    """
    strata: dict[Hashable, list[str]] = defaultdict(list)
    for name, signature in signatures.items():
        strata[signature].append(name)
    held: set[str] = set()
    for names in strata.values():
        least = 1 if len(names) > 1 else 0
        n = min(len(names) - least, max(least, round(share * len(names))))
        held.update(seeded_order(names, seed)[:n])
    return frozenset(held)
