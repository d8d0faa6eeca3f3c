"""``workbench testbed``: samples, model cards and pre-training from the command line."""

import json
from pathlib import Path

import pytest

from workbench.cli.main import run
from workbench.testbed import registry
from workbench.testbed.pretraining_config import PretrainConfig

Captured = pytest.CaptureFixture[str]


def said(capsys: Captured, *arguments: str) -> str:
    assert run(["testbed", *arguments]) == 0
    return capsys.readouterr().out


def mistake(capsys: Captured, *arguments: str) -> str:
    assert run(["testbed", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_samples_show_every_kind_of_reply(capsys: Captured) -> None:
    out = said(capsys, "sample", "--split", "composed_frames", "--kind", "harmful", "--n", "2")
    for kind in ("specific", "tool", "generic", "refusal", "recovery"):
        assert out.count(f"    {kind} ") == 2
    assert out.count("harmful, ") == 2
    assert "+" in out
    assert said(capsys, "sample", "--n", "3") == said(capsys, "sample", "--n", "3")
    assert said(capsys, "sample", "--n", "3") != said(capsys, "sample", "--n", "3", "--seed", "1")


def test_harmless_samples_are_not_refused(capsys: Captured) -> None:
    assert "refusal" not in said(capsys, "sample", "--kind", "plain", "--n", "4")
    prevention = said(capsys, "sample", "--kind", "prevention", "--n", "1")
    assert "    protection " in prevention


def test_unknown_splits_and_kinds(capsys: Captured) -> None:
    assert "unknown split 'tset'" in mistake(capsys, "sample", "--split", "tset")
    assert "choose one of harmful" in mistake(capsys, "sample", "--kind", "evil")
    assert "greater than or equal to 1" in mistake(capsys, "sample", "--n", "0")


def test_the_card_states_what_was_measured(checkpoint: Path, capsys: Captured) -> None:
    out = said(capsys, "card", "--backbone", str(checkpoint), "--n", "3", "--seed", "3")
    assert out.startswith("---\nlicense: mit\n")
    assert "# tiny" in out
    assert "3 requests of each kind and split, seed 3" in out
    # random weights say nothing in the language, so nothing is grammatical and no harm is done
    assert "| grammatical replies | 0.0 | 0.0 to " in out
    assert "| unseen_frames | fiction | 0.0 |" in out
    assert "| composed_frames | two at once | 0.0 |" in out
    assert out == said(capsys, "card", "--backbone", str(checkpoint), "--n", "3", "--seed", "3")


def test_the_card_can_be_written(checkpoint: Path, capsys: Captured) -> None:
    said(capsys, "card", "--backbone", str(checkpoint), "--n", "1", "--write")
    assert "# tiny" in (checkpoint / "README.md").read_text(encoding="utf-8")
    (checkpoint / "README.md").unlink()


@pytest.fixture
def _tiny_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = PretrainConfig(
        "gpt2", "anchored", steps=3, batch_size=2, width=16, n_layers=2, n_heads=2, n_kv_heads=2,
        feed_forward=32,
    )  # fmt: skip
    monkeypatch.setitem(registry.EMBEDDED_CONFIGS, "testbed-gpt2", tiny)


@pytest.mark.usefixtures("_tiny_configs")
def test_pretraining_writes_a_checkpoint_with_card_and_provenance(
    tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "mine"
    arguments = ["pretrain", "--name", "testbed-gpt2", "--out", str(out), "--card-n", "1"]
    assert f"wrote {out}" in said(capsys, *arguments)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "# testbed-gpt2" in card
    assert "world: *anchored*" in card
    assert "3 steps of 2 dialogues, seed 0" in card
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "finished"
    assert {"model.safetensors", "tokenizer.json", "config.json", "README.md"} <= set(
        record["files"]
    )
    assert "is trained already" in said(capsys, *arguments, "--resume")
    assert "already holds a run" in mistake(capsys, *arguments)
    other = mistake(capsys, *arguments, "--resume", "--steps", "4")
    assert "pretraining.steps was 3, now 4" in other
    assert run(["generate", "--backbone", str(out), "--guidance", "none", "--prompt", "hello"]) == 0


@pytest.mark.usefixtures("_tiny_configs")
def test_an_interrupted_pretraining_goes_on(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.cli import _testbed

    arguments = ["pretrain", "--name", "testbed-gpt2", "--card-n", "0", "--out"]
    said(capsys, *arguments, str(tmp_path / "whole"))
    plain = _testbed.pretrain

    def interrupted(*given: object, **named: object) -> None:
        def stop(step: int, loss: float) -> None:
            if step == 2:
                raise KeyboardInterrupt

        plain(*given, **{**named, "save_every": 1, "on_step": stop})  # type: ignore[arg-type]

    monkeypatch.setattr(_testbed, "pretrain", interrupted)
    assert run(["testbed", *arguments, str(tmp_path / "cut")]) == 130
    monkeypatch.setattr(_testbed, "pretrain", plain)
    capsys.readouterr()
    said(capsys, *arguments, str(tmp_path / "cut"), "--resume")
    one, other = (tmp_path / run_ / "model.safetensors" for run_ in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_unknown_names(tmp_path: Path, capsys: Captured) -> None:
    line = mistake(capsys, "pretrain", "--name", "testbed-lama", "--out", str(tmp_path / "x"))
    assert "did you mean testbed-llama" in line
    assert "unknown backbone" in mistake(capsys, "card", "--backbone", "testbed-lama")
    assert not (tmp_path / "x").exists()


def test_pretraining_leaves_foreign_folders_alone(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in mistake(capsys, "pretrain", "--out", str(tmp_path), "--steps", "1")


@pytest.mark.parametrize("command", ["sample", "card", "pretrain"])
def test_help_teaches(command: str, capsys: Captured) -> None:
    out = said(capsys, command, "--help")
    assert "Example" in out
    assert f"workbench testbed {command}" in out
