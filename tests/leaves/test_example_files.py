"""Examples are read from a file exactly as they stand there, or not at all."""

import json
from pathlib import Path

import pytest

from workbench.data.example import Example, Message
from workbench.data.files import read_examples
from workbench.errors import DataError, WorkbenchWarning


def _write(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_full_line_is_read_as_it_stands(tmp_path: Path) -> None:
    line = {
        "prompt": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "wie geht das, Ärger?"},
        ],
        "response": "no",
        "prompt_harm": True,
        "response_harm": False,
        "refusal": True,
        "context": "fiction",
        "group": "g1",
        "id": "a",
    }
    assert read_examples(_write(tmp_path / "mine.jsonl", line)) == [
        Example(
            id="a",
            prompt=(Message("system", "be kind"), Message("user", "wie geht das, Ärger?")),
            response="no",
            labels={"prompt_harm": True, "response_harm": False, "refusal": True},
            context="fiction",
            source="mine",
            group="g1",
        )
    ]


def test_what_is_left_out_has_a_default_and_a_label_left_out_stays_unknown(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "mine.jsonl", {"prompt": "hello"}, "", "  ", {"prompt": "hi", "id": "b"}, ""
    )
    first, second = read_examples(path)
    assert first == Example(
        id="mine/1",
        prompt=(Message("user", "hello"),),
        response=None,
        labels={},
        context="direct",
        source="mine",
        group="mine/1",
    )
    assert (second.id, second.group) == ("b", "b")


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_reply_counts_as_none(tmp_path: Path, blank: str) -> None:
    [found] = read_examples(_write(tmp_path / "mine.jsonl", {"prompt": "a", "response": blank}))
    assert found.response is None


def test_a_pair_is_a_label_and_one_group_by_default(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "mine.jsonl",
        {"prompt": "a", "pair": "p"},
        {"prompt": "b", "pair": "p"},
        {"prompt": "c", "pair": "q", "group": "g"},
    )
    found = read_examples(path)
    assert [example.labels for example in found] == [{"pair": "p"}, {"pair": "p"}, {"pair": "q"}]
    assert [example.group for example in found] == ["p", "p", "g"]


def test_examples_without_a_group_are_told_of_once_with_the_consequence(tmp_path: Path) -> None:
    alone = {"prompt": "hello"}
    file = _write(tmp_path / "mine.jsonl", alone, alone, {"prompt": "bye", "group": "g"})
    with pytest.warns(WorkbenchWarning) as told:
        read_examples(file)
    [warning] = told
    assert f"{file}: 2 of 3 examples have no 'group'" in str(warning.message)
    assert "intervals come out too narrow" in str(warning.message)


@pytest.mark.filterwarnings("error")
def test_groups_pairs_and_a_single_example_are_read_in_silence(tmp_path: Path) -> None:
    grouped, paired = {"prompt": "a", "group": "g"}, {"prompt": "b", "pair": "p"}
    assert len(read_examples(_write(tmp_path / "x.jsonl", grouped, paired, {"prompt": "c"}))) == 3


def test_a_pair_in_two_groups_is_named(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "mine.jsonl",
        {"prompt": "a", "pair": "p"},
        {"prompt": "b", "pair": "p", "group": "g"},
    )
    with pytest.raises(DataError, match="line 2: the pair 'p' has the group 'g' here and 'p' in l"):
        read_examples(path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert [example.prompt[0].content for example in read_examples(path)] == ["a", "b"]


GOOD = '{"prompt": "a"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "prompt_ham": true}', "unknown key 'prompt_ham' .did you mean 'prompt_h"),
        ('{"response": "a"}', "missing key 'prompt'"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands there twice"),
        ('{"prompt": "a", "prompt_harm": 1}', "'prompt_harm' must be true or false"),
        ('{"prompt": "a", "response_harm": NaN}', "'response_harm' must be true or false"),
        ('{"prompt": "a", "response": ["b"]}', "'response'"),
        ('{"prompt": 3}', "the prompt is a int; give a text or a list"),
        ('{"prompt": "  "}', "the prompt is empty"),
        ('{"prompt": "a", "refused": true}', "did you mean 'refusal'.*valid keys: .*refusal, con"),
        ('{"prompt": "a", "refusal": "partial"}', "'refusal' must be true or false"),
        ('{"prompt": []}', "must end with a user turn"),
        ('{"prompt": [{"role": "assistant", "content": "b"}]}', "must end with a user turn"),
        ('{"prompt": [{"role": "usr", "content": "b"}]}', "turn 1: key 'role'"),
        ('{"prompt": [{"role": "user", "text": "b"}]}', "turn 1: unknown key 'text'"),
        ('{"prompt": ["b"]}', "turn 1: an object with 'role' and 'content'"),
        ('["a"]', "holds a list"),
        ('{"prompt": "a"', "is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "mine.jsonl", GOOD, "", line)
    with pytest.raises(DataError, match=message) as caught:
        read_examples(path)
    assert f"{path}, line 3" in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line 2 is not UTF-8 text \(byte 15\)"):
        read_examples(path)


def test_an_id_that_stands_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", '{"prompt": "a", "id": "x"}', GOOD, GOOD)
    assert len(read_examples(path)) == 3
    path = _write(
        tmp_path / "mine.jsonl", '{"prompt": "a", "id": "mine/2"}', '{"prompt": "b"}', GOOD
    )
    with pytest.raises(DataError, match="line 2: the id 'mine/2' stands in line 1 already"):
        read_examples(path)


def test_a_file_without_examples_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no examples"):
        read_examples(_write(tmp_path / "empty.jsonl", "", "\n"))
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.jsonl"):
        read_examples(tmp_path / "nowhere.jsonl")
