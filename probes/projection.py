"""States seen from their own main axes: a picture of where contexts and classes lie.

Principal components of the centred states X of one site and layer, ``X = U S Vᵀ``: coordinates
``U S``, explained variance ``S_i² / Σ S²``. It is a picture only; every number about directions
comes from the full space. An axis has no sign of its own: here harmful states lie on its positive
side, on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.contrasts import ContrastSet
from workbench.arguments import typed_arguments
from workbench.errors import DataError

N_COMPONENTS = 3


@dataclass(frozen=True, eq=False)
class Projection:
    """States on their first principal components.

    Attributes:
        points: Coordinates, in units of the states.
        explained: Share of the variance along each component, between 0 and 1; NaN where the
            states do not differ at all.
        source: Where the states come from, example by example.
        layer: Their layer; None for a site without layers.
    """

    points: Float[Tensor, "n rank"]
    explained: Float[Tensor, " rank"]
    source: ContrastSet
    layer: int | None

    def frame(self) -> pd.DataFrame:
        """One row an example: ``site, contrast, layer, context, group, harmful, pc1 ...``.

        ``explained1 ...`` repeat the shares in every row, so that the table says all of it.
        """
        n = len(self.source)
        columns: dict[str, object] = {
            "site": self.source.site,
            "contrast": self.source.contrast,
            "layer": pd.array([self.layer] * n, dtype="Int64"),
            "context": list(self.source.context),
            "group": list(self.source.group),
            "harmful": self.source.positive.numpy(),
        }
        for axis, share in enumerate(self.explained.tolist()):
            columns[f"pc{axis + 1}"] = self.points[:, axis].numpy()
            columns[f"explained{axis + 1}"] = share
        return pd.DataFrame(columns)


@typed_arguments
def project_all(sets: Sequence[ContrastSet]) -> pd.DataFrame:
    """Every layer of every set, one below the other; sites of single tokens are left out."""
    return pd.concat(
        [
            project(states, layer).frame()
            for states in sets
            if "@" not in states.site
            for layer in states.layers
        ],
        ignore_index=True,
    )


def project(states: ContrastSet, layer: int | None = None) -> Projection:
    """Project the states of one layer onto their first three principal components.

    Args:
        states: Two classes of states; contexts are projected together, onto the same axes.
        layer: Which layer; None for a site without layers.

    Raises:
        DataError: No such layer, or fewer than two states.
    """
    if layer not in states.layers:
        known = ", ".join("none" if known is None else str(known) for known in states.layers)
        raise DataError(f"layer {layer} is not among the layers of {states.site} ({known})")
    if len(states) < 2:
        raise DataError("a projection needs at least two states")
    found = states.states[states.layers.index(layer)].double()
    centred = found - found.mean(dim=0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    rank = min(N_COMPONENTS, sizes.numel())
    points = left[:, :rank] * sizes[:rank]
    explained = (sizes**2 / (sizes**2).sum())[:rank]
    return Projection(points * _towards_harm(points, states), explained, states, layer)


def _towards_harm(points: Float[Tensor, "n rank"], states: ContrastSet) -> Float[Tensor, " rank"]:
    """1 or -1 an axis, so that harmful states lie higher on average."""
    if bool(states.positive.all()) or not bool(states.positive.any()):
        return points.new_ones(points.shape[1])
    gap = points[states.positive].mean(dim=0) - points[~states.positive].mean(dim=0)
    return torch.where(gap < 0, -1.0, 1.0).to(points.dtype)
