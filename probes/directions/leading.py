"""Leading eigenvectors of all resamples at once, by Lanczos' method with an exact way out.

Wanted are the largest eigenvalues of ``W^½ K W^½`` for one Gram matrix K and many diagonal W. In
the Krylov space of a good start the largest come out after few products with K, which all resamples
share; only those that did not (leading eigenvalues too close) are decomposed whole.

The start stands for the resample's weighted mean of the rows behind K. It depends on the resample
alone, so a repeated sample gives the same vectors; an eigenvector orthogonal to it is not found,
and could not be told from its negative by the mean either.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import vecdot

STEPS = (16, 32, 64, 128)
"""Dimensions of the Krylov space: more for the resamples that need them."""

PAYS = 2
"""The space pays while there are more examples than this many times its dimensions."""

TOLERANCE = 1e-7
"""Angle by which a vector may be off: its residual next to the gap to the other eigenvalues."""


def leading_eigenvectors(
    gram: Float[Tensor, "n n"], weights: Float[Tensor, "resample n"], count: int
) -> Float[Tensor, "resample rank n"]:
    """Unit eigenvectors of W^½ K W^½ to the largest eigenvalues, largest first.

    Args:
        gram: K.
        weights: The diagonals W.
        count: How many vectors; at most as many as there are rows.
    """
    roots = weights.sqrt()
    vectors = roots.new_empty((len(roots), count, roots.shape[1]))
    left = torch.arange(len(roots))
    for steps in STEPS:
        if not len(left) or len(gram) <= PAYS * steps:
            break
        vectors[left], converged = _lanczos(gram, roots[left], steps, count)
        left = left[~converged]
    if len(left):
        vectors[left] = _exact(gram, roots[left], count)
    return vectors


def _exact(
    gram: Float[Tensor, "n n"], roots: Float[Tensor, "resample n"], count: int
) -> Float[Tensor, "resample rank n"]:
    _, vectors = torch.linalg.eigh(roots[:, :, None] * gram * roots[:, None, :])
    leading: Tensor = vectors[:, :, -count:].flip(-1).mT
    return leading


def _lanczos(
    gram: Float[Tensor, "n n"], roots: Float[Tensor, "resample n"], steps: int, count: int
) -> tuple[Float[Tensor, "resample rank n"], Bool[Tensor, " resample"]]:
    """Ritz vectors, and whether all that are wanted of a resample are sharp."""
    basis, diagonal, beside = _krylov(gram, roots, steps)
    tridiagonal = torch.diag_embed(diagonal)
    tridiagonal += torch.diag_embed(beside[:, :-1], 1) + torch.diag_embed(beside[:, :-1], -1)
    values, inner = torch.linalg.eigh(tridiagonal)
    wanted = inner[:, :, -count:].flip(-1)
    residual = (beside[:, -1:] * wanted[:, -1]).abs()
    gaps = values.diff(dim=-1)[:, -count:].flip(-1)
    gaps = torch.minimum(gaps, torch.cat([gaps[:, :1], gaps[:, :-1]], dim=1))
    converged = (residual <= TOLERANCE * gaps).all(dim=-1)
    return wanted.mT @ basis, converged


def _krylov(
    gram: Float[Tensor, "n n"], roots: Float[Tensor, "resample n"], steps: int
) -> tuple[
    Float[Tensor, "resample step n"], Float[Tensor, "resample step"], Float[Tensor, "resample step"]
]:
    """Orthonormal basis of the Krylov space, and the matrix in it: its diagonal and beside it.

    Where the space ends early the rest of the basis is zero, which adds eigenvalues 0 alone.
    """
    basis = roots.new_zeros((len(roots), steps, roots.shape[1]))
    diagonal, beside = roots.new_zeros((2, len(roots), steps))
    vector = roots / roots.norm(dim=-1, keepdim=True)
    for step in range(steps):
        basis[:, step] = vector
        product = roots * ((roots * vector) @ gram)
        diagonal[:, step] = vecdot(product, vector)
        known = basis[:, : step + 1]
        product = product - ((known @ product[:, :, None]).mT @ known)[:, 0]
        length = product.norm(dim=-1)
        ended = length <= 1e-12 * diagonal[:, 0]
        beside[:, step] = torch.where(ended, 0.0, length)
        vector = torch.where(ended[:, None], 0.0, product / length[:, None])
    return basis, diagonal, beside
