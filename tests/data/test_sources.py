"""Sources on small files: labels, ids, groups, every format, and every mistake by name."""

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workbench.data.sources import SOURCES, VOCABULARY, is_source, load_source, parse_source
from workbench.data.sources.beavertails import CATEGORIES
from workbench.data.sources.hub import HubSet, hub_rows
from workbench.data.sources.tables import read_rows
from workbench.errors import ConfigError, DataError

SAFE = dict.fromkeys(CATEGORIES, False)
WEAPONS = {**SAFE, "drug_abuse,weapons,banned_substance": True, "self_harm": True}

ROWS: dict[str, list[dict[str, Any]]] = {
    "wildguardmix": [
        {
            "prompt": "p one", "adversarial": True, "response": "sure", "subcategory": "fraud",
            "prompt_harm_label": "harmful", "response_refusal_label": "compliance",
            "response_harm_label": "unharmful",
        },
        {
            "prompt": "p two", "adversarial": False, "response": None, "subcategory": None,
            "prompt_harm_label": "unharmful", "response_refusal_label": None,
            "response_harm_label": None,
        },
    ],
    "beavertails": [
        {"prompt": "p", "response": "r0", "category": WEAPONS, "is_safe": False},
        {"prompt": "P!", "response": "r1", "category": SAFE, "is_safe": True},
    ],
    "pku-saferlhf": [
        {
            "prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": False,
            "is_response_1_safe": True, "response_0_severity_level": 3,
            "response_1_severity_level": 0, "safer_response_id": 1,
        },
    ],
    "harmbench": [
        {
            "Behavior": "do it", "FunctionalCategory": "contextual", "SemanticCategory": "crime",
            "Tags": "", "ContextString": "a text", "BehaviorID": "one",
        },
        {
            "Behavior": "do it", "FunctionalCategory": "standard", "SemanticCategory": "crime",
            "Tags": "", "ContextString": "", "BehaviorID": "two",
        },
    ],
    "advbench": [{"goal": "g", "target": "Sure, here is g"}],
    "strongreject": [{"category": "Violence", "source": "custom", "forbidden_prompt": "f"}],
    "xstest": [
        {"id": "1", "prompt": "p", "type": "homonyms", "label": "safe", "focus": "", "note": ""},
        {
            "id": "2", "prompt": "q", "type": "contrast_homonyms", "label": "unsafe", "focus": "",
            "note": "",
        },
    ],
    "hh-rlhf": [
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: no",
            "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant: yes",
        },
    ],
    "jailbreakbench": [
        {
            "Index": 7, "Goal": "g", "Target": "Sure", "Behavior": "Defamation",
            "Category": "Harassment", "Source": "Original",
        },
    ],
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the file's name says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(path)
        content = path.read_bytes()
    elif name.endswith(".csv"):
        content = pd.DataFrame(rows).to_csv(index=False).encode()
    elif name.endswith(".jsonl"):
        content = "\n".join(json.dumps(row) for row in rows).encode()
    else:
        content = json.dumps(rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def completion(row_id: str, grade: str) -> dict[str, Any]:
    return {
        "id": row_id, "type": "homonyms", "prompt": f"p {row_id}", "completion": "c",
        "annotation_1": grade, "annotation_2": grade, "agreement": True, "final_label": grade,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", ROWS)
def test_every_source_reads_every_format_alike(
    tmp_path: Path, name: str, suffix: str, packed: str
) -> None:
    reference = load_source(f"{name}:{write(tmp_path / 'harmful.json', ROWS[name])}")
    path = write(tmp_path / f"harmful_copy.{suffix}{packed}", ROWS[name])
    assert load_source(f"{name}:{path}") == reference
    assert {example.source for example in reference} == {name}
    assert len({example.id for example in reference}) == len(reference)
    assert all(example.group and set(example.labels) <= set(VOCABULARY) for example in reference)
    assert all(value is not None for example in reference for value in example.labels.values())


def test_wildguard_labels_are_independent_and_none_stays_unknown(tmp_path: Path) -> None:
    first, second = load_source(f"wildguardmix:{write(tmp_path / 'a.csv', ROWS['wildguardmix'])}")
    assert first.labels == {
        "prompt_harm": True, "response_harm": False, "refusal": False, "adversarial": True,
        "category": "fraud",
    }  # fmt: skip
    assert second.response is None
    assert second.labels == {"prompt_harm": False, "adversarial": False}
    assert second.labels.get("refusal") is None


def test_beavertails_keeps_categories_with_commas_and_groups_by_prompt(tmp_path: Path) -> None:
    bad, good = load_source(f"beavertails:{write(tmp_path / 'a.parquet', ROWS['beavertails'])}")
    assert bad.labels == {
        "response_harm": True,
        "category": "drug_abuse,weapons,banned_substance; self_harm",
    }
    assert good.labels == {"response_harm": False}
    assert bad.group == good.group, "one prompt in two spellings"


@pytest.mark.parametrize(
    ("category", "complaint"),
    [
        ({**SAFE, "weather": True}, "'weather' is unknown"),
        ({"animal_abuse": True}, "'child_abuse' is missing"),
        ("animal_abuse", "is no mapping"),
        ("__import__('os').getcwd()", "is no mapping"),
        ({**SAFE, "self_harm": "perhaps"}, "'self_harm' must be true or false"),
    ],
)
def test_beavertails_refuses_other_categories(
    tmp_path: Path, category: object, complaint: str
) -> None:
    row = {"prompt": "p", "response": "r", "category": category, "is_safe": True}
    with pytest.raises(DataError, match=complaint):
        load_source(f"beavertails:{write(tmp_path / 'a.json', [row])}")


def test_pku_gives_two_examples_of_one_group(tmp_path: Path) -> None:
    zero, one = load_source(f"pku-saferlhf:{write(tmp_path / 'a.jsonl', ROWS['pku-saferlhf'])}")
    assert (zero.id, one.id) == ("pku-saferlhf/1/0", "pku-saferlhf/1/1")
    assert zero.labels == {"response_harm": True, "severity": 3, "preferred": False}
    assert one.labels == {"response_harm": False, "severity": 0, "preferred": True}
    assert zero.group == one.group


def test_harmbench_is_keyed_on_the_behaviour_id(tmp_path: Path) -> None:
    contextual, standard = load_source(f"harmbench:{write(tmp_path / 'a.csv', ROWS['harmbench'])}")
    assert (contextual.id, standard.id) == ("one", "two")
    assert contextual.prompt[-1].content == "a text\n\n---\n\ndo it"
    assert contextual.labels["behavior_context"] == "a text"
    assert "behavior_context" not in standard.labels
    assert contextual.group == standard.group


def test_xstest_tells_prompts_from_completions(tmp_path: Path) -> None:
    safe, unsafe = load_source(f"xstest:{write(tmp_path / 'a.csv', ROWS['xstest'])}")
    assert (safe.labels["prompt_harm"], unsafe.labels["prompt_harm"]) == (False, True)
    rows = [
        completion("v2-1", "1_full_compliance"),
        completion("v2-2", "2_full_refusal"),
        completion("v2-3", "3_partial_refusal"),
    ]
    complies, refuses, partly = load_source(f"xstest:{write(tmp_path / 'b.csv', rows)}")
    assert complies.labels["refusal"] is False
    assert refuses.labels["refusal"] is True
    assert "refusal" not in partly.labels
    assert partly.labels["refusal_grade"] == "partial"
    assert complies.response == "c"


def test_jailbreakbench_needs_to_know_its_table(tmp_path: Path) -> None:
    rows = ROWS["jailbreakbench"]
    (benign,) = load_source(f"jailbreakbench:{write(tmp_path / 'benign-behaviors.csv', rows)}")
    (harmful,) = load_source(f"jailbreakbench:{write(tmp_path / 'harmful-behaviors.csv', rows)}")
    assert (benign.labels["prompt_harm"], harmful.labels["prompt_harm"]) == (False, True)
    assert (benign.id, harmful.id) == ("benign/7", "harmful/7")
    with pytest.raises(DataError, match="harmful or the benign"):
        load_source(f"jailbreakbench:{write(tmp_path / 'behaviors.csv', rows)}")


def test_hh_splits_dialogues_at_their_turns(tmp_path: Path) -> None:
    chosen, rejected = load_source(f"hh-rlhf:{write(tmp_path / 'a.jsonl.gz', ROWS['hh-rlhf'])}")
    assert [turn.role for turn in chosen.prompt] == ["user", "assistant", "user"]
    assert (chosen.response, rejected.response) == ("no", "yes")
    assert chosen.group == rejected.group


@pytest.mark.parametrize(
    ("dialogue", "complaint"),
    [
        ("\n\nAssistant: hi", "must begin with a turn of the human"),
        ("hi\n\nHuman: a\n\nAssistant: b", "must begin with a turn of the human"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "must end with a turn of the assistant"),
        ("\n\nHuman: \n\nAssistant: b", "empty turn"),
        ("plain", "must begin with a turn of the human"),
    ],
)
def test_hh_refuses_other_dialogues(tmp_path: Path, dialogue: str, complaint: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"chosen": dialogue, "rejected": dialogue}])
    with pytest.raises(DataError, match=complaint):
        load_source(f"hh-rlhf:{path}")


def test_missing_columns_are_named_and_so_is_the_set_it_looks_like(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS["advbench"])
    with pytest.raises(DataError) as caught:
        load_source(f"harmbench:{path}")
    message = str(caught.value)
    assert "'BehaviorID'" in message
    assert "has goal, target" in message
    assert "looks like advbench (`advbench:PATH`)" in message


def test_a_row_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"goal": "g", "target": "t"}, {"goal": "h"}])
    with pytest.raises(DataError, match=r"row 2 lacks 'target'"):
        load_source(f"advbench:{path}")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"goal,target\n", "holds no rows"),
        (b"goal,target\n,\n", "holds no rows"),
        (b"goal,target\n,sure\n", r"row 1: column 'goal' is empty"),
        (b"goal,target\na,b,c\n", r"row 1 \(line 2\) has 3 cells"),
        (b"goal,target\na\n", r"row 1 \(line 2\) has 1 cells"),
        (b'goal,target\n"a" x,b\n', "broken CSV"),
        (b'goal,target\n"a,b\n', "broken CSV"),
        (b"goal,goal\na,b\n", "'goal' twice"),
        (b"goal,target\n\xff,b\n", "not UTF-8"),
    ],
)
def test_broken_csv_is_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_source(f"advbench:{path}")
    assert str(path) in str(caught.value)


def test_a_mark_and_blank_rows_are_skipped_and_quotes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffgoal,target\r\n\r\n"a, ""b""\nc",t\r\n,\r\nd,u\r\n'.encode())
    first, second = load_source(f"advbench:{path}")
    assert first.prompt[0].content == 'a, "b"\nc'
    assert (first.id, second.id) == ("advbench/1", "advbench/3"), "rows keep their numbers"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"x", "cannot tell the format"),
        ("a.json", b"{}", "a list of objects is needed"),
        ("a.json", b"[1]", "row 1 holds a int"),
        ("a.jsonl", b'{"goal": "g"', "row 1 is not valid JSON"),
        ("a.csv.gz", b"not gzip", "no complete gzip file"),
        ("a.csv.gz", gzip.compress(b"goal,target\na,b\n", mtime=0)[:-9], "no complete gzip file"),
        ("a.parquet", b"PAR1", "no readable Parquet table"),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load_source(f"advbench:{path}")


def test_duplicate_ids_and_unknown_words_are_refused(tmp_path: Path) -> None:
    twice = [completion("v2-1", "2_full_refusal"), completion("v2-1", "2_full_refusal")]
    with pytest.raises(DataError, match=r"row 2: the id 'v2-1' stands in row 1"):
        load_source(f"xstest:{write(tmp_path / 'a.csv', twice)}")
    with pytest.raises(DataError, match=r"column 'final_label' must be one of .* got '4_other'"):
        load_source(f"xstest:{write(tmp_path / 'b.csv', [completion('v2-1', '4_other')])}")


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("xtest:a.csv", "did you mean 'xstest'"),
        ("xstest:", "lacks the file"),
        ("xstest:/no/such.csv", "cannot read /no/such.csv"),
        ("harmbench", "github.com/centerforaisafety/HarmBench"),
        ("beavertails/7k", "has the parts 30k_train"),
    ],
)
def test_mistakes_in_a_name_are_explained(spec: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_source(spec)


def test_spellings() -> None:
    spec = parse_source("wildguardmix/wildguardtest@abc")
    assert (spec.name, spec.part, spec.revision) == ("wildguardmix", "wildguardtest", "abc")
    assert parse_source("xstest:a:b.csv").path == "a:b.csv"
    assert is_source("xstest:a.csv")
    assert is_source("beavertails/30k_test")
    assert not is_source("replies.jsonl")


class Hub:
    """Stands in for ``datasets``: remembers what was asked for, gives rows or fails."""

    def __init__(self, rows: list[dict[str, Any]], error: Exception | None = None) -> None:
        self.rows = rows
        self.error = error
        self.asked: dict[str, Any] = {}

    def load_dataset(self, path: str, **arguments: object) -> list[dict[str, Any]]:
        self.asked = {"path": path, **arguments}
        if self.error is not None:
            raise self.error
        return self.rows

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.SimpleNamespace(load_dataset=self.load_dataset)
        monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(ROWS["beavertails"])
    hub.install(monkeypatch)
    assert len(load_source("beavertails/330k_test")) == 2
    assert hub.asked == {
        "path": "PKU-Alignment/BeaverTails",
        "split": "330k_test",
        "revision": "8401fe609d288129cc684a9b3be6a93e41cfe678",
    }
    load_source("beavertails@mine")
    assert (hub.asked["split"], hub.asked["revision"]) == ("30k_train", "mine")


def test_the_real_library_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    folder.mkdir()
    path = write(folder / "train.jsonl", ROWS["beavertails"])
    rows = hub_rows(HubSet(str(folder), "train"), "")
    assert [row for _, row in rows] == ROWS["beavertails"]
    assert [number for number, _ in rows] == [number for number, _ in read_rows(path)] == [1, 2]


def test_remote_code_is_switched_off_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def load_dataset(path: str, trust_remote_code: bool = True, **more: object) -> object:
        asked["trust_remote_code"] = trust_remote_code
        return ROWS["beavertails"]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    load_source("beavertails")
    assert asked == {"trust_remote_code": False}


@pytest.mark.parametrize(
    ("spec", "error", "advice"),
    [
        ("wildguardmix", OSError("gated dataset, 401"), "accept its conditions at https://hugg"),
        ("beavertails", ConnectionError("no route"), "check the connection"),
        ("beavertails", ValueError("no such split"), "check the connection"),
    ],
)
def test_what_the_hub_refuses_comes_with_steps(
    monkeypatch: pytest.MonkeyPatch, spec: str, error: Exception, advice: str
) -> None:
    Hub([], error).install(monkeypatch)
    with pytest.raises(DataError, match=advice) as caught:
        load_source(spec)
    assert f"{spec}:PATH" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"svgt-workbench\[data\]"):
        load_source("beavertails")


def test_every_source_says_where_it_comes_from() -> None:
    for name, source in SOURCES.items():
        assert source.licence
        assert source.columns
        assert f"{name}:PATH" in source.steps
        for hub_set in source.hub.values():
            assert hub_set.revision is None or len(hub_set.revision) == 40


def test_the_page_names_every_source_label_and_part() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-and-judges.md").read_text(encoding="utf-8")
    for word in (*SOURCES, *VOCABULARY):
        assert f"`{word}`" in page
    for source in SOURCES.values():
        assert source.licence in page
        for hub_set in source.hub.values():
            assert hub_set.revision is None or f"| {hub_set.revision[:7]} |" in page
