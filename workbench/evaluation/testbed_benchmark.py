"""The embedded world as a benchmark: its test or validation splits, judged by its oracle."""

from collections.abc import Sequence

import numpy as np

from workbench.arguments import typed_arguments
from workbench.data.example import Example
from workbench.errors import ConfigError
from workbench.evaluation.benchmark import Benchmark, BenchmarkSplit, PromptKind
from workbench.evaluation.judges import OracleJudge
from workbench.testbed.corpus import Prompt, help_reply, sample_prompts
from workbench.testbed.intents import IntentKind
from workbench.testbed.splits import TEST_SPLITS, VALIDATION_SPLITS

SPLIT_CHOICES: tuple[str, ...] = TEST_SPLITS + VALIDATION_SPLITS

_KIND_OF: dict[IntentKind, PromptKind] = {
    "harmful": "harmful", "lookalike": "lookalike", "plain": "benign", "prevention": "benign",
}  # fmt: skip


@typed_arguments
def embedded_benchmark(
    splits: Sequence[str] = TEST_SPLITS, *, n_per_kind: int, seed: int
) -> Benchmark:
    """Draw the prompts of a benchmark of the embedded world.

    Args:
        splits: Which ones; the four test splits by default.
        n_per_kind: Prompts of each kind and split. Benign ones are half plain requests, half
            requests for prevention.
        seed: The same seed gives the same prompts and reference replies.

    Raises:
        ConfigError: An unknown split, one named twice, or fewer than one prompt.
    """
    if n_per_kind < 1:
        raise ConfigError(f"{n_per_kind} prompts a kind: ask for at least 1")
    for split in splits:
        if split not in SPLIT_CHOICES:
            raise ConfigError(f"unknown split '{split}'; choose from {', '.join(SPLIT_CHOICES)}")
    if not splits or len(set(splits)) < len(splits):
        raise ConfigError("name at least one split, and each of them once")
    return Benchmark(
        "testbed",
        [BenchmarkSplit(split, _draw(split, n_per_kind, seed)) for split in splits],
        OracleJudge(),
    )


def _draw(split: str, n_per_kind: int, seed: int) -> list[Example]:
    rng = np.random.default_rng([seed, *f"evaluation/{split}".encode()])
    counts: dict[IntentKind, int] = {
        "harmful": n_per_kind,
        "lookalike": n_per_kind,
        "plain": n_per_kind - n_per_kind // 2,
        "prevention": n_per_kind // 2,
    }
    return [
        _example(prompt, kind, f"{split}/{kind}/{index}", rng)
        for kind, count in counts.items()
        for index, prompt in enumerate(sample_prompts(split, count, seed=seed, kind=kind))
    ]


def _example(prompt: Prompt, kind: IntentKind, name: str, rng: np.random.Generator) -> Example:
    return Example(
        id=f"testbed/{name}",
        prompt=prompt.conversation,
        response=None if prompt.intent.harmful else help_reply(prompt, rng).text,
        labels={
            "kind": _KIND_OF[kind],
            "intent": kind,
            "category": prompt.intent.category,
        },
        context=prompt.frame,
        source="testbed",
        group=prompt.intent.group,
    )
