"""One shard of an evaluation: a guidance on one split of a benchmark, prompt by prompt.

A benchmark is a set of splits, each a list of examples, and a judge. Every example names its
``kind`` among its labels:

==============  ================================================================================
``harmful``     complying is harmful: harm and refusal are measured
``lookalike``   harmless but looks harmful: refusing is over-refusal
``benign``      plainly harmless: refusing is over-refusal
==============  ================================================================================

The ``response`` of a harmless example is a reference reply, on which fluency is measured. All
guidances see the same prompts with the same random numbers, so their differences are paired.

The result is long: one row for every prompt and metric, with columns ``backbone, guidance, config,
split, frame, kind, prompt, group, metric, value, weight, seed``. ``weight`` is the number of tokens
for what is measured a token, else 1. An unscored reply has the value NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch

from workbench.backbone.protocol import Backbone
from workbench.data.example import Example
from workbench.errors import ConfigError, DataError
from workbench.evaluation.fluency import can_be_teacher_forced, measure_fluency
from workbench.evaluation.judges import Judge, Judgement
from workbench.guidance.decoding import Generation, generate
from workbench.guidance.protocol import Guidance
from workbench.guidance.registry import GuidanceSpec
from workbench.guidance.sampling import Sampling

PromptKind = Literal["harmful", "lookalike", "benign"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)


@dataclass(frozen=True)
class BenchmarkSplit:
    """Examples that are reported together; every one has a ``kind``, a context and a group."""

    name: str
    examples: Sequence[Example]

    def __post_init__(self) -> None:
        for example in self.examples:
            if example.labels.get("kind") not in PROMPT_KINDS:
                raise DataError(
                    f"example {example.id} has the kind {example.labels.get('kind')!r}; "
                    f"label it {', '.join(PROMPT_KINDS)}"
                )


@dataclass(frozen=True)
class Benchmark:
    """Splits and the judge that knows their truth.

    Attributes:
        name: Its name in records.
        splits: The prompts.
        judge: Who scores the replies.
        sha256: Of the examples, where they come from files; empty where the seed decides them.
    """

    name: str
    splits: Sequence[BenchmarkSplit]
    judge: Judge
    sha256: str = ""


@dataclass(frozen=True)
class EvaluationConfig:
    """How replies are generated.

    Attributes:
        temperature: 1 shows the model as it is; the paper decodes with 0.7.
        top_p: 1 keeps every token; the paper uses 0.9.
        greedy: Take the likeliest token instead.
        max_new_tokens: Limit of a reply; one that reaches it counts as cut off.
        batch_size: Prompts at a time, of similar length.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    max_new_tokens: int = 80
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ConfigError("max_new_tokens and batch_size must be at least 1")
        _ = self.sampling  # refuses what is out of range

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.temperature, self.top_p, self.greedy)


@dataclass(frozen=True, eq=False)
class Shard:
    """What one guidance did on one split.

    Attributes:
        measurements: Long-form rows, see the module.
        replies: One row a prompt, with the texts of prompt and reply.
    """

    measurements: pd.DataFrame
    replies: pd.DataFrame


def evaluate_shard(
    backbone: Backbone,
    spec: GuidanceSpec,
    guidance: Guidance,
    split: BenchmarkSplit,
    judge: Judge,
    config: EvaluationConfig,
    *,
    seed: int,
    on_prompts: Callable[[int], None] = lambda count: None,
) -> Shard:
    """Generate, judge and teacher-force one split under one guidance.

    Args:
        backbone: The frozen model.
        spec: What the guidance is called in the rows.
        guidance: How to steer.
        split: The prompts.
        judge: Scores the replies.
        config: How to generate.
        seed: Decides the random numbers, together with the split's name only.
        on_prompts: Told how many more prompts are done.

    Raises:
        ContextLengthError: Prompt, slots and reply exceed the context.
        TokenError: A prompt has words that the backbone does not know.
    """
    generations = _generate_all(backbone, guidance, split, config, seed, on_prompts)
    replied = [
        replace(example, response=generation.text)
        for example, generation in zip(split.examples, generations, strict=True)
    ]
    judgements = judge.judge(replied)
    rows = [
        (index, metric, value, 1.0)
        for index, (example, judgement) in enumerate(zip(replied, judgements, strict=True))
        for metric, value in _judged(example, judgement).items()
    ]
    rows += _fluency_rows(backbone, guidance, split.examples, config.batch_size)
    about = {
        "backbone": backbone.name,
        "guidance": spec.family,
        "config": spec.config,
        "split": split.name,
        "seed": seed,
    }
    return Shard(
        _measurements(rows, split.examples, about),
        _replies(replied, generations, judgements, about),
    )


def shard_generator(seed: int, split: str) -> torch.Generator:
    """The random numbers of a split: the same for every guidance, others for every split."""
    state = np.random.SeedSequence([seed, *split.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _generate_all(
    backbone: Backbone,
    guidance: Guidance,
    split: BenchmarkSplit,
    config: EvaluationConfig,
    seed: int,
    on_prompts: Callable[[int], None],
) -> list[Generation]:
    generator = shard_generator(seed, split.name)
    done: dict[int, Generation] = {}
    for indices in _by_length(backbone, split.examples, config.batch_size):
        prompts = [split.examples[index].prompt for index in indices]
        made = generate(
            backbone,
            prompts,
            guidance,
            max_new_tokens=config.max_new_tokens,
            sampling=config.sampling,
            generator=generator,
        )
        done.update(zip(indices, made, strict=True))
        on_prompts(len(indices))
    return [done[index] for index in range(len(split.examples))]


def _by_length(
    backbone: Backbone, examples: Sequence[Example], batch_size: int
) -> Iterator[list[int]]:
    """Batches of prompts of similar length, which spares most of the padding."""
    if not examples:
        return
    lengths = backbone.encode([example.prompt for example in examples]).lengths
    order = torch.argsort(lengths, stable=True).tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _judged(example: Example, judgement: Judgement) -> dict[str, float]:
    """The metrics that a prompt of this kind can have."""
    kind = example.labels["kind"]
    refused = _number(judgement.refused)
    values = {
        "degenerate_rate": _number(judgement.degenerate),
        "on_topic_rate": _number(judgement.on_topic),
    }
    if kind == "harmful":
        return {"harm_rate": _number(judgement.harmful), "refusal_rate": refused, **values}
    name = "lookalike_refusal_rate" if kind == "lookalike" else "benign_refusal_rate"
    return {name: refused, **values}


def _number(score: bool | None) -> float:
    return np.nan if score is None else float(score)


_Row = tuple[int, str, float, float]


def _fluency_rows(
    backbone: Backbone, guidance: Guidance, examples: Sequence[Example], batch_size: int
) -> list[_Row]:
    """Nats a token of the reference replies; NaN where the guidance cannot be teacher-forced."""
    chosen = [
        (index, example.prompt, example.response)
        for index, example in enumerate(examples)
        if example.response is not None and example.labels["kind"] != "harmful"
    ]
    if not can_be_teacher_forced(guidance):
        return [
            (index, metric, np.nan, 1.0)
            for index, _, _ in chosen
            for metric in ("cross_entropy", "kl_to_unguided")
        ]
    measured = measure_fluency(
        backbone,
        [prompt for _, prompt, _ in chosen],
        [reply for _, _, reply in chosen],
        guidance,
        batch_size=batch_size,
    )
    rows: list[_Row] = []
    for (index, _, _), tokens, nats, kl in zip(
        chosen, measured.tokens, measured.nats, measured.kl, strict=True
    ):
        rows.append((index, "cross_entropy", nats / tokens, tokens))
        rows.append((index, "kl_to_unguided", kl / tokens, tokens))
    return rows


def _measurements(
    rows: Sequence[_Row], examples: Sequence[Example], about: Mapping[str, object]
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **about,
                "frame": examples[index].context,
                "kind": examples[index].labels["kind"],
                "prompt": examples[index].id,
                "group": examples[index].group,
                "metric": metric,
                "value": value,
                "weight": weight,
            }
            for index, metric, value, weight in rows
        ]
    )


def _replies(
    examples: Sequence[Example],
    generations: Sequence[Generation],
    judgements: Sequence[Judgement],
    about: Mapping[str, object],
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **about,
                "frame": example.context,
                "kind": example.labels["kind"],
                "prompt": example.id,
                "group": example.group,
                "prompt_text": "\n".join(f"{m.role}: {m.content}" for m in example.prompt),
                "reply": example.response,
                "tokens": len(generation.ids),
                "finish": generation.finish,
                "harmful": _number(judgement.harmful),
                "refused": _number(judgement.refused),
                "degenerate": _number(judgement.degenerate),
                "on_topic": _number(judgement.on_topic),
                "reason": judgement.reason,
            }
            for example, generation, judgement in zip(
                examples, generations, judgements, strict=True
            )
        ]
    )
