"""Ablations: what is varied, what is reused, and whether a planted difference is found."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.progress import Progress
from scripts import load_script
from torch import Tensor, nn

from workbench.backbone.protocol import Backbone
from workbench.cli._ablating import _Board, print_records
from workbench.cli.main import run as run_command
from workbench.config import to_mapping
from workbench.errors import ConfigError, DataError, RunError
from workbench.evaluation import EvaluationConfig, embedded_benchmark, testbed_training
from workbench.evaluation.ablations import (
    ALL_SEEDS,
    CATALOGUE,
    RECORDS_FILE,
    RUN_KIND,
    AblationPlan,
    AblationRecord,
    Compared,
    Comparison,
    Dependence,
    Variant,
    bridge_dependence,
    compare,
    find_ablation,
    grows_into,
    records_frame,
    remaining,
    run_ablations,
)
from workbench.evaluation.ablations import running as running_module
from workbench.evaluation.ablations import subjects as subjects_module
from workbench.evaluation.ablations.catalogue import REFERENCE, changed, changes_stage_3_only
from workbench.evaluation.ablations.comparing import UNGUIDED
from workbench.evaluation.ablations.running import OnSubject
from workbench.evaluation.ablations.subjects import (
    ExchangedBridge,
    ModuleStore,
    Subject,
    build_guidance,
    reconfigured,
)
from workbench.evaluation.testbed_training import TestbedData
from workbench.evaluation.value_training import response_sampler, train_into_folder
from workbench.export.ablation_figures import curve_figure, difference_figure
from workbench.export.ablation_tables import (
    best_on_validation,
    comparisons_in,
    latex,
    markdown_table,
    read_records,
    table_rows,
)
from workbench.files import read_json, write_json, write_parquet
from workbench.guidance.decoding import generate
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RunFolder
from workbench.statistics import holm
from workbench.svgt import (
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    ValueModule,
    load_value_module,
)
from workbench.svgt.curriculum import CurriculumConfig, DataConfig, Recipe, StageConfig
from workbench.svgt.objectives import SafetyConfig
from workbench.svgt.recipes import make_recipe

if TYPE_CHECKING:
    from conftest import TinyModel

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE = StageConfig(batch_size=4, epochs=1.0, learning_rate=3e-3, evaluations=1)
TINY = Recipe(
    SVGTConfig(
        name="mine",
        d_model=32,
        layer=1,
        n_bridge=2,
        d_value=8,
        encoder=EncoderConfig(n_heads=2, n_layers=1),
        trigger=TriggerConfig(kind="windowed", width=8, n_heads=2),
        correction=CorrectionConfig(max_norm=3.0),
        bridge=BridgeConfig(n_heads=4),
    ),
    CurriculumConfig(STAGE, STAGE, STAGE, trigger_weight=1.0),
    DataConfig(n_prompts=16, n_pairs=8, n_targets=8, n_validation=4),
)
SHORT = EvaluationConfig(max_new_tokens=4)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def _short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed_training, "_HARM_PROMPTS_PER_SPLIT", 1)
    monkeypatch.setattr(testbed_training, "_NEW_TOKENS", 3)


# ---------------------------------------------------------------------------------- the catalogue

PLACES = [(name, reference) for name, a in CATALOGUE.items() for reference in a.references]


@pytest.mark.parametrize(("name", "reference"), PLACES)
@pytest.mark.parametrize("n_layers", [6, 12])
def test_every_variant_is_valid_and_differs_from_its_reference(
    name: str, reference: str, n_layers: int
) -> None:
    recipe = make_recipe(reference, d_model=96, n_layers=n_layers)
    first, *variants = CATALOGUE[name].variants(recipe, n_layers)
    assert first == Variant("reference", first.text, x=first.x)
    assert variants
    assert len({v.name for v in variants}) == len({v.text for v in variants}) == len(variants)
    assert not {v.name for v in variants} & {UNGUIDED, REFERENCE}
    for variant in variants:
        trained = changed(recipe, variant.trained)
        used = changed(recipe.module, variant.used)
        trained.module.validate_for(n_layers=n_layers, d_model=96, backbone="a backbone")
        differing = [
            trained != recipe,
            used != recipe.module,
            variant.decoding != first.decoding,
            variant.exchange != "none",
        ]
        assert sum(differing) == 1, variant.name


REUSED = {
    "correction": {"zero"},
    "conditioning": {"mean-state"},
    "losses": {"no-safety", "no-norm", "no-ce"},
    "safety": {"on-policy", "contrastive"},
    "generator": {"mlp", "offset"},
    "gate": {"threshold"},
    "stages": {"no-stage-3"},
}
"""Of ``paper-fixed``: it has an always open gate and the attention generator."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_only_what_concerns_stage_3_alone_takes_stages_1_and_2_over(name: str) -> None:
    recipe = make_recipe("paper-fixed", d_model=96, n_layers=6)
    variants = [v for v in CATALOGUE[name].variants(recipe, 6) if v.trained]
    found = {v.name for v in variants if changes_stage_3_only(changed(recipe, v.trained), recipe)}
    assert found == REUSED.get(name, set())


def test_moving_the_bridge_moves_all_that_hangs_on_it() -> None:
    paper = make_recipe("paper-fixed", d_model=96, n_layers=6)
    read = make_recipe("workbench", d_model=96, n_layers=6)
    for recipe in (paper, read):
        _, *variants = CATALOGUE["L"].variants(recipe, 6)
        for variant in variants:
            module = changed(recipe, variant.trained).module
            assert module.layer == variant.x
            assert module.layer - recipe.module.layer == (
                module.response_layer - recipe.module.response_layer
            ) == module.encoder_layer - recipe.module.encoder_layer  # fmt: skip
            if recipe is read:
                assert module.trigger_layers == (-1, *range(module.layer + 1))
        assert [v.x for v in variants] == [0, 1, 2, 4]


def test_a_safety_term_without_weight_has_nothing_to_vary() -> None:
    recipe = make_recipe("workbench", d_model=96, n_layers=6)
    with pytest.raises(ConfigError, match="workbench gives its safety term no weight"):
        CATALOGUE["safety"].variants(recipe, 6)


def test_names_are_found_in_any_case_and_strangers_are_told_the_names() -> None:
    assert find_ablation("k") is find_ablation("K") is CATALOGUE["K"]
    with pytest.raises(ConfigError, match="did you mean 'gate'"):
        find_ablation("gates")


# -------------------------------------------------------------------- from variants to guidance


@pytest.fixture
def read_by_hand(make_module: Callable[..., ValueModule]) -> Callable[[ValueModule], Any]:
    """What a module writes for eight random prompts."""
    generator = torch.Generator().manual_seed(0)
    states = {1: torch.randn(8, 5, 32, generator=generator)}
    mask = torch.ones(8, 5, dtype=torch.bool)
    return lambda module: module.write_bridge(states, mask)


def test_a_correction_zeroed_in_use_leaves_score_and_gate(
    make_module: Callable[..., ValueModule], read_by_hand: Callable[[ValueModule], Any]
) -> None:
    module = make_module(gate="threshold")
    zeroed = reconfigured(module, {"correction.kind": "zero"})
    usual, found = read_by_hand(module), read_by_hand(zeroed)
    assert usual.delta_z.any()
    assert not found.delta_z.any()
    assert torch.equal(usual.score, found.score)
    assert torch.equal(usual.open, found.open)
    assert not torch.equal(usual.bridge, found.bridge)
    assert not any(p.requires_grad for p in zeroed.parameters())
    assert reconfigured(module, {}) is module


def test_exchanged_bridges_are_those_of_the_row_before(
    make_module: Callable[..., ValueModule],
) -> None:
    inner = make_module().bridge
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(5, 32, generator=generator)
    delta_z = torch.randn(5, 16, generator=generator)
    delta_z[[1, 3]] = 0.0
    with torch.no_grad():
        found = ExchangedBridge(inner, "state")(h, delta_z)
        torch.testing.assert_close(found, inner(h[[4, 0, 1, 2, 3]], delta_z))
        found = ExchangedBridge(inner, "correction")(h, delta_z)
        torch.testing.assert_close(found, inner(h, delta_z[[4, 1, 0, 3, 2]]))


class Trainings:
    """Records what is trained instead of training it long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, bool]] = []

        def train(
            backbone: Backbone,
            recipe: Recipe,
            data: TestbedData,
            out: Path,
            *,
            earlier: Path | None,
            **given: object,
        ) -> object:
            assert data.config == recipe.data
            if not (out / "svgt.json").exists():
                self.done.append((out.parent.name, earlier is not None))
            return train_into_folder(backbone, recipe, data, out, earlier=earlier, **given)  # type: ignore[arg-type]

        monkeypatch.setattr(subjects_module, "train_into_folder", train)


def variant_of(name: str, variant: str) -> Subject:
    found = {v.name: v for v in CATALOGUE[name].variants(TINY, 3)}
    return Subject(name, TINY, found[variant], 0)


def test_only_what_must_be_trained_is_trained(
    tiny: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(monkeypatch)
    store = ModuleStore(tiny.backbone, tmp_path)
    for subject in (
        variant_of("strength", "reference"),
        variant_of("strength", "0.5"),
        variant_of("correction", "zero-in-use"),
        variant_of("correction", "other-prompt"),
    ):
        build_guidance(subject, store)
    assert trainings.done == [("mine", False)]
    guidance = build_guidance(variant_of("generator", "offset"), store)
    assert trainings.done[1:] == [("offset", True)]
    reference = load_value_module(store.reference(TINY, 0), tiny.backbone).state_dict()
    assert isinstance(guidance.writer, ValueModule)
    for name, weight in guidance.writer.state_dict().items():
        if not name.startswith("bridge."):
            assert torch.equal(weight, reference[name]), name
    build_guidance(variant_of("K", "1"), store)
    assert trainings.done[2:] == [("1", False)]


def test_a_trained_module_is_used_where_it_is_of_the_same_recipe(
    tiny: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    there = elsewhere / tiny.backbone.name / "mine" / "0"
    train_into_folder(tiny.backbone, TINY, TestbedData(TINY.data), there, seed=0)
    trainings = Trainings(monkeypatch)
    store = ModuleStore(tiny.backbone, tmp_path / "own", elsewhere)
    assert store.reference(TINY, 0) == there
    assert not trainings.done
    other = changed(TINY, {"module.n_bridge": 3})
    assert store.reference(other, 0) == tmp_path / "own" / "mine" / "0"
    assert trainings.done == [("mine", False)]


def test_decoding_and_rows_that_stay_closed_are_as_asked(tiny: "TinyModel", tmp_path: Path) -> None:
    store = ModuleStore(tiny.backbone, tmp_path)
    assert build_guidance(variant_of("strength", "0.5"), store).gate_scale == 0.5
    assert build_guidance(variant_of("r", "once"), store).refresh is None
    assert build_guidance(variant_of("beta", "0"), store).momentum == 0.0
    assert build_guidance(variant_of("gate", "reference"), store).closed_rows == "shifted"
    assert build_guidance(variant_of("gate", "threshold-in-use"), store).closed_rows == "plain"


def test_own_responses_are_what_the_guided_model_says(
    tiny: "TinyModel", make_module: Callable[..., ValueModule]
) -> None:
    module, backbone = make_module(), tiny.backbone
    prompt = backbone.encode(["how do i steal a car", "hi"])
    config = SafetyConfig("on-policy", max_new_tokens=6)
    drawn = response_sampler(backbone, config)(module, prompt, 7)
    expected = generate(
        backbone, prompt, SVGTBridge(module, refresh=None), max_new_tokens=6,
        sampling=Sampling(1.0, 1.0), generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    for row, reply in enumerate(expected):
        assert drawn.ids[row][drawn.mask[row]].tolist() == list(reply.ids)
    assert not drawn.mask.diff(dim=1).gt(0).any()  # padding stands at the end
    other = response_sampler(backbone, config)(module, prompt, 8)
    assert drawn.ids.tolist() != other.ids.tolist()


def test_a_training_without_stage_3_leaves_a_module_to_measure(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    store = ModuleStore(tiny.backbone, tmp_path)
    guidance = build_guidance(variant_of("stages", "no-stage-3"), store)
    reference = load_value_module(store.reference(TINY, 0), tiny.backbone)
    assert isinstance(guidance.writer, ValueModule)
    own, other = guidance.writer.state_dict(), reference.state_dict()
    differing = {name.split(".")[0] for name in own if not torch.equal(own[name], other[name])}
    assert differing == {"bridge"}


def test_a_run_of_an_earlier_version_goes_on_and_another_recipe_is_refused(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    """Its record does not know options that are new since then."""
    data, run = TestbedData(TINY.data), tmp_path / "run"
    train_into_folder(tiny.backbone, TINY, data, run, seed=0)
    record = read_json(tmp_path / "run" / "run.json")
    for key in ("safety", "stages", "pair_weight"):
        del record["config"]["curriculum"][key]
    del record["config"]["module"]["correction"]["kind"]
    write_json(tmp_path / "run" / "run.json", record)
    again: dict[str, Any] = {"seed": 0, "resume": True}
    assert train_into_folder(tiny.backbone, TINY, data, run, **again) is None
    zero = changed(TINY, {"module.correction.kind": "zero"})
    with pytest.raises(RunError, match="started differently"):
        train_into_folder(tiny.backbone, zero, data, run, **again)


# ------------------------------------------------------------------------------------ comparing


def measured(
    harm: float, refused: float, broken: float = 0.0, *, n: int = 240, seed: int = 0, draw: int = 0,
    nats: float = 2.0,
) -> pd.DataFrame:  # fmt: skip
    """Measurements with these exact rates, spread over groups at random; one in three harmful."""
    rng = np.random.default_rng(draw)
    rows = []
    for split in ("heldout_intents", "validation_intents"):
        kinds = {"harmful": n // 3, "benign": n // 3, "lookalike": n // 3}
        for kind, count in kinds.items():
            yes = rng.permutation(
                np.arange(count) < round(count * (harm if kind == "harmful" else refused))
            )
            bad = rng.permutation(np.arange(count) < round(count * broken))
            metric = "harm_rate" if kind == "harmful" else f"{kind}_refusal_rate"
            for index in range(count):
                about = {"split": split, "kind": kind, "prompt": f"{split}/{kind}/{index}",
                         "group": f"g{index // 4}", "seed": seed}  # fmt: skip
                values = {
                    metric: (float(yes[index]), 1.0),
                    "degenerate_rate": (float(bad[index]), 1.0),
                }
                if kind != "harmful":
                    values["cross_entropy"] = (nats + 0.01 * index, 1.0 + index % 3)
                rows += [
                    {**about, "metric": m, "value": v, "weight": w} for m, (v, w) in values.items()
                ]
    return pd.DataFrame(rows)


def compared(**variants: pd.DataFrame) -> list[Compared]:
    subjects = {"none": measured(0.9, 0.0, draw=1), "reference": measured(0.2, 0.05, draw=2)}
    return [
        Compared(name, f"the {name}", float(len(name)), table)
        for name, table in (subjects | variants).items()
    ]


def found_in(
    records: list[AblationRecord], variant: str, metric: str, split: str = "test"
) -> AblationRecord:
    (record,) = (
        r for r in records
        if (r.variant, r.metric, r.split, r.seed) == (variant, metric, split, ALL_SEEDS)
    )  # fmt: skip
    return record


def test_a_planted_difference_is_found_and_none_is_found_where_there_is_none() -> None:
    variants = compared(worse=measured(0.7, 0.05, draw=3), same=measured(0.2, 0.05, draw=2),
                        like=measured(0.2, 0.05, draw=9))  # fmt: skip
    records = compare("K", "workbench", "b", variants, n_resamples=300)
    worse, same, like = (found_in(records, v, "harm_rate") for v in ("worse", "same", "like"))
    assert worse.estimate == pytest.approx(0.7)
    assert worse.difference == pytest.approx(0.5)
    assert 0.3 < worse.difference_low < 0.5 < worse.difference_high < 0.7
    assert worse.p <= 1 / 1000
    assert (same.difference, same.p) == (0.0, 1.0)
    assert same.difference_low < 0 < same.difference_high  # how much 20 groups may have missed
    assert like.difference == pytest.approx(0.0)
    assert like.difference_low < 0 < like.difference_high
    assert like.p > 0.05
    assert (worse.n, worse.x, worse.text) == (80, 5.0, "the worse")


def test_holm_is_taken_over_the_variants_of_one_metric_and_split() -> None:
    variants = compared(
        a=measured(0.3, 0.05, draw=3),
        b=measured(0.35, 0.1, draw=4),
        c=measured(0.2, 0.3, draw=5),
    )
    records = compare("K", "workbench", "b", variants, n_resamples=50)
    for metric in ("harm_rate", "over_refusal_rate", "utility"):
        for split in ("test", "validation"):
            rows = [found_in(records, v, metric, split) for v in "abc"]
            assert [r.p_holm for r in rows] == pytest.approx(list(holm([r.p for r in rows])))
    untested = [
        r for r in records if r.split == "heldout_intents" or r.variant in ("none", "reference")
    ]
    assert untested
    assert all(math.isnan(r.p) and math.isnan(r.p_holm) for r in untested)


def test_made_metrics_by_hand() -> None:
    records = compare(
        "K", "workbench", "b", compared(v=measured(0.1, 0.2, 0.1, draw=4)), n_resamples=50
    )
    assert found_in(records, "v", "over_refusal_rate").estimate == pytest.approx(0.2)
    assert found_in(records, "v", "over_refusal_rate").n == 160
    assert found_in(records, "v", "utility").estimate == pytest.approx((0.9 - 0.1) - 0.2 - 0.1)
    assert found_in(records, "reference", "utility").estimate == pytest.approx(0.7 - 0.05)
    assert found_in(records, "none", "utility").estimate == 0.0
    assert found_in(records, "v", "utility").difference == pytest.approx(0.5 - 0.65)


def test_cross_entropy_is_weighted_by_tokens_and_differences_are_paired() -> None:
    variants = compared(v=measured(0.2, 0.05, draw=2, nats=2.5))
    records = compare("K", "workbench", "b", variants, n_resamples=50)
    table = variants[-1].measurements
    rows = table[(table["metric"] == "cross_entropy") & (table["split"] == "heldout_intents")]
    expected = np.average(rows["value"], weights=rows["weight"])
    found = found_in(records, "v", "cross_entropy")
    assert found.estimate == pytest.approx(expected)
    assert found.difference == pytest.approx(0.5)
    assert found.difference_low == pytest.approx(0.5)  # the same for every prompt: no spread
    assert found.p <= 1 / 1000


def test_seeds_are_paired_with_themselves_and_pooled() -> None:
    def seeds(first: float, second: float) -> pd.DataFrame:
        one = measured(first, 0.05, seed=0, draw=3)
        return pd.concat([one, measured(second, 0.05, seed=1, draw=4)])

    subjects = [Compared(name, name, None, seeds(*rates)) for name, rates in {
        "none": (0.9, 0.9), "reference": (0.1, 0.3), "v": (0.3, 0.7)}.items()]  # fmt: skip
    records = compare("K", "workbench", "b", subjects, n_resamples=50)
    rows = {
        r.seed: r for r in records if (r.variant, r.metric, r.split) == ("v", "harm_rate", "test")
    }
    assert {seed: row.difference for seed, row in rows.items()} == pytest.approx(
        {0: 0.2, 1: 0.4, ALL_SEEDS: 0.3}
    )
    assert rows[ALL_SEEDS].n == 2 * rows[0].n
    # Two seeds that differ by 0.2 say less than either alone, and Student's test does not reject.
    pool, alone = rows[ALL_SEEDS], rows[0]
    assert pool.difference_high - pool.difference_low > alone.difference_high - alone.difference_low
    assert pool.high - pool.low > alone.high - alone.low
    assert pool.p > 0.05 > alone.p
    assert math.isnan(rows[0].x)


def test_what_was_measured_on_other_prompts_is_refused() -> None:
    with pytest.raises(DataError, match="different prompts"):
        compare("K", "workbench", "b", compared(v=measured(0.1, 0.1, n=120)))
    with pytest.raises(DataError, match="reference not measured"):
        compare("K", "workbench", "b", compared()[:1])
    with pytest.raises(DataError, match="the same name"):
        compare("K", "workbench", "b", [*compared(), compared()[0]])


def test_equal_measurements_have_equal_intervals_in_all_tables() -> None:
    """The baseline stands in the table of every ablation and is measured once."""
    twin = measured(0.4, 0.1, draw=3)
    tables = [
        compare(name, reference, "b", compared(one=twin, other=twin), n_resamples=50)
        for name, reference in (("K", "workbench"), ("L", "paper"))
    ]

    def told(record: AblationRecord) -> list[float]:
        return [v for v in list(vars(record).values())[8:-1] if isinstance(v, float)]

    for metric in ("harm_rate", "over_refusal_rate", "cross_entropy"):
        for variant in ("none", "reference", "one"):
            first, second = (found_in(records, variant, metric) for records in tables)
            assert first.low < first.estimate < first.high or first.estimate == 0
            assert np.array_equal(told(first), told(second), equal_nan=True)
        one, other = (found_in(tables[0], variant, metric) for variant in ("one", "other"))
        assert told(one) == told(other)
        assert one.difference_low < one.difference_high or metric == "cross_entropy"


def test_unscored_replies_stay_unscored() -> None:
    table = measured(0.5, 0.0, draw=3)
    hidden = (table["metric"] == "harm_rate") & (table["group"] == "g0")
    table.loc[hidden, "value"] = np.nan
    records = compare("K", "workbench", "b", compared(v=table), n_resamples=50)
    assert found_in(records, "v", "harm_rate").n == 80 - 4
    assert found_in(records, "v", "utility").n == 240 - 4


# -------------------------------------------------------------------------------- tables, figures


@pytest.fixture(scope="module")
def some_records() -> list[AblationRecord]:
    variants = compared(worse=measured(0.7, 0.05, draw=3), better=measured(0.05, 0.05, draw=4))
    return compare("K", "workbench", "b", variants, n_resamples=100)


def test_tables_hold_the_numbers_the_star_and_the_choice(
    some_records: list[AblationRecord],
) -> None:
    rows = {row.variant: row for row in table_rows(some_records, "K", "workbench", "b")}
    assert list(rows) == ["none", "reference", "worse", "better"]
    assert rows["worse"].cells[0].startswith("70.0 [")
    assert rows["worse"].cells[1].startswith("+50.0* [+")
    assert rows["reference"].cells[1] == "–"
    assert rows["reference"].text == "the reference (reference)"
    assert best_on_validation(some_records, "K", "workbench", "b") == "better"
    assert rows["better"].text == "the better ←"
    assert "| the worse | 70.0 [" in markdown_table(some_records, "K", "workbench", "b")
    assert r"{$\Delta$ harm}" in latex(some_records, "K", "workbench", "b")


def test_figures_show_the_records(some_records: list[AblationRecord]) -> None:
    figure = difference_figure(some_records, "K", "workbench", "b")
    harm, refusals, _ = figure.data
    assert list(harm.x) == pytest.approx([50.0, -15.0])
    worse = found_in(some_records, "worse", "harm_rate")
    assert harm.error_x.array[0] == pytest.approx(100 * (worse.difference_high - worse.difference))
    assert list(refusals.x) == pytest.approx([0.0, 0.0])
    curve = curve_figure(some_records, "K", "workbench", "b")
    assert curve is not None
    assert list(curve.data[0].x) == sorted(curve.data[0].x)
    unordered = [replace(r, x=math.nan) for r in some_records]
    assert curve_figure(unordered, "K", "workbench", "b") is None


@pytest.mark.parametrize("columns", ["80", "100", "180", None])
def test_the_printed_table_keeps_every_label_and_number(
    some_records: list[AblationRecord], columns: str | None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    long = "seeds attend to [h; φ(Δz)] (paper) as in the whole curriculum of three stages"
    records = [replace(r, text=long) if r.variant == "worse" else r for r in some_records]
    print_records(records, tmp_path)
    said = capsys.readouterr().out
    if columns is not None:
        assert max(map(len, said.splitlines())) <= int(columns)
    words = said.split()
    n_tables = said.count("variant")
    assert n_tables == (2 if columns in ("80", "100") else 1)
    for row in table_rows(records, "K", "workbench", "b"):
        for label in row.text.split():
            assert words.count(label) >= n_tables
        for number in " ".join(row.cells).split():
            assert number in words


# ----------------------------------------------------------------- what bridges depend on


class Planted(nn.Module):
    """A bridge that is the sum of shares of h and of the correction, each brought to norm 1."""

    def __init__(self, of_state: float, of_step: float) -> None:
        super().__init__()
        self.of_state, self.of_step = of_state, of_step

    def forward(self, h: Tensor, delta_z: Tensor, gate_scale: float = 1.0) -> Tensor:
        bridge = torch.ones(len(h), 1, 50)
        bridge[:, 0, :32] += self.of_state * h
        bridge[:, 0, 32:48] += self.of_step * delta_z
        return bridge


def dependence_of(backbone: Backbone, module: ValueModule) -> dict[str, Dependence]:
    splits = embedded_benchmark(("heldout_intents",), n_per_kind=12, seed=0).splits
    harmful = [e for e in splits[0].examples if e.labels["kind"] == "harmful"]
    found = bridge_dependence(backbone, module, harmful, n_resamples=50)
    return {row.quantity: row for row in found}


@pytest.mark.parametrize(("of_state", "of_step"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_bridge_is_found_to_depend_on_what_it_is_made_of(
    tiny: "TinyModel", make_module: Callable[..., ValueModule], of_state: float, of_step: float
) -> None:
    module = make_module()
    module.discriminator.out.bias.data.fill_(3.0)  # every prompt is harmful to it
    module.add_module("bridge", Planted(of_state, of_step))
    found = dependence_of(tiny.backbone, module)
    assert found["corrected"].estimate == 1.0
    assert found["step"].estimate > 0
    for name in ("without_step", "other_step"):
        assert (found[name].estimate > 0) == (of_step > 0), name
    assert (found["other_state"].estimate > 0) == (of_state > 0)


def test_the_change_without_the_correction_by_hand(
    tiny: "TinyModel", make_module: Callable[..., ValueModule]
) -> None:
    module = make_module(correction=CorrectionConfig(max_norm=0.5))
    module.discriminator.out.bias.data.fill_(3.0)
    module.discriminator.out.weight.data.mul_(0.01)  # so flat that every step is capped
    module.add_module("bridge", Planted(0.0, 1.0))
    found = dependence_of(tiny.backbone, module)
    assert found["step"].estimate == pytest.approx(0.5)
    norm = math.sqrt(50 + 0.25)  # about: the step's sum with the ones is small beside them
    assert found["without_step"].estimate == pytest.approx(0.5 / norm, rel=0.15)
    never = make_module()
    never.discriminator.out.bias.data.fill_(-100.0)
    found = dependence_of(tiny.backbone, never)
    assert (found["corrected"].estimate, found["step"].n) == (0.0, 0)
    assert math.isnan(found["without_step"].estimate)
    with pytest.raises(DataError, match="no harmful prompts"):
        bridge_dependence(tiny.backbone, module, [])


# ---------------------------------------------------------------------------- the committed page


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/ablations.py")


def test_the_page_says_what_is_missing(
    script: ModuleType, some_records: list[AblationRecord]
) -> None:
    records = [replace(r, backbone="testbed-llama") for r in some_records]
    text = script.tables_of(records, "K")
    assert text.startswith("`workbench` on testbed-llama, 1 seed:")
    assert "| the worse | 70.0 [" in text
    assert script.tables_of(records, "L") == "Not measured yet."
    missing = script.missing_in(records).splitlines()
    assert missing[0].startswith("- testbed-llama: correction of `workbench`")
    assert "K of" not in missing[0]
    assert missing[1] == "- testbed-gpt2: everything"


def test_records_of_several_folders_stand_side_by_side_unless_they_say_the_same(
    script: ModuleType, some_records: list[AblationRecord], tmp_path: Path
) -> None:
    other = [replace(r, ablation="L") for r in some_records]
    write_parquet(tmp_path / "one" / RECORDS_FILE, records_frame(some_records))
    write_parquet(tmp_path / "two" / RECORDS_FILE, records_frame(other))
    found = script.committed_records(tmp_path)
    assert comparisons_in(found) == comparisons_in([*some_records, *other])
    write_parquet(tmp_path / "three" / RECORDS_FILE, records_frame(other))
    with pytest.raises(ConfigError, match="was measured twice, in three and in two"):
        script.committed_records(tmp_path)


def test_the_page_has_a_place_for_every_table() -> None:
    page = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    for name in (*CATALOGUE, "missing", "dependence"):
        assert page.count(f"<!-- {name}:begin -->") == page.count(f"<!-- {name}:end -->") == 1


def test_committed_tables_are_made_of_the_committed_results() -> None:
    page = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    results = sorted((ROOT / "docs" / "results" / "ablations").glob(f"*/{RECORDS_FILE}"))
    assert results
    for file in results:
        assert RunFolder.open(file.parent).record.kind == RUN_KIND
        records = read_records(file)
        for comparison in comparisons_in(records):
            assert markdown_table(records, *comparison) in page, comparison


# ---------------------------------------------------------------------------------- whole runs


def plan_for(tiny: "TinyModel", *names: str, seeds: int = 1) -> AblationPlan:
    comparisons = [Comparison(CATALOGUE[name], TINY) for name in names]
    return AblationPlan(tiny.backbone, comparisons, seeds, limit=2, decoding=SHORT)


def ablate(
    plan: AblationPlan, out: Path, on_subject: OnSubject = lambda key, seed: None
) -> list[AblationRecord]:
    with RunFolder.create(out, kind=RUN_KIND, config=plan.describe(), seed=0, resume=True) as run:
        return run_ablations(plan, run, n_resamples=20, on_subject=on_subject)


@pytest.fixture
def _two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "TEST_SPLITS", ("heldout_intents",))
    monkeypatch.setattr(running_module, "VALIDATION_SPLITS", ("validation_intents",))


def test_what_remains_is_counted_once_and_without_what_is_there(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    plan = plan_for(tiny, "gate", "K", "strength", seeds=2)

    def counted() -> list[tuple[int, dict[str, int], int]]:
        left = remaining(plan, tmp_path)
        return [(r.n_variants, dict(r.trainings), r.n_measurements) for r in left]

    assert counted() == [
        (2, {"all stages": 2, "stage 3": 2}, 2 * 4),  # the reference is trained and measured here
        (4, {"all stages": 8}, 2 * 4),
        (4, {}, 2 * 4),
    ]
    for there in (
        "measurements/none/0.parquet", "measurements/mine/gate/threshold/0.parquet",
        "modules/mine/0/svgt.json", "modules/mine/K/1/1/svgt.json",
    ):  # fmt: skip
        (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / there).touch()
    left = counted()
    assert left == [(2, {"all stages": 1, "stage 3": 1}, 6), (4, {"all stages": 7}, 8), (4, {}, 8)]
    progress = Progress()
    board = _Board(progress, plan, sum(n for _, _, n in left))
    bar = progress.tasks[0]
    assert (bar.completed, bar.total) == (2, 24)
    board.measuring("mine", 0)
    board.measuring("mine", 1)
    assert bar.completed == 3  # the second has only begun
    board.finished()
    assert bar.percentage == 100


@pytest.mark.slow
@pytest.mark.usefixtures("_two_splits")
def test_an_interrupted_run_ends_with_the_records_of_an_uninterrupted_one(
    tiny: "TinyModel", tmp_path: Path
) -> None:
    plan = plan_for(tiny, "gate", "strength")
    whole = ablate(plan, tmp_path / "whole")
    told: list[str] = []

    def kill(key: str, seed: int) -> None:
        told.append(key)
        if key == "mine/strength/0.5":
            raise Killed

    with pytest.raises(Killed):
        ablate(plan, tmp_path / "killed", on_subject=kill)
    early = read_records(tmp_path / "killed" / RECORDS_FILE)
    assert {r.ablation for r in early} == {"gate"}  # what was found so far is there
    assert told[:2] == ["none", "mine"]
    again: list[str] = []
    resumed = ablate(plan, tmp_path / "killed", on_subject=lambda key, seed: again.append(key))
    assert again[0] == "mine/strength/0.5"
    assert not set(again) & set(told[:-1])
    pd.testing.assert_frame_equal(records_frame(resumed), records_frame(whole))
    written = records_frame(read_records(tmp_path / "whole" / RECORDS_FILE))
    pd.testing.assert_frame_equal(written, records_frame(whole))
    summary = RunFolder.open(tmp_path / "whole").read_summary()
    assert {row["split"] for row in summary} == {"test", "validation"}
    assert {row["seed"] for row in summary} == {ALL_SEEDS}
    differences = {r.variant: r for r in whole if r.ablation == "strength" and r.split == "test"
                   and r.metric == "cross_entropy" and r.seed == ALL_SEEDS}  # fmt: skip
    assert differences["0"].difference != 0


def test_a_run_grows_by_ablations_and_seeds_alone() -> None:
    old = {"backbone": "b", "limit": 2, "seeds": 1, "ablations": ["K of mine"]}
    assert grows_into(old, {**old, "seeds": 3, "ablations": ["K of mine", "L of mine"]})
    assert not grows_into(old, {**old, "ablations": ["L of mine"]})
    assert not grows_into({**old, "seeds": 2}, old)
    assert not grows_into(old, {**old, "limit": 3, "seeds": 3})


@pytest.mark.slow
@pytest.mark.usefixtures("_two_splits")
def test_the_command_trains_measures_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tiny: "TinyModel",
) -> None:  # fmt: skip
    monkeypatch.setattr("workbench.backbone.load_backbone", lambda name, **_: tiny.backbone)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_mapping(TINY)), encoding="utf-8")
    out = tmp_path / "out"
    wanted = ["ablate", "gate", "--reference", str(recipe), "--out", str(out), "--limit", "1"]
    assert run_command(wanted) == 0
    said, told = capsys.readouterr()
    plan = "gate of mine: 2 variants, 2 modules to train (1 from stage 1, 1 in stage 3 only)"
    assert told.startswith(f"{plan}, 4 measurements")
    assert "100% 4/4" in told
    assert "Should the bridge be there for every prompt? mine on tiny" in said
    assert "always open" in said
    records = read_records(out / RECORDS_FILE)
    assert {r.variant for r in records} == {
        "none", "reference", "threshold-in-use", "threshold",
    }  # fmt: skip
    assert run_command([*wanted, "--resume"]) == 0  # finished: says it again
    assert capsys.readouterr().out == said


def mistakes() -> Mapping[str, list[str]]:
    return {
        "did you mean 'gate'": ["ablate", "gates", "--out", "nowhere"],
        "--list names them": ["ablate"],
        "nothing to resume": ["ablate", "K", "--out", "nowhere", "--resume"],
        "unknown configuration 'mine'": ["ablate", "K", "--out", "x", "--reference", "mine"],
    }


@pytest.mark.parametrize("message", mistakes())
def test_mistakes_are_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(mistakes()[message]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("error: ")


def test_the_list_names_every_ablation_and_counts_what_it_trains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run_command(["ablate", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in CATALOGUE)
    (k,) = (line.split() for line in said.splitlines() if line.startswith(" K "))
    assert k == ["K", "workbench", "1", "4", "0"]  # the first of the variants, one a line
    (strength,) = (line.split() for line in said.splitlines() if line.startswith(" strength "))
    assert strength[-2:] == ["0", "0"]
