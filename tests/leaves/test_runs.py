"""A run folder is written whole, taken up again, grown, deleted; and has one owner at a time."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from workbench.errors import FolderInUseError, RunError
from workbench.files import (
    file_sha256,
    write_json,
    write_tensors,
)
from workbench.runs import OUTPUT_FILE, RunFolder, delete_run

CONFIG = {"steps": 3, "optimiser": {"rate": 0.1}, "layers": (1, 2)}


def create(path: Path, *, resume: bool = False, **changes: object) -> RunFolder:
    config = {**CONFIG, **changes}
    return RunFolder.create(path, kind="train", config=config, seed=0, resume=resume)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------------- run folders


def test_a_run_is_written_finished_and_read(tmp_path: Path) -> None:
    with create(tmp_path / "run") as run:
        assert run.record.status == "running"
        run.append_metrics([{"step": 1, "metric": "loss", "value": 0.7}])
        run.append_metrics([{"step": 2, "metric": "loss", "value": float("nan")}])
        run.append_metrics([])
        run.write_summary([{"metric": "loss", "estimate": float("nan")}])
        write_tensors(run.file("checkpoint/weights.safetensors"), {"w": torch.ones(2)})
    found = RunFolder.open(tmp_path / "run")
    assert found.record.status == "finished"
    assert found.record.kind == "train"
    assert found.record.config == {"steps": 3, "optimiser": {"rate": 0.1}, "layers": [1, 2]}
    assert list(found.read_metrics()["step"]) == [1, 2]
    assert found.read_metrics()["value"].isna().tolist() == [False, True]
    assert found.read_summary() == [{"metric": "loss", "estimate": None}]
    name = "checkpoint/weights.safetensors"
    assert found.record.files[name] == file_sha256(tmp_path / "run" / name)
    assert set(found.record.files) == {name, "metrics.parquet", "summary.json"}


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    reader = RunFolder.open(tmp_path / "run")
    for write in (
        lambda: reader.append_metrics([{"a": 1}]),
        lambda: reader.write_summary([]),
        reader.finish,
    ):
        with pytest.raises(RunError, match="reading only"):
            write()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunError("the disk is full"), "the disk is full"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_run_that_an_error_ended_says_why_until_it_is_resumed(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    def fail() -> None:
        with create(tmp_path / "run") as run:
            run.write_summary([])
            raise error

    with pytest.raises(type(error)):
        fail()
    failed = RunFolder.open(tmp_path / "run").record
    assert (failed.status, failed.failure, failed.finished) == ("failed", reason, None)
    assert not RunFolder.is_owned(tmp_path / "run")
    with pytest.raises(RunError, match=r"already holds a run \(train, failed\)"):
        create(tmp_path / "run")
    with create(tmp_path / "run", resume=True) as run:
        assert (run.record.status, run.record.failure) == ("running", None)
    record = RunFolder.open(tmp_path / "run").record
    assert (record.status, record.failure, len(record.resumed)) == ("finished", None, 1)


def test_a_run_that_failed_before_it_made_anything_gives_its_folder_to_any_other(
    tmp_path: Path,
) -> None:
    def fail(name: str, made: str = "") -> None:
        with create(tmp_path / name, layer=99) as run:
            (run.path / "shards").mkdir(exist_ok=True)
            if made:
                run.file(made).write_text("{}")
            raise RunError("there is no layer 99")

    for _ in range(2):
        with pytest.raises(RunError, match="no layer 99"):
            fail("refused")
    with create(tmp_path / "refused", resume=True, layer=3) as run:
        assert (run.record.status, run.record.failure, run.record.resumed) == ("running", None, ())
    assert RunFolder.open(tmp_path / "refused").record.config["layer"] == 3
    with pytest.raises(RunError, match=r"already holds a run \(train, finished\)"):
        create(tmp_path / "refused", layer=4)

    with pytest.raises(RunError, match="no layer 99"):
        fail("worked", made="shards/run.json")  # a run within a run is work
    with pytest.raises(RunError, match=r"already holds a run \(train, failed\)"):
        create(tmp_path / "worked", layer=3)
    with pytest.raises(RunError, match="layer was 99, now 3"):
        create(tmp_path / "worked", resume=True, layer=3)

    create(tmp_path / "killed", layer=99).close()  # says "running"
    with pytest.raises(RunError, match=r"already holds a run \(train, running\)"):
        create(tmp_path / "killed", layer=3)


def test_an_error_after_the_end_leaves_a_finished_run_finished(tmp_path: Path) -> None:
    def fail() -> None:
        with create(tmp_path / "run") as run:
            run.finish()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert RunFolder.open(tmp_path / "run").record.status == "finished"


def test_an_interrupted_run_can_be_resumed_and_keeps_its_history(tmp_path: Path) -> None:
    def fail() -> None:
        with create(tmp_path / "run") as run:
            run.append_metrics([{"step": 1}, {"step": 2}])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert RunFolder.open(tmp_path / "run").record.status == "running"
    with create(tmp_path / "run", resume=True) as run:
        metrics = run.read_metrics()
        run.write_metrics(metrics[metrics["step"] <= 1])  # the checkpoint was from step 1
        run.append_metrics([{"step": 2}])
    record = RunFolder.open(tmp_path / "run").record
    assert record.status == "finished"
    assert len(record.resumed) == 1
    assert list(RunFolder.open(tmp_path / "run").read_metrics()["step"]) == [1, 2]


def test_resuming_nothing_starts_and_resuming_a_finished_run_changes_nothing(
    tmp_path: Path,
) -> None:
    with create(tmp_path / "run", resume=True):
        pass
    before = (tmp_path / "run" / "run.json").read_bytes()
    with create(tmp_path / "run", resume=True) as run:
        assert run.record.status == "finished"
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_every_device_that_worked_on_a_run_is_named(tmp_path: Path) -> None:
    def work(device: str | None, *, resume: bool) -> RunFolder:
        return RunFolder.create(
            tmp_path, kind="train", config={}, seed=0, resume=resume, device=device
        )

    for device in ("cpu", "meta", "cpu", None):
        work(device, resume=device != "cpu" or (tmp_path / "run.json").exists()).close()
    with work("cpu", resume=True) as run:
        names = [name.partition(" (")[0] for name in run.record.devices]
        assert names == ["cpu", "meta"]
    finished = RunFolder.open(tmp_path).record
    assert finished.provenance["device"]["name"] == "cpu"
    assert finished.provenance["device"]["hardware"]
    assert [made["device"] and made["device"]["name"] for made in finished.resumed] == [
        "meta", "cpu", None, "cpu",
    ]  # fmt: skip


def test_a_finished_run_can_be_taken_up_again(tmp_path: Path) -> None:
    with create(tmp_path / "run") as run:
        run.write_summary([])
    with create(tmp_path / "run", resume=True) as run:
        run.reopen()
        assert RunFolder.open(tmp_path / "run").record.status == "running"
        run.append_metrics([{"step": 1}])
    record = RunFolder.open(tmp_path / "run").record
    assert record.status == "finished"
    assert set(record.files) == {"metrics.parquet", "summary.json"}
    assert len(record.resumed) == 1
    with pytest.raises(RunError, match="reading only"):
        RunFolder.open(tmp_path / "run").reopen()


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "run").close()
    with pytest.raises(RunError, match=r"already holds a run \(train, running\)"):
        create(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"thesis.tex is in it"):
        create(tmp_path / "other", resume=True)
    assert files_in(tmp_path / "other") == {"thesis.tex"}
    with pytest.raises(RunError, match=r"cannot use .* as a run folder"):
        create(tmp_path / "other" / "thesis.tex")


def test_another_configuration_is_refused_by_its_differing_keys(tmp_path: Path) -> None:
    create(tmp_path / "run", extra=1).close()
    with pytest.raises(RunError) as caught:
        create(tmp_path / "run", resume=True, optimiser={"rate": 0.2}, new=True)
    message = str(caught.value)
    assert "optimiser.rate was 0.1, now 0.2" in message
    assert "extra was 1, now 'absent'" in message
    assert "new was 'absent', now True" in message
    assert "steps" not in message
    with pytest.raises(RunError, match="seed was 0, now 1"):
        RunFolder.create(
            tmp_path / "run", kind="train", config={**CONFIG, "extra": 1}, seed=1, resume=True
        )
    create(tmp_path / "run", resume=True, extra=1).close()  # a refusal leaves the folder free


def test_a_run_grows_where_the_new_configuration_keeps_the_old(tmp_path: Path) -> None:
    def grows(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
        return int(str(old["seeds"])) <= int(str(new["seeds"]))

    def ask(seeds: int, seed: int = 0) -> RunFolder:
        return RunFolder.create(
            tmp_path / "run", kind="k", config={"seeds": seeds}, seed=seed, resume=True, grows=grows
        )

    with ask(2) as run:
        run.write_summary([{"a": 1}])
    with ask(2) as same:
        assert same.record.status == "finished"
    grown = ask(3)
    assert grown.record.status == "running"
    grown.close()
    record = RunFolder.open(tmp_path / "run").record
    assert (record.config, record.finished, dict(record.files)) == ({"seeds": 3}, None, {})
    assert len(record.resumed) == 1
    with pytest.raises(RunError, match="seeds was 3, now 2"):
        ask(2)
    with pytest.raises(RunError, match="seed was 0, now 1"):
        ask(4, seed=1)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder at"):
        RunFolder.open(tmp_path / "run")
    with create(tmp_path / "run") as run:
        run.append_metrics([{"step": 1}])
        run.write_summary([])
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"incomplete: summary.json missing"):
        RunFolder.open(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RunError, match=r"run.json is missing"):
        RunFolder.open(tmp_path / "run")
    unfinished = create(tmp_path / "other")
    with pytest.raises(RunError, match=r"missing file .*metrics.parquet"):
        unfinished.read_metrics()
    unfinished.close()


@pytest.mark.parametrize("content", ['{"kind": "train"}', '{"kind": 3, "x": 1}', "{", "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run.json"):
        RunFolder.open(tmp_path)


def test_an_unreadable_summary_is_named(tmp_path: Path) -> None:
    with create(tmp_path / "run") as run:
        write_json(run.file("summary.json"), {"rows": 3})
        with pytest.raises(RunError, match="has no list of rows"):
            run.read_summary()


# ---------------------------------------------------------------------------------- one owner

OWNER = """
import sys, time
from workbench.runs import RunFolder
run = RunFolder.create(sys.argv[1], kind="train", config={}, seed=0)
run.append_metrics([{"step": 1}])
(run.path / ".writing-dead-metrics.parquet").write_text("half")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_folder_free(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        with pytest.raises(
            FolderInUseError, match=rf"in use by another run \(process {owner.pid}\)"
        ):
            RunFolder.create(folder, kind="train", config={}, seed=0, resume=True)
        assert (folder / ".writing-dead-metrics.parquet").exists()  # not ours to touch
        assert RunFolder.is_owned(folder)
        os.kill(owner.pid, signal.SIGKILL)
    assert (folder / ".lock").read_text() == f"{owner.pid}\n"  # names the dead
    assert not RunFolder.is_owned(folder)
    with RunFolder.create(folder, kind="train", config={}, seed=0, resume=True) as run:
        assert list(run.read_metrics()["step"]) == [1]
    assert files_in(folder) == {".lock", "run.json", "metrics.parquet"}


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with create(tmp_path / "run"), pytest.raises(RunError, match=f"process {os.getpid()}"):
        create(tmp_path / "run", resume=True)


def test_asking_who_owns_a_folder_leaves_it_as_it_is(tmp_path: Path) -> None:
    assert not RunFolder.is_owned(tmp_path)
    assert files_in(tmp_path) == set()
    with create(tmp_path / "run") as run:
        assert RunFolder.is_owned(run.path)
        run.write_summary([])  # still ours
    assert not RunFolder.is_owned(run.path)
    with create(tmp_path / "run", resume=True):
        assert RunFolder.is_owned(run.path)


def test_a_stale_lock_of_a_dead_or_reused_process_number_is_taken_over(tmp_path: Path) -> None:
    for stale in ("999999999\n", f"{os.getpid()}\n", "nonsense"):
        folder = tmp_path / str(len(stale))
        folder.mkdir()
        (folder / ".lock").write_text(stale)
        with create(folder):
            assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


RACER = """
import sys
from workbench.errors import RunError
from workbench.runs import RunFolder
print("ready", flush=True)
sys.stdin.readline()
try:
    run = RunFolder.create(sys.argv[1], kind="train", config={}, seed=0)
except RunError:
    print("refused", flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
"""


def test_many_processes_racing_for_one_folder_have_one_winner(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "run")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(3)
    ]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
    for racer in racers:
        racer.stdin.write("go\n")
    results = sorted(racer.stdout.readline() for racer in racers)
    for racer in racers:
        racer.communicate()
    assert results == ["refused\n", "refused\n", "won\n"]


# ------------------------------------------------------------------------- deleting and verifying


def _finished_run(folder: Path) -> RunFolder:
    with RunFolder.create(folder, kind="evaluate", config={}, seed=0) as run:
        run.append_metrics([{"step": 1, "value": 0.5}])
    return run


def test_a_run_is_deleted_whole_and_alone(tmp_path: Path) -> None:
    _finished_run(tmp_path / "runs" / "deep" / "one")
    _finished_run(tmp_path / "runs" / "deep" / "two")
    delete_run(tmp_path / "runs" / "deep" / "one", root=tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs" / "deep").iterdir()] == ["two"]


def test_what_must_not_be_deleted_is_not(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    _finished_run(tmp_path / "shipped")
    (root / "papers").mkdir(parents=True)
    (root / "papers" / "mine.txt").write_text("dear")
    (root / "link").symlink_to(tmp_path / "shipped")
    own = RunFolder.create(root / "busy", kind="evaluate", config={}, seed=0)
    for folder, problem in (
        (tmp_path / "shipped", "does not lie in"),
        (root / ".." / "shipped", "does not lie in"),
        (root / "link", "does not lie in"),
        (root, "does not lie in"),
        (root / "papers", "holds no run"),
        (root / "busy", "in use by another run"),
    ):
        with pytest.raises(RunError, match=problem):
            delete_run(folder, root=root)
    own.close()
    assert (tmp_path / "shipped" / "run.json").exists()
    assert (root / "papers" / "mine.txt").read_text() == "dear"
    assert (root / "busy" / "run.json").exists()


def test_files_that_were_altered_later_are_named(tmp_path: Path) -> None:
    run = _finished_run(tmp_path / "run")
    assert run.altered_files() == []
    write_json(tmp_path / "run" / "summary.json", {"rows": []})  # new, so not recorded
    assert RunFolder.open(tmp_path / "run").altered_files() == []
    run.file("metrics.parquet").write_bytes(b"other")
    assert RunFolder.open(tmp_path / "run").altered_files() == ["metrics.parquet"]


def test_what_a_background_process_printed_is_no_part_of_a_run(tmp_path: Path) -> None:
    (tmp_path / OUTPUT_FILE).write_text("# process 1: workbench train\n")
    run = _finished_run(tmp_path)
    assert list(run.record.files) == ["metrics.parquet"]
