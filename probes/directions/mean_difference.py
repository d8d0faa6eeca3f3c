"""Difference of the class means, ``v ∝ μ₁ - μ₀``: no covariance, nothing to tune.

The steering direction of Marks & Tegmark (2310.06824) and Arditi et al. (2406.11717).
"""

from jaxtyping import Float
from torch import Tensor

from probes.directions.options import LayerOptions
from probes.directions.sample import Sample


def mean_difference(sample: Sample, _: LayerOptions) -> Float[Tensor, "resample rank"]:
    """μ₁ - μ₀ of every resample."""
    return sample.mean_differences
