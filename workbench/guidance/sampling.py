"""From logits to tokens, reproducibly and row by row.

Every row of a batch has its own stream of uniform numbers. The seeds of the streams are drawn from
the generator in the order of the rows, so a row's tokens depend neither on the other rows nor on
how a list of prompts is cut into batches, and two guidances that start from equal generators use
the same numbers (common random numbers). A token is drawn by inverting the cumulative distribution
over the tokens in order of falling probability.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Divides the logits; above 0.
        top_p: Smallest set of likeliest tokens whose probability reaches this; in (0, 1].
        greedy: Take the likeliest token; the other two are then without meaning.

    Raises:
        ConfigError: A value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.temperature < float("inf")):
            raise ConfigError(
                f"temperature = {self.temperature}: it must be positive, for tokens are drawn; "
                "only `workbench generate --greedy` takes the likeliest at every step"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p}: it lies in (0, 1]; 1 keeps every token")


GREEDY = Sampling(greedy=True)


def draw_uniforms(
    generator: torch.Generator, n_rows: int, n_steps: int
) -> Float[Tensor, "batch step"]:
    """Uniform numbers in [0, 1), one stream a row; the generator moves on by ``n_rows`` draws."""
    streams = []
    for _ in range(n_rows):
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        stream = torch.Generator().manual_seed(seed)
        streams.append(torch.rand(n_steps, generator=stream, dtype=torch.float64))
    return torch.stack(streams) if streams else torch.empty((0, n_steps), dtype=torch.float64)


def choose_tokens(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    uniform: Float[Tensor, " batch"] | None,
) -> Int[Tensor, " batch"]:
    """The next token of every row.

    Args:
        logits: Of the next token.
        sampling: How to choose.
        uniform: A number in [0, 1) for each row; unused when greedy.
    """
    if sampling.greedy:
        return logits.argmax(dim=-1)
    assert uniform is not None
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    falling, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = falling.cumsum(dim=-1)
    kept = (cumulative - falling < sampling.top_p).sum(dim=-1, keepdim=True)
    total = cumulative.gather(-1, kept - 1)
    rank = (cumulative <= uniform[:, None] * total).sum(dim=-1, keepdim=True)
    return order.gather(-1, rank.minimum(kept - 1)).squeeze(-1)
