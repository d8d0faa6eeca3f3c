"""Labelled rows become training data by their labels alone, and no row leaves uncounted."""

from collections.abc import Sequence

import pytest

from workbench.data.assembly import Assembled, AssemblyConfig, DataReport, assemble
from workbench.data.example import Example, as_conversation
from workbench.data.normalising import normalise, prompt_text
from workbench.data.training import ValueData
from workbench.errors import ConfigError, DataError

HALF = AssemblyConfig(validation_share=0.5)


def row(
    name: str,
    prompt: str,
    response: str | None = None,
    *,
    prompt_harm: bool | None = None,
    response_harm: bool | None = None,
    group: str = "",
) -> Example:
    labels = {"prompt_harm": prompt_harm, "response_harm": response_harm}
    return Example(
        id=name,
        prompt=as_conversation(prompt),
        response=response,
        labels={key: value for key, value in labels.items() if value is not None},
        source="made",
        group=group or name,
    )


def enough(n: int = 8) -> list[Example]:
    """Rows that fill every stage: half harmful, every harmful prompt with both kinds of reply."""
    rows = []
    for number in range(n):
        harmful = number % 2 == 0
        prompt = f"question number {number}"
        rows.append(
            row(f"s{number}", prompt, f"safe {number}", prompt_harm=harmful, response_harm=False)
        )
        rows.append(
            row(f"h{number}", prompt, f"bad {number}", prompt_harm=harmful, response_harm=True)
        )
    return rows


def prompts_of(data: ValueData) -> set[str]:
    rows = [*data.prompts, *data.pairs, *data.targets]
    return {normalise(prompt_text(one.prompt)) for one in rows}


def n_left(report: DataReport, words: str, source: str | None = None) -> int:
    return sum(
        left.n for left in report.left_out
        if words in left.reason and source in (None, left.source)
    )  # fmt: skip


def both(assembled: Assembled, stage: str) -> list[object]:
    return [*getattr(assembled.train, stage), *getattr(assembled.validation, stage)]


# ------------------------------------------------------------------------------- what is used


def test_labels_decide_which_stage_reads_a_row() -> None:
    rows = [
        *enough(),
        row("only prompt", "alone", prompt_harm=True),
        row("unlabelled reply", "with a reply", "some reply", prompt_harm=False),
        row("only reply", "unknown harm", "a safe one", response_harm=False),
        row("nothing", "no label at all", "whatever"),
    ]
    made = assemble({"a": rows}, HALF, seed=0)
    prompts = {prompt_text(p.prompt): p.harmful for p in both(made, "prompts")}  # type: ignore[attr-defined]
    assert prompts["alone"] is True
    assert prompts["with a reply"] is False
    assert "unknown harm" not in prompts
    assert len(prompts) == 8 + 2
    assert len(both(made, "pairs")) == 16 + 1
    targets = [prompt_text(t.prompt) for t in both(made, "targets")]  # type: ignore[attr-defined]
    assert sorted(targets) == sorted(
        ["unknown harm", *(f"question number {n}" for n in (0, 2, 4, 6))]
    )
    assert n_left(made.report, "safe reply to a harmless prompt") == 4
    assert n_left(made.report, "prompt not labelled") == 2
    assert n_left(made.report, "no reply") == 1
    assert n_left(made.report, "reply not labelled") == 2
    report = made.report
    for stage, kind, wanted in (
        ("prompts", "harmful", 5), ("prompts", "harmless", 5), ("pairs", "harmful", 8),
        ("pairs", "harmless", 9), ("targets", "with contrast", 4),
        ("targets", "without contrast", 1),
    ):  # fmt: skip
        counted = sum(report.total(stage, split, kind) for split in ("train", "validation"))  # type: ignore[arg-type]
        assert counted == wanted, (stage, kind)


def test_targets_carry_a_harmful_reply_to_their_own_prompt() -> None:
    made = assemble({"a": enough()}, HALF, seed=0)
    for target in [*made.train.targets, *made.validation.targets]:
        number = prompt_text(target.prompt).split()[-1]
        assert target.safe_response == f"safe {number}"
        assert target.harmful_response == f"bad {number}"
    lonely = row("x", "lonely", "a safe reply", prompt_harm=True, response_harm=False)
    rows = [*enough(), lonely]
    asked = assemble({"a": rows}, HALF, seed=0, needs_contrast=True)
    assert all(t.harmful_response for t in both(asked, "targets"))  # type: ignore[attr-defined]
    assert n_left(asked.report, "no harmful reply to compare with") == 1
    assert len(both(assemble({"a": rows}, HALF, seed=0), "targets")) == 5


def test_a_reply_that_is_harmful_under_one_prompt_only_is_ambiguous() -> None:
    rows = [
        *enough(),
        row("1", "how is soup made", "with water", response_harm=False),
        row("2", "how is poison made", "with water", response_harm=True),
    ]
    made = assemble({"a": rows}, HALF, seed=0)
    marked = {p.response for p in both(made, "pairs") if p.ambiguous}  # type: ignore[attr-defined]
    assert marked == {"with water"}


# ------------------------------------------------------------------- repetitions, contradictions


def test_what_is_labelled_both_ways_is_left_out_of_its_stage_and_counted() -> None:
    rows = [
        *enough(),
        row("1", "Is this bad?", "reply one", prompt_harm=True, response_harm=True),
        row("2", "is THIS bad", "reply two", prompt_harm=False, response_harm=False),
        row("3", "and this", "Same reply.", response_harm=True),
        row("4", "and this!", "same reply", response_harm=False),
    ]
    made = assemble({"a": rows}, HALF, seed=0)
    texts = {normalise(prompt_text(p.prompt)) for p in both(made, "prompts")}  # type: ignore[attr-defined]
    assert "is this bad" not in texts
    assert n_left(made.report, "prompt labelled both ways") == 2
    pairs = {normalise(p.response) for p in both(made, "pairs")}  # type: ignore[attr-defined]
    assert {"reply one", "reply two"} <= pairs
    assert "same reply" not in pairs
    assert n_left(made.report, "pair labelled both ways") == 2


def test_contradictions_are_found_across_sources() -> None:
    one = row("1", "shared words", prompt_harm=True)
    two = row("2", "Shared words", prompt_harm=False)
    made = assemble({"a": [*enough(), one], "b": [two]}, HALF, seed=0)
    assert n_left(made.report, "labelled both ways", "a") == 1
    assert n_left(made.report, "labelled both ways", "b") == 1


def test_repetitions_are_used_once() -> None:
    made = assemble({"a": enough(), "b": enough()}, HALF, seed=0)
    assert len(both(made, "prompts")) == 8
    assert len(both(made, "pairs")) == 16
    assert n_left(made.report, "prompt that stands there already", "b") == 16
    assert n_left(made.report, "pair that stands there already", "b") == 16
    assert {count.source for count in made.report.counts} == {"a"}


# ------------------------------------------------------------------------------------- the split


@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_never_stands_on_both_sides(seed: int) -> None:
    spelt = [
        row(f"x{n}", f"QUESTION, number {n}!", f"other {n}", response_harm=False) for n in range(8)
    ]
    made = assemble({"a": enough(), "b": spelt}, HALF, seed=seed)
    assert not prompts_of(made.train) & prompts_of(made.validation)
    assert prompts_of(made.train) | prompts_of(made.validation) == {
        f"question number {n}" for n in range(8)
    }


def test_groups_are_joined_along_chains() -> None:
    chain = [
        row("1", "first", "a", prompt_harm=True, response_harm=False, group="g"),
        row("2", "second", "b", prompt_harm=True, response_harm=False, group="g"),
        row("3", "Second", "c", prompt_harm=True, response_harm=False, group="h"),
        row("4", "third", "d", prompt_harm=True, response_harm=False, group="h"),
    ]
    for seed in range(6):
        made = assemble({"a": [*enough(), *chain]}, HALF, seed=seed)
        words = {"first", "second", "third"}
        assert words & prompts_of(made.train) in (set(), words)


def test_the_seed_decides_and_classes_keep_their_share() -> None:
    rows = [row(f"r{n}", f"rare {n}", prompt_harm=True) for n in range(5)]
    rows += [row(f"c{n}", f"common {n}", prompt_harm=False) for n in range(195)]
    rows += enough(20)
    config = AssemblyConfig(validation_share=0.2)
    made = [assemble({"a": rows}, config, seed=seed) for seed in (0, 0, 1)]
    held = [prompts_of(one.validation) for one in made]
    assert held[0] == held[1] != held[2]
    for texts in held:
        assert sum(text.startswith("rare") for text in texts) == 1
        assert sum(text.startswith("common") for text in texts) == 39


# --------------------------------------------------------------------------- limits and balance


def test_a_limit_draws_whole_groups_and_a_higher_one_only_adds() -> None:
    def drawn(limit: int) -> set[str]:
        config = AssemblyConfig(validation_share=0.5, max_per_source=limit)
        made = assemble({"a": enough(40)}, config, seed=3)
        pairs = both(made, "pairs")
        assert len(pairs) <= limit
        assert n_left(made.report, "beyond the limit") == 80 - len(pairs)
        by_prompt = [prompt_text(p.prompt) for p in pairs]  # type: ignore[attr-defined]
        assert all(by_prompt.count(text) == 2 for text in by_prompt)
        return set(by_prompt)

    few, more = drawn(21), drawn(60)
    assert len(few) == 10
    assert few < more


@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_the_larger_class_is_cut_to_the_ratio_in_training_only(ratio: float) -> None:
    rows = [row(f"c{n}", f"common {n}", prompt_harm=False) for n in range(60)] + enough(16)
    plain = assemble({"a": rows}, HALF, seed=0)
    even = assemble({"a": rows}, AssemblyConfig(0.5, balance=ratio), seed=0)
    harmful = even.report.total("prompts", "train", "harmful")
    assert harmful == plain.report.total("prompts", "train", "harmful") == 4
    assert even.report.total("prompts", "train", "harmless") == int(ratio * harmful)
    assert even.validation == plain.validation
    assert n_left(even.report, "beyond the balance (prompts)") == 34 - int(ratio * harmful)
    assert len(even.train.prompts) == harmful + int(ratio * harmful)


# ------------------------------------------------------------------------------ contamination


LONG = "please explain to me how the old lock on my garden shed can be opened without its key"


def test_overlaps_are_reported_and_left_out_where_asked_to() -> None:
    rows = [*enough(), row("long", LONG, "no", prompt_harm=True, response_harm=False)]
    test_set = [
        row("t1", "Question number 2?"),
        row("t2", f"{LONG} today"),
        row("t3", "something else entirely"),
    ]
    made = assemble({"a": rows}, HALF, seed=0, against={"test": test_set})
    [overlap, between] = made.report.overlaps
    assert (overlap.other, overlap.exact, overlap.near, overlap.n_other) == ("test", 1, 1, 3)
    assert overlap.dropped == 0
    assert set(overlap.pairs) == {"a: s2 = t1", "a: long = t2"}
    assert (between.ours, between.other, between.exact) == ("train", "validation", 0)
    clean = assemble(
        {"a": rows}, AssemblyConfig(0.5, drop_overlaps=True), seed=0, against={"test": test_set}
    )
    assert clean.report.overlaps[0].dropped == 2
    left = prompts_of(clean.train) | prompts_of(clean.validation)
    assert left == {f"question number {n}" for n in range(8) if n != 2}
    assert n_left(clean.report, "prompt that test holds too") == 1 + 2 + 1 + 3


def test_prompts_that_nearly_stand_in_validation_are_found() -> None:
    near = [row(f"n{n}", f"{LONG} number {n}", prompt_harm=True) for n in range(6)]
    made = assemble({"a": [*enough(), *near]}, HALF, seed=0)
    [between] = made.report.overlaps
    assert (between.exact, between.near) == (0, 3)
    clean = assemble({"a": [*enough(), *near]}, AssemblyConfig(0.5, drop_overlaps=True), seed=0)
    assert clean.report.overlaps[0].dropped == 3
    assert not any("garden shed" in text for text in prompts_of(clean.train))
    assert clean.validation == made.validation


# --------------------------------------------------------------------------------- what is refused


def test_what_the_model_cannot_read_is_counted() -> None:
    rows = [
        *enough(),
        row("long prompt", "long " * 9, "fine", prompt_harm=True, response_harm=True),
        row("long reply", "short enough", "long " * 9, prompt_harm=True, response_harm=False),
    ]

    def why_not(prompt: Sequence[object], response: str | None) -> str | None:
        words = prompt_text(prompt) + (response or "")  # type: ignore[arg-type]
        return "too long for 5 tokens" if words.count("long") > 5 else None

    made = assemble({"a": rows}, HALF, seed=0, why_not=why_not)
    assert n_left(made.report, "prompt too long for 5 tokens") == 1
    assert n_left(made.report, "reply too long for 5 tokens") == 1
    texts = {prompt_text(p.prompt) for p in both(made, "prompts")}  # type: ignore[attr-defined]
    assert "short enough" in texts
    assert len(texts) == 9
    assert len(both(made, "pairs")) == 16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("1", "x", "y", response_harm=True)], "hold no prompts; stage 1 .* add wildguardmix"),
        ([row("1", "x", prompt_harm=True)], "hold only harmful prompts; stage 1"),
        (
            [row("1", "x", prompt_harm=True), row("2", "y", prompt_harm=False)],
            "hold no pairs; stage 2 reads .* add wildguardmix, beavertails",
        ),
        (
            [one for one in enough() if not one.id.startswith("h")],
            "hold only harmless pairs; stage 2",
        ),
        (
            [row("1", "x", "a", prompt_harm=False, response_harm=False),
             row("2", "y", "b", prompt_harm=True, response_harm=True)],
            "hold no targets; stage 3",
        ),
        ([], "hold no prompts"),
        (enough(2), "the training data hold .*|the validation data hold .* --validation-share"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_what_to_add(rows: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assemble({"a": rows}, HALF, seed=0)


def test_a_label_that_is_no_truth_value_is_refused() -> None:
    odd = Example("odd", as_conversation("x"), None, {"prompt_harm": "maybe"}, source="mine")
    with pytest.raises(DataError, match="odd of mine has the label prompt_harm = 'maybe'"):
        assemble({"a": [*enough(), odd]}, HALF, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 0.0}, "between 0 and 1"),
        ({"validation_share": 1.0}, "between 0 and 1"),
        ({"max_per_source": 0}, "at least 1"),
        ({"balance": 0.5}, "give 1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AssemblyConfig(**options)  # type: ignore[arg-type]
