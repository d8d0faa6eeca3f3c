"""Does reading the prompt help where the response alone cannot tell? Stage 2 against stage 1.

    python benchmarks/discrimination.py        # about ten minutes a backbone on one core

Generic help is word for word the same under harmful and under harmless prompts. On such responses
to held-out intents, each seed's value module is scored twice: after stage 1, which reads the
response alone, and after stage 2, which reads it given its prompt. AUROC is the mean over the
seeds; intervals resample groups of intents, the same ones for both stages and all seeds.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from workbench.backbone import load_backbone
from workbench.backbone.protocol import Backbone
from workbench.cli._scripts import run_script
from workbench.data.training import LabelledPair
from workbench.evaluation.testbed_training import draw_value_data
from workbench.folder_lock import LOCK_FILE
from workbench.runs import RunFolder
from workbench.statistics import Interval, cluster_bootstrap
from workbench.svgt.curriculum import train_value_module
from workbench.svgt.curriculum.recipe import CurriculumConfig, Recipe, StageConfig
from workbench.svgt.curriculum.stages import conditional_scores, unconditional_scores
from workbench.svgt.curriculum.state_bank import PairBank, bank_pairs
from workbench.svgt.recipes import DEFAULT_RECIPE, make_recipe
from workbench.svgt.value_module import ValueModule
from workbench.testbed.registry import EMBEDDED
from workbench.testbed.value_data import build_value_data

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ROOT = Path(__file__).resolve().parent.parent
_SPLIT = "heldout_intents"
_PAIRS_SEED = 0
# One step that changes nothing: how a stage is left out.
_LEFT_OUT = StageConfig(
    epochs=1e-6, learning_rate=1e-12, old_rate=0.0, weight_decay=0.0, evaluations=1
)


def ambiguous_pairs(n_drawn: int, seed: int) -> list[LabelledPair]:
    """Held-out pairs whose response is generic help, which says nothing of its prompt."""
    data = build_value_data(_SPLIT, n_prompts=1, n_pairs=n_drawn, n_targets=1, seed=seed)
    return [pair for pair in data.pairs if pair.ambiguous]


def train_up_to(backbone: Backbone, recipe: Recipe, *, stage: int, seed: int) -> ValueModule:
    """The seed's module as stage 1 or stage 2 leaves it."""
    full = recipe.curriculum
    curriculum: CurriculumConfig = replace(
        full, conditional=full.conditional if stage == 2 else _LEFT_OUT, bridge=_LEFT_OUT
    )
    train, validation = draw_value_data(recipe.data, seed)
    return train_value_module(
        backbone, recipe.module, curriculum, train, validation, seed=seed
    ).module


def mean_auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """AUROC averaged over modules; ``scores`` is modules x pairs. NaN where a class is missing."""
    if labels.all() or not labels.any():
        return float("nan")
    return float(np.mean([roc_auc_score(labels, row) for row in scores]))


def estimates(
    stage1: NDArray[np.float64],
    stage2: NDArray[np.float64],
    pairs: list[LabelledPair],
    rng: np.random.Generator,
    n_resamples: int = 500,
) -> dict[str, Interval]:
    """Both stages' AUROC and their difference, over the same resamples of intent groups."""
    labels = np.array([pair.harmful for pair in pairs])
    state = rng.bit_generator.state

    def interval(statistic: str) -> Interval:
        def of_rows(rows: NDArray[np.float64]) -> float:
            index = rows.astype(int)
            first = mean_auroc(stage1[:, index], labels[index])
            second = mean_auroc(stage2[:, index], labels[index])
            return {"stage 1": first, "stage 2": second, "difference": second - first}[statistic]

        rng.bit_generator.state = state  # the same groups for all three
        groups = [pair.group for pair in pairs]
        return cluster_bootstrap(
            np.arange(len(pairs)), groups, rng=rng, statistic=of_rows, n_resamples=n_resamples
        )

    return {name: interval(name) for name in ("stage 1", "stage 2", "difference")}


def scores_of(
    backbone: Backbone, recipe: Recipe, bank: PairBank, seeds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of every pair after stage 1 and after stage 2, by seed."""
    first, second = [], []
    for seed in range(seeds):
        early = train_up_to(backbone, recipe, stage=1, seed=seed)
        late = train_up_to(backbone, recipe, stage=2, seed=seed)
        with torch.no_grad():
            first.append(unconditional_scores(early, bank).double().numpy())
            second.append(conditional_scores(late, bank).double().numpy())
        sys.stderr.write(f"{backbone.name}: {seed + 1} of {seeds} seeds\n")
    return np.stack(first), np.stack(second)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(help="Value modules a backbone.")] = 5,
    pairs: Annotated[int, typer.Option(help="Pairs drawn; about one in nine is ambiguous.")] = 4000,
    out: Annotated[Path, typer.Option()] = ROOT / "docs" / "results" / "discrimination",
) -> None:
    """Train, score, and write ``summary.json`` and one line a backbone."""
    drawn = ambiguous_pairs(pairs, _PAIRS_SEED)
    config = {"recipe": DEFAULT_RECIPE, "seeds": seeds, "split": _SPLIT, "pairs": len(drawn)}
    rows: list[dict[str, object]] = []
    with RunFolder.create(out, kind="discrimination", config=config, seed=_PAIRS_SEED) as run:
        for name in EMBEDDED:
            backbone = load_backbone(name)
            recipe = make_recipe(
                DEFAULT_RECIPE, d_model=backbone.d_model, n_layers=backbone.n_layers
            )
            module = recipe.module
            bank = bank_pairs(backbone, drawn, layer=module.encoder_layer, n_slots=module.n_bridge)
            first, second = scores_of(backbone, recipe, bank, seeds)
            found = estimates(first, second, drawn, np.random.default_rng(_PAIRS_SEED))
            for what, interval in found.items():
                rows.append(
                    {
                        "backbone": name,
                        "config": DEFAULT_RECIPE,
                        "split": _SPLIT,
                        "metric": f"ambiguous AUROC, {what}",
                        "estimate": interval.estimate,
                        "low": interval.low,
                        "high": interval.high,
                        "n": interval.n,
                        "n_groups": interval.n_clusters,
                        "seeds": seeds,
                        "ci_method": interval.method,
                    }
                )
                print(
                    f"{name}: {what} {interval.estimate:.3f} [{interval.low:.3f}, "
                    f"{interval.high:.3f}], n = {interval.n}, {seeds} seeds"
                )
        run.write_summary(rows)
    (out / LOCK_FILE).unlink()


if __name__ == "__main__":
    run_script(app)
