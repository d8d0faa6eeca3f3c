"""What a method costs beside the plain model: time and memory of decoding, as ratios.

Both are taken in one process, one prompt at a time, greedily, with as many new tokens for all, so
that a method is not rewarded for short replies. Rounds are interleaved: in each, every method
decodes the same prompt, in an order that rotates; a round gives one ratio, the estimate is the
median over rounds, the interval a bootstrap of it. The clock is the CPU time of the one thread
(which other processes disturb least), on an accelerator the wall clock once the device has caught
up.

Memory is the peak of bytes held in tensors: the allocator's own peak on CUDA, elsewhere the peak of
the tensors alive, counted at every operation. Both count weights, cache, activations, gradients and
whatever the guidance keeps; the count leaves out what an operation needs inside itself.
"""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.backbone.protocol import Backbone, Prompt
from workbench.errors import ConfigError
from workbench.evaluation.leaderboard.plan import BASELINE
from workbench.guidance.decoding import generate
from workbench.guidance.protocol import Guidance
from workbench.guidance.sampling import GREEDY
from workbench.provenance import describe_device
from workbench.statistics import Floats, Interval, cluster_bootstrap

COLUMNS: tuple[str, ...] = (
    "method", "metric", "estimate", "low", "high", "n", "absolute", "unit", "how",
)  # fmt: skip


@dataclass(frozen=True)
class CostConfig:
    """How costs are measured.

    Attributes:
        rounds: Rounds of timing, after one to warm up.
        memory_rounds: Rounds of counting memory, which varies with the prompt only.
        new_tokens: Tokens that every method decodes.
    """

    rounds: int = 9
    memory_rounds: int = 3
    new_tokens: int = 48

    def __post_init__(self) -> None:
        if min(self.rounds, self.memory_rounds, self.new_tokens) < 1:
            raise ConfigError("rounds, memory_rounds and new_tokens must be at least 1")


def measure_costs(
    backbone: Backbone,
    guidances: Mapping[str, Guidance],
    prompts: Sequence[Prompt],
    config: CostConfig,
    *,
    on_round: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Latency and memory ratio of every method.

    Args:
        backbone: The frozen model.
        guidances: By method; ``none`` must be among them.
        prompts: A round takes the next one, from the start again where they are too few.
        config: How often, how long.
        on_round: Told after every round.

    Returns:
        Two rows a method: ``latency_ratio`` with the median seconds a token, ``memory_ratio`` with
        the median bytes, under ``absolute``.

    Raises:
        ConfigError: ``none`` or prompts are missing.
    """
    if BASELINE not in guidances or not prompts:
        raise ConfigError("costs are ratios to 'none' on at least one prompt: give both")
    seconds = _rounds(
        guidances,
        config.rounds + 1,
        lambda guidance, number: _seconds(
            backbone, _task(backbone, guidance, prompts, number, config)
        ),
        on_round,
    )
    peaks = _rounds(
        guidances,
        config.memory_rounds,
        lambda guidance, number: _peak_bytes(
            backbone, _task(backbone, guidance, prompts, number, config)
        ),
        on_round,
    )
    on_cuda = backbone.device.type == "cuda"
    clock = "wall clock, device synchronised" if on_cuda else "CPU time of one thread"
    clock = f"{clock}, {describe_device(backbone.device)['hardware']}"
    counted = "peak of the CUDA allocator" if on_cuda else "peak of live tensors, counted"
    rows = []
    for name in guidances:
        per_token = seconds[name][1:] / config.new_tokens
        latency = _median(seconds[name][1:] / seconds[BASELINE][1:])
        rows.append(_row(name, "latency_ratio", latency, per_token, "seconds a token", clock))
        memory = _median(peaks[name] / peaks[BASELINE])
        rows.append(_row(name, "memory_ratio", memory, peaks[name], "bytes", counted))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _task(
    backbone: Backbone,
    guidance: Guidance,
    prompts: Sequence[Prompt],
    number: int,
    config: CostConfig,
) -> Callable[[], object]:
    prompt = prompts[number % len(prompts)]
    return lambda: generate(
        backbone,
        [prompt],
        guidance,
        max_new_tokens=config.new_tokens,
        sampling=GREEDY,
        stop=(),
    )


def _rounds(
    guidances: Mapping[str, Guidance],
    n_rounds: int,
    measure: Callable[[Guidance, int], float],
    on_round: Callable[[], None],
) -> dict[str, Floats]:
    """One number a method and round; no method always comes first."""
    names = list(guidances)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(n_rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            found[name].append(measure(guidances[name], number))
        on_round()
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def _seconds(backbone: Backbone, task: Callable[[], object]) -> float:
    if backbone.device.type != "cuda":
        started = time.process_time()
        task()
        return time.process_time() - started
    _catch_up(backbone)
    started = time.perf_counter()
    task()
    _catch_up(backbone)
    return time.perf_counter() - started


def _catch_up(backbone: Backbone) -> None:
    for device in backbone.devices:
        torch.cuda.synchronize(device)


def _peak_bytes(backbone: Backbone, task: Callable[[], object]) -> float:
    if backbone.device.type == "cuda":
        for device in backbone.devices:
            torch.cuda.reset_peak_memory_stats(device)
        task()
        return float(sum(map(torch.cuda.max_memory_allocated, backbone.devices)))
    with LiveTensors() as live:
        task()
    return float(live.peak)


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations read or make, as long as they live.

    Attributes:
        peak: Most bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's
        """Run the operation and look at what went in and came out."""
        kwargs = kwargs or {}
        self._see((args, kwargs))
        made = func(*args, **kwargs)
        self._see(made)
        return made

    def _see(self, values: object) -> None:
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self._now)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # views share a storage, whose address this is
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)


def _median(ratios: Floats) -> Interval:
    """Median over rounds with its bootstrap interval."""
    return cluster_bootstrap(
        ratios,
        np.arange(ratios.size),
        rng=np.random.default_rng(0),
        statistic=lambda values: float(np.median(values)),
    )


def _row(
    name: str, metric: str, ratio: Interval, absolute: Floats, unit: str, how: str
) -> dict[str, object]:
    return {
        "method": name,
        "metric": metric,
        "estimate": ratio.estimate,
        "low": ratio.low,
        "high": ratio.high,
        "n": ratio.n,
        "absolute": float(np.median(absolute)),
        "unit": unit,
        "how": how,
    }
