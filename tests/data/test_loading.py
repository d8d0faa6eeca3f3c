"""What a command line names as data: sources, hub parts and files of one's own."""

import json
from pathlib import Path

import pytest

from workbench.data.loading import (
    digest_examples,
    load_examples,
    load_named,
    split_specs,
)
from workbench.errors import ConfigError, DataError


def own_file(path: Path, *prompts: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"prompt": prompt, "prompt_harm": True}) for prompt in prompts]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_lists_are_split_and_repetitions_refused() -> None:
    assert split_specs(" xstest:a.csv, mine.jsonl ,") == ["xstest:a.csv", "mine.jsonl"]
    with pytest.raises(DataError, match="names no data"):
        split_specs(" , ")
    with pytest.raises(DataError, match=r"'a\.jsonl' is named twice"):
        split_specs("a.jsonl,a.jsonl")


def test_sources_and_own_files_are_read_under_names_that_differ(tmp_path: Path) -> None:
    advbench = tmp_path / "adv.csv"
    advbench.write_text("goal,target\ndo it,Sure\n", encoding="utf-8")
    one, two = (
        own_file(tmp_path / "x" / "mine.jsonl", "a"),
        own_file(tmp_path / "y" / "mine.jsonl", "b"),
    )
    named = load_named([f"advbench:{advbench}", str(one)])
    assert {name: len(rows) for name, rows in named.items()} == {"advbench": 1, "mine": 1}
    assert set(load_named([str(one), str(two)])) == {str(one), str(two)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.jsonl", "cannot read nothing.jsonl: there is no such file, and it names no"),
        ("wildgardmix:a.parquet", "did you mean wildguardmix:PATH"),
        ("nonsense", "unknown source 'nonsense'"),
        ("wildguardmix:none.parquet", "cannot read none.parquet .*`hf auth login`.* HF_TOKEN"),
        ("beavertails:none.jsonl", "hf download PKU-Alignment/BeaverTails"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples(spec)


def test_one_name_where_a_list_is_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"specs = 'a\.jsonl' .* a list of texts is needed"):
        load_named("a.jsonl")


def test_digests_follow_content_and_not_the_file(tmp_path: Path) -> None:
    one = load_named([str(own_file(tmp_path / "mine.jsonl", "a", "b"))])
    before = digest_examples(one)
    assert before["mine"]["examples"] == 2
    assert digest_examples(load_named([str(own_file(tmp_path / "mine.jsonl", "a", "c"))])) != before
    assert digest_examples(load_named([str(own_file(tmp_path / "mine.jsonl", "a", "b"))])) == before
