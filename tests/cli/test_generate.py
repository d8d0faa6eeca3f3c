"""``workbench generate``: what it prints, and one clear line for every mistake."""

import json
from pathlib import Path

import pytest

from workbench.cli.main import run

Captured = pytest.CaptureFixture[str]
ASK = ["--prompt", "how do i bake my cake ?"]
SHORT = ["--max-new-tokens", "6"]


def said(capsys: Captured, *arguments: str) -> str:
    assert run(["generate", *arguments]) == 0
    return capsys.readouterr().out


def mistake(capsys: Captured, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 2."""
    assert run(["generate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_json_has_the_tokens_and_their_traces(
    checkpoint: Path, value_module: Path, capsys: Captured
) -> None:
    out = said(
        capsys, "--backbone", str(checkpoint), "--guidance", f"svgt:{value_module}", *ASK, *SHORT,
        "--json", "--seed", "1",
    )  # fmt: skip
    assert out.count("\n") == 1
    reply = json.loads(out)
    assert reply["guidance"] == "svgt"
    assert reply["config"] == str(value_module)
    assert reply["prompt"] == ASK[1]
    assert reply["seed"] == 1
    assert 1 <= len(reply["ids"]) <= 6
    assert reply["finish"] in ("stop", "length")
    assert len(reply["tokens"]) == len(reply["ids"])
    for name, values in reply["trace"].items():
        assert len(values) == len(reply["ids"]), name
    assert all(0 <= mass <= 1 for mass in reply["trace"]["slot_attention"])
    assert reply["sampling"] == {"temperature": 0.7, "top_p": 0.9, "greedy": False}


def test_the_plain_model_has_no_bridge_to_trace(checkpoint: Path, capsys: Captured) -> None:
    out = said(capsys, "--backbone", str(checkpoint), "--guidance", "none", *ASK, *SHORT, "--json")
    reply = json.loads(out)
    assert reply["config"] == ""
    assert set(reply["trace"].values()) == {None}


def test_streamed_text_is_the_text_of_the_json(checkpoint: Path, capsys: Captured) -> None:
    same = ["--backbone", str(checkpoint), "--guidance", "none", *ASK, "--max-new-tokens", "20"]
    for how in (["--greedy"], ["--seed", "4"]):
        streamed = said(capsys, *same, *how)
        assert streamed == json.loads(said(capsys, *same, *how, "--json"))["text"] + "\n"


def test_seeds_decide(checkpoint: Path, capsys: Captured) -> None:
    same = ["--backbone", str(checkpoint), "--guidance", "none", *ASK, "--max-new-tokens", "12"]
    texts = [said(capsys, *same, "--seed", seed) for seed in ("0", "0", "1")]
    assert texts[0] == texts[1] != texts[2]


def test_both_backends_reply_alike(checkpoint: Path, value_module: Path, capsys: Captured) -> None:
    same = ["--backbone", str(checkpoint), "--guidance", f"svgt:{value_module}", *ASK, *SHORT]
    lens, traced = (
        json.loads(said(capsys, *same, "--json", "--seed", "1", "--backend", backend))
        for backend in ("transformer-lens", "nnsight")
    )
    assert traced["ids"] == lens["ids"]
    seen = (reply["trace"]["slot_attention"] for reply in (traced, lens))
    assert next(seen) == pytest.approx(next(seen), rel=1e-4)
    message = mistake(capsys, *same, "--backend", "nnsigth")
    assert "use transformer-lens or nnsight" in message


def test_a_file_of_prompts(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffhello\n\nhow do i bake my cake ?\n", encoding="utf-8")
    same = ["--backbone", str(checkpoint), "--guidance", "none", *SHORT, "--file", str(file)]
    replies = [json.loads(line) for line in said(capsys, *same, "--json").splitlines()]
    assert [reply["prompt"] for reply in replies] == ["hello", "how do i bake my cake ?"]
    text = said(capsys, *same)
    assert text.startswith(f"> hello\n{replies[0]['text']}\n")


def test_a_file_that_is_not_utf8(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("café\n".encode("latin-1"))
    line = mistake(capsys, "--backbone", str(checkpoint), "--file", str(file))
    assert "not UTF-8" in line
    assert "byte 3" in line
    assert "save the file as UTF-8" in line


def test_a_file_that_is_missing_or_empty(tmp_path: Path, capsys: Captured) -> None:
    assert "cannot read" in mistake(capsys, "--file", str(tmp_path / "no.txt"))
    (tmp_path / "empty.txt").write_text(" \n\n")
    assert "holds no prompt" in mistake(capsys, "--file", str(tmp_path / "empty.txt"))


@pytest.mark.parametrize("prompt", ["", "   "])
def test_an_empty_prompt(prompt: str, checkpoint: Path, capsys: Captured) -> None:
    line = mistake(capsys, "--backbone", str(checkpoint), "--guidance", "none", "--prompt", prompt)
    assert "the prompt is empty" in line


def test_a_prompt_that_is_too_long(checkpoint: Path, capsys: Captured) -> None:
    line = mistake(
        capsys, "--backbone", str(checkpoint), "--guidance", "none", "--prompt", "hello " * 300
    )
    assert "256" in line


def test_words_outside_the_vocabulary(checkpoint: Path, capsys: Captured) -> None:
    line = mistake(
        capsys, "--backbone", str(checkpoint), "--guidance", "none", "--prompt", "bake my gizmo"
    )
    assert "'gizmo'" in line
    assert "Replace these words" in line


def test_neither_or_both_ways_to_ask(tmp_path: Path, capsys: Captured) -> None:
    assert "name what to ask: --prompt TEXT or --file PATH" in mistake(capsys)
    both = mistake(capsys, *ASK, "--file", str(tmp_path / "x"))
    assert "exclude each other" in both


def test_an_unknown_backbone(capsys: Captured) -> None:
    line = mistake(capsys, "--backbone", "testbed-lama", *ASK)
    assert "unknown backbone 'testbed-lama'" in line
    assert "testbed-llama" in line


def test_an_unknown_guidance(checkpoint: Path, capsys: Captured) -> None:
    line = mistake(capsys, "--backbone", str(checkpoint), "--guidance", "svtg", *ASK)
    assert "did you mean 'svgt'" in line


def test_an_unknown_configuration(checkpoint: Path, capsys: Captured) -> None:
    line = mistake(capsys, "--backbone", str(checkpoint), "--guidance", "svgt:papper", *ASK)
    assert "no value module 'papper'" in line
    assert "workbench train --backbone" in line


def test_where_nothing_ships_doing_without_is_said(checkpoint: Path, capsys: Captured) -> None:
    line = mistake(capsys, "--backbone", str(checkpoint), *ASK)
    assert f"no value module 'workbench' ships for {checkpoint}, nor any other" in line
    assert "--guidance none replies with the plain model" in line


def test_a_truncated_module(
    checkpoint: Path, value_module: Path, tmp_path: Path, capsys: Captured
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in value_module.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "svgt.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = mistake(capsys, "--backbone", str(checkpoint), "--guidance", f"svgt:{broken}", *ASK)
    assert "svgt.safetensors" in line


def test_a_system_prompt_is_a_switch(capsys: Captured) -> None:
    asked = ["--backbone", "testbed-llama", "--guidance", "system-prompt", *ASK]
    line = mistake(capsys, *asked, "--strength", "0.5")
    assert "system-prompt at strength 0.5: a system message is a switch" in line


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", "0"),
        ("--temperature", "warm"),
        ("--top-p", "1.5"),
        ("--max-new-tokens", "0"),
        ("--seed", "-1"),
        ("--refresh", "-2"),
        ("--limit", "3"),
    ],
)
def test_options_out_of_range(option: str, value: str, checkpoint: Path, capsys: Captured) -> None:
    mistake(capsys, "--backbone", str(checkpoint), "--guidance", "none", *ASK, option, value)


def test_a_momentum_out_of_range(checkpoint: Path, value_module: Path, capsys: Captured) -> None:
    line = mistake(
        capsys, "--backbone", str(checkpoint), "--guidance", f"svgt:{value_module}", *ASK,
        "--beta", "1",
    )  # fmt: skip
    assert "[0, 1)" in line


def test_help_teaches(capsys: Captured) -> None:
    out = said(capsys, "--help")
    assert "Example" in out
    assert "workbench generate --guidance svgt --prompt" in out
