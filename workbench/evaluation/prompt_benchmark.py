"""Prompts of published sets, or of files, as a benchmark: one split a set.

==============  ================================================================================
``harmful``     prompts with ``prompt_harm`` true
``lookalike``   harmless prompts of sets that are written to look harmful (XSTest, JailbreakBench)
``benign``      all other harmless ones
==============  ================================================================================

A prompt whose harm is unknown is left out. ``frame`` in the records is the set's own kind of prompt
(HarmBench's ``contextual``, XSTest's ``homonyms``), else the context. Examples with the same prompt
are asked once; intervals resample whole groups, which hold equal and related prompts. A harmless
prompt's own reply is the reference for fluency, unless it refuses or is harmful.

Judges see the examples with the labels that their set gave them.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workbench.backbone.protocol import Backbone
from workbench.data.assembly import LeftOut, WhyNot
from workbench.data.assembly.groups import seeded_order
from workbench.data.example import Conversation, Example, as_conversation
from workbench.data.loading import hash_examples
from workbench.data.normalising import content_key, prompt_text
from workbench.errors import ConfigError, DataError
from workbench.evaluation.benchmark import Benchmark, BenchmarkSplit, PromptKind
from workbench.evaluation.judges import Judge, Judgement
from workbench.evaluation.reading import UNREADABLE, ReadingRoom
from workbench.guidance.protocol import Guidance

LOOKALIKES = frozenset({"xstest", "jailbreakbench"})
"""Sets whose harmless prompts are written to look harmful."""


@dataclass(frozen=True, eq=False)
class PromptBenchmark:
    """A benchmark of real prompts, and what was left out of it.

    Attributes:
        benchmark: Splits and judge.
        left_out: Prompts that are not asked, by set and reason.
    """

    benchmark: Benchmark
    left_out: Sequence[LeftOut]


@dataclass(frozen=True, eq=False)
class _AsPublished:
    """A judge that sees each example with the labels of its set and the new reply."""

    judge_behind: Judge
    published: Mapping[str, Example]

    @property
    def name(self) -> str:
        """The judge's own name."""
        return self.judge_behind.name

    def judge(self, examples: Sequence[Example]) -> list[Judgement]:
        """One judgement an example."""
        return self.judge_behind.judge(
            [replace(self.published[one.id], response=one.response) for one in examples]
        )


def prompt_benchmark(
    sets: Mapping[str, Sequence[Example]],
    judge: Judge,
    *,
    limit: int | None,
    seed: int,
    why_not: WhyNot,
) -> PromptBenchmark:
    """Make a benchmark of labelled prompts.

    Args:
        sets: Examples by name; each becomes a split.
        judge: Who judges the replies.
        limit: Most prompts of each kind and set, drawn by the seed; None: all.
        seed: Decides which.
        why_not: What cannot be asked (prompt alone) or read as a reference (with its reply).

    Raises:
        ConfigError: The limit is below 1.
        DataError: A set has no prompt that can be asked.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"{limit} prompts a kind: ask for at least 1")
    tally: Counter[tuple[str, str]] = Counter()
    published: dict[str, Example] = {}
    splits = []
    for name, examples in sets.items():
        chosen = _chosen(name, examples, limit, seed, why_not, tally)
        published |= {f"{name}: {one.id}": one for one in chosen}
        splits.append(BenchmarkSplit(name, [_asked(name, one, why_not, tally) for one in chosen]))
    asked = [one for split in splits for one in split.examples]
    return PromptBenchmark(
        Benchmark("prompts", splits, _AsPublished(judge, published), hash_examples(asked)),
        _left_out(tally),
    )


def _chosen(
    name: str,
    examples: Sequence[Example],
    limit: int | None,
    seed: int,
    why_not: WhyNot,
    tally: Counter[tuple[str, str]],
) -> list[Example]:
    """The first example of every prompt that can be asked, up to the limit of each kind."""
    by_kind: dict[PromptKind, dict[str, Example]] = defaultdict(dict)
    seen: set[str] = set()
    for example in examples:
        key = content_key(prompt_text(example.prompt))
        kind = _kind(example)
        reason = "harm of the prompt unknown" if kind is None else why_not(example.prompt, None)
        if reason is None and key in seen:
            reason = "prompt that stands there already"
        if reason is not None or kind is None:
            tally[name, str(reason)] += 1
            continue
        seen.add(key)
        by_kind[kind][key] = example
    chosen = {
        found[key].id for found in by_kind.values() for key in seeded_order(found, seed)[:limit]
    }
    if not chosen:
        reasons = "; ".join(f"{n}: {why}" for (own, why), n in tally.items() if own == name)
        raise DataError(f"{name} has no prompt that can be asked ({reasons})")
    tally[name, "beyond the limit"] += sum(map(len, by_kind.values())) - len(chosen)
    if not tally[name, "beyond the limit"]:
        del tally[name, "beyond the limit"]
    return [example for example in examples if example.id in chosen]


def _kind(example: Example) -> PromptKind | None:
    harm = example.labels.get("prompt_harm")
    if harm is None:
        return None
    if harm:
        return "harmful"
    return "lookalike" if example.source in LOOKALIKES else "benign"


def _asked(
    name: str, example: Example, why_not: WhyNot, tally: Counter[tuple[str, str]]
) -> Example:
    """The example as the benchmark asks it."""
    kind = _kind(example)
    reference = example.response
    answered = example.labels.get("refusal_grade", "compliance") == "compliance" and not (
        example.labels.get("refusal") or example.labels.get("response_harm")
    )
    if kind == "harmful" or not answered:
        reference = None
    asked = _with_readable_reference(name, replace(example, response=reference), why_not, tally)
    return replace(
        asked,
        id=f"{name}: {example.id}",
        labels={**example.labels, "kind": kind},
        context=str(example.labels.get("kind") or example.context),
    )


def leave_out_unaskable(
    benchmark: Benchmark, backbone: Backbone, guidances: Sequence[Guidance], max_new_tokens: int
) -> PromptBenchmark:
    """A benchmark without the prompts that do not fit, which are counted; nothing is cut.

    A split of which nothing is left is left out whole. Words that the backbone does not know are no
    matter of room: they are refused.

    Args:
        benchmark: Of any source.
        backbone: The frozen model.
        guidances: Under each of which a prompt must fit.
        max_new_tokens: Room that every reply needs.

    Raises:
        DataError: No prompt is left; the message says how much room there is.
        TokenError: A prompt has words that the backbone does not know.
    """
    why_not = askable(backbone, guidances, max_new_tokens)
    tally: Counter[tuple[str, str]] = Counter()
    splits = []
    for split in benchmark.splits:
        kept = []
        for example in split.examples:
            reason = why_not(example.prompt, None)
            if reason is None:
                kept.append(_with_readable_reference(split.name, example, why_not, tally))
                continue
            if reason.endswith(UNREADABLE):  # raises, and names the words
                for guidance in guidances:
                    backbone.encode(guidance.prepare([example.prompt]))
            tally[split.name, reason] += 1
        if kept:
            splits.append(BenchmarkSplit(split.name, kept))
    if not splits:
        reasons = "; ".join(f"{n} of {name}: {why}" for (name, why), n in sorted(tally.items()))
        raise DataError(
            f"no prompt can be asked of {backbone.name} under "
            f"{', '.join(guidance.name for guidance in guidances)} ({reasons}): its context is "
            f"n_ctx = {backbone.n_ctx} tokens, of which a reply takes {max_new_tokens}; give "
            "replies fewer (--max-new-tokens), or take a backbone with a longer context"
        )
    return PromptBenchmark(replace(benchmark, splits=splits), _left_out(tally))


def _left_out(tally: Counter[tuple[str, str]]) -> list[LeftOut]:
    return [LeftOut(name, reason, n) for (name, reason), n in sorted(tally.items())]


def _with_readable_reference(
    name: str, example: Example, why_not: WhyNot, tally: Counter[tuple[str, str]]
) -> Example:
    if example.response is None or why_not(example.prompt, example.response) is None:
        return example
    tally[name, "reference reply that cannot be read (the prompt is asked)"] += 1
    return replace(example, response=None)


def askable(backbone: Backbone, guidances: Sequence[Guidance], max_new_tokens: int) -> WhyNot:
    """What cannot be asked under one of the guidances, with all that each adds to a prompt.

    Args:
        backbone: The frozen model.
        guidances: Ways to steer it.
        max_new_tokens: Room that every reply needs.
    """
    rooms = [
        (guidance.prepare, ReadingRoom(backbone, guidance.n_slots, max_new_tokens))
        for guidance in guidances
    ]
    references = [
        (guidance.prepare, ReadingRoom(backbone, guidance.n_slots)) for guidance in guidances
    ]

    def why_not(prompt: Conversation, response: str | None) -> str | None:
        for prepare, room in rooms if response is None else references:
            [prepared] = prepare([prompt])
            reason = room.why_not(as_conversation(prepared), response)
            if reason is not None:
                return f"prompt {reason}"
        return None

    return why_not
