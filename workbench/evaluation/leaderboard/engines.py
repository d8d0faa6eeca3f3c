"""Who does the work: this process, processes beside it, or the workers of a Ray cluster.

An engine takes a function and jobs, and gives back every job with its result as soon as it is
there, in any order. Jobs share nothing, so results are the same whoever ran them. On a cluster,
every node must see the same files at the same paths.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, suppress
from io import StringIO
from multiprocessing import get_context
from types import ModuleType, TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from workbench.errors import ConfigError, RunError, one_line

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
ENGINES: tuple[str, ...] = ("local", "processes", "ray")
_RETRIES = 3
_OBJECT_STORE_BYTES = 256 * 1024**2


@runtime_checkable
class Engine(Protocol):
    """Runs jobs; a context manager, which leaves no process behind."""

    def __enter__(self) -> "Engine": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def run(
        self, work: Callable[[JobT], ResultT], jobs: Sequence[JobT]
    ) -> Iterator[tuple[JobT, ResultT]]:
        """Every job with its result, as they come.

        Raises:
            WorkbenchError: A job raised it; the other jobs are dropped.
        """
        ...


def make_engine(name: str, device: str = "cpu") -> Engine:
    """The engine of this name for jobs on this device.

    ``processes:N`` starts N processes, ``processes`` one a core. On graphics cards, ``ray:N`` lets
    N workers share each card of the cluster, ``ray`` one.

    Raises:
        ConfigError: There is none, its library is not installed, or it cannot use the device.
    """
    if name == "local":
        return LocalEngine()
    kind, _, count = name.partition(":")
    if kind == "processes":
        return ProcessEngine(_positive(count, "processes:4") if count else os.cpu_count() or 1)
    if kind == "ray":
        return RayEngine(_workers_a_card(count, device))
    raise ConfigError(f"unknown engine '{name}': choose from {', '.join(ENGINES)}")


def _workers_a_card(count: str, device: str) -> int | None:
    """How many workers share a graphics card; None where they compute on processors."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        if count:
            raise ConfigError(
                f"'ray:{count}' is for graphics cards (--device cuda); on processors Ray starts a "
                "worker a core: write ray"
            )
        return None
    if kind != "cuda" or number:
        raise ConfigError(
            f"Ray shows every worker one graphics card as the device cuda, so '{device}' cannot be "
            "asked for: give --device cuda, or --engine processes:N"
        )
    return _positive(count, "ray:2") if count else 1


def _positive(count: str, example: str) -> int:
    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"'{count}' is no number of workers: write {example}, say")
    return int(count)


class LocalEngine:
    """One job after another, in this process."""

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to leave behind."""

    def run(
        self, work: Callable[[JobT], ResultT], jobs: Sequence[JobT]
    ) -> Iterator[tuple[JobT, ResultT]]:
        """In the order given."""
        for job in jobs:
            yield job, work(job)


class ProcessEngine:
    """Jobs in so many processes of this machine, each started fresh (which CUDA needs).

    Jobs and results are sent between processes, so both must be plain records, and the work a
    function of a module. A process that is killed ends them all: what is done is kept, and the run
    can be resumed.

    Args:
        n_processes: How many at a time; each computes on one thread.
    """

    def __init__(self, n_processes: int) -> None:
        self.n_processes = n_processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "ProcessEngine":
        self._pool = ProcessPoolExecutor(self.n_processes, mp_context=get_context("spawn"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(
        self, work: Callable[[JobT], ResultT], jobs: Sequence[JobT]
    ) -> Iterator[tuple[JobT, ResultT]]:
        """As they come; when the caller stops early, what has not begun is dropped."""
        if self._pool is None:
            raise RuntimeError("the engine works inside its own context only")
        waiting = {self._pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died, as it does when memory runs out or it is killed: resume, "
                f"with fewer than {self.n_processes} processes if memory was short"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


class RayEngine:
    """Jobs as Ray tasks, each repeated when its worker dies.

    The cluster is the one that this process is already connected to, else the one that
    ``RAY_ADDRESS`` names, else a local one that lives as long as the engine. A job that itself
    raises is not repeated. Nothing is reported to anybody, and no dashboard is started.

    Args:
        workers_a_card: How many jobs share a graphics card; None: jobs get none, for Ray hides
            cards from whoever did not ask for a share.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, workers_a_card: int | None = None) -> None:
        self._ray = _import_ray()
        self._gpus = 0.0 if workers_a_card is None else 1 / workers_a_card
        self._connected = False

    def __enter__(self) -> "RayEngine":
        if not self._ray.is_initialized():
            _connect(self._ray)
            self._connected = True
        try:
            self._check_cards()
        except ConfigError:
            self.__exit__(None, None, None)
            raise
        return self

    def _check_cards(self) -> None:
        """Refuse jobs that would wait for a card for ever."""
        if self._gpus and not self._ray.cluster_resources().get("GPU"):
            raise ConfigError(
                "no node of the Ray cluster offers a graphics card (start nodes with --num-gpus): "
                "use --device cpu, or --engine processes:N for the card of this machine"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def run(
        self, work: Callable[[JobT], ResultT], jobs: Sequence[JobT]
    ) -> Iterator[tuple[JobT, ResultT]]:
        """As they come; when the caller stops early, what still runs is cancelled."""
        task = self._ray.remote(
            num_cpus=1, num_gpus=self._gpus, max_retries=_RETRIES, retry_exceptions=False
        )(work)
        waiting = {task.remote(job): job for job in jobs}
        try:
            while waiting:
                ready, _ = self._ray.wait(list(waiting), num_returns=1)
                for reference in ready:
                    result = self._result(reference, waiting[reference])
                    yield waiting.pop(reference), result
        finally:
            for reference in waiting:
                with suppress(Exception):  # a task that has just ended cannot be cancelled
                    self._ray.cancel(reference, force=True)

    def _result(self, reference: Any, job: object) -> Any:  # noqa: ANN401 - Ray's references
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            raise RunError(
                f"the worker of {job} died {_RETRIES + 1} times ({type(error).__name__}); "
                "look at the nodes' memory, then resume"
            ) from error


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            'the engine ray needs Ray: pip install "svgt-workbench[distributed]", '
            "or use the local engine"
        ) from error
    return ray


def _connect(ray: ModuleType) -> None:
    """Join the cluster that is named, or start one of this machine's cores."""
    import logging

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    said = StringIO()
    try:
        with redirect_stderr(said):  # greetings; what goes wrong comes as an exception
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **quiet,
                )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(said.getvalue())
        where = f"the Ray cluster at {address}" if address else "a local Ray cluster"
        raise ConfigError(
            f"cannot reach {where} ({one_line(error)}); use the local engine, or "
            "set or unset RAY_ADDRESS"
        ) from error
