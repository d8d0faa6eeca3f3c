"""A look at a wrapped model of an untested family, before anybody relies on its numbers.

Two things are asked of it. A pass over a few tokens gives the logits that the plain model gave
before it was wrapped, and every block shows a residual. And a token that is hidden from all others,
its position left out, changes nothing: fed before the cache is read and in the middle of the row,
the others' logits stay the plain model's. That is what slots need, and what a model that counts
distances in columns, ignores explicit positions or makes its own masks cannot do.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from workbench.backbone.checkpoints import first_line
from workbench.backbone.frozen import FrozenBackbone
from workbench.backbone.masks import additive_mask, causal_keys
from workbench.backbone.watching import EMBEDDING_LAYER
from workbench.errors import BackboneError, HookError, NonFiniteError

TESTED = (
    "gpt2",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "gpt_neox",
)
"""Model types that the tests hold against plain Hugging Face code: not looked at again."""
_N_TOKENS = 4
_HIDDEN = 2
"""Column at which the hidden token is fed."""
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of logits, relative to the largest logit: far above rounding in that type."""


@torch.no_grad()
def plain_logits(model: PreTrainedModel) -> Float[Tensor, "token vocab"] | None:
    """Logits of the model's first tokens as it stands; None for a tested family.

    Args:
        model: Before it is wrapped; put into evaluation mode.

    Raises:
        BackboneError: The plain model cannot run.
    """
    if model.config.model_type in TESTED:
        return None
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    model.eval()  # type: ignore[no-untyped-call]
    try:
        logits = model(_tokens(weight.device), use_cache=False).logits
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise BackboneError(
            f"{type(model).__name__} cannot run as its configuration has it: {first_line(error)}"
        ) from error
    assert isinstance(logits, Tensor)
    return logits[0].float().cpu()


def check_wrapped(
    backbone: FrozenBackbone, config: PretrainedConfig, wanted: Tensor | None
) -> None:
    """Compare a wrapped model with what :func:`plain_logits` saw.

    Args:
        backbone: The wrapped model.
        config: Its configuration, for the message.
        wanted: What the plain model gave; None where there is nothing to check.

    Raises:
        BackboneError: It gives other numbers; the message says which.
    """
    if wanted is None:
        return
    try:
        reason = _difference(backbone, wanted)
    except (HookError, NonFiniteError, RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = f"a pass of {_N_TOKENS} tokens fails ({type(error).__name__}: {error})"
    if reason is not None:
        raise BackboneError(
            f"{backbone.name} belongs to a family that is not among the tested ones "
            f"({config.model_type}), and a check of {backbone.backend} failed: {reason}. Its "
            f"results could not be trusted; take a model of {', '.join(TESTED)}"
        )


@torch.no_grad()
def _difference(backbone: FrozenBackbone, wanted: Tensor) -> str | None:
    """What differs from the plain model, if anything does."""
    tolerance = _TOLERANCE[backbone.dtype]
    seen, states = _watched(backbone)
    error = _relative(seen, wanted)
    if not error <= tolerance:
        return f"its logits differ from the plain model's by {error:.1e} of the largest"
    if any(torch.equal(one, other) for one, other in pairwise(states)):
        return "a block leaves the residual as it was"
    error = _relative(_beside_hidden(backbone), wanted)
    if not error <= tolerance:
        return (
            f"a hidden token changes the others' logits by {error:.1e} of the largest, so slots "
            "cannot be hidden"
        )
    return None


def _watched(backbone: FrozenBackbone) -> tuple[Tensor, list[Tensor]]:
    """Logits of an ordinary pass, and the residuals from the embeddings to the last block."""
    ids = _tokens(backbone.device)
    layers = [EMBEDDING_LAYER, *range(backbone.n_layers)]
    with backbone.capture(layers) as captured:
        logits = backbone.forward(ids, mask=torch.ones_like(ids, dtype=torch.bool))
    return logits[0].float().cpu(), [captured[layer] for layer in layers]


def _beside_hidden(backbone: FrozenBackbone) -> Tensor:
    """Logits of the same tokens in two cached passes, with one more that nobody else sees."""
    ids = _tokens(backbone.device)[0].tolist()
    fed = torch.tensor([[*ids[:_HIDDEN], ids[-1], *ids[_HIDDEN:]]], device=backbone.device)
    positions = torch.tensor([[*range(_HIDDEN + 1), *range(_HIDDEN, _N_TOKENS)]]).to(fed.device)
    mask = additive_mask(causal_keys(torch.ones_like(fed, dtype=torch.bool)), backbone.dtype)
    total = fed.shape[1]
    column = torch.arange(total, device=fed.device)
    hidden = (column[:, None] != _HIDDEN) & (column[None, :] == _HIDDEN)
    cache = backbone.new_cache(total)

    def feed(start: int, stop: int) -> Tensor:
        rows = slice(start, stop)
        with backbone.hide_keys(range(backbone.n_layers), lambda: hidden[rows, :stop]):
            return backbone.forward(
                fed[:, rows],
                mask=mask[:, :, rows, :stop],
                position_ids=positions[:, rows],
                cache=cache,
            )

    parts = [feed(0, _HIDDEN + 1), feed(_HIDDEN + 1, total)]
    logits = torch.cat(parts, dim=1)[0].float().cpu()
    return logits[column.cpu() != _HIDDEN]


def _tokens(device: torch.device) -> Tensor:
    return torch.arange(1, _N_TOKENS + 1, device=device)[None]


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())
