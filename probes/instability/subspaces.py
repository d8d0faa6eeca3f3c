"""Does more than one direction turn? Principal angles between the subspaces of class differences.

The subspace of a context is spanned by the first k principal axes of the differences between
matched examples, harmful minus harmless (not centred: their mean is the mean difference itself).
Principal angles θ_1 ≤ ... ≤ θ_k between two subspaces are the arc cosines of the singular values
of ``Q_a' Q_b`` (Björck & Golub 1973); in degrees, as scipy.linalg.subspace_angles in radians.

As with single directions, angles are taken between crossed halves, since contexts share the noise
of their prompts. Beside each stand the angle between two halves of the same context, which noise
alone opens (the ceiling), and that between random subspaces (the null): in d dimensions the cosine
of two random k-subspaces is about √(k/d), so that wide spaces make angles look large.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.contrasts import NO_PAIR
from probes.instability.sample import FrameSample

_RANDOM_PAIRS = 200


def half_subspaces(
    sample: FrameSample, layer: int, k: int
) -> Float[Tensor, "draw split half width rank"]:
    """Orthonormal bases of the difference subspaces of every half.

    NaN where the context is not measured or a half has fewer than ``k`` matched pairs.

    Args:
        sample: The context.
        layer: Place of the layer in its states.
        k: Dimensions of the subspace.
    """
    n_splits, n_halves, _ = sample.halves.shape
    bases = torch.full((sample.n_draws, n_splits, n_halves, sample.width, k), torch.nan)
    harmful = ((sample.pair != NO_PAIR) & sample.positive).nonzero().flatten()
    harmless = sample.pair[harmful]
    if sample.reason_at(layer) or k > sample.width:
        return bases
    differences = sample.states[layer, harmful] - sample.states[layer, harmless]
    weights = torch.minimum(sample.weights[:, harmful], sample.weights[:, harmless])
    for split, halves in enumerate(sample.halves):
        for half, held in enumerate(halves):
            members = (held[harmful] & held[harmless]).nonzero().flatten()
            if len(members) >= k:
                bases[:, split, half] = principal_axes(differences[members], weights[:, members], k)
    return bases


def principal_axes(
    differences: Float[Tensor, "pair width"], weights: Float[Tensor, "draw pair"], k: int
) -> Float[Tensor, "draw width rank"]:
    """First k principal axes of weighted differences, not centred, as columns.

    Through the smaller of the two products: where pairs are fewer than dimensions, the axes are
    the weighted sums of differences that their inner products name.
    """
    n_pairs, width = differences.shape
    scaled = weights.sqrt()[:, :, None] * differences
    if n_pairs >= width:
        return _leading(scaled.mT @ scaled, k)
    basis: Tensor = torch.linalg.qr(scaled.mT @ _leading(scaled @ scaled.mT, k)).Q
    return basis


def _leading(
    squares: Float[Tensor, "draw width width"], k: int
) -> Float[Tensor, "draw width rank"]:
    vectors: Tensor = torch.linalg.eigh(squares).eigenvectors
    return vectors[..., -k:].flip(-1)


def principal_angles(
    first: Float[Tensor, "*frame width rank"], second: Float[Tensor, "*frame width rank"]
) -> Float[Tensor, "*frame rank"]:
    """Angles between subspaces in degrees, from the smallest; NaN where a basis is NaN.

    Args:
        first: Orthonormal bases, as columns.
        second: The bases to compare with.
    """
    cosines = first.mT @ second
    unmeasured = cosines.isnan().any(dim=-1).any(dim=-1)[..., None]
    values = torch.linalg.svdvals(cosines.nan_to_num().double())
    angles = values.clamp(0.0, 1.0).arccos().rad2deg()
    return torch.where(unmeasured, torch.nan, angles)


def crossed_angles(
    first: Float[Tensor, "draw split half width rank"],
    second: Float[Tensor, "draw split half width rank"],
) -> Float[Tensor, "draw rank"]:
    """Mean angles between one's half and the other's other half; with itself, the noise alone."""
    return principal_angles(first, second.flip(2)).mean(dim=(1, 2))


def random_angles(width: int, k: int, rng: np.random.Generator) -> Float[Tensor, " rank"]:
    """Mean principal angles between random subspaces of that many dimensions, in degrees."""
    draws = torch.from_numpy(rng.normal(size=(2, _RANDOM_PAIRS, width, k)))
    first, second = torch.linalg.qr(draws).Q
    return principal_angles(first, second).mean(dim=0)
