"""What fitting directions in batches saves over a loop of scikit-learn and NumPy, on one machine.

12 layers x 10 contexts x 6 estimators x 200 bootstrap resamples of 2,000 states of width 768, 200 a
context, are fitted by ``probes.directions`` (every cell of them, timed whole) and, in the same
process, one cell after another as one would write it: the resample is written out and handed to
scikit-learn's LinearDiscriminantAnalysis and LogisticRegression, or to NumPy. The loop would take
hours, so a few cells of every estimator are timed and their mean is multiplied by the number of
cells; both the seconds measured and the seconds extrapolated are given. On the timed cells the
directions of both ways are compared: scikit-learn's logistic regression stops at its own tolerance,
the rest differs by single precision.

Time is CPU time of one thread: on an idle machine the same as the clock on the wall, on a busy one
the least disturbed (the wall's ratio stands beside it). Peak memory is the peak resident size of a
process of its own that fits all cells, Python and PyTorch included.

    python benchmarks/directions.py            a table
    python benchmarks/directions.py --json     the same as one JSON object on the last line
    python benchmarks/directions.py --layers 2 --contexts 1      a part of it, for a first look
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from probes.directions import ESTIMATORS, DirectionOptions, choose_c, fit_directions

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    layers: int = 12
    contexts: int = 10
    resamples: int = 200
    examples: int = 200  # of one context; half of them harmful
    width: int = 768

    @property
    def cells(self) -> int:
        """Directions of one estimator."""
        return self.layers * self.contexts * self.resamples


SMALL = Size(layers=2, contexts=2, resamples=5, examples=40, width=48)
"""Seconds in all; for tests, not for figures."""

LOOPED_CELLS = {
    "mean_difference": 40,
    "mass_mean": 3,
    "lda": 3,
    "logistic": 20,
    "lat": 20,
    "ccs": 5,
}
"""Cells of every estimator that the loop is timed on, resamples of one layer and context."""


@dataclass(frozen=True, eq=False)
class Context:
    """States of one context and what is fitted on them."""

    states: Tensor
    positive: Tensor
    pair: Tensor
    weights: Tensor
    groups: tuple[str, ...]


def draw_context(size: Size, number: int) -> Context:
    """Pairs of states with a falling spectrum and a planted direction, and resampled groups."""
    rng = np.random.default_rng(number)
    n_pairs = size.examples // 2
    scales = np.geomspace(5.0, 0.05, size.width)
    shared = np.repeat(rng.normal(size=(size.layers, n_pairs, size.width)), 2, axis=1)
    states = (shared + rng.normal(size=shared.shape)) * scales
    positive = np.arange(size.examples) % 2 == 0
    planted = rng.normal(size=(size.layers, 1, size.width)) * scales
    planted *= 4 / np.linalg.norm(planted, axis=-1, keepdims=True)
    states += positive[:, None] * planted
    drawn = rng.multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=size.resamples)
    return Context(
        states=torch.tensor(states, dtype=torch.float32),
        positive=torch.tensor(positive),
        pair=torch.arange(size.examples) ^ 1,
        weights=torch.tensor(np.repeat(drawn, 2, axis=1)),
        groups=tuple(str(i // 2) for i in range(size.examples)),
    )


def options_for(context: Context) -> DirectionOptions:
    """C by cross-validation, as the probes choose it; both ways get the same."""
    return DirectionOptions(c=choose_c(context.states, context.positive, context.groups))


def fit_batched(name: str, context: Context, options: DirectionOptions) -> Tensor:
    """All layers and resamples of one context."""
    return fit_directions(
        name,
        context.states,
        context.positive,
        context.weights,
        pair=context.pair,
        options=options,
    )


# ------------------------------------------------------------------------------ one by one


def mean_difference(x: Floats, y: NDArray[np.bool_], _: float) -> Floats:
    """NumPy."""
    return np.asarray(x[y].mean(axis=0) - x[~y].mean(axis=0))


def mass_mean(x: Floats, y: NDArray[np.bool_], _: float) -> Floats:
    """Scikit-learn."""
    shrinkage = DirectionOptions().shrinkage
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    return np.asarray(model.fit(x, y).coef_[0])


def lda(x: Floats, y: NDArray[np.bool_], _: float) -> Floats:
    """Scikit-learn."""
    model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf())
    return np.asarray(model.fit(x, y).coef_[0])


def logistic(x: Floats, y: NDArray[np.bool_], c: float) -> Floats:
    """Scikit-learn, to its own tolerance."""
    return np.asarray(LogisticRegression(C=c, max_iter=10_000).fit(x, y).coef_[0])


def lat(x: Floats, y: NDArray[np.bool_], _: float) -> Floats:
    """NumPy; the k-th harmful and the k-th harmless example are a pair."""
    differences = x[y] - x[~y]
    axis = np.linalg.svd(differences, full_matrices=False)[2][0]
    return np.asarray(axis * np.sign(axis @ differences.mean(axis=0)))


def ccs(x: Floats, y: NDArray[np.bool_], _: float) -> Floats:
    """NumPy; the same search from the same starts, which run side by side.

    In double precision: in single precision one in ten searches ends in another minimum.
    """
    x = x.astype(np.float64)
    n_pairs, width = int(y.sum()), x.shape[1]
    differences = x[y] - x[~y]
    along = differences.mean(axis=0)
    states = np.concatenate([x[y], x[~y]])
    states = states - states.mean(axis=0)
    states = states / np.sqrt((states**2).sum(axis=1).mean() / width)
    axes = np.linalg.svd(differences, full_matrices=False)[2][:3]
    axes = axes * np.sign(axes @ along)[:, None]
    apart = (states[:n_pairs] - states[n_pairs:]) @ axes.T
    slope = axes / np.sqrt((apart**2).mean(axis=0))[:, None] * 2
    momentum, power = np.zeros_like(slope), np.zeros_like(slope[:, :1])
    for step in range(1, 201):
        answers = 1 / (1 + np.exp(-slope @ states.T))
        gradient = _consistency_gradient(answers, n_pairs) @ states + 0.1 * slope
        momentum = 0.9 * momentum + 0.1 * gradient
        power = 0.99 * power + 0.01 * (gradient**2).sum(axis=1, keepdims=True) / width
        length = np.sqrt(power / (1 - 0.99**step)) * (1 - 0.9**step)
        slope = slope - 0.1 * (1 - step / 200) * momentum / length
    answers = 1 / (1 + np.exp(-slope @ states.T))
    p, q = answers[:, :n_pairs], answers[:, n_pairs:]
    losses = ((p + q - 1) ** 2 + np.minimum(p, q) ** 2).mean(axis=1)
    best = slope[int(np.argmin(losses + 0.05 * (slope**2).sum(axis=1)))]
    return np.asarray(best * np.sign(best @ along))


def _consistency_gradient(answers: Floats, n_pairs: int) -> Floats:
    p, q = answers[:, :n_pairs], answers[:, n_pairs:]
    rest = np.concatenate([p + q - 1 + p * (p <= q), p + q - 1 + q * (q < p)], axis=1)
    return np.asarray(2 / n_pairs * rest * answers * (1 - answers))


LOOPS: dict[str, Callable[[Floats, NDArray[np.bool_], float], Floats]] = {
    "mean_difference": mean_difference,
    "mass_mean": mass_mean,
    "lda": lda,
    "logistic": logistic,
    "lat": lat,
    "ccs": ccs,
}


def fit_one(
    name: str, context: Context, options: DirectionOptions, *, layer: int, resample: int
) -> Floats:
    """One cell: write the resample out, pair after pair, and fit."""
    assert isinstance(options.c, tuple)
    index = np.repeat(np.arange(0, len(context.positive), 2), context.weights[resample, ::2])
    index = np.stack([index, index + 1], axis=1).ravel()
    found = LOOPS[name](
        context.states[layer].numpy()[index], context.positive.numpy()[index], options.c[layer]
    )
    return np.asarray(found / np.linalg.norm(found))


# ------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Timing:
    """Seconds of both ways for one estimator, and how well they agree.

    Attributes:
        batched: CPU seconds of all cells in batches.
        loop: CPU seconds of all cells in the loop, extrapolated.
        ratio: loop / batched.
        ratio_wall: The same by the clock on the wall.
        looped_cells: Cells that the loop was timed on.
        looped_seconds: CPU seconds they took.
        largest_angle: Between the directions of both ways on those cells, in radians.
    """

    batched: float
    loop: float
    ratio: float
    ratio_wall: float
    looped_cells: int
    looped_seconds: float
    largest_angle: float


class Clock:
    """CPU and wall seconds of what runs inside, added up."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> "Clock":
        self._started = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._started[0]
        self.wall += time.perf_counter() - self._started[1]


def time_estimator(name: str, size: Size, contexts: list[Context]) -> Timing:
    """Fit everything in batches, then some cells of the first context in the loop."""
    options = [options_for(context) for context in contexts]
    fit_batched(name, draw_context(SMALL, 0), DirectionOptions())  # warm up
    batched, looped = Clock(), Clock()
    first = torch.empty(0)
    for context, option in zip(contexts, options, strict=True):
        with batched:
            found = fit_batched(name, context, option)
        first = first if len(first) else found[0]
    cells = min(LOOPED_CELLS[name], size.resamples)
    fit_one(name, contexts[0], options[0], layer=0, resample=0)  # warm up
    angles = []
    for resample in range(cells):
        with looped:
            one = fit_one(name, contexts[0], options[0], layer=0, resample=resample)
        angles.append(float(np.linalg.norm(one - first[resample].numpy())))
    scale = size.cells / cells
    return Timing(
        batched=batched.cpu,
        loop=looped.cpu * scale,
        ratio=looped.cpu * scale / batched.cpu,
        ratio_wall=looped.wall * scale / batched.wall,
        looped_cells=cells,
        looped_seconds=looped.cpu,
        largest_angle=max(angles),
    )


def own_peak_memory() -> int:
    """Peak resident size of this process in KiB.

    Not ``getrusage``: there a child inherits its parent's peak.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def fit_everything(size: Size) -> None:
    """All cells of all estimators; one context's directions are held at a time."""
    for number in range(size.contexts):
        context = draw_context(size, number)
        options = options_for(context)
        for name in ESTIMATORS:
            fit_batched(name, context, options)


def peak_memory(arguments: list[str]) -> int:
    """Peak resident size in KiB of a fresh process that fits everything in batches."""
    command = [sys.executable, __file__, "--only-memory", *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(answer.stdout.strip().splitlines()[-1])


def measure(size: Size, arguments: list[str]) -> dict[str, object]:
    """Ratios in all and by estimator, with the seconds they come from."""
    contexts = [draw_context(size, number) for number in range(size.contexts)]
    timings = {name: time_estimator(name, size, contexts) for name in ESTIMATORS}
    loop = sum(timing.loop for timing in timings.values())
    batched = sum(timing.batched for timing in timings.values())
    return {
        "loop_over_batched": loop / batched,
        "batched_seconds": batched,
        "loop_seconds_extrapolated": loop,
        "peak_memory_gib": peak_memory(arguments) / 2**20,
        "estimators": {name: asdict(timing) for name, timing in timings.items()},
        "size": asdict(size),
        "threads": 1,
    }


def as_table(result: dict[str, object]) -> Table:
    """One row an estimator, and the sum."""
    table = Table(
        *("estimator", "batched s", "loop s", "ratio", "by wall", "cells", "in s", "angle"),
        title="Directions, CPU, one thread; loop s is extrapolated from the cells",
    )
    timings, given = result["estimators"], result["size"]
    assert isinstance(timings, dict)
    assert isinstance(given, dict)
    for name, timing in timings.items():
        table.add_row(
            name,
            f"{timing['batched']:.2f}",
            f"{timing['loop']:.1f}",
            f"{timing['ratio']:.1f}",
            f"{timing['ratio_wall']:.1f}",
            str(timing["looped_cells"]),
            f"{timing['looped_seconds']:.2f}",
            f"{timing['largest_angle']:.0e}",
        )
    table.add_row(
        "all",
        f"{result['batched_seconds']:.2f}",
        f"{result['loop_seconds_extrapolated']:.1f}",
        f"{result['loop_over_batched']:.1f}",
        *[""] * 4,
    )
    size = " x ".join(f"{value} {name}" for name, value in given.items())
    table.caption = f"{size}; peak memory {result['peak_memory_gib']:.2f} GiB"
    return table


def read_size(options: argparse.Namespace) -> Size:
    """The size asked for."""
    full = SMALL if options.small else Size()
    given = {name: getattr(options, name) for name in asdict(full)}
    return Size(**{**asdict(full), **{k: v for k, v in given.items() if v is not None}})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--small", action="store_true", help="tiny states, to try the script")
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, help=f"(default {value})")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # of NumPy and SciPy
    size = read_size(options)
    if options.only_memory:
        fit_everything(size)
        print(own_peak_memory())
        return
    arguments = [f"--{name}={value}" for name, value in asdict(size).items()]
    result = measure(size, arguments)
    if options.json:
        print(json.dumps(result))
    else:
        Console().print(as_table(result))


if __name__ == "__main__":
    main()
