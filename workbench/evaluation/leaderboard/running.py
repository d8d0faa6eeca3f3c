"""A whole leaderboard into a run folder, resumable shard by shard.

    fitted/METHOD/SEED/      methods fitted for this run
    shards/METHOD/SEED/      one file a shard, see :mod:`workbench.evaluation.leaderboard.storage`
    costs.parquet            latency and memory ratios
    metrics.parquet          all measurements, replies.parquet all texts
    leaderboard.parquet      estimates with intervals
    comparisons.parquet      every method against SVGT
    summary.json             ``rows`` (the leaderboard), ``comparisons``, ``costs``,
                             ``contamination`` (training prompts among the test's), ``notes``

Only this process writes into the folder, except for fitted methods, which the worker that fitted
them writes whole. Tables are made from the shards in the plan's order, so they do not depend on who
measured what when.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.config import to_mapping
from workbench.data.example import Conversation
from workbench.evaluation.benchmark import Shard
from workbench.evaluation.leaderboard.comparing import compare
from workbench.evaluation.leaderboard.costs import COLUMNS as COST_COLUMNS
from workbench.evaluation.leaderboard.costs import CostConfig, measure_costs
from workbench.evaluation.leaderboard.engines import Engine
from workbench.evaluation.leaderboard.leakage import Leakage, check_leakage
from workbench.evaluation.leaderboard.plan import Entrant, Plan, ShardKey
from workbench.evaluation.leaderboard.scoring import (
    ALL_SPLITS,
    leaderboard_rows,
    rows_frame,
    with_derived,
)
from workbench.evaluation.leaderboard.storage import ShardStore
from workbench.evaluation.leaderboard.work import (
    FitJob,
    ShardJob,
    fit_entrant,
    measure_shard,
    prompts_of,
    shared_backbone,
    use_one_thread,
)
from workbench.evaluation.summaries import ALL_FRAMES, SummaryRow
from workbench.files import read_parquet, write_json, write_parquet
from workbench.guidance.artifact import ARTIFACT_FILE
from workbench.guidance.registry import load_guidance
from workbench.runs import SUMMARY_FILE, RunFolder

SHARDS_FOLDER = "shards"
REPLIES_FILE = "replies.parquet"
COSTS_FILE = "costs.parquet"
LEADERBOARD_FILE = "leaderboard.parquet"
COMPARISONS_FILE = "comparisons.parquet"
_USUAL_COSTS = CostConfig()


@dataclass(frozen=True)
class Progress:
    """One step that is done.

    Attributes:
        phase: ``fit``, ``measure`` or ``costs``.
        what: Of which method.
        done, total: Steps of this phase.
    """

    phase: str
    what: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def run_leaderboard(
    plan: Plan,
    run: RunFolder,
    engine: Engine,
    *,
    costs: CostConfig | None = _USUAL_COSTS,
    on_progress: OnProgress = lambda progress: None,
    n_resamples: int = 2000,
) -> list[SummaryRow]:
    """Fit, measure and score whatever the folder does not have yet.

    Args:
        plan: What to measure.
        run: A folder made with :meth:`RunFolder.create`; the caller closes it.
        engine: Who works.
        costs: How costs are measured; None leaves them out, unless the folder has them.
        on_progress: Told after every step.
        n_resamples: Resamples of every interval.

    Returns:
        The rows of ``leaderboard.parquet``.

    Raises:
        DataError: A test prompt stands among what a method learned from.
        WorkbenchError: A method cannot be fitted, or the folder cannot be written.
    """
    leakage = check_leakage(plan)
    with engine:
        _fit(plan, engine, on_progress)
        measured = _measure(plan, run, engine, on_progress)
    cost_table = _costs(plan, run, costs, on_progress)
    run.write_metrics(measured.measurements)
    write_parquet(run.file(REPLIES_FILE), measured.replies)
    return _score(plan, run, measured, cost_table, leakage, n_resamples)


def _fit(plan: Plan, engine: Engine, on_progress: OnProgress) -> None:
    wanted = [entrant for entrant in plan.entrants if entrant.fit is not None]
    open_jobs = [
        FitJob(plan.backbone, entrant, plan.data)
        for entrant in wanted
        if not (Path(entrant.source) / ARTIFACT_FILE).is_file()
    ]
    done = len(wanted) - len(open_jobs)
    for job, _ in engine.run(fit_entrant, open_jobs):
        done += 1
        on_progress(Progress("fit", _called(job.entrant), done, len(wanted)))


def _measure(plan: Plan, run: RunFolder, engine: Engine, on_progress: OnProgress) -> Shard:
    store = ShardStore(run.file(SHARDS_FOLDER))
    keys = [key for key, _ in plan.shards()]
    jobs = [_job(plan, key, entrant) for key, entrant in plan.shards() if not store.has(key)]
    done = len(keys) - len(jobs)
    on_progress(Progress("measure", "", done, len(keys)))
    for job, shard in engine.run(measure_shard, jobs):
        store.keep(ShardKey(job.entrant.method, job.entrant.seed, job.split), shard)
        done += 1
        on_progress(Progress("measure", f"{_called(job.entrant)} on {job.split}", done, len(keys)))
    return store.read(keys)


def _job(plan: Plan, key: ShardKey, entrant: Entrant) -> ShardJob:
    prompts = plan.prompts
    return ShardJob(
        plan.backbone, entrant, key.split, prompts.n_per_kind, prompts.seed, plan.decoding
    )


def _called(entrant: Entrant) -> str:
    return f"{entrant.method}, seed {entrant.seed}"


def _costs(
    plan: Plan, run: RunFolder, config: CostConfig | None, on_progress: OnProgress
) -> pd.DataFrame:
    """Costs of every method at its first seed, measured in this process; or an empty table.

    Ratios belong to one measurement: where a method has joined, all are measured anew.
    """
    path = run.file(COSTS_FILE)
    if path.exists():
        known = read_parquet(path)
        if set(known["method"]) == set(plan.methods):
            return known
        path.unlink()
    if config is None:
        return pd.DataFrame(columns=list(COST_COLUMNS))
    use_one_thread()
    backbone = shared_backbone(plan.backbone)
    first = {entrant.method: entrant for entrant in reversed(plan.entrants)}
    total, done = config.rounds + 1 + config.memory_rounds, 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(Progress("costs", "latency and memory", done, total))

    table = measure_costs(
        backbone,
        {name: load_guidance(first[name].loaded_as, backbone) for name in plan.methods},
        _harmless_prompts(plan),
        config,
        on_round=count,
    )
    write_parquet(path, table)
    return table


def _harmless_prompts(plan: Plan) -> list[Conversation]:
    """Prompts whose replies are long in any case."""
    prompts = plan.prompts
    split = prompts_of(prompts.splits[0], prompts.n_per_kind, prompts.seed).splits[0]
    return [e.prompt for e in split.examples if e.labels["kind"] == "benign"]


def _score(
    plan: Plan,
    run: RunFolder,
    measured: Shard,
    costs: pd.DataFrame,
    leakage: Leakage,
    n_resamples: int,
) -> list[SummaryRow]:
    derived = with_derived(measured.measurements, leakage.near)
    rows = leaderboard_rows(
        derived, measured.replies, plan.methods, leakage.near, n_resamples=n_resamples
    )
    rows += cost_rows(rows, costs)
    comparisons = compare(derived, plan.methods, n_resamples=n_resamples)
    write_parquet(run.file(LEADERBOARD_FILE), rows_frame(rows))
    write_parquet(run.file(COMPARISONS_FILE), comparisons)
    write_json(
        run.file(SUMMARY_FILE),
        {
            "rows": rows,
            "comparisons": comparisons.to_dict("records"),
            "costs": costs.to_dict("records"),
            "contamination": to_mapping(leakage),
            "notes": [*plan.notes, leakage.note(), *_notes(run, costs)],
        },
    )
    return rows


def _notes(run: RunFolder, costs: pd.DataFrame) -> Iterator[str]:
    """What a reader must know of how it was measured."""
    if costs.empty:
        yield (
            "latency and memory were not measured; the same command with --resume --costs adds them"
        )
    if len(run.record.devices) > 1:
        yield f"worked on by several devices, in this order: {', then '.join(run.record.devices)}"


def cost_rows(rows: Sequence[SummaryRow], costs: pd.DataFrame) -> list[SummaryRow]:
    """The ratios as rows of the leaderboard: pooled, over all splits."""
    about = {str(row["method"]): row for row in reversed(rows)}
    return [
        {
            **about[str(cost["method"])],
            "split": ALL_SPLITS,
            "frame": ALL_FRAMES,
            "seed": None,
            **{key: cost[key] for key in ("metric", "estimate", "low", "high")},
            "n": int(cost["n"]),
        }
        for cost in costs.to_dict("records")
    ]
