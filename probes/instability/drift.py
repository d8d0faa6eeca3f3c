"""Does the direction move through layers, or while a response is written?

Within one context, the directions of two layers, or of two positions of the response, are compared
like those of two contexts: raw cosine of directions fitted on all examples, with its noise ceiling,
and corrected cosine from crossed halves. The states come from the same examples and share their
noise, so a raw cosine may exceed the ceiling; the corrected one does not profit from that.

Cosines between layers compare directions of the residual stream, which all layers write into; what
grows from layer to layer (the norm) drops out.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from probes.instability.reliability import corrected_cosines, crossed_cosines
from probes.instability.sample import FrameDirections


@dataclass(frozen=True, eq=False)
class Drift:
    """Two directions of one context compared.

    Attributes:
        raw: Cosine of the directions fitted on all examples.
        corrected: Cosine of crossed halves over the noise ceiling.
        half_first: Split-half cosine of the first direction.
        half_second: Of the second.
    """

    raw: Float[Tensor, " draw"]
    corrected: Float[Tensor, " draw"]
    half_first: Float[Tensor, " draw"]
    half_second: Float[Tensor, " draw"]

    @classmethod
    def between(cls, first: FrameDirections, second: FrameDirections) -> "Drift":
        """Compare directions of the same width, fitted on the same plan."""
        half_first = crossed_cosines(first.halves, first.halves)
        half_second = crossed_cosines(second.halves, second.halves)
        crossed = crossed_cosines(first.halves, second.halves)
        return cls(
            raw=(first.full * second.full).sum(dim=-1),
            corrected=corrected_cosines(crossed, half_first, half_second),
            half_first=half_first,
            half_second=half_second,
        )
