"""Does reading the prompt help where the response alone cannot tell?

    python benchmarks/discrimination.py        # some minutes on one core; docs/lab-notes.md

Generic help is word for word the same under harmful and under harmless prompts. On such responses
to held-out intents every trained value module is scored twice: with the pathway of stage 1, which
reads the states of the response alone, and with that of stage 2, which reads them given the
prompt's. AUROC is the mean over a configuration's seeds; intervals resample groups of intents, the
same ones for both pathways, and count other seeds in.

Modules are those of ``benchmarks/embedded.py train``; the package ships seed 0 of each.
"""

import shutil
import sys
from collections.abc import Sequence
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
from workbench.export.markdown import fill_section
from workbench.folder_lock import LOCK_FILE
from workbench.guidance.registry import find_value_module
from workbench.runs import RunFolder
from workbench.statistics import Interval, cluster_bootstrap, over_seeds
from workbench.svgt.checkpoint import RECORD_FILE, load_value_module
from workbench.svgt.curriculum.stages import conditional_scores, unconditional_scores
from workbench.svgt.curriculum.state_bank import PairBank, bank_pairs
from workbench.svgt.recipes import RECIPES
from workbench.svgt.value_module import ValueModule
from workbench.testbed.registry import EMBEDDED
from workbench.testbed.value_data import build_value_data

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
ALONE, GIVEN_PROMPT, DIFFERENCE = "response alone", "given its prompt", "difference"
Scores = NDArray[np.float64]
_SPLIT = "heldout_intents"
_PAIRS_SEED = 0


def ambiguous_pairs(n_drawn: int, seed: int) -> list[LabelledPair]:
    """Held-out pairs whose response is generic help, which says nothing of its prompt."""
    data = build_value_data(_SPLIT, n_prompts=1, n_pairs=n_drawn, n_targets=1, seed=seed)
    return [pair for pair in data.pairs if pair.ambiguous]


def modules_of(backbone: Backbone, config: str, modules: Path, seeds: int) -> list[ValueModule]:
    """The trained modules of a configuration: seed 0 as it ships, the others where they are."""
    trained = [modules / backbone.name / config / str(seed) for seed in range(1, seeds)]
    folders = [find_value_module(config, backbone), *trained]
    return [
        load_value_module(folder, backbone)
        for folder in folders
        if (folder / RECORD_FILE).is_file()
    ]


@torch.no_grad()
def scores_of(modules: Sequence[ValueModule], bank: PairBank) -> tuple[Scores, Scores]:
    """Scores of every pair by either pathway, modules x pairs."""
    alone = [unconditional_scores(module, bank).double().numpy() for module in modules]
    given = [conditional_scores(module, bank).double().numpy() for module in modules]
    return np.stack(alone), np.stack(given)


def aurocs(scores: Scores, labels: NDArray[np.bool_]) -> Scores:
    """AUROC of each module; NaN where a class is missing."""
    if labels.all() or not labels.any():
        return np.full(len(scores), np.nan)
    return np.array([roc_auc_score(labels, row) for row in scores])


def estimates(
    alone: Scores,
    given: Scores,
    pairs: Sequence[LabelledPair],
    rng: np.random.Generator,
    n_resamples: int = 500,
) -> dict[str, Interval]:
    """Mean AUROC of both pathways and their difference, over the same resamples of groups."""
    labels = np.array([pair.harmful for pair in pairs])
    groups = [pair.group for pair in pairs]
    state = rng.bit_generator.state

    def of_pairs(name: str, index: NDArray[np.intp]) -> Scores:
        first = aurocs(alone[:, index], labels[index])
        second = aurocs(given[:, index], labels[index])
        return {ALONE: first, GIVEN_PROMPT: second, DIFFERENCE: second - first}[name]

    def interval(name: str) -> Interval:
        rng.bit_generator.state = state  # the same groups for all three
        everything = np.arange(len(pairs))
        pooled = cluster_bootstrap(
            everything,
            groups,
            rng=rng,
            statistic=lambda rows: float(of_pairs(name, rows.astype(int)).mean()),
            n_resamples=n_resamples,
        )
        lower = -1.0 if name == DIFFERENCE else 0.0
        return over_seeds(pooled, of_pairs(name, everything), lower=lower, upper=1.0)

    return {name: interval(name) for name in (ALONE, GIVEN_PROMPT, DIFFERENCE)}


def row_of(
    backbone: str, config: str, what: str, interval: Interval, seeds: int
) -> dict[str, object]:
    """An interval as ``summary.json`` keeps it."""
    return {
        "backbone": backbone, "config": config, "split": _SPLIT,
        "metric": f"ambiguous AUROC, {what}", "estimate": interval.estimate, "low": interval.low,
        "high": interval.high, "n": interval.n, "n_groups": interval.n_clusters, "seeds": seeds,
        "ci_method": interval.method,
    }  # fmt: skip


def measure(
    backbone: Backbone, pairs: Sequence[LabelledPair], modules: Path, seeds: int
) -> list[dict[str, object]]:
    """All configurations on one backbone, which reads the pairs once for each layer and K."""
    banks: dict[tuple[int, int], PairBank] = {}
    rows: list[dict[str, object]] = []
    for config in RECIPES:
        found = modules_of(backbone, config, modules, seeds)
        layer, n_slots = found[0].config.encoder_layer, found[0].config.n_bridge
        if (layer, n_slots) not in banks:
            banks[layer, n_slots] = bank_pairs(backbone, pairs, layer=layer, n_slots=n_slots)
        scores = scores_of(found, banks[layer, n_slots])
        intervals = estimates(*scores, pairs, np.random.default_rng(_PAIRS_SEED))
        rows += [
            row_of(backbone.name, config, what, each, len(found))
            for what, each in intervals.items()
        ]
        sys.stderr.write(f"{backbone.name}: {config}, {len(found)} modules\n")
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    """One line a backbone and configuration."""
    lines = [
        f"| backbone | configuration | {ALONE} | {GIVEN_PROMPT} | {DIFFERENCE} | pairs | modules |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for alone, given, difference in zip(*(iter(rows),) * 3, strict=True):
        cells = [
            f"{row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            for row in (alone, given, difference)
        ]
        lines.append(
            f"| {alone['backbone']} | `{alone['config']}` | {' | '.join(cells)} "
            f"| {alone['n']} | {alone['seeds']} |"
        )
    return "\n".join(lines)


@app.command()
def main(
    modules: Annotated[Path, typer.Option(help="As benchmarks/embedded.py trains them.")] = Path(
        "runs/embedded/train"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Most modules of a configuration.")] = 5,
    pairs: Annotated[int, typer.Option(min=1, help="Drawn; one in seven is ambiguous.")] = 4000,
    docs: Annotated[Path, typer.Option(help="Folder of the page and its results.")] = ROOT / "docs",
) -> None:
    """Score, write docs/results/discrimination, and fill the table of the lab notes."""
    drawn = ambiguous_pairs(pairs, _PAIRS_SEED)
    rows = [row for name in EMBEDDED for row in measure(load_backbone(name), drawn, modules, seeds)]
    out = docs / "results" / "discrimination"
    shutil.rmtree(out, ignore_errors=True)
    config = {"seeds": seeds, "split": _SPLIT, "pairs": len(drawn)}
    with RunFolder.create(out, kind="discrimination", config=config, seed=_PAIRS_SEED) as run:
        run.write_summary(rows)
    (out / LOCK_FILE).unlink()
    fill_section(docs / "lab-notes.md", "discrimination", table(rows))


if __name__ == "__main__":
    run_script(app)
