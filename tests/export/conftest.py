"""Small finished runs of every kind, made by hand, so that every exported number is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probes.records import Record
from workbench.evaluation.leaderboard.comparing import COLUMNS as COMPARED
from workbench.evaluation.leaderboard.scoring import COLUMNS as SCORED
from workbench.export.probe_runs import run_kind, save_probe
from workbench.files import write_parquet
from workbench.runs import RunFolder

MakeRun = Callable[..., Path]


def evaluation_rows() -> list[dict[str, Any]]:
    rows = []
    for guidance, shares in {"none": (0.6, 0.5, 0.7), "svgt": (0.1, 0.05, 0.2)}.items():
        for frame in ("all", "direct", "fiction"):
            estimate, low, high = shares
            rows.append(
                {
                    "backbone": "tiny", "guidance": guidance,
                    "config": "" if guidance == "none" else "workbench", "split": "heldout_intents",
                    "frame": frame, "metric": "harm_rate", "estimate": estimate, "low": low,
                    "high": high, "n": 40, "seed": 0,
                }
            )  # fmt: skip
    return rows


def leaderboard_frame() -> pd.DataFrame:
    numbers = {
        "none": {"harm_rate": (0.8, 0.7, 0.9)},
        "caa": {
            "harm_rate": (0.4, 0.3, 0.52), "harm_reduction": (0.5, 0.4, 0.6),
            "cross_entropy_increase": (0.02, 0.01, 0.03), "latency_ratio": (1.1, 1.0, 1.2),
        },
        "svgt": {
            "harm_rate": (0.1, 0.05, 0.15), "harm_reduction": (0.875, 0.8, 0.95),
            "cross_entropy_increase": (0.005, 0.0, 0.01), "latency_ratio": (1.3, 1.2, 1.4),
        },
    }  # fmt: skip
    rows = [
        {
            "method": method, "backbone": "tiny", "guidance": method, "config": "", "split": "all",
            "frame": frame, "metric": metric, "estimate": estimate, "low": low, "high": high,
            "n": 100, "seed": None,
        }
        for method, metrics in numbers.items()
        for metric, (estimate, low, high) in metrics.items()
        for frame in ("all", "fiction")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCORED)).astype({"n": "Int64", "seed": "Int64"})


def comparisons_frame() -> pd.DataFrame:
    row = {
        "backbone": "tiny", "method": "caa", "reference": "svgt", "split": "all",
        "metric": "harm_rate", "difference": 0.3, "low": 0.2, "high": 0.4, "n": 100,
        "n_groups": 20, "p_value": 0.0005, "p_holm": 0.004, "test": "paired permutation",
    }  # fmt: skip
    return pd.DataFrame([row], columns=list(COMPARED))


def instability_records() -> list[Record]:
    def record(metric: str, **more: Any) -> Record:  # noqa: ANN401
        return Record(
            "instability", "tiny", metric, **{
                "contrast": "prompt", "site": "prompt_last", "estimator": "mean_difference",
                "n": 12, "ci_method": "cluster bootstrap", **more,
            },
        )  # fmt: skip

    contexts = ("direct", "fiction")
    return [
        *(
            record("instability_index", layer=layer, estimate=e, low=e - 0.05, high=e + 0.05)
            for layer, e in enumerate((0.1, 0.25, 0.5))
        ),
        *(record("reliability", layer=2, context_a=c, estimate=0.9) for c in contexts),
        record("cosine_corrected", layer=2, context_a="direct", context_b="fiction", estimate=0.4),
        *(
            record("transfer_auroc", layer=2, context_a=a, context_b=b, estimate=e)
            for (a, b), e in zip(
                [(a, b) for a in contexts for b in contexts], (0.9, 0.7, 0.6, 0.8), strict=True
            )
        ),
        *(
            record(
                "instability_difference", site=site, layer=2, estimate=0.3, low=0.2, high=0.4,
                p_value=p, ci_method="cluster bootstrap; sign flips",
            )
            for site, p in (("z:mine", 0.004), ("bridge:mine", 0.03))
        ),
    ]  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run folder of a kind, finished unless told otherwise."""

    def make(kind: str, name: str = "run", *, finished: bool = True) -> Path:
        path = tmp_path / name
        run = RunFolder.create(path, kind=kind, config={"backbone": "tiny", "n": 3}, seed=0)
        _FILL[kind](run)
        if finished:
            run.finish()
        run.close()
        return path

    return make


def _fill_benchmark(run: RunFolder) -> None:
    write_parquet(run.file("leaderboard.parquet"), leaderboard_frame())
    write_parquet(run.file("comparisons.parquet"), comparisons_frame())
    run.write_summary([])


_FILL: dict[str, Callable[[RunFolder], None]] = {
    "evaluate": lambda run: run.write_summary(evaluation_rows()),
    "benchmark": _fill_benchmark,
    run_kind("instability"): lambda run: save_probe(run, instability_records()),
    "empty": lambda run: None,
}
