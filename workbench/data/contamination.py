"""Which examples two sets have in common, word for word or nearly.

Two prompts are an *exact* overlap where they are equal once normalised
(:func:`workbench.data.normalising.normalise`: no case, punctuation or spacing). They are a *near*
overlap where the share of the shorter one's word n-grams that the other holds,

    containment(a, b) = |A ∩ B| / min(|A|, |B|),    A, B the sets of n-grams,

reaches a threshold (n = 5 and 0.8 unless said otherwise). Containment rather than Jaccard, since
a prompt wrapped in a jailbreak is still the same prompt. A prompt with fewer than n words has no
n-grams and is compared exactly only: short texts share words by chance.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.data.example import Example
from workbench.data.normalising import normalise, prompt_text
from workbench.errors import ConfigError

NGRAM = 5
THRESHOLD = 0.8


@dataclass(frozen=True)
class Overlap:
    """One example of each set that say the same.

    Attributes:
        first: id in the first set.
        second: id in the second set.
        kind: ``exact`` or ``near``.
        containment: share of the shorter one's n-grams that the other holds; 1 where exact.
    """

    first: str
    second: str
    kind: Literal["exact", "near"]
    containment: float


@dataclass(frozen=True)
class ContaminationReport:
    """What two sets have in common, and how it was looked for.

    Attributes:
        n_first: examples of the first set.
        n_second: examples of the second set.
        overlaps: pairs of ids, exact ones first.
        ngram: words of an n-gram.
        threshold: containment from which a pair counts as near.
    """

    n_first: int
    n_second: int
    overlaps: tuple[Overlap, ...]
    ngram: int
    threshold: float

    def ids(self, side: Literal["first", "second"]) -> frozenset[str]:
        """The examples of one set that the other one holds too."""
        return frozenset(getattr(overlap, side) for overlap in self.overlaps)

    def items(self, kind: Literal["exact", "near"]) -> tuple[str, ...]:
        """Examples of the second set that the first holds, by the best kind of match, sorted."""
        exact = {pair.second for pair in self.overlaps if pair.kind == "exact"}
        near = {pair.second for pair in self.overlaps} - exact
        return tuple(sorted(exact if kind == "exact" else near))

    def n_items(self, kind: Literal["exact", "near"]) -> int:
        """How many they are."""
        return len(self.items(kind))


def check_contamination(
    first: Sequence[Example],
    second: Sequence[Example],
    *,
    ngram: int = NGRAM,
    threshold: float = THRESHOLD,
) -> ContaminationReport:
    """Compare the prompts of two sets.

    Args:
        first: one set.
        second: another set.
        ngram: words of an n-gram, at least 1.
        threshold: containment in (0, 1] from which a pair counts as near.

    Raises:
        ConfigError: ``ngram`` or ``threshold`` is out of range.
    """
    if ngram < 1:
        raise ConfigError(f"ngram must be at least 1, got {ngram}")
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must lie in (0, 1], got {threshold}")
    ours, theirs = _normalised(first), _normalised(second)
    overlaps = [*_exact(ours, theirs), *_near(ours, theirs, ngram, threshold)]
    return ContaminationReport(len(first), len(second), tuple(overlaps), ngram, threshold)


def _normalised(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(example.id, normalise(prompt_text(example.prompt))) for example in examples]


def _exact(ours: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]) -> Iterator[Overlap]:
    by_text: dict[str, list[str]] = defaultdict(list)
    for name, text in theirs:
        if text:
            by_text[text].append(name)
    for name, text in ours:
        for other in by_text.get(text, ()):
            yield Overlap(name, other, "exact", 1.0)


def _near(
    ours: Sequence[tuple[str, str]],
    theirs: Sequence[tuple[str, str]],
    ngram: int,
    threshold: float,
) -> Iterator[Overlap]:
    grams = [_ngrams(text, ngram) for _, text in theirs]
    holders = _holders(grams)
    for name, text in ours:
        own = _ngrams(text, ngram)
        shared = Counter(index for gram in own for index in holders.get(gram, ()))
        for index in sorted(shared):
            other, other_text = theirs[index]
            containment = shared[index] / min(len(own), len(grams[index]))
            if containment >= threshold and text != other_text:
                yield Overlap(name, other, "near", containment)


def _holders(grams: Sequence[frozenset[str]]) -> Mapping[str, Sequence[int]]:
    """Which texts hold an n-gram."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, held in enumerate(grams):
        for gram in held:
            found[gram].append(index)
    return found


def _ngrams(text: str, ngram: int) -> frozenset[str]:
    words = text.split()
    return frozenset(
        " ".join(words[start : start + ngram]) for start in range(len(words) - ngram + 1)
    )
