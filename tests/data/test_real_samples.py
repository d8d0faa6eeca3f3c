"""Sources and contamination check on the published files, where they are at hand."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from workbench.data.assembly import AssemblyConfig, assemble
from workbench.data.contamination import check_contamination
from workbench.data.example import Example, as_conversation
from workbench.data.normalising import normalise, prompt_text
from workbench.data.sources import VOCABULARY, load_source

FILES = {
    "harmbench": "harmbench/harmbench_behaviors_text_all.csv",
    "advbench": "advbench/harmful_behaviors.csv",
    "pair": "pair_advbench50/harmful_behaviors_custom.csv",
    "xstest": "xstest/xstest_prompts.csv",
    "completions": "xstest/xstest_v2_completions_gpt4.csv",
    "hh-rlhf": "hh_rlhf/harmless_base_test.jsonl.gz",
    "jailbreakbench": "jailbreakbench/harmful-behaviors.csv",
    "strongreject": "strongreject/strongreject_dataset.csv",
}
SOURCE_OF = {"pair": "advbench", "completions": "xstest"}


def load(folder: Path, name: str) -> list[Example]:
    path = folder / FILES[name]
    if not path.is_file():
        pytest.skip(f"{path} is not among the samples")
    return load_source(f"{SOURCE_OF.get(name, name)}:{path}")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("harmbench", 400), ("advbench", 520), ("pair", 50), ("xstest", 450),
        ("completions", 450), ("hh-rlhf", 4624), ("jailbreakbench", 100), ("strongreject", 313),
    ],
)  # fmt: skip
def test_published_counts(benchmark_data: Path, name: str, count: int) -> None:
    examples = load(benchmark_data, name)
    assert len({example.id for example in examples}) == len(examples) == count
    assert all(set(example.labels) <= set(VOCABULARY) for example in examples)
    assert all(example.prompt[-1].content for example in examples)


def test_harmbench_kinds_and_splits(benchmark_data: Path) -> None:
    everything = load(benchmark_data, "harmbench")
    assert Counter(example.labels["kind"] for example in everything) == {
        "standard": 200, "contextual": 100, "copyright": 100,
    }  # fmt: skip
    with_context = {x.id for x in everything if "behavior_context" in x.labels}
    assert with_context == {x.id for x in everything if x.labels["kind"] == "contextual"}
    assert len({example.labels["behavior"] for example in everything}) == 393, "they repeat"
    folder = benchmark_data / "harmbench"
    test = load_source(f"harmbench:{folder / 'harmbench_behaviors_text_test.csv'}")
    val = load_source(f"harmbench:{folder / 'harmbench_behaviors_text_val.csv'}")
    assert (len(test), len(val)) == (320, 80)
    assert check_contamination(val, test).n_items("exact") == 0


def test_xstest_labels(benchmark_data: Path) -> None:
    prompts = load(benchmark_data, "xstest")
    assert Counter(x.labels["prompt_harm"] for x in prompts) == {False: 250, True: 200}
    replies = load(benchmark_data, "completions")
    assert Counter(x.labels["refusal_grade"] for x in replies) == {
        "compliance": 230, "refusal": 211, "partial": 9,
    }  # fmt: skip
    assert Counter(x.labels.get("refusal") for x in replies) == {False: 230, True: 211, None: 9}
    by_text = {x.prompt: x.labels["prompt_harm"] for x in prompts}
    known = [x for x in replies if x.prompt in by_text]
    assert len(known) >= 440
    assert all(x.labels["prompt_harm"] == by_text[x.prompt] for x in known), "read off the type"


def test_hh_dialogues(benchmark_data: Path) -> None:
    examples = load(benchmark_data, "hh-rlhf")
    assert all(example.prompt[0].role == "user" for example in examples)
    assert sum(example.response is None for example in examples) == 4
    pairs = {example.id.rpartition("/")[0] for example in examples}
    assert len(pairs) == 2312


def test_pair_names_the_rows_of_advbench_that_it_took(benchmark_data: Path) -> None:
    advbench, pair = load(benchmark_data, "advbench"), load(benchmark_data, "pair")
    report = check_contamination(advbench, pair)
    assert report.n_items("exact") == 50
    with (benchmark_data / FILES["pair"]).open(encoding="utf-8", newline="") as file:
        indices = [int(row["Original index"]) for row in csv.DictReader(file)]
    wanted = {
        (f"advbench/{index + 1}", example.id) for index, example in zip(indices, pair, strict=True)
    }
    found = {(x.first, x.second) for x in report.overlaps if x.kind == "exact"}
    assert found == wanted


@pytest.mark.parametrize(
    ("first", "second", "items"),
    [
        ("jailbreakbench", "advbench", 11),
        ("jailbreakbench", "harmbench", 9),
        ("advbench", "strongreject", 25),
    ],
)
def test_overlaps_that_are_known(benchmark_data: Path, first: str, second: str, items: int) -> None:
    report = check_contamination(load(benchmark_data, first), load(benchmark_data, second))
    assert report.n_items("exact") == items


def test_sets_that_share_nothing(benchmark_data: Path) -> None:
    report = check_contamination(
        load(benchmark_data, "advbench"), load(benchmark_data, "harmbench")
    )
    assert report.overlaps == ()


def test_training_prompts_are_compared_with_the_sets_they_are_tested_on(
    benchmark_data: Path,
) -> None:
    pairs = [
        Example(
            f"p{n}", as_conversation(f"pair number {n}"), f"reply {n}",
            {"response_harm": n % 2 == 0}, source="made", group=f"p{n}",
        )
        for n in range(20)
    ]  # fmt: skip
    sources = {
        "xstest": load(benchmark_data, "xstest"),
        "advbench": load(benchmark_data, "advbench"),
        "made": pairs,
    }
    against = {
        "pair": load(benchmark_data, "pair"),
        "harmbench": load(benchmark_data, "harmbench"),
    }
    made = assemble(sources, AssemblyConfig(0.2), seed=0, against=against)
    found = {overlap.other: (overlap.exact, overlap.near) for overlap in made.report.overlaps}
    assert found["pair"] == (50, 0)
    assert found["harmbench"] == (0, 0)
    assert found["validation"][0] == 0
    assert made.report.total("prompts", "train", "harmful") == 160 + 416
    assert made.report.total("prompts", "validation", "harmless") == 50
    clean = assemble(sources, AssemblyConfig(0.2, drop_overlaps=True), seed=0, against=against)
    assert clean.report.overlaps[0].dropped >= 50
    kept = [*clean.train.prompts, *clean.validation.prompts]
    there = {normalise(prompt_text(example.prompt)) for example in against["pair"]}
    assert not there & {normalise(prompt_text(row.prompt)) for row in kept}
