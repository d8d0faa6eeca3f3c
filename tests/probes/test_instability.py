"""The whole analysis: what is planted is in the records, and what cannot be measured says why."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from probes.contrasts import ContrastSet
from probes.instability import Effort, InstabilityConfig, run_instability
from probes.records import NOT_MEASURED, Record, frame_records, records_frame
from workbench.config import from_mapping, to_mapping
from workbench.errors import ConfigError, DataError, NonFiniteError

if TYPE_CHECKING:
    from conftest import Plant

QUICK = InstabilityConfig(
    estimators=("mean_difference",),
    cheap=Effort(40, 4),
    costly=Effort(10, 1),
    transfer=Effort(20, 2),
    controls=Effort(10, 1),
    angles=Effort(10, 1),
    permutations=49,
    random_directions=50,
)
BOTH = replace(QUICK, estimators=("mean_difference", "lda"), costly_permutations=19)


def run(
    sets: Sequence[ContrastSet], config: InstabilityConfig = QUICK, seed: int = 0
) -> list[Record]:
    return run_instability(sets, config, backbone="planted", seed=seed)


def chosen(records: Sequence[Record], metric: str, **wanted: object) -> list[Record]:
    return [
        record
        for record in records
        if record.metric == metric
        and all(getattr(record, name) == value for name, value in wanted.items())
    ]


def only(records: Sequence[Record], metric: str, **wanted: object) -> Record:
    (record,) = chosen(records, metric, **wanted)
    return record


@pytest.fixture(scope="module")
def plants(planted: "type[Plant]") -> tuple["Plant", "Plant"]:
    turning = planted(n_pairs=60, width=16, angles=(0.0, 0.5, 1.0), n_layers=2)
    return turning, planted(n_pairs=60, width=10, signal=4.0, angles=(0.0, 0.1, 0.2))


@pytest.fixture(scope="module")
def sets(plants: tuple["Plant", "Plant"]) -> list[ContrastSet]:
    rng = np.random.default_rng(0)
    residual, value = plants[0].draw(rng), plants[1].draw(rng, "z:value")
    untrained = replace(
        plants[1].draw(rng, "z:untrained"), states=torch.randn(1, 360, 10, generator=seeded(1))
    )
    return [residual, value, untrained]


@pytest.fixture(scope="module")
def records(sets: list[ContrastSet]) -> list[Record]:
    return run(sets, BOTH)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- what is planted is found


def test_the_planted_index_lies_in_its_interval(
    records: list[Record], plants: tuple["Plant", "Plant"]
) -> None:
    for estimator in BOTH.estimators:
        found = only(records, "instability_index", site="z:value", estimator=estimator)
        assert found.low < plants[1].index < found.high
        for layer in (0, 1):
            found = only(
                records, "instability_index", site="prompt_last", layer=layer, estimator=estimator
            )
            assert found.low < plants[0].index < found.high
            assert found.low > 0.05
            assert (found.n, found.null, found.ceiling) == (60, 1.0, 0.0)


def test_the_value_space_is_more_stable_and_the_test_says_so(
    records: list[Record], plants: tuple["Plant", "Plant"]
) -> None:
    found = only(
        records, "instability_difference", site="z:value", layer=1, estimator="mean_difference"
    )
    assert found.low < plants[0].index - plants[1].index < found.high
    assert found.p_value == pytest.approx(1 / 41)
    assert "prompt_last minus z:value" in found.note
    assert "sign flips" in found.ci_method


def test_a_site_of_noise_has_no_index_but_chance_level_transfer(records: list[Record]) -> None:
    index = only(records, "instability_index", site="z:untrained", estimator="mean_difference")
    assert math.isnan(index.estimate)
    assert "reliable" in index.note
    difference = only(
        records, "instability_difference", site="z:untrained", layer=0, estimator="mean_difference"
    )
    assert math.isnan(difference.estimate)
    areas = chosen(records, "transfer_auroc", site="z:untrained", estimator="mean_difference")
    assert all(record.low < 0.62 and record.high > 0.38 for record in areas)
    assert np.mean([record.estimate for record in areas]) == pytest.approx(0.5, abs=0.08)


def test_every_number_stands_beside_its_ceiling_or_null(records: list[Record]) -> None:
    for record in records:
        if not math.isnan(record.estimate) and "layer_cosine" not in record.metric:
            if record.metric == "length_auroc":
                continue
            assert not math.isnan(record.null), record
        if record.metric in ("cosine", "layer_cosine") and not math.isnan(record.estimate):
            assert record.ceiling <= 1 or math.isnan(record.ceiling)


def test_all_that_was_asked_for_is_there(records: list[Record], sets: list[ContrastSet]) -> None:
    counts = records_frame(records).groupby("metric").size()
    places, estimators, pairs = 4, 2, 3  # two layers and two sites without
    assert counts["reliability"] == places * estimators * 3
    assert counts["cosine_corrected"] == places * estimators * (pairs + 1)
    assert counts["instability_index"] == places * estimators
    assert counts["instability_difference"] == 2 * 2 * estimators
    assert counts["transfer_auroc"] == counts["transfer_accuracy"] == places * estimators * 9
    assert counts["layer_cosine"] == counts["layer_cosine_corrected"] == estimators * 3
    assert counts["effective_dimension"] == places * 3
    assert counts["principal_angle"] == places * 3 * (pairs + 1)
    assert counts["random_direction_auroc"] == places * 3 * 2
    assert counts["selectivity"] == counts["permutation_auroc"] == places * estimators * 3
    assert counts["variance_share"] == counts["signal_share"] == places * estimators * 3
    assert counts["length_auroc"] == 3


def test_raw_cosines_carry_ceiling_null_and_p_value(records: list[Record]) -> None:
    found = only(
        records, "cosine", site="prompt_last", layer=0, estimator="mean_difference",
        context_a="c0", context_b="c2",
    )  # fmt: skip
    assert found.estimate < found.ceiling < 1
    assert 0.2 < found.null < 0.8  # the prompts' noise that both contexts share
    assert found.p_value == pytest.approx(1 / 50)
    assert found.low < found.estimate < found.high <= 1


def test_angles_open_with_the_turn(records: list[Record]) -> None:
    found = [
        only(records, "principal_angle", site="z:value", x=1.0, context_a="c0", context_b=other)
        for other in ("c1", "c2")
    ]
    assert all(record.ceiling < record.estimate + 8 < record.null + 8 for record in found)


def test_records_survive_their_table(records: list[Record]) -> None:
    again = frame_records(records_frame(records))
    pd.testing.assert_frame_equal(records_frame(again), records_frame(records))


def test_one_seed_one_result_and_other_sites_do_not_change_it(sets: list[ContrastSet]) -> None:
    first, again, other = run(sets[1:2]), run(sets[1:2]), run(sets[1:2], seed=1)
    assert records_frame(first).equals(records_frame(again))
    assert not records_frame(first).equals(records_frame(other))
    index = only(first, "instability_index")
    beside = only(run(sets[:2]), "instability_index", site="z:value")
    assert beside == index


def test_progress_is_told_from_none_to_all(sets: list[ContrastSet]) -> None:
    told: list[tuple[int, int]] = []
    run_instability(
        sets[:2], QUICK, backbone="planted", on_progress=lambda *counts: told.append(counts)
    )
    assert [done for done, _ in told] == list(range(7))
    assert {total for _, total in told} == {6}


def test_length_alone_is_told_apart_where_it_differs(sets: list[ContrastSet]) -> None:
    longer = replace(sets[1], lengths=10 + 5 * sets[1].positive.long())
    assert {r.estimate for r in chosen(run([longer]), "length_auroc")} == {1.0}
    assert {r.estimate for r in chosen(run([sets[1]]), "length_auroc")} == {0.5}


# ------------------------------------------------------------------------------------------- steps


def test_a_direction_that_turns_while_decoding_is_followed(planted: "type[Plant]") -> None:
    rng = np.random.default_rng(5)
    turns = (0.0, 0.4, 0.8)
    plant = planted(n_pairs=200, width=12, signal=4.0, angles=turns)
    states = plant.states(rng)  # its contexts serve as steps of one
    alone = replace(plant, angles=(0.0,))
    steps = [
        replace(
            alone.draw(rng, f"response_tokens@{step}"),
            states=torch.tensor(states[place][None]).float(),
            contrast="response", layers=(3,),
        )
        for place, step in enumerate((0, 2, 8))
    ]  # fmt: skip
    mean = replace(
        steps[0], site="response_mean", states=torch.stack([s.states for s in steps]).mean(dim=0)
    )
    found = run([steps[2], mean, steps[0], steps[1]])
    for step, turn in ((2.0, 0.4), (8.0, 0.8)):
        record = only(found, "step_cosine_corrected", x=step)
        assert record.estimate == pytest.approx(np.cos(turn), abs=0.1)
        assert record.low < record.estimate < record.high
        assert (record.site, record.layer, record.context_a) == ("response_tokens", 3, "c0")
        raw = only(found, "step_cosine", x=step)
        assert raw.estimate <= 1
        assert raw.ceiling < 1
    assert len(chosen(found, "step_cosine_mean")) == 3
    middle = only(found, "step_cosine_mean_corrected", x=2.0)
    assert middle.estimate == pytest.approx(1.0, abs=0.08)


# ------------------------------------------------------------ what cannot be measured says why


def spoiled(
    given: ContrastSet, context: str, change: Callable[[ContrastSet, torch.Tensor], ContrastSet]
) -> ContrastSet:
    return change(given, torch.tensor([where == context for where in given.context]))


def without(given: ContrastSet, gone: torch.Tensor) -> ContrastSet:
    return given.rows((~gone).nonzero().flatten())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda g, here: without(g, here & g.positive), "0 harmful examples, 8 of each class"),
        (
            lambda g, here: without(g, here & (torch.arange(len(g)) % 120 > 9)),
            "5 harmful and 5 harmless examples",
        ),
        (
            lambda g, here: replace(g, states=g.states.masked_fill(here[None, :, None], 7.5)),
            "the states are the same for every example",
        ),
    ],
    ids=["one class", "too few", "constant"],
)
def test_a_context_without_a_direction_says_why_and_spoils_no_other(
    sets: list[ContrastSet],
    change: Callable[[ContrastSet, torch.Tensor], ContrastSet],
    why: str,
) -> None:
    found = run([spoiled(sets[1], "c1", change)], BOTH)
    for record in found:
        if record.metric == "length_auroc":
            continue
        if "c1" in (record.context_a, record.context_b):
            assert math.isnan(record.estimate), record
            assert record.note.startswith(NOT_MEASURED)
            assert why in record.note
            assert all(map(math.isnan, (record.low, record.high, record.p_value)))
        else:
            assert not math.isnan(record.estimate), record
    index = only(found, "instability_index", estimator="mean_difference")
    assert "over 1 of 3 pairs" in index.note


def test_corrections_for_harmful_prompts_only_are_measured(sets: list[ContrastSet]) -> None:
    """A module that leaves harmless prompts alone gives zeros there, which is no error."""
    states = sets[1].states * sets[1].positive[None, :, None]
    found = run([replace(sets[1], site="delta_z:value", states=states)], BOTH)
    assert not math.isnan(only(found, "instability_index", estimator="lda").estimate)
    areas = chosen(found, "transfer_auroc", estimator="mean_difference")
    assert min(record.estimate for record in areas) > 0.8


def test_a_site_that_never_changes_is_not_measured(sets: list[ContrastSet]) -> None:
    rounding = 1e-8 * torch.randn(sets[1].states.shape, generator=seeded(2))
    found = run([replace(sets[1], site="bridge:still", states=1 + rounding)])
    assert all(math.isnan(r.estimate) for r in found if r.metric != "length_auroc")


def test_one_dimension_has_no_cosines_but_an_auroc(sets: list[ContrastSet]) -> None:
    found = run([replace(sets[1], site="score:value", states=sets[1].states[..., :1])])
    assert "one dimension" in only(found, "instability_index").note
    assert all(math.isnan(record.estimate) for record in chosen(found, "cosine"))
    assert not any(math.isnan(record.estimate) for record in chosen(found, "transfer_auroc"))


def test_one_context_alone_has_no_index(sets: list[ContrastSet]) -> None:
    found = run([sets[1].in_context("c0")])
    assert "one context" in only(found, "instability_index").note
    assert "no other context" in only(found, "selectivity").note
    assert not math.isnan(only(found, "reliability").estimate)


def test_estimators_that_need_pairs_say_so(sets: list[ContrastSet]) -> None:
    unpaired = replace(sets[1], pair=torch.full_like(sets[1].pair, -1))
    found = run([unpaired], replace(BOTH, estimators=("mean_difference", "lat")))
    assert "matched pairs" in only(found, "instability_index", estimator="lat").note
    assert not math.isnan(only(found, "instability_index", estimator="mean_difference").estimate)
    assert all("matched pairs" in record.note for record in chosen(found, "principal_angle"))


def test_perfect_separation_has_no_interval_from_resampling(sets: list[ContrastSet]) -> None:
    apart = sets[1].states + 1000 * sets[1].positive[None, :, None]
    areas = chosen(run([replace(sets[1], states=apart)]), "transfer_auroc")
    assert {record.estimate for record in areas} == {1.0}
    assert all(math.isnan(record.low) and "no interval" in record.note for record in areas)


def test_nan_states_are_refused(sets: list[ContrastSet]) -> None:
    states = sets[1].states.clone()
    states[0, 3, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="example 3"):
        run([replace(sets[1], states=states)])


# ------------------------------------------------------------------------------------------- input


def test_contexts_are_chosen_and_unknown_ones_refused(sets: list[ContrastSet]) -> None:
    found = run(sets[1:2], replace(QUICK, contexts=("c2", "c0")))
    assert {r.context_a for r in chosen(found, "reliability")} == {"c0", "c2"}
    with pytest.raises(DataError, match="no states in the context 'c9'"):
        run(sets[1:2], replace(QUICK, contexts=("c9",)))


def test_no_context_at_all_is_refused(sets: list[ContrastSet]) -> None:
    with pytest.raises(ConfigError, match="contexts is empty"):
        InstabilityConfig(contexts=())
    one, other = sets[0], sets[0].in_context("c1")
    given = [one, replace(other, site="elsewhere")]
    config = InstabilityConfig(contexts=("c0", "c2"))
    with pytest.raises(DataError, match="'elsewhere' has states in none of the chosen contexts"):
        run_instability(given, config, backbone="none")


def test_bad_input_is_refused(sets: list[ContrastSet]) -> None:
    with pytest.raises(DataError, match="no states"):
        run([])
    with pytest.raises(DataError, match="'z:value' is given twice"):
        run([sets[1], sets[1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": ["mean_difference", "svm"]}, "svm"),
        ({"estimators": []}, "at least one"),
        ({"floor": 1.5}, "floor"),
        ({"subspace": 0}, "subspace"),
        ({"cheap": {"resamples": 3, "splits": 1}}, "at least 10"),
        ({"permutation": 99}, "did you mean 'permutations'"),
    ],
)
def test_configurations_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(InstabilityConfig, change, where="test")


def test_a_configuration_survives_its_mapping() -> None:
    assert from_mapping(InstabilityConfig, to_mapping(QUICK), where="test") == QUICK
