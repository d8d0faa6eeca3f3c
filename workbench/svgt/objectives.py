"""The losses of stage 3, which trains the bridge alone (SVGT paper, arXiv 2605.11712).

    L = ce * CE(safe response + EOS | prompt, B)
      + safety * mean(softplus(s) + 2 relu(s))
      + norm * relu(| ||B|| / ||h|| - 1 | - 0.2)

with s the conditional score of the response states in the steered pass. All are pure functions of
tensors; norms are Euclidean, over the residual stream.

The safety term has three kinds (`SafetyConfig`), of which the paper has the first:

    teacher-forced  mean(softplus(s(y)) + 2 relu(s(y))),  y the given safe response
    on-policy       the same of y ~ p(. | prompt, B), what the guided model itself says; gradients
                    flow through the states of y, not through the draw
    contrastive     mean(relu(margin + s(y_safe) - s(y_harmful))), both responses to the same prompt
                    in steered passes: a bridge that lowers every score alike gains nothing
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from workbench.errors import ConfigError, TokenError

IGNORED = -100
"""Label of a position that is no target."""

HARM_SLOPE = 2.0
NORM_SLACK = 0.2
ADJUSTMENT_BUDGET = 0.1


SafetyKind = Literal["teacher-forced", "on-policy", "contrastive"]
SAFETY_KINDS: tuple[SafetyKind, ...] = get_args(SafetyKind)


@dataclass(frozen=True)
class SafetyConfig:
    """What the safety term of stage 3 scores; the published kind by default.

    Attributes:
        kind: See the module.
        margin: ``contrastive``: how far the safe response's score must lie below the harmful one's.
        max_new_tokens: ``on-policy``: length of the drawn responses.
        temperature: ``on-policy``: temperature at which they are drawn.
    """

    kind: SafetyKind = "teacher-forced"
    margin: float = 1.0
    max_new_tokens: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in SAFETY_KINDS:
            raise ConfigError(
                f"safety.kind = {self.kind!r} is unknown; choose one of {', '.join(SAFETY_KINDS)}"
            )
        if self.margin < 0 or self.temperature <= 0 or self.max_new_tokens < 1:
            raise ConfigError(
                "safety.margin must not be negative, temperature positive, max_new_tokens at "
                f"least 1, got {self}"
            )


@dataclass(frozen=True)
class BridgeLossWeights:
    """Weights of the three terms; the published ones by default.

    Attributes:
        ce: Weight of the cross-entropy of the safe response.
        safety: Weight of the harm score of the steered response.
        norm: Weight of the norm regulariser.
    """

    ce: float = 0.5
    safety: float = 2.0
    norm: float = 0.1

    def __post_init__(self) -> None:
        if min(self.ce, self.safety, self.norm) < 0:
            raise ConfigError(f"loss weights must not be negative, got {self}")


@dataclass(frozen=True)
class BridgeLoss:
    """The terms of stage 3 and their weighted sum, each a scalar that carries gradients.

    Attributes:
        ce: Cross-entropy of the safe response, nats a token.
        safety: Penalty of the harm score.
        norm: Norm regulariser.
        total: The weighted sum that is minimised.
    """

    ce: Float[Tensor, ""]
    safety: Float[Tensor, ""]
    norm: Float[Tensor, ""]
    total: Float[Tensor, ""]


def response_cross_entropy(
    logits: Float[Tensor, "batch seq vocab"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean over samples of the mean cross-entropy over a sample's targets, in nats.

    A long response so weighs as much as a short one.

    Args:
        logits: Scores at the position *before* each target.
        targets: The token that follows, or -100 where there is no target.

    Raises:
        TokenError: A sample has no target.
    """
    is_target = targets != IGNORED
    counts = is_target.sum(dim=1)
    if bool((counts == 0).any()):
        raise TokenError(f"row {int((counts == 0).nonzero()[0])} has no response token to learn")
    per_token = functional.cross_entropy(
        logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return (per_token.sum(dim=1) / counts).mean()


def safety_penalty(score: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean of softplus(s) + 2 relu(s); s > 0 means harmful."""
    return (functional.softplus(score) + HARM_SLOPE * score.relu()).mean()


def contrastive_penalty(
    safe: Float[Tensor, " batch"], harmful: Float[Tensor, " batch"], margin: float
) -> Float[Tensor, ""]:
    """Mean of relu(margin + s_safe - s_harmful) over prompts; zero once all lie that far apart."""
    return (margin + safe - harmful).relu().mean()


def norm_penalty(
    bridge: Float[Tensor, "batch bridge d_model"], trigger_state: Float[Tensor, "batch d_model"]
) -> Float[Tensor, ""]:
    """relu(| r - 1 | - 0.2), r the bridge's mean norm over the trigger states' mean norm.

    Norms are averaged over the batch before the ratio is taken, as published.
    """
    ratio = _mean_norm(bridge) / _mean_norm(trigger_state)
    return ((ratio - 1.0).abs() - NORM_SLACK).relu()


def adjustment_penalty(
    adjustment: Float[Tensor, "batch bridge d_model"],
    prompt: Float[Tensor, "batch seq d_model"],
    prompt_mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Norm regulariser of the MLP bridge: relu(mean ||adjustment|| - 0.1 * mean prompt norm).

    The prompt norm is averaged within each prompt, then over prompts, as published.
    """
    norms = torch.linalg.vector_norm(prompt, dim=-1)
    per_prompt = torch.where(prompt_mask, norms, 0.0).sum(dim=1) / prompt_mask.sum(dim=1)
    return (_mean_norm(adjustment) - ADJUSTMENT_BUDGET * per_prompt.mean()).relu()


def combine(
    ce: Float[Tensor, ""],
    safety: Float[Tensor, ""],
    norm: Float[Tensor, ""],
    weights: BridgeLossWeights,
) -> BridgeLoss:
    """The weighted sum of the three terms, kept beside them."""
    total = weights.ce * ce + weights.safety * safety + weights.norm * norm
    return BridgeLoss(ce=ce, safety=safety, norm=norm, total=total)


def _mean_norm(states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, ""]:
    mean: Tensor = torch.linalg.vector_norm(states, dim=-1).mean()
    return mean
