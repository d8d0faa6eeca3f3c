"""Training on files as the benchmarks publish them: what is learned, kept, refused and resumed.

The texts are words of a random model's vocabulary. One word is planted in harmful prompts and one
in harmful replies; where the labels are shuffled there is nothing to find.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.backbone import TransformerLensBackbone, load_backbone
from workbench.data.assembly import AssemblyConfig
from workbench.data.loading import load_named
from workbench.data.sources.beavertails import CATEGORIES
from workbench.errors import DataError, RunError
from workbench.evaluation import file_training, state_memory
from workbench.evaluation.file_training import FileData
from workbench.evaluation.value_training import DATA_FILE, STATE_FILE, train_into_folder
from workbench.files import read_json
from workbench.runs import RunFolder
from workbench.svgt import (
    BridgeConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
    load_value_module,
)
from workbench.svgt.curriculum import CurriculumConfig, Recipe, StageConfig, TrainingEvent
from workbench.svgt.objectives import SafetyConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
IN_PROMPT, IN_REPLY = "t7", "t9"
N_ROWS = 400
STAGE = StageConfig(epochs=4.0, batch_size=8, learning_rate=3e-3, evaluations=4, schedule="linear")
RECIPE = Recipe(
    SVGTConfig(
        name="mine",
        d_model=64,
        layer=1,
        n_bridge=2,
        d_value=32,
        encoder=EncoderConfig(n_heads=4, n_layers=1),
        trigger=TriggerConfig(kind="windowed", width=16, n_heads=2),
        bridge=BridgeConfig(kind="offset", gain_init="residual-norm", gate_init=0.0),
    ),
    CurriculumConfig(
        STAGE,
        replace(STAGE, learning_rate=1e-3, old_rate=3e-3),
        replace(STAGE, epochs=0.3, learning_rate=2e-2, evaluations=2),
        trigger_weight=0.2,
    ),
)


@pytest.fixture(scope="module")
def backbone() -> TransformerLensBackbone:
    return load_backbone(FIXTURES / "tiny-llama")


# ----------------------------------------------------------------- files as they are published


class Writer:
    """Writes small files in the real schemas, with planted words."""

    def __init__(self, folder: Path, seed: int = 0, *, shuffled: bool = False) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.shuffled = shuffled

    def text(self, planted: str | None, n_words: int = 5) -> str:
        """Random words, more than half of them the planted one."""
        words = [f"t{i}" for i in self.rng.integers(20, 60, size=n_words)]
        if planted is not None:
            for place in self.rng.permutation(n_words)[: n_words // 2 + 1]:
                words[place] = planted
        return " ".join(words)

    def labels(self, n: int) -> tuple[list[bool], list[bool]]:
        """The truth of n texts, and what the file says of it."""
        truth = [i % 2 == 0 for i in range(n)]
        said = list(self.rng.permutation(truth)) if self.shuffled else truth
        return truth, [bool(label) for label in said]

    def wildguardmix(self, n: int) -> Path:
        truth, said = self.labels(n)
        rows = []
        for number, (harmful, label) in enumerate(zip(truth, said, strict=True)):
            silent = number % 3 == 0
            rows.append({
                "prompt": self.text(IN_PROMPT if harmful else None),
                "adversarial": number % 4 == 0,
                "response": None if silent else self.text(None),
                "prompt_harm_label": "harmful" if label else "unharmful",
                "response_refusal_label": None,
                "response_harm_label": None if silent or number % 5 == 0 else "unharmful",
                "subcategory": "benign",
            })  # fmt: skip
        path = self.folder / "wildguard.parquet"
        pd.DataFrame(rows).to_parquet(path)
        return path

    def beavertails(self, n: int) -> Path:
        truth, said = self.labels(n)
        lines = [
            json.dumps({
                "prompt": self.text(None),
                "response": self.text(IN_REPLY if harmful else None),
                "category": {name: label and name == CATEGORIES[0] for name in CATEGORIES},
                "is_safe": not label,
            })
            for harmful, label in zip(truth, said, strict=True)
        ]  # fmt: skip
        path = self.folder / "beaver.jsonl.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
        return path

    def pku_saferlhf(self, n: int) -> Path:
        lines = []
        for number in range(n):
            harmful = number % 2
            said = bool(self.rng.integers(2)) if self.shuffled else bool(harmful)
            replies = [self.text(IN_REPLY if i == harmful else None) for i in (0, 1)]
            lines.append(json.dumps({
                "prompt": self.text(None),
                "response_0": replies[0],
                "response_1": replies[1],
                "is_response_0_safe": bool(said),
                "is_response_1_safe": not said,
                "better_response_id": 0,
                "safer_response_id": int(not said),
            }))  # fmt: skip
        path = self.folder / "pku.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def all(self, n: int) -> list[str]:
        return [
            f"wildguardmix:{self.wildguardmix(n)}",
            f"beavertails:{self.beavertails(n)}",
            f"pku-saferlhf:{self.pku_saferlhf(n // 2)}",
        ]


def files(folder: Path, n: int = N_ROWS, *, shuffled: bool = False, **settings: Any) -> FileData:  # noqa: ANN401
    given: dict[str, Any] = {"config": AssemblyConfig(0.25), "n_measured": 4, **settings}
    return FileData(load_named(Writer(folder, shuffled=shuffled).all(n)), **given)


def validations(out: Path, stage: str, metric: str) -> list[float]:
    rows = RunFolder.open(out).read_metrics()
    chosen = (rows["stage"] == stage) & (rows["metric"] == metric) & (rows["kind"] == "validation")
    return rows.loc[chosen].sort_values("step")["value"].tolist()


@pytest.fixture(scope="module")
def planted(backbone: TransformerLensBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    trained = train_into_folder(backbone, RECIPE, files(folder), folder / "run", seed=1)
    assert trained is not None
    return folder


@pytest.fixture(scope="module")
def shuffled(backbone: TransformerLensBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shuffled")
    data = files(folder, shuffled=True)
    train_into_folder(backbone, RECIPE, data, folder / "run", seed=1)
    return folder


# ------------------------------------------------------------------------------ what is learned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "loss", "auroc"), [("unconditional", 0.2, 0.98), ("conditional", 0.52, 0.85)]
)
def test_validation_loss_falls_where_labels_follow_a_word(
    planted: Path, shuffled: Path, stage: str, loss: float, auroc: float
) -> None:
    found = validations(planted / "run", stage, "bce")
    assert min(found) < loss < found[0], found
    assert max(validations(planted / "run", stage, "auroc")) > auroc
    control = validations(shuffled / "run", stage, "bce")
    assert min(control) > 0.6, control  # nats; the classes' shares alone are worth 0.66 to 0.69
    assert max(validations(shuffled / "run", stage, "auroc")) < 0.7


def test_the_bridge_learns_the_safe_replies_of_validation(planted: Path) -> None:
    ce = validations(planted / "run", "bridge", "ce")
    assert min(ce) < ce[0] - 0.05, ce


# --------------------------------------------------------------------------------- what is kept


def test_the_folder_says_what_was_used_and_what_was_not(
    planted: Path, backbone: TransformerLensBackbone
) -> None:
    run = RunFolder.open(planted / "run")
    kept: Any = run.record.config["data"]
    assert {name: kept["sources"][name]["examples"] for name in kept["sources"]} == {
        "wildguardmix": 400, "beavertails": 400, "pku-saferlhf": 400,
    }  # fmt: skip
    assert kept["validation_share"] == 0.25
    report = read_json(planted / "run" / DATA_FILE)
    counts = {
        (row["source"], row["stage"], row["split"], row["kind"]): row["n"]
        for row in report["counts"]
    }
    of_prompts = {
        split: {
            kind: counts["wildguardmix", "prompts", split, kind] for kind in ("harmful", "harmless")
        }
        for split in ("train", "validation")
    }
    assert (of_prompts["train"]["harmless"], of_prompts["validation"]["harmless"]) == (150, 50)
    assert counts["pku-saferlhf", "targets", "train", "with contrast"] == 150
    left = {(row["source"], row["reason"]): row["n"] for row in report["left_out"]}
    again = left["wildguardmix", "prompt that stands there already (stage 1)"]
    assert sum(of_prompts[split]["harmful"] for split in of_prompts) + again == 200
    assert left["wildguardmix", "no reply (stages 2 and 3)"] == 134
    assert left["wildguardmix", "reply not labelled (stages 2 and 3)"] == 53
    assert left["beavertails", "prompt not labelled (stage 1)"] == 400
    [between] = report["overlaps"]
    assert (between["ours"], between["other"], between["exact"]) == ("train", "validation", 0)
    rows = run.read_summary()
    [row] = [
        row for row in rows
        if (row.get("source"), row["metric"], row.get("split"))
        == ("wildguardmix", "prompts harmful", "train")
    ]  # fmt: skip
    assert row["estimate"] == of_prompts["train"]["harmful"]
    assert row["stage"] == "unconditional"
    measured = {row["metric"]: row for row in rows if row["stage"] == "bridge"}
    assert measured["refusal_rate"]["n"] == 4
    assert "harm_rate" not in measured  # nobody here knows
    assert load_value_module(planted / "run", backbone).config == RECIPE.module


def test_the_refusal_meter_counts_beginnings_and_silence(
    backbone: TransformerLensBackbone, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = files(planted).prepare(backbone, RECIPE, seed=1)
    assert prepared.measure is not None
    assert prepared.n_measured == 4
    said = ["I'm sorry, but no", "Sure, here", "", "I cannot help"]
    monkeypatch.setattr(file_training, "sampled_replies", lambda *_, **__: said)
    module = load_value_module(planted / "run", backbone)
    assert prepared.measure(module) == {"refusal_rate": 2 / 3, "unscored_rate": 0.25}
    monkeypatch.setattr(file_training, "sampled_replies", lambda *_, **__: [""] * 4)
    silent = prepared.measure(module)
    assert np.isnan(silent["refusal_rate"])
    assert silent["unscored_rate"] == 1.0


# ------------------------------------------------------------------------------------ going on

SHORT = replace(
    RECIPE,
    curriculum=replace(
        RECIPE.curriculum,
        unconditional=replace(STAGE, epochs=0.5, evaluations=2),
        conditional=replace(STAGE, epochs=0.2, evaluations=2),
        bridge=replace(STAGE, epochs=0.2, evaluations=2),
    ),
)


class Killed(BaseException):
    """Stands for a kill."""


def kill_at(stage: str, step: int) -> Callable[[TrainingEvent], None]:
    def kill(event: TrainingEvent) -> None:
        if (event.stage, event.step) == (stage, step):
            raise Killed

    return kill


@pytest.fixture(scope="module")
def whole(backbone: TransformerLensBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short uninterrupted training; its files lie beside it."""
    folder = tmp_path_factory.mktemp("whole")
    train_into_folder(backbone, SHORT, files(folder, 60), folder / "run", seed=2)
    return folder


@pytest.mark.parametrize(
    ("stage", "step"), [("unconditional", 3), ("conditional", 2), ("bridge", 1)]
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    backbone: TransformerLensBackbone, whole: Path, tmp_path: Path, stage: str, step: int
) -> None:
    def data() -> FileData:
        return files(tmp_path, 60)

    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train_into_folder(backbone, SHORT, data(), cut, seed=2, on_event=kill_at(stage, step))
    assert (cut / STATE_FILE).exists()
    assert train_into_folder(backbone, SHORT, data(), cut, seed=2, resume=True) is not None
    for name in ("svgt.safetensors", "metrics.parquet", "summary.json", DATA_FILE):
        assert (cut / name).read_bytes() == (whole / "run" / name).read_bytes(), name
    assert train_into_folder(backbone, SHORT, data(), cut, seed=2, resume=True) is None


def test_other_data_or_settings_do_not_go_on(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train_into_folder(
            backbone, SHORT, files(tmp_path, 60), out, seed=2, on_event=kill_at("bridge", 0)
        )
    with pytest.raises(RunError, match=r"data\.sources\.wildguardmix\.sha256 was"):
        train_into_folder(backbone, SHORT, files(tmp_path, 62), out, seed=2, resume=True)
    other = files(tmp_path, 60, config=AssemblyConfig(0.25, balance=2.0))
    with pytest.raises(RunError, match=r"data\.balance was None, now 2\.0"):
        train_into_folder(backbone, SHORT, other, out, seed=2, resume=True)


# -------------------------------------------------------------------------- lengths, memory, gaps


def test_rows_that_are_too_long_are_left_out_and_counted(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    writer = Writer(tmp_path)
    specs = writer.all(60)
    long = tmp_path / "long.jsonl"
    rows = [
        {"prompt": writer.text(IN_PROMPT, 300), "prompt_harm": True},
        {"prompt": writer.text(None, 20), "prompt_harm": False},
        {"prompt": "t1 klingon", "prompt_harm": False},
    ]
    long.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sources = load_named([*specs, str(long)])
    made = FileData(sources, AssemblyConfig(0.25)).prepare(backbone, RECIPE, seed=0)
    left = {(row.source, row.reason): row.n for row in made.report.left_out}
    assert left["long", "prompt too long for 256 tokens"] == 1
    assert left["long", "prompt that the tokenizer cannot read"] == 1
    shorter = FileData(sources, AssemblyConfig(0.25), max_tokens=20)
    left = {
        (row.source, row.reason): row.n
        for row in shorter.prepare(backbone, RECIPE, seed=0).report.left_out
    }
    assert left["long", "prompt too long for 20 tokens"] == 2


def test_a_tokenizer_that_reads_none_of_it_is_quoted(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    path = tmp_path / "prose.jsonl"
    rows = [{"prompt": f"plain prose {n}", "prompt_harm": n % 2 == 0} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"hold no prompts; .* first text .* refused: .*'plain'"):
        FileData(load_named([str(path)])).prepare(backbone, RECIPE, seed=0)


def test_the_memory_of_the_states_is_known_beforehand(
    backbone: TransformerLensBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.svgt.curriculum.curriculum import _read_banks

    prepared = files(tmp_path, 60).prepare(backbone, RECIPE, seed=0)
    held = 0
    for data in (prepared.train, prepared.validation):
        banks = _read_banks(backbone, RECIPE.module, data, 64)
        tensors = [
            *(states.tokens for states in banks.prompts.states.values()),
            banks.pairs.prompt.tokens,
            banks.pairs.response.tokens,
        ]
        held += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
    assert prepared.state_bytes == held
    monkeypatch.setattr(state_memory.os, "sysconf", lambda name: 100 if "PAGE_SIZE" in name else 3)
    with pytest.raises(DataError, match=r"need 0\.0 GB of memory.* lower --max-per-source"):
        files(tmp_path, 60).prepare(backbone, RECIPE, seed=0)


def test_a_contrastive_term_gets_targets_with_a_harmful_reply(
    backbone: TransformerLensBackbone, tmp_path: Path
) -> None:
    safety = SafetyConfig("contrastive")
    recipe = replace(RECIPE, curriculum=replace(RECIPE.curriculum, safety=safety))
    prepared = files(tmp_path, 60).prepare(backbone, recipe, seed=0)
    assert all(target.harmful_response for target in prepared.train.targets)
    assert {c.source for c in prepared.report.counts if c.stage == "targets"} == {"pku-saferlhf"}


def test_a_benchmark_says_that_it_does_not_know_what_files_taught(
    backbone: TransformerLensBackbone, whole: Path
) -> None:
    from workbench.evaluation.leaderboard.leakage import _of_module

    assert list(_of_module(str(whole / "run"), backbone)) == []
