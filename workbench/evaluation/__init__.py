"""Scoring what a guided or plain model says: judges, fluency, benchmarks and their summaries."""

from workbench.evaluation.benchmark import (
    Benchmark,
    BenchmarkSplit,
    EvaluationConfig,
    Shard,
    evaluate_shard,
)
from workbench.evaluation.fluency import Fluency, measure_fluency
from workbench.evaluation.judges import (
    Judge,
    Judgement,
    OracleJudge,
    RefusalPrefixJudge,
)
from workbench.evaluation.running import Evaluation, ShardDone, run_evaluation
from workbench.evaluation.summaries import METRICS, summarise
from workbench.evaluation.testbed_benchmark import embedded_benchmark

__all__ = [
    "METRICS",
    "Benchmark",
    "BenchmarkSplit",
    "Evaluation",
    "EvaluationConfig",
    "Fluency",
    "Judge",
    "Judgement",
    "OracleJudge",
    "RefusalPrefixJudge",
    "Shard",
    "ShardDone",
    "embedded_benchmark",
    "evaluate_shard",
    "measure_fluency",
    "run_evaluation",
    "summarise",
]
