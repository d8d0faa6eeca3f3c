"""Is the bridge's effect a small, smooth push? Predicted first-order change against the measured.

With D = B - B_rest, what the writer adds to its bridge at rest, and a scale e,

    predicted(e) = e <grad_B margin, D>
    measured(e)  = margin(B) - margin(B - e D)

Towards e = 0 both agree by definition of the gradient. Where they part, the effect is not that of
a direction in the residual stream but of attention switching: slope (measured on predicted, through
the origin) and correlation over prompts say how far the linear picture reaches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.anchoring.edits import replaced
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.interventions import resting_bridges
from probes.anchoring.scene import Scene
from probes.records import Record
from workbench.statistics import cluster_bootstrap

PREDICTED, MEASURED = "first_order_predicted", "first_order_measured"
SLOPE, CORRELATION = "first_order_slope", "first_order_correlation"
NO_SIGNAL = "not measured: the bridge at gate 0 is the bridge itself, the writer adds nothing"


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """Changes of the margin of every prompt when a share of the bridge's signal is taken away.

    Attributes:
        scales: The shares e.
        predicted: By the gradient at the whole bridge.
        measured: By running without that share.
    """

    scales: tuple[float, ...]
    predicted: Float[Tensor, "dose batch"]
    measured: Float[Tensor, "dose batch"]


def first_order(scene: Scene, scales: Sequence[float]) -> FirstOrder:
    """Predict and measure the change at every scale."""
    bridge = scene.write.bridge.detach().clone().requires_grad_(True)
    margin = scene.log_probs(replaced(bridge)).margin
    (gradient,) = torch.autograd.grad(margin.sum(), bridge)
    signal = scene.write.bridge - resting_bridges(scene)
    along = (gradient * signal).sum(dim=(1, 2))
    return FirstOrder(
        scales=tuple(scales),
        predicted=torch.stack([scale * along for scale in scales]),
        measured=torch.stack(
            [
                margin.detach() - scene.margins(replaced(scene.write.bridge - scale * signal))
                for scale in scales
            ]
        ),
    )


def first_order_records(
    scene: Scene, scales: Sequence[float], estimates: Estimates
) -> list[Record]:
    """Means of both changes, slope and correlation, at every scale (x)."""
    found = first_order(scene, scales)
    records = []
    for scale, predicted, measured in zip(scales, found.predicted, found.measured, strict=True):
        base = replace(estimates.base, estimator="gradient", x=float(scale))
        x, y = as_values(predicted), as_values(measured)
        if not x.any():
            names = (PREDICTED, MEASURED, SLOPE, CORRELATION)
            records += [replace(base, metric=name, note=NO_SIGNAL) for name in names]
            continue
        records += [
            estimates.mean(replace(base, metric=PREDICTED), x),
            estimates.mean(replace(base, metric=MEASURED), y),
            _joint(replace(base, metric=SLOPE), slope, x, y, estimates),
            _joint(replace(base, metric=CORRELATION, null=0.0), correlation, x, y, estimates),
        ]
    return records


def slope(x: Values, y: Values) -> float:
    """Least squares through the origin: sum xy / sum x^2; NaN without any x."""
    squares = float(x @ x)
    return float(x @ y) / squares if squares > 0 else float("nan")


def correlation(x: Values, y: Values) -> float:
    """Pearson's; NaN where either does not vary."""
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread > 0 else float("nan")


def _joint(
    record: Record,
    statistic: Callable[[Values, Values], float],
    x: Values,
    y: Values,
    estimates: Estimates,
) -> Record:
    """A statistic of pairs, resampled by the pairs' numbers."""

    def of_rows(rows: Values) -> float:
        index = rows.astype(np.int64)
        return statistic(x[index], y[index])

    return record.measured(
        cluster_bootstrap(
            np.arange(len(x)),
            estimates.clusters,
            rng=estimates.rng(),
            statistic=of_rows,
            n_resamples=estimates.n_resamples,
        )
    )
