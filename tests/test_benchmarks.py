"""The report of the embedded benchmark pools seeds without mixing anything up."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def embedded() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "embedded_benchmark_script", ROOT / "benchmarks" / "embedded.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _row(guidance: str, config: str, prompt: str, value: float) -> dict[str, object]:
    return {
        "backbone": "b",
        "guidance": guidance,
        "config": config,
        "split": "heldout_intents",
        "seed": 0,
        "frame": "direct",
        "kind": "harmful",
        "prompt": prompt,
        "group": f"group of {prompt}",
        "metric": "harm_rate",
        "value": value,
        "weight": 1.0,
    }


def test_seeds_are_pooled_beside_as_many_copies_of_no_guidance(embedded: ModuleType) -> None:
    prompts = [f"p{i}" for i in range(8)]
    rows = [_row("none", "", prompt, 1.0) for prompt in prompts]
    rows += [_row("svgt", "runs/b/workbench/0", prompt, 0.0) for prompt in prompts]
    rows += [_row("svgt", "runs/b/workbench/1", p, float(p in prompts[:4])) for p in prompts]
    rows += [_row("svgt", "runs/b/paper/0", prompt, 1.0) for prompt in prompts]
    pooled = embedded.pool_seeds(pd.DataFrame(rows))
    summary = pd.DataFrame(embedded.summarise(pooled, n_resamples=200))
    summary = summary[summary["frame"] == "all"].set_index(["config", "metric"])
    assert summary.loc[("workbench", "harm_rate"), "estimate"] == pytest.approx(0.25)
    assert summary.loc[("workbench", "harm_rate"), "n"] == 16
    assert summary.loc[("workbench", "harm_reduction"), "estimate"] == pytest.approx(0.75)
    assert summary.loc[("paper", "harm_rate"), "n"] == 8
    assert summary.loc[("paper", "harm_reduction"), "estimate"] == pytest.approx(0.0)
