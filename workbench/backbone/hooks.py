"""The only place that knows TransformerLens's hook names."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from workbench.backbone.watching import EMBEDDING_LAYER, Inputs, at
from workbench.errors import BackboneError


class _Hook:
    """A hook point of TransformerLens."""

    def __init__(self, name: str, point: HookPoint) -> None:
        self.name = name
        self._point = point

    def attach(self, function: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Add the function to the hook point."""

        def call(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            return function(tensor)

        handle = self._point.add_hook(call)

        def detach() -> None:
            handle.hook.remove()
            self._point.fwd_hooks.remove(handle)

        return detach


class _BlockInputs:
    """What a block is called with."""

    def __init__(self, layer: int, block: nn.Module) -> None:
        self.name = f"blocks.{layer} (its arguments)"
        self._block = block

    def attach(self, function: Callable[[Inputs], Inputs | None]) -> Callable[[], None]:
        """Add the function in front of the block."""

        def call(_: object, args: tuple[object, ...], kwargs: dict[str, object]) -> Inputs | None:
            return function((args, kwargs))

        return self._block.register_forward_pre_hook(call, with_kwargs=True).remove


class HookSites:
    """The hook points of a bridged model, found once.

    Args:
        bridge: The model as TransformerLens wraps it.

    Raises:
        BackboneError: Where a block has no residual output, attention scores or patterns.
    """

    def __init__(self, bridge: TransformerBridge) -> None:
        points = bridge.hook_dict
        layers = range(bridge.cfg.n_layers)
        self.blocks: dict[int, nn.Module] = {i: bridge.blocks[i] for i in layers}
        self.residual = {i: _find(points, residual_name(i)) for i in (EMBEDDING_LAYER, *layers)}
        self.scores = {i: _find(points, scores_name(i)) for i in layers}
        self.patterns = {i: _find(points, pattern_name(i)) for i in layers}
        self.inputs = {i: _BlockInputs(i, block) for i, block in self.blocks.items()}
        self._bridge = bridge
        self._points = points

    def values(self, layer: int) -> _Hook:
        """Value vectors of a block, one for each key and group of heads."""
        return self._of_heads(layer, f"blocks.{layer}.attn.hook_v")

    def attention(self, layer: int) -> _Hook:
        """What a block's attention hands on, after the output projection."""
        at(self.scores, layer)
        return _find(self._points, f"blocks.{layer}.attn.hook_out")

    def mixes(self, layer: int) -> _Hook:
        """What each head of a block gathered: its value vectors weighted by its pattern."""
        return self._of_heads(layer, f"blocks.{layer}.attn.hook_z")

    def _of_heads(self, layer: int, name: str) -> _Hook:
        """A hook point inside a block's attention that not every architecture has."""
        at(self.scores, layer)
        if name not in self._points:
            raise _no_heads(name)
        return _Hook(name, self._points[name])

    def output_projection(self, layer: int) -> nn.Module:
        """The linear map from what a block's heads gathered to the residual stream."""
        at(self.scores, layer)
        output = getattr(self.blocks[layer].attn, "o", None)
        projection = getattr(output, "original_component", None)
        if not isinstance(projection, nn.Module):
            raise _no_heads(f"blocks.{layer}.attn.o")
        return projection

    def readout(self) -> tuple[nn.Module, nn.Module]:
        """The final norm and the unembedding, inside their wrappers."""
        norm = self._bridge.ln_final.original_component
        unembed = self._bridge.unembed.original_component
        assert norm is not None
        assert unembed is not None
        return norm, unembed


def _no_heads(name: str) -> BackboneError:
    return BackboneError(
        f"this architecture has no '{name}': its attention cannot be taken apart by heads, so "
        "leave the analyses of single heads out"
    )


def residual_name(layer: int) -> str:
    """Hook of the residual stream after a block; the input of block 0 for layer -1."""
    return "blocks.0.hook_in" if layer == EMBEDDING_LAYER else f"blocks.{layer}.hook_out"


def scores_name(layer: int) -> str:
    """Hook of a block's masked attention scores, before the softmax."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def pattern_name(layer: int) -> str:
    """Hook of a block's attention pattern, after the softmax."""
    return f"blocks.{layer}.attn.hook_pattern"


def _find(points: Mapping[str, HookPoint], name: str) -> _Hook:
    if name not in points:
        raise BackboneError(
            f"this architecture has no hook '{name}': the workbench needs a decoder whose every "
            "block has attention (recurrent and hybrid models are not supported)"
        )
    return _Hook(name, points[name])
