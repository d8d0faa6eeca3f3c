"""Whoever does the work, the records are the same; a worker that dies is replaced."""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from workbench.errors import ConfigError, DataError, RunError
from workbench.evaluation.benchmark import EvaluationConfig, Shard
from workbench.evaluation.leaderboard.engines import (
    LocalEngine,
    ProcessEngine,
    RayEngine,
    make_engine,
)
from workbench.evaluation.leaderboard.plan import BackboneSource, Entrant
from workbench.evaluation.leaderboard.work import ShardJob, measure_shard
from workbench.guidance.registry import GuidanceSpec
from workbench.svgt.checkpoint import save_value_module

if TYPE_CHECKING:
    from conftest import TinyModel


def test_the_local_engine_works_in_order() -> None:
    with make_engine("local") as engine:
        assert list(engine.run(lambda job: job * job, [3, 1, 2])) == [(3, 9), (1, 1), (2, 4)]


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="unknown engine 'dask': choose from local, processes, ray"
    ):
        make_engine("dask")
    with pytest.raises(ConfigError, match="'0' is no number of workers: write processes:4"):
        make_engine("processes:0")
    with pytest.raises(ConfigError, match="'none' is no number of workers: write ray:2"):
        make_engine("ray:none", "cuda")
    with pytest.raises(ConfigError, match=r"'ray:2' is for graphics cards.*write ray"):
        make_engine("ray:2")
    with pytest.raises(ConfigError, match=r"'cuda:1' cannot be asked for.*processes:N"):
        make_engine("ray", "cuda:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"svgt-workbench\[distributed\]"):
        make_engine("ray")


def test_the_number_of_processes_is_read() -> None:
    engine = make_engine("processes:3")
    assert isinstance(engine, ProcessEngine)
    assert engine.n_processes == 3
    every = make_engine("processes")
    assert isinstance(every, ProcessEngine)
    assert every.n_processes == os.cpu_count()


@pytest.fixture
def plain_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """No script to run again in new processes: tests of the app leave theirs as ``__main__``."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


@pytest.mark.slow
@pytest.mark.usefixtures("plain_main")
def test_processes_bring_back_results_and_errors_and_tell_when_one_dies() -> None:
    with make_engine("processes:2") as engine:
        found = dict(engine.run(math.factorial, [5, 3, 4]))
        assert found == {3: 6, 4: 24, 5: 120}
        with pytest.raises(ConfigError, match="unknown engine 'dask'"):
            list(engine.run(make_engine, ["dask"]))
        with pytest.raises(RunError, match=r"worker process died.*fewer than 2 processes"):
            list(engine.run(os._exit, [1]))


@pytest.mark.slow
@pytest.mark.usefixtures("plain_main")
def test_records_of_processes_are_bit_equal(jobs: list[ShardJob]) -> None:
    by_processes = measured_by(make_engine("processes:2"), jobs)
    for one, two in zip(measured_by(LocalEngine(), jobs), by_processes, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**options: object) -> None:
        raise ConnectionError(f"no answer from {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with (
        pytest.raises(ConfigError, match=r"cannot reach the Ray cluster at 10\.0\.0\.1:6379"),
        make_engine("ray"),
    ):
        pass


# ------------------------------------------------------------------------------- on two Ray nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """Two nodes with one core each, one with a card it claims to have; connected to this process.

    Ray deals out cards by what nodes say, and tells a worker its card in ``CUDA_VISIBLE_DEVICES``:
    so who gets which card can be seen without one.
    """
    pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import logging

    import ray
    from ray.cluster_utils import Cluster

    store = 80 * 1024**2
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=store)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def jobs(tiny: "TinyModel", make_module: Callable[..., Any], tmp_path: Path) -> list[ShardJob]:
    """The plain model and a value module, at two seeds."""
    module = tmp_path / "module"
    save_value_module(module, make_module(), backbone=tiny.backbone)
    none, svgt = GuidanceSpec("none"), GuidanceSpec("svgt", "mine")
    return [
        ShardJob(
            BackboneSource(tiny.backbone.name),
            Entrant(str(spec), spec, seed, source),
            split,
            n_per_kind=3,
            prompt_seed=0,
            decoding=EvaluationConfig(max_new_tokens=8),
        )
        for spec, source in ((none, ""), (svgt, str(module)))
        for seed, split in ((0, "heldout_intents"), (1, "composed_frames"))
    ]


def in_order(jobs: list[ShardJob], found: dict[int, Shard]) -> list[pd.DataFrame]:
    shards = [found[id(job)] for job in jobs]
    return [frame for shard in shards for frame in (shard.measurements, shard.replies)]


def measured_by(engine: Any, jobs: list[ShardJob]) -> list[pd.DataFrame]:  # noqa: ANN401
    with engine:
        return in_order(jobs, {id(job): shard for job, shard in engine.run(measure_shard, jobs)})


@pytest.mark.slow
def test_records_are_bit_equal_and_a_killed_worker_is_replaced(
    nodes: None, jobs: list[ShardJob], tmp_path: Path
) -> None:
    """The first worker that is in the middle of a shard kills itself, as a full machine would."""
    died = tmp_path / "died"

    def mortal(job: ShardJob) -> tuple[int, str, Shard]:
        import ray

        def die_once(count: int) -> None:
            if not died.exists():
                died.write_text(f"{job.split} {os.getpid()}")
                os.kill(os.getpid(), signal.SIGKILL)

        shard = measure_shard(job, die_once)
        return os.getpid(), ray.get_runtime_context().get_node_id(), shard

    with RayEngine() as engine:
        results = [(job, *result) for job, result in engine.run(mortal, jobs)]
    victim = int(died.read_text().split()[1])
    assert victim not in {process for _, process, _, _ in results}
    assert os.getpid() not in {process for _, process, _, _ in results}
    assert len({node for _, _, node, _ in results}) == 2
    by_ray = in_order(jobs, {id(job): shard for job, _, _, shard in results})
    for one, two in zip(measured_by(LocalEngine(), jobs), by_ray, strict=True):
        pd.testing.assert_frame_equal(one, two, check_exact=True)


@pytest.mark.slow
def test_workers_on_a_graphics_card_get_their_share_of_it(nodes: None) -> None:
    def visible(job: int) -> tuple[str, float]:
        import ray

        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
        return os.environ.get("CUDA_VISIBLE_DEVICES", ""), share

    def seen(name: str, device: str) -> set[tuple[str, float]]:
        with make_engine(name, device) as engine:
            return {result for _, result in engine.run(visible, [1, 2])}

    assert seen("ray", "cuda") == {("0", 1.0)}
    assert seen("ray:4", "cuda") == {("0", 0.25)}
    assert {share for _, share in seen("ray", "cpu")} == {0.0}


def test_a_cluster_without_cards_is_told_before_anything_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    with (
        pytest.raises(ConfigError, match=r"offers a graphics card.*--engine processes:N"),
        make_engine("ray", "cuda"),
    ):
        pass


@pytest.mark.slow
def test_errors_of_workers_come_back_as_they_are(nodes: None) -> None:
    def fail(number: int) -> int:
        if number == 1:
            raise DataError("job 1 has no data")
        return number

    with pytest.raises(DataError, match="job 1 has no data"), RayEngine() as engine:
        list(engine.run(fail, [1]))


@pytest.mark.slow
def test_stopping_early_cancels_what_still_runs(nodes: None, tmp_path: Path) -> None:
    def slowly(number: int) -> int:
        import time
        from pathlib import Path

        if number:
            (Path(str(tmp_path)) / f"started-{number}").touch()
            time.sleep(600)
        return number

    with RayEngine() as engine:
        running = engine.run(slowly, [0, 1, 2])
        assert next(running) == (0, 0)
        running.close()
        # both cores are free again: otherwise this would wait ten minutes
        assert sorted(result for _, result in engine.run(lambda job: -job, [-1, -2])) == [1, 2]
