"""Where the parts of a plain Hugging Face decoder stand, found by structure rather than by path.

A decoder's base model holds one list of as many blocks as its configuration states, and one norm
beside it; a block holds one attention, and the attention one linear map back to the residual
stream. That is so in every family the workbench is tested on, whatever the parts are called there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workbench.errors import BackboneError

_PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a decoder.

    Attributes:
        blocks: Its blocks by layer.
        attentions: Each block's attention.
        projections: Each attention's map from what its heads gathered to the residual stream.
        norm: The final norm.
        unembed: The map from the normed residual to logits.
    """

    blocks: Mapping[int, nn.Module]
    attentions: Mapping[int, nn.Module]
    projections: Mapping[int, nn.Module]
    norm: nn.Module
    unembed: nn.Module


def parts_of(name: str, model: PreTrainedModel) -> Parts:
    """Find the parts of a model.

    Args:
        name: The model's name, for messages.
        model: A decoder-only model.

    Raises:
        BackboneError: A part is missing, or there are several that it might be.
    """
    base = model.base_model
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    stacks = [m for m in base.children() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    blocks = dict(enumerate(_only(name, f"list of {n_layers} blocks", stacks)))
    attentions = {
        layer: _only(name, f"attention in block {layer}", _ending(block, "Attention"))
        for layer, block in blocks.items()
    }
    projections = {
        layer: _only(name, f"output projection in block {layer}", _back_projections(attention))
        for layer, attention in attentions.items()
    }
    unembed = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return Parts(
        blocks=blocks,
        attentions=attentions,
        projections=projections,
        norm=_only(name, "final norm", _ending(base, "Norm")),
        unembed=_only(name, "unembedding", [] if unembed is None else [unembed]),
    )


def _ending(module: nn.Module, suffix: str) -> list[nn.Module]:
    return [child for child in module.children() if type(child).__name__.endswith(suffix)]


def _back_projections(attention: nn.Module) -> list[nn.Module]:
    return [
        child
        for name, child in attention.named_children()
        if name in _PROJECTIONS and isinstance(child, nn.Linear | Conv1D)
    ]


def _only(name: str, part: str, found: Sequence[T]) -> T:
    if len(found) == 1:
        return found[0]
    raise BackboneError(
        f"{name} has {len(found) or 'no'} {part} where one is expected: this architecture cannot "
        "be taken apart here, load it with the other backend"
    )
