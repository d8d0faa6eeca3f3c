"""``workbench probe``: the folders it writes, the tables it prints, and mistakes."""

import json
import math
from pathlib import Path

import pytest

from probes.margins import ReplyPairs
from workbench.cli.main import run
from workbench.errors import DataError
from workbench.export.probe_runs import ProbeRun, open_probe
from workbench.runs import RunFolder

Captured = pytest.CaptureFixture[str]
CONTEXTS = "direct,role_play"


def quick(probe: str, checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        "probe", probe, "--backbone", str(checkpoint), "--out", str(out), "--contexts", CONTEXTS,
        "--limit", "10" if probe == "instability" else "2", *more,
    ]  # fmt: skip


def mistake(capsys: Captured, arguments: list[str]) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.rstrip().splitlines()[-1] == lines[0]
    return lines[0]


def write_lines(path: Path, examples: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folders(
    checkpoint: Path, value_module: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A finished run of every probe on the tiny model."""
    root = tmp_path_factory.mktemp("probes")
    more = {
        "instability": ("--estimators", "mean_difference", "--contrasts", "prompt"),
        "anchoring": ("--no-dilution", "--max-new-tokens", "4"),
        "reliability": (),
    }
    for probe, options in more.items():
        arguments = quick(probe, checkpoint, root / probe, "--guidance", f"svgt:{value_module}")
        assert run([*arguments, *options]) == 0
    return {probe: root / probe for probe in more}


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path]) -> dict[str, ProbeRun]:
    return {probe: open_probe(folder) for probe, folder in folders.items()}


# ------------------------------------------------------------------------------------ what is there


@pytest.mark.parametrize("probe", ["instability", "anchoring", "reliability"])
def test_the_folder_is_a_finished_run_with_records_and_headline(
    probe: str, folders: dict[str, Path], opened: dict[str, ProbeRun]
) -> None:
    run_ = RunFolder.open(folders[probe])
    assert run_.record.status == "finished"
    assert run_.record.kind == f"probe-{probe}"
    assert {"records.parquet", "summary.json"} <= set(run_.record.files)
    assert {record.probe for record in opened[probe].records} == {probe}
    rows = run_.read_summary()
    assert rows
    metrics = {record.metric for record in opened[probe].records}
    assert {row["metric"] for row in rows} <= metrics


def test_instability_compares_residual_value_space_bridge_and_controls(
    opened: dict[str, ProbeRun],
) -> None:
    found = opened["instability"]
    sites = {r.site for r in found.records if r.metric == "instability_index"}
    assert sites >= {"prompt_last", "z:mine", "bridge:mine", "z:untrained", "bridge:untrained"}
    layers = {r.layer for r in found.records if r.site == "prompt_last"}
    assert layers == {-1, 0, 1, 2}
    assert {r.context_a for r in found.records if r.metric == "reliability"} == {
        "direct", "role_play",
    }  # fmt: skip
    projected = found.projection
    assert set(projected["site"]) == sites
    assert len(projected[(projected["site"] == "prompt_last") & (projected["layer"] == 2)]) == 40
    assert projected["harmful"].mean() == 0.5


def test_reliability_fits_on_seen_contexts_and_tests_on_all(opened: dict[str, ProbeRun]) -> None:
    slopes = [r for r in opened["reliability"].records if r.metric == "steering_slope"]
    assert {r.context_a for r in slopes} >= {"", "trained", "unseen", "direct", "role_play"}
    assert {r.contrast for r in slopes if r.site == "residual"} == {"prompt", "response"}
    shares = [r for r in opened["reliability"].records if r.metric == "wrong_sign_share"]
    assert all(0 <= r.low <= r.estimate <= r.high <= 1 for r in shares)


def test_anchoring_states_how_many_gates_were_open(opened: dict[str, ProbeRun]) -> None:
    (n_open,) = [r for r in opened["anchoring"].records if r.metric == "n_open"]
    assert n_open.estimate == 4.0
    reference = [
        r for r in opened["anchoring"].records
        if r.metric == "margin_effect" and r.estimator == "no_slots" and not r.context_a
    ]  # fmt: skip
    assert reference[0].estimate == 0.0


def test_a_finished_run_is_only_shown_and_its_table_fits_100_columns(
    checkpoint: Path, value_module: Path, folders: dict[str, Path], capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "100")
    records = folders["instability"] / "records.parquet"
    before = records.read_bytes()
    again = quick("instability", checkpoint, folders["instability"], "--resume")
    options = ["--estimators", "mean_difference", "--contrasts", "prompt"]
    assert run([*again, *options, "--guidance", f"svgt:{value_module}"]) == 0
    out = capsys.readouterr().out
    assert records.read_bytes() == before
    assert max(len(line) for line in out.splitlines()) <= 100
    for word in ("Instability index", "95% interval", "bridge tokens B, mine", "block 2"):
        assert word in out


def test_the_same_seed_gives_the_same_records(
    checkpoint: Path, folders: dict[str, Path], value_module: Path, tmp_path: Path
) -> None:
    arguments = quick("instability", checkpoint, tmp_path / "again")
    options = ["--estimators", "mean_difference", "--contrasts", "prompt"]
    assert run([*arguments, *options, "--guidance", f"svgt:{value_module}"]) == 0
    first, second = (
        open_probe(folder).records for folder in (folders["instability"], tmp_path / "again")
    )
    assert [repr(record) for record in first] == [repr(record) for record in second]


def test_without_a_shipped_module_only_the_residual_stream_is_measured_and_said(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "run"
    options = ["--estimators", "mean_difference", "--contrasts", "prompt", "--layers", "0,2"]
    assert run([*quick("instability", checkpoint, out), *options]) == 0
    assert "only the residual stream is measured" in capsys.readouterr().err
    records = open_probe(out).records
    assert {r.site for r in records} == {"prompt_last", "length"}
    assert {r.layer for r in records} == {0, 2, None}


def own_prompts(key: str) -> list[dict[str, object]]:
    words = (
        "phone", "car", "house", "dog", "laptop", "wallet", "piano", "letter", "boat", "guitar",
    )  # fmt: skip
    return [
        {"prompt": f"how do i {verb} a {word} ?", "prompt_harm": harm, "context": context,
         key: word}
        for context in ("here", "there")
        for word in words
        for verb, harm in (("steal", True), ("paint", False))
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["pair", "group"])
def test_paired_estimators_are_measured_with_pairs_and_said_to_be_missing_without(
    key: str, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = write_lines(tmp_path / "mine.jsonl", own_prompts(key))
    arguments = [
        "probe", "instability", "--backbone", str(checkpoint), "--prompts", str(file),
        "--guidance", "none", "--layers", "2",
    ]  # fmt: skip
    out = tmp_path / "run"
    assert run([*arguments, "--out", str(out), "--estimators", "mean_difference,lat"]) == 0
    told = capsys.readouterr().err
    records = [r for r in open_probe(out).records if r.metric == "reliability"]
    measured = {r.estimator for r in records if not math.isnan(r.estimate)}
    if key == "pair":
        assert "cannot be measured" not in told
        assert measured == {"mean_difference", "lat"}
        return
    assert "note: lat cannot be measured in any context for the contrast 'prompt'" in told
    assert measured == {"mean_difference"}
    assert all("matched pairs" in r.note for r in records if r.estimator == "lat")
    only = [*arguments, "--out", str(tmp_path / "only"), "--estimators", "lat"]
    assert "lat cannot be measured in any context" in mistake(capsys, only)
    assert not (tmp_path / "only").exists()


def test_prompts_of_ones_own(checkpoint: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mine.jsonl", own_prompts("group"))
    out = tmp_path / "run"
    arguments = [
        "probe", "instability", "--backbone", str(checkpoint), "--out", str(out), "--prompts",
        str(file), "--guidance", "none", "--estimators", "mean_difference",
    ]  # fmt: skip
    assert run(arguments) == 0
    found = open_probe(out)
    pairs = {(r.context_a, r.context_b) for r in found.records if r.metric == "cosine"}
    assert ("here", "there") in pairs
    assert {r.contrast for r in found.records} == {"prompt"}
    assert all(r.n == 10 for r in found.records if r.metric == "reliability")
    assert found.config["prompts"]["file"] == str(file)  # type: ignore[index]


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("probe", "options", "message"),
    [
        (
            "instability",
            ["--contexts", "direct,moon"],
            "unknown context 'moon': choose from direct",
        ),
        ("instability", ["--contexts", "direct,direct"], "a context is named twice"),
        ("instability", ["--layers", "0,9"], "unknown layer '9': choose from -1, 0, 1, 2"),
        ("instability", ["--layers", "low"], "unknown layer 'low'"),
        ("instability", ["--estimators", "svm"], "unknown estimator 'svm': choose from mean_diff"),
        ("instability", ["--contrasts", "moral"], "unknown contrast 'moral': choose from prompt"),
        ("instability", ["--limit", "3"], "has 3 harmful examples"),
        ("instability", ["--limit", "0"], "greater than or equal to 1"),
        ("instability", ["--prompts", "mine.jsonl"], "--limit counts requests of the embedded"),
        ("anchoring", ["--prompts", "mine.jsonl"], "is taken whole: leave --limit out"),
        ("reliability", ["--prompts", "mine.jsonl"], "is taken whole: leave --limit out"),
        ("instability", ["--guidance", "dpo"], "the guidance 'dpo' has no value module"),
        ("anchoring", ["--guidance", "none"], "the guidance 'none' has no bridge"),
        ("anchoring", [], "no value module 'workbench' ships for"),
        ("anchoring", ["--guidance", "svgt:papper"], "no value module 'papper'"),
        ("anchoring", ["--backbone", "testbed-lama"], "unknown backbone 'testbed-lama'"),
        ("reliability", ["--estimators", "svm"], "unknown estimator 'svm'"),
        ("reliability", ["--layers", "7"], "unknown layer '7'"),
    ],
)
def test_mistakes(
    probe: str, options: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    arguments = quick(probe, checkpoint, tmp_path / "run", *options)
    assert message in mistake(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    arguments = ["probe", "instability", "--out", str(tmp_path / "run"), "--prompts", "/no/such"]
    assert "cannot read /no/such" in mistake(capsys, arguments)


def test_a_file_with_one_class(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    examples = [
        {"prompt": f"how do i steal {number} phones ?", "prompt_harm": True} for number in range(9)
    ]
    file = write_lines(tmp_path / "one.jsonl", examples)
    arguments = [
        "probe", "instability", "--backbone", str(checkpoint), "--out", str(tmp_path / "run"),
        "--prompts", str(file),
    ]  # fmt: skip
    assert "the context 'direct' has 0 harmless examples" in mistake(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_a_file_without_pairs_of_replies(
    checkpoint: Path, value_module: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "hello", "prompt_harm": False}])
    arguments = [
        "probe", "anchoring", "--backbone", str(checkpoint), "--out", str(tmp_path / "run"),
        "--prompts", str(file), "--guidance", f"svgt:{value_module}",
    ]  # fmt: skip
    assert "no prompt has both a safe and a harmful reply" in mistake(capsys, arguments)


def test_words_the_model_does_not_know_leave_no_folder(
    checkpoint: Path, tmp_path: Path, capsys: Captured
) -> None:
    examples = [
        {"prompt": f"how do i steal {number} zeppelins ?", "prompt_harm": number > 8}
        for number in range(18)
    ]
    file = write_lines(tmp_path / "odd.jsonl", examples)
    arguments = [
        "probe", "instability", "--backbone", str(checkpoint), "--out", str(tmp_path / "run"),
        "--prompts", str(file),
    ]  # fmt: skip
    assert "zeppelins" in mistake(capsys, arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_probe(
    checkpoint: Path, value_module: Path, folders: dict[str, Path], capsys: Captured
) -> None:
    guidance = ["--guidance", f"svgt:{value_module}"]
    arguments = quick("anchoring", checkpoint, folders["instability"], *guidance)
    assert "already holds a run (probe-instability, finished)" in mistake(capsys, arguments)
    assert "holds a run of another kind (probe-instability, not probe-anchoring)" in mistake(
        capsys, [*arguments, "--resume"]
    )


def test_help_teaches(capsys: Captured) -> None:
    for probe in ("instability", "anchoring", "reliability"):
        assert run(["probe", probe, "--help"]) == 0
        out = capsys.readouterr().out
        assert "Example" in out
        assert f"workbench probe {probe}" in out


def test_not_measured_is_a_dash(opened: dict[str, ProbeRun]) -> None:
    from workbench.cli._probing import record_table
    from workbench.export.probe_text import Form

    record = opened["instability"].records[0]
    missing = type(record)(
        probe="instability", backbone="b", metric="m", estimate=math.nan, note="too few"
    )
    table = record_table("t", "index", [("a", missing)], Form(3))
    assert [next(iter(column.cells)) for column in table.columns] == [
        "a", "–", "", "0", "too few",
    ]  # fmt: skip


# --------------------------------------------------------------------------------- few long prompts


def pairs_file(path: Path, n_intents: int, contexts: tuple[str, ...]) -> Path:
    """Harmful and harmless intents with both replies in every context, two prompts an intent."""
    rows: list[dict[str, object]] = [
        {"prompt": "no reply here", "context": "bare", "group": "none"},
        {"prompt": "mild only", "context": "mild", "group": "mild", "prompt_harm": False}
        | {"response": "yes .", "response_harm": True},
    ]
    for context in contexts:
        for number in range(n_intents):
            for harm in (True, False):
                for wording in ("how", "why"):
                    asked = {
                        "prompt": f"{context} {wording} {number} {harm}", "context": context,
                        "group": f"{harm} {number}", "prompt_harm": harm,
                    }  # fmt: skip
                    rows.append({**asked, "response": "no .", "response_harm": False})
                    rows.append({**asked, "response": "yes .", "response_harm": True})
    return write_lines(path, rows)


def test_anchoring_says_which_rows_of_a_file_it_takes_for_harmless(
    checkpoint: Path, value_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    from workbench.cli import _probing_bridge

    measured: list[ReplyPairs] = []

    def run_anchoring(*given: object, **_: object) -> list[object]:
        measured.append(given[2])  # type: ignore[arg-type]
        raise DataError("stop here")

    monkeypatch.setattr(_probing_bridge, "run_anchoring", run_anchoring)
    path = pairs_file(tmp_path / "mine.jsonl", 2, ("bare",))
    unlabelled = {"prompt": "whose", "context": "bare", "group": "open"}
    with path.open("a", encoding="utf-8") as file:
        for harm, reply in ((False, "no ."), (True, "yes .")):
            row = {**unlabelled, "response": reply, "response_harm": harm}
            file.write(json.dumps(row) + "\n")
        chat = {"prompt": "hello", "context": "bare", "prompt_harm": False, "response": "hi ."}
        file.write(json.dumps(chat) + "\n")
    told = [
        "probe", "anchoring", "--backbone", str(checkpoint), "--guidance", f"svgt:{value_module}",
        "--prompts", str(path), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert run(told) == 2
    begun = (str(path), "dilution: ")
    rows, dilution = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith(begun)
    )
    assert rows == (
        f"{path}, all of it (contexts bare, mild): 9 of 12 prompts have a reply with "
        "response_harm false and one with response_harm true; of these, 4 with prompt_harm true "
        "and 1 without that label count as harmful, 4 with prompt_harm false as harmless"
    )
    assert dilution == (
        "dilution: 5 of these harmful and 4 of these harmless prompts, in the context bare; "
        "filler: 10 replies to prompts with prompt_harm false (4 with response_harm false, 5 with "
        "response_harm true, 1 without that label)"
    )
    [pairs] = measured
    assert (sum(pairs.prompt_harm), len(pairs)) == (5, 9)


def test_long_texts_are_measured_on_one_context_and_few_intents_of_a_file(tmp_path: Path) -> None:
    from workbench.cli._probing import Prompts

    prompts = Prompts.of(None, pairs_file(tmp_path / "p.jsonl", 10, ("one", "two")), None)
    assert len(prompts.pairs(8, 0, harmless=True)) == 2 * 10 * 2 * 2
    few = prompts.few_pairs(8, 0)
    assert set(few.contexts) == {"one"}
    for harm in (True, False):
        groups = [g for g, h in zip(few.groups, few.prompt_harm, strict=True) if h == harm]
        assert groups == [f"{harm} {number}" for number in range(8) for _ in range(2)]
    assert set(prompts.few_pairs(3, 0).groups) == {f"{h} {n}" for h in (True, False) for n in "012"}
    only_two = Prompts.of("two", tmp_path / "p.jsonl", None)
    assert set(only_two.few_pairs(8, 0).contexts) == {"two"}


def test_long_texts_are_measured_on_one_context_of_the_embedded_world() -> None:
    from workbench.cli._probing import Prompts

    few = Prompts.of(CONTEXTS, None, 5).few_pairs(4, 0)
    assert set(few.contexts) == {"direct"}
    assert len(set(g for g, h in zip(few.groups, few.prompt_harm, strict=True) if h)) == 4


def test_dilution_asks_for_few_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, value_module: Path
) -> None:
    from workbench.cli import _probing_bridge

    measured: list[set[str]] = []

    def run_dilution(*given: object, **_: object) -> list[object]:
        measured.append(set(given[2].contexts))  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(_probing_bridge, "run_dilution", run_dilution)
    arguments = quick("anchoring", checkpoint, tmp_path / "run", "--max-new-tokens", "4")
    assert run([*arguments, "--guidance", f"svgt:{value_module}"]) == 0
    assert measured == [{"direct"}]
