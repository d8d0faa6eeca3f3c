"""The correction: the first-order step from a harmful value state to the zero level set of D.

With s = D(z) and g = grad_z relu(s) (SVGT paper, arXiv 2605.11712):

    delta_z = -step_size * relu(s) / ||g|| * g / ||g||,   zero wherever s <= 0

so that D(z + delta_z) = 0 exactly for a linear D and step_size 1. Where D is flat the step
explodes; `max_norm` caps its length and `Correction.capped` says where it did. The step is a
reading of D, never differentiated through; each row depends on itself alone. The kind "zero" reads
the score and leaves delta_z = 0: the decision is left, without what was to be done about it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import NonFiniteError
from workbench.svgt.config import CorrectionConfig

Discriminate = Callable[[Float[Tensor, "batch d_value"]], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Correction:
    """The step of each row.

    Attributes:
        delta_z: The step, in units of the value space.
        score: s = D(z).
        gradient_norm: ||g||, the slope of D at z; 0 where the row is not corrected.
        capped: True where `max_norm` shortened the step.
    """

    delta_z: Float[Tensor, "batch d_value"]
    score: Float[Tensor, " batch"]
    gradient_norm: Float[Tensor, " batch"]
    capped: Bool[Tensor, " batch"]

    @property
    def n_capped(self) -> int:
        """Rows whose step was shortened."""
        return int(self.capped.sum())


def require_finite(rows: Float[Tensor, "batch ..."], what: str) -> None:
    """Raise NonFiniteError naming the first row of `rows` that holds NaN or infinity."""
    if bool(rows.isfinite().all()):
        return
    bad = (~rows.isfinite().flatten(1).all(dim=1)).nonzero()
    raise NonFiniteError(
        f"row {int(bad[0])} of the {what} holds NaN or infinity; "
        "check the states and weights it was computed from"
    )


def correct(
    z: Float[Tensor, "batch d_value"], discriminator: Discriminate, config: CorrectionConfig
) -> Correction:
    """The correction of each value state.

    Works in any gradient mode of the caller. Where a harmful state stands on an exactly flat D no
    direction exists and the step is zero.

    Args:
        z: Value states.
        discriminator: Maps value states to scores, row by row.
        config: Step size, cap, whether safe states move too, and whether any does.

    Raises:
        NonFiniteError: A row of z, or its step, is NaN or infinite.
    """
    # Outside inference mode a clone of an inference tensor can carry gradients again.
    with torch.inference_mode(False), torch.enable_grad():
        point = z.detach().clone().requires_grad_()
        score = discriminator(point)
        (gradient,) = torch.autograd.grad(score.sum(), point)
    score = score.detach()
    height = score if config.two_sided else score.relu()
    gradient = torch.where((height != 0)[:, None], gradient, 0.0)
    slope = torch.linalg.vector_norm(gradient, dim=1)
    sloped = slope > 0
    safe_slope = torch.where(sloped, slope, 1.0)
    step_size = 0.0 if config.kind == "zero" else config.step_size
    length = torch.where(sloped, step_size * height / safe_slope, 0.0)
    capped = torch.zeros_like(sloped)
    if config.max_norm is not None:
        capped = length.abs() > config.max_norm
        length = length.clamp(-config.max_norm, config.max_norm)
    delta_z = -length[:, None] * (gradient / safe_slope[:, None])
    # One look for all three: every look makes the computer wait for the device.
    if not bool(torch.cat([z.detach(), score[:, None], delta_z], dim=1).isfinite().all()):
        require_finite(z, "value states")
        require_finite(score[:, None], "harm scores")
        require_finite(delta_z, "corrections (set correction.max_norm to cap them)")
    return Correction(delta_z=delta_z, score=score, gradient_norm=slope, capped=capped)
