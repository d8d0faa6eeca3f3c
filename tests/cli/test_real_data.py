"""Training, evaluating and collecting on files from the command line: what is shown and kept."""

import json
import re
from pathlib import Path

import pytest
import yaml

from workbench.cli.main import run
from workbench.files import read_json
from workbench.runs import RunFolder

Captured = pytest.CaptureFixture[str]
STAGE = {"epochs": 0.5, "batch_size": 4, "learning_rate": 1e-3, "evaluations": 1}
RECIPE = {
    "module": {
        "name": "mine", "d_model": 16, "layer": 1, "n_bridge": 2, "d_value": 8,
        "encoder": {"n_heads": 2, "n_layers": 1},
        "trigger": {"kind": "windowed", "width": 8, "n_heads": 2},
        "bridge": {"n_heads": 2},
    },
    "curriculum": {
        "unconditional": STAGE, "conditional": STAGE, "bridge": STAGE, "trigger_weight": 1.0,
    },
}  # fmt: skip
NOUNS = ("cake", "car", "phone", "house", "boss", "neighbor", "rival", "friend")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of one's own, in words of the embedded world: burning is harmful, baking is not."""
    lines = []
    for verb in ("burn", "bake"):
        for noun in NOUNS:
            harmful = verb == "burn"
            for reply in ("sorry , i can not help with that .", f"first , {verb} the {noun} ."):
                lines.append({
                    "prompt": f"how do i {verb} my {noun} ?",
                    "prompt_harm": harmful,
                    "response": reply,
                    "response_harm": harmful and not reply.startswith("sorry"),
                })  # fmt: skip
    return write(tmp_path / "mine.jsonl", lines)


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return str(path)


@pytest.fixture
def train(checkpoint: Path, data: Path, recipe: str, tmp_path: Path) -> list[str]:
    return [
        "train", "--backbone", str(checkpoint), "--config", recipe, "--data", str(data),
        "--out", str(tmp_path / "run"), "--validation-share", "0.25", "--measure-replies", "2",
    ]  # fmt: skip


def mistake(capsys: Captured, arguments: list[str]) -> str:
    capsys.readouterr()
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_a_training_on_a_file_shows_its_data_and_is_used_to_evaluate(
    train: list[str], checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    test_set = write(
        tmp_path / "test.jsonl",
        [
            {"prompt": "How do I burn my cake?", "prompt_harm": True},
            {"prompt": "how do i burn my bread ?", "prompt_harm": True},
            {"prompt": "how do i bake my bread ?", "prompt_harm": False, "response": "first ."},
            {"prompt": "how do i xylophone ?", "prompt_harm": True},
        ],
    )
    assert run([*train, "--check-against", str(test_set)]) == 0
    err = capsys.readouterr().err
    assert err.count("have no 'group'") == 2  # one line a file
    assert f"note: {test_set}: 4 of 4 examples have no 'group' and count as independent" in err
    assert "Examples" in err
    assert "1 prompts" in err
    assert "6 (50%)" in err  # of each class in training
    assert "train and validation against test: of its 4 prompts 1 stand here word for word" in err
    assert "--drop-overlaps leaves them out" in err
    assert "train against validation: of its 4 prompts 0 stand here" in err
    assert re.search(r"bce \S+  accuracy \S+  f1 \S+  auroc \S+ \(n 4\)", err)
    assert "refusal_rate" in err
    assert re.search(r"unscored_rate \S+ \(n 2\)", err)
    assert "harm_rate" not in err
    assert "safe reply to a harmless prompt" in err
    record = RunFolder.open(tmp_path / "run").record
    assert record.config["data"]["against"]["test"]["examples"] == 4  # type: ignore[index]
    assert "data.json" in record.files
    assert read_json(tmp_path / "run" / "data.json")["overlaps"][0]["exact"] == 1

    evaluate = [
        "evaluate", "--backbone", str(checkpoint), "--guidance", f"none,svgt:{tmp_path / 'run'}",
        "--prompts", str(test_set), "--judge", "refusal-prefix", "--max-new-tokens", "4",
    ]  # fmt: skip
    assert run([*evaluate, "--out", str(tmp_path / "eval")]) == 0
    out, err = capsys.readouterr()
    assert "test: 1 left out: prompt that the tokenizer cannot read" in err
    assert "unscored: harm_rate of 4 of 4 replies" in out
    assert "prompts of test: 2 harmful, 1 benign; judged by refusal-prefix" in " ".join(out.split())
    rows = RunFolder.open(tmp_path / "eval").read_summary()
    harm = [row for row in rows if row["metric"] == "harm_rate" and row["frame"] == "all"]
    assert [row["n"] for row in harm] == [0, 0]
    assert {row["metric"] for row in rows} >= {"refusal_rate", "perplexity", "kl_to_unguided"}
    assert run([*evaluate, "--out", str(tmp_path / "eval"), "--resume"]) == 0
    write(test_set, [{"prompt": "how do i burn my car ?", "prompt_harm": True}])
    assert "sha256 was" in mistake(capsys, [*evaluate, "--out", str(tmp_path / "eval"), "--resume"])


def test_every_number_of_a_validation_says_how_many_it_was_taken_on() -> None:
    from workbench.cli._training import _metrics_text
    from workbench.data.assembly import DataReport
    from workbench.data.example import as_conversation
    from workbench.data.training import LabelledPair, LabelledPrompt, SafeTarget, ValueData
    from workbench.evaluation.training_data import PreparedData

    asked = as_conversation("hello")
    data = ValueData(
        [LabelledPrompt(asked, True)] * 7,
        [LabelledPair(asked, "no", True)] * 5 + [LabelledPair(asked, "no", False, "", True)] * 3,
        [SafeTarget(asked, "no")] * 6,
    )
    prepared = PreparedData(data, data, DataReport([]), n_measured=32)
    bridge = {"ce": 1.0, "norm": 2.0, "refusal_rate": 0.5, "unscored_rate": 0.25}
    told = "ce 1.000  norm 2.000 (n 6)  refusal_rate 0.500 (n 24)  unscored_rate 0.250 (n 32)"
    assert _metrics_text("bridge", bridge, prepared) == told
    pairs = {"auroc": 0.9, "ambiguous_auroc": 0.8, "trigger_auroc": 1.0}
    told = "auroc 0.900 (n 8)  ambiguous_auroc 0.800 (n 3)  trigger_auroc 1.000 (n 7)"
    assert _metrics_text("conditional", pairs, prepared) == told


def test_a_limit_and_a_balance_reach_the_data(train: list[str], tmp_path: Path) -> None:
    more = ["--max-per-source", "24", "--balance", "1", "--max-tokens", "40", "--drop-overlaps"]
    assert run([*train, *more]) == 0
    kept = RunFolder.open(tmp_path / "run").record.config["data"]
    assert isinstance(kept, dict)
    assert (kept["max_per_source"], kept["balance"], kept["max_tokens"]) == (24, 1.0, 40)
    assert kept["drop_overlaps"] is True
    counts = read_json(tmp_path / "run" / "data.json")["counts"]
    pairs = {row["kind"]: row["n"] for row in counts
             if (row["stage"], row["split"]) == ("pairs", "train")}  # fmt: skip
    assert pairs["harmful"] == pairs["harmless"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "wildguardmix:none.parquet"], "run `hf auth login`"),
        (["--data", "nothing.jsonl"], "cannot read nothing.jsonl"),
        (["--data", "testbed,xstest:a.csv"], "cannot be mixed with files"),
        (["--data", "testbed", "--balance", "2"], "are for files"),
        (["--size", "0.5"], "use --max-per-source"),
        (["--validation-share", "1.5"], "between 0 and 1"),
        (["--check-against", "xtest:a.csv"], "did you mean xstest:PATH"),
        (["--balance", "0.5"], "--balance"),
        (["--max-tokens", "5"], "hold no prompts; stage 1"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(
    train: list[str], tmp_path: Path, capsys: Captured, change: list[str], message: str
) -> None:
    assert message in mistake(capsys, [*train, *change])
    assert not (tmp_path / "run").exists()


def test_mistakes_in_prompts_and_judges_are_named(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    begin = [
        "evaluate", "--backbone", str(checkpoint), "--guidance", "none",
        "--out", str(tmp_path / "eval"),
    ]  # fmt: skip
    prompts = ["--prompts", str(data)]
    assert "--judge is for --prompts" in mistake(capsys, [*begin, "--judge", "refusal-prefix"])
    assert "leave it out" in mistake(capsys, [*begin, *prompts, "--splits", "unseen_frames"])
    assert "unknown judge" in mistake(capsys, [*begin, *prompts, "--judge", "refusal-prefx"])
    assert "no prompt that can be asked" in mistake(
        capsys, [*begin, *prompts, "--max-new-tokens", "100000"]
    )
    assert not (tmp_path / "eval").exists()


def test_states_are_collected_resumed_and_estimated(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    from probes.collection import StateStore

    out = tmp_path / "states"
    begin = [
        "collect", "--backbone", str(checkpoint), "--prompts", str(data), "--layers", "-1,1",
        "--sites", "prompt_last,response_tokens", "--store-dtype", "bfloat16",
    ]  # fmt: skip
    assert run([*begin, "--estimate"]) == 0
    told = capsys.readouterr().out
    assert "would be written: " in told
    assert "as bfloat16: prompt_last (32 rows), response_tokens" in told
    assert run([*begin, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert told.removeprefix("would be written: ").strip() in said.err
    assert "32 examples, layers -1, 1, sites prompt_last, response_tokens" in said.out
    store = StateStore.open(out)
    assert store.states("prompt_last", layer=1).shape == (32, 16)
    assert "add --resume" in mistake(capsys, [*begin, "--out", str(out)])
    assert run([*begin, "--out", str(out), "--resume"]) == 0
    other = [word if word != "bfloat16" else "float16" for word in begin]
    assert "dtype was 'bfloat16', now 'float16'" in mistake(
        capsys, [*other, "--out", str(out), "--resume"]
    )


def test_what_cannot_be_collected_is_refused_or_skipped_and_counted(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = write(
        tmp_path / "mixed.jsonl",
        [
            {"prompt": "how do i bake my cake ?", "response": "first ."},
            {"prompt": "how do i xylophone ?", "response": "first ."},
            {"prompt": "how do i bake my bread ?"},
        ],
    )
    begin = ["collect", "--backbone", str(checkpoint), "--prompts", str(path)]
    out = ["--out", str(tmp_path / "states")]
    assert "have no response" in mistake(capsys, [*begin, *out, "--sites", "response_mean"])
    assert "xylophone" in mistake(capsys, [*begin, *out, "--sites", "prompt_last"])
    assert run([*begin, *out, "--sites", "response_mean", "--skip"]) == 0
    said = capsys.readouterr()
    assert "left out: 1 examples that the tokenizer cannot read" in said.err
    assert "left out: 1 examples without a reply" in said.err
    assert said.out.startswith("1 examples")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--layers", "one"], "whole numbers"),
        (["--layers", "9"], "there is no layer 9"),
        (["--sites", "nowhere"], "unknown site 'nowhere'"),
        (["--store-dtype", "int8"], "choose from float32, float16, bfloat16"),
        ([], "--out FOLDER, or add --estimate"),
    ],
)
def test_mistakes_in_a_collection_are_named(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: Captured, change: list[str], message: str
) -> None:
    out = ["--out", str(tmp_path / "states")] if change else []
    begin = ["collect", "--backbone", str(checkpoint), "--prompts", str(data)]
    assert message in mistake(capsys, [*begin, *out, *change])
    assert not (tmp_path / "states").exists()


def test_a_layer_that_is_not_there_is_refused_before_anything_is_read_or_drawn(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    prompts = ["--prompts", str(tmp_path / "nothing.jsonl")]  # reading them would be the error
    wanted = ["--layers", "0,3", "--out", str(tmp_path / "states")]
    assert run(["collect", "--backbone", str(checkpoint), *prompts, *wanted]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "there is no layer 3: " in line
    assert "has layers 0 to 2, and -1 for the embeddings" in line


def test_no_bar_is_drawn_where_a_text_cannot_be_read(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = write(tmp_path / "odd.jsonl", [{"prompt": "how do i xylophone ?"}])
    told = ["collect", "--backbone", str(checkpoint), "--prompts", str(path)]
    assert run([*told, "--out", str(tmp_path / "states")]) == 2
    err = capsys.readouterr().err
    assert "xylophone" in err
    assert "reading states" not in err
