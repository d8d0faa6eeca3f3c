"""Fisher's direction ``v ∝ Σ⁻¹ (μ₁ - μ₀)`` with a shrunk within-class covariance Σ.

With fewer examples than dimensions the covariance S of a class is singular and noisy, so it is
mixed with the identity of the same trace, ``(1 - s) S + s tr(S)/d I``. Classes are pooled in
proportion to their sizes. Two ways to choose s:

* ``mass_mean``: one fixed s. Marks & Tegmark (2310.06824) without shrinkage, which needs more
  examples than dimensions; scikit-learn's LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s).
* ``lda``: the s of Ledoit & Wolf (2004), estimated for each class and resample;
  LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=LedoitWolf()).

The trace and d belong to the full width; shrinking acts alike in and outside the frame.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.directions.options import LayerOptions
from probes.directions.sample import Sample

SINGULAR = 1e-13
"""A pivot this small next to the largest variance is rounding error."""


def mass_mean(sample: Sample, options: LayerOptions) -> Float[Tensor, "resample rank"]:
    """Σ⁻¹ Δμ with the shrinkage of the options; NaN where Σ is singular."""
    shrinkage = torch.full((len(sample.weights),), options.shrinkage).double()
    return _solve(
        sample, [_shrunk(moments, shrinkage, sample.width) for moments in _by_class(sample)]
    )


def lda(sample: Sample, _: LayerOptions) -> Float[Tensor, "resample rank"]:
    """Σ⁻¹ Δμ with the shrinkage of Ledoit and Wolf; NaN where Σ is singular."""
    return _solve(
        sample,
        [
            _shrunk(moments, ledoit_wolf_shrinkage(moments, sample.width), sample.width)
            for moments in _by_class(sample)
        ],
    )


@dataclass(frozen=True, eq=False)
class Moments:
    """What the covariance of one class takes, for every resample.

    Attributes:
        covariance: S, divided by n, not n - 1.
        trace: tr S.
        fourth: Mean of the fourth power of the distance to the class mean.
        size: Examples of the class, repetitions counted.
    """

    covariance: Float[Tensor, "resample rank rank"]
    trace: Float[Tensor, " resample"]
    fourth: Float[Tensor, " resample"]
    size: Float[Tensor, " resample"]


def _by_class(sample: Sample) -> list[Moments]:
    return [
        class_moments(sample.states[members], sample.weights[:, members])
        for members in (~sample.positive, sample.positive)
    ]


def class_moments(states: Float[Tensor, "n rank"], weights: Float[Tensor, "resample n"]) -> Moments:
    """Moments of one class, counting every example as often as it is held."""
    size = weights.sum(dim=-1)
    share = weights / size[:, None]
    mean = share @ states
    # Scaled by the root of the shares, the product is symmetric to the last bit.
    scaled = share.sqrt()[:, :, None] * (states - mean[:, None])
    square = scaled.square().sum(dim=-1)
    fourth = torch.where(share > 0, square.square() / share, 0.0).sum(dim=-1)
    return Moments(scaled.mT @ scaled, square.sum(dim=-1), fourth, size)


def ledoit_wolf_shrinkage(moments: Moments, width: int) -> Float[Tensor, " resample"]:
    """The share s that minimises the expected squared error of the shrunk covariance.

    ``s = min(β, δ) / δ`` with ``δ = |S - tr(S)/d I|²`` and ``β = (E|x|⁴ - |S|²) / n``: how far S
    is from the identity, and how much of that is noise.
    """
    squares = moments.covariance.square().sum(dim=(-2, -1))
    distance = squares - moments.trace.square() / width
    noise = (moments.fourth - squares) / moments.size
    share = noise.clamp(min=0.0) / distance
    return torch.where(distance > 0, share, 0.0).clamp(max=1.0)


def _shrunk(
    moments: Moments, shrinkage: Float[Tensor, " resample"], width: int
) -> Float[Tensor, "resample rank rank"]:
    """Shrunk covariance of one class times its size."""
    covariance = moments.covariance * ((1 - shrinkage) * moments.size)[:, None, None]
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    diagonal += (shrinkage * moments.trace / width * moments.size)[:, None]
    return covariance


def _solve(
    sample: Sample, scatters: list[Float[Tensor, "resample rank rank"]]
) -> Float[Tensor, "resample rank"]:
    """Σ⁻¹ Δμ, up to a positive factor."""
    scatter = scatters[0].add_(scatters[1])
    factor, failed = torch.linalg.cholesky_ex(scatter)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1)
    largest = scatter.diagonal(dim1=-2, dim2=-1).amax(dim=-1)
    singular = (failed > 0) | ~(pivots > SINGULAR * largest)
    directions = torch.cholesky_solve(sample.mean_differences[..., None], factor)[..., 0]
    return directions.masked_fill(singular[:, None], torch.nan)
