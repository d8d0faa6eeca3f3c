"""From the kind of a run to its exhibits."""

import difflib
from collections.abc import Callable, Mapping

from workbench.errors import ExportError
from workbench.evaluation.ablations import RUN_KIND as ABLATIONS
from workbench.evaluation.leaderboard.plan import RUN_KIND as BENCHMARK
from workbench.evaluation.running import RUN_KIND as EVALUATE
from workbench.evaluation.value_training import RUN_KIND as TRAIN
from workbench.export.exhibits.ablations import ablation_exhibits
from workbench.export.exhibits.anchoring import anchoring_exhibits
from workbench.export.exhibits.evaluation import evaluation_exhibits
from workbench.export.exhibits.exhibit import Exhibits
from workbench.export.exhibits.fitting import fitting_exhibits
from workbench.export.exhibits.instability import instability_exhibits
from workbench.export.exhibits.judging import judging_exhibits
from workbench.export.exhibits.leaderboard import leaderboard_exhibits
from workbench.export.exhibits.reliability import reliability_exhibits
from workbench.export.exhibits.training import training_exhibits
from workbench.export.probe_runs import run_kind
from workbench.runs import RunFolder

FIT = "fit"
JUDGE = "judge"
KINDS: Mapping[str, Callable[[RunFolder], Exhibits]] = {
    EVALUATE: evaluation_exhibits,
    BENCHMARK: leaderboard_exhibits,
    ABLATIONS: ablation_exhibits,
    TRAIN: training_exhibits,
    FIT: fitting_exhibits,
    JUDGE: judging_exhibits,
    run_kind("instability"): instability_exhibits,
    run_kind("anchoring"): anchoring_exhibits,
    run_kind("reliability"): reliability_exhibits,
}
"""What ``run.json`` calls a run, to what makes its exhibits."""


def exhibits_of(run: RunFolder) -> Exhibits:
    """Tables and figures of a run; of an unfinished one, of what it has so far.

    Raises:
        ExportError: A kind of run without exhibits.
        RunError: A file of the run is missing or damaged.
    """
    kind = run.record.kind
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f" (nearest: {close[0]})" if close else ""
        raise ExportError(
            f"{run.path} holds a run of kind '{kind}', which has no tables or figures{hint}; "
            f"those that have: {', '.join(KINDS)}"
        )
    exhibits = KINDS[kind](run)
    return exhibits if run.record.status == "finished" else exhibits.unfinished()
