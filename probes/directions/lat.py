"""Linear artificial tomography: the main axis of paired differences.

With d_i the harmful minus the harmless state of pair i, v is the unit vector of largest
``Σ_i (d_i·v)²``: the first right singular vector of the differences, not centred (Zou et al.,
RepE, 2310.01405; there the members of a pair change places at random, which changes no square).
The sign, which squares cannot tell, points towards the mean difference of the same pairs.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot

from probes.directions.leading import leading_eigenvectors
from probes.directions.options import LayerOptions
from probes.directions.sample import Sample


def lat(sample: Sample, _: LayerOptions) -> Float[Tensor, "resample rank"]:
    """First singular vector of every resample's pairs, from their Gram matrix."""
    [axis] = main_axes(sample, 1)
    return towards_harmful(axis, sample)


def main_axes(sample: Sample, count: int) -> Float[Tensor, "rank resample width"]:
    """Unit vectors along which the differences of pairs are largest; zero where there is none."""
    differences, weights = sample.differences, sample.pair_weights
    vectors = leading_eigenvectors(differences @ differences.T, weights, count)
    axes = (vectors * weights.sqrt()[:, None]).transpose(0, 1) @ differences
    return torch.nn.functional.normalize(axes, dim=-1)


def towards_harmful(
    directions: Float[Tensor, "resample rank"], sample: Sample
) -> Float[Tensor, "resample rank"]:
    """Directions turned towards the mean paired difference; NaN where that is no help."""
    along = vecdot(directions, sample.pair_weights @ sample.differences)
    return directions * torch.where(along == 0, torch.nan, along.sign())[:, None]
