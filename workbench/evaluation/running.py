"""A whole evaluation into a run folder, resumable shard by shard.

The folder gets ``metrics.parquet`` (one row a prompt and metric), ``replies.parquet`` (the texts),
``summary.json`` (estimates with intervals) and ``run.json``. A shard, one guidance on one split,
enters the metrics whole or not at all, so an evaluation that was killed goes on with the first
shard that is missing and ends with the same result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.evaluation.benchmark import Benchmark, EvaluationConfig, Shard, evaluate_shard
from workbench.evaluation.summaries import SummaryRow, summarise
from workbench.files import read_parquet, write_parquet
from workbench.guidance.protocol import Guidance
from workbench.guidance.registry import GuidanceSpec
from workbench.runs import METRICS_FILE, RunFolder

RUN_KIND = "evaluate"
REPLIES_FILE = "replies.parquet"
_SHARD = ["guidance", "config", "split"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is evaluated.

    Attributes:
        backbone: The frozen model.
        guidances: How it is steered, by what each is called.
        benchmark: Prompts and judge.
        config: How replies are generated.
        seed: Of the random numbers.
        identities: What besides its name tells a guidance from others, see
            :func:`workbench.guidance.registry.identify_guidance`.
    """

    backbone: Backbone
    guidances: Mapping[GuidanceSpec, Guidance]
    benchmark: Benchmark
    config: EvaluationConfig
    seed: int
    identities: Mapping[GuidanceSpec, Mapping[str, object]] = field(default_factory=dict)

    @property
    def n_prompts(self) -> int:
        """Replies to generate, all guidances together."""
        return len(self.guidances) * sum(len(split.examples) for split in self.benchmark.splits)

    def describe(self) -> dict[str, object]:
        """What a run folder keeps and a resumed run must agree with."""
        content = {"sha256": self.benchmark.sha256} if self.benchmark.sha256 else {}
        return {
            "backbone": self.backbone.name,
            "weights_hash": self.backbone.weights_hash,
            "guidances": {
                str(spec): dict(self.identities.get(spec, {})) for spec in self.guidances
            },
            "benchmark": self.benchmark.name,
            **content,
            "judge": self.benchmark.judge.name,
            "splits": {split.name: len(split.examples) for split in self.benchmark.splits},
            "decoding": to_mapping(self.config),
        }


@dataclass(frozen=True)
class ShardDone:
    """Told after every batch of prompts that is measured now.

    Attributes:
        guidance: The shard's guidance.
        split: The shard's split.
        prompts: How many more prompts are done.
    """

    guidance: str
    split: str
    prompts: int


def run_evaluation(
    evaluation: Evaluation,
    run: RunFolder,
    *,
    on_progress: Callable[[ShardDone], None] = lambda done: None,
    n_resamples: int = 2000,
) -> list[SummaryRow]:
    """Measure every shard that the folder does not have yet, then summarise all.

    Args:
        evaluation: What to evaluate.
        run: A folder made with :meth:`RunFolder.create`; the caller closes it.
        on_progress: Told how far it is.
        n_resamples: Resamples of every interval.

    Returns:
        The rows of ``summary.json``.

    Raises:
        RunError: The folder cannot be written.
    """
    finished = _finished_shards(run)
    _forget_unfinished_replies(run, finished)
    for spec, guidance in evaluation.guidances.items():
        for split in evaluation.benchmark.splits:
            if (spec.family, spec.config, split.name) in finished:
                continue

            def tell(count: int, guided: str = str(spec), name: str = split.name) -> None:
                on_progress(ShardDone(guided, name, count))

            shard = evaluate_shard(
                evaluation.backbone,
                spec,
                guidance,
                split,
                evaluation.benchmark.judge,
                evaluation.config,
                seed=evaluation.seed,
                on_prompts=tell,
            )
            _keep(run, shard)
    rows = summarise(run.read_metrics(), n_resamples=n_resamples)
    run.write_summary(rows)
    return rows


def n_measured(evaluation: Evaluation, run: RunFolder) -> int:
    """How many of the prompts an earlier, interrupted run has measured."""
    finished = _finished_shards(run)
    return sum(
        len(split.examples)
        for spec in evaluation.guidances
        for split in evaluation.benchmark.splits
        if (spec.family, spec.config, split.name) in finished
    )


def _keep(run: RunFolder, shard: Shard) -> None:
    """Replies first: a shard counts as finished once its measurements stand in the folder."""
    path = run.file(REPLIES_FILE)
    known = [read_parquet(path)] if path.exists() else []
    write_parquet(path, pd.concat([*known, shard.replies], ignore_index=True))
    measured = [run.read_metrics()] if run.file(METRICS_FILE).exists() else []
    run.write_metrics(pd.concat([*measured, shard.measurements], ignore_index=True))


def _finished_shards(run: RunFolder) -> set[tuple[str, str, str]]:
    if not run.file(METRICS_FILE).exists():
        return set()
    return set(run.read_metrics()[_SHARD].itertuples(index=False, name=None))


def _forget_unfinished_replies(run: RunFolder, finished: set[tuple[str, str, str]]) -> None:
    path = run.file(REPLIES_FILE)
    if not path.exists():
        return
    replies = read_parquet(path)
    kept = [key in finished for key in replies[_SHARD].itertuples(index=False, name=None)]
    if not all(kept):
        write_parquet(path, replies[kept])
