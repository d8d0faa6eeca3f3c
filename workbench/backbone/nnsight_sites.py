"""Points of a model that nnsight traces: residuals, block arguments and the insides of attention.

nnsight runs a block of code beside the forward pass: whenever that code asks for a value, it waits
until the pass has reached it. So the functions attached here are kept in a plan, and one visit of
all points in the order of the pass (``NnsightSites.visit``), made inside a trace, calls them.

What a model computes between its modules is reached through nnsight's ``source``, which rewrites a
forward so that every call in it is a place of its own. Scores are the argument of the softmax that
the eager attention calls, patterns its second result.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.source import SourceEnvoy
from torch import Tensor, nn

from workbench.backbone.architecture import Parts
from workbench.backbone.watching import EMBEDDING_LAYER, Inputs, at
from workbench.errors import BackboneError, HookError

_CALL = "attention_interface"
_SOFTMAX = "nn_functional_softmax_0"
T = TypeVar("T")


class Place(Generic[T]):
    """A point with the functions that are attached to it now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._functions: list[Callable[[T], T | None]] = []

    def attach(self, function: Callable[[T], T | None]) -> Callable[[], None]:
        """Put the function behind those attached before."""
        self._functions.append(function)

        def detach() -> None:
            # By identity: a function may be attached twice.
            last = max(i for i, known in enumerate(self._functions) if known is function)
            del self._functions[last]

        return detach

    def __bool__(self) -> bool:
        return bool(self._functions)

    def changed(self, value: T) -> T | None:
        """What the functions make of the value one after the other; None where none changes it."""
        changed = None
        for function in self._functions:
            made = function(value if changed is None else changed)
            changed = changed if made is None else made
        return changed


class NnsightSites:
    """The points of a model.

    Args:
        traced: The model as nnsight wraps it.
        parts: Where its parts stand.
        n_heads: Query heads a block.

    Raises:
        BackboneError: An attention that does not run through Transformers' attention interface.
    """

    def __init__(self, traced: NNsight, parts: Parts, n_heads: int) -> None:
        envoys = {id(envoy._module): envoy for envoy in traced.modules()}
        layers = range(len(parts.blocks))
        self.blocks = parts.blocks
        self._envoys = {i: envoys[id(parts.blocks[i])] for i in layers}
        self._attentions = {i: envoys[id(parts.attentions[i])] for i in layers}
        self._projections = {i: envoys[id(parts.projections[i])] for i in layers}
        self._parts, self._n_heads = parts, n_heads
        self._calls = {i: _attention_call(self._attentions[i]) for i in layers}
        paths = {i: envoy.path for i, envoy in self._envoys.items()}
        inside = {i: f"{envoy.path}.{self._calls[i]}" for i, envoy in self._attentions.items()}
        self.residual: dict[int, Place[Tensor]] = {
            EMBEDDING_LAYER: Place(f"{paths[0]}.input"),
            **{i: Place(f"{paths[i]}.output") for i in layers},
        }
        self.inputs: dict[int, Place[Inputs]] = {i: Place(f"{paths[i]}.inputs") for i in layers}
        self.scores: dict[int, Place[Tensor]] = {
            i: Place(f"{inside[i]}.{_SOFTMAX}.input") for i in layers
        }
        self.patterns: dict[int, Place[Tensor]] = {
            i: Place(f"{inside[i]}.output[1]") for i in layers
        }
        self._values: dict[int, Place[Tensor]] = {i: Place(f"{inside[i]}.inputs") for i in layers}
        self._mixes: dict[int, Place[Tensor]] = {
            i: Place(f"{self._projections[i].path}.input") for i in layers
        }
        self._attended: dict[int, Place[Tensor]] = {
            i: Place(f"{envoy.path}.output") for i, envoy in self._attentions.items()
        }

    def attention(self, layer: int) -> Place[Tensor]:
        """What the attention of a block hands on, after the output projection."""
        return at(self._attended, layer)

    def values(self, layer: int) -> Place[Tensor]:
        """Value vectors of a block, as its attention is handed them."""
        return at(self._values, layer)

    def mixes(self, layer: int) -> Place[Tensor]:
        """What the output projection of a block is handed, by head."""
        return at(self._mixes, layer)

    def output_projection(self, layer: int) -> nn.Module:
        """The linear map from what a block's heads gathered to the residual stream."""
        return at(self._parts.projections, layer)

    def readout(self) -> tuple[nn.Module, nn.Module]:
        """The final norm and the unembedding."""
        return self._parts.norm, self._parts.unembed

    @property
    def watched(self) -> bool:
        """Whether any function is attached."""
        kinds: Iterable[Mapping[int, Place[Tensor]] | Mapping[int, Place[Inputs]]] = (
            self.inputs,
            self.residual,
            self._values,
            self.scores,
            self.patterns,
            self._mixes,
            self._attended,
        )
        return any(place for places in kinds for place in places.values())

    def visit(self, last_layer: int) -> None:
        """Call every attached function at its point, in the order of the pass; inside a trace only.

        Args:
            last_layer: The highest block to wait for.
        """
        for layer in range(last_layer + 1):
            self._visit_inputs(layer)
            self._visit_attention(layer)
            self._visit_mixes(layer)
            _visit_output(self._attended[layer], self._attentions[layer])
            _visit_output(self.residual[layer], self._envoys[layer], wait=layer == last_layer)

    def _visit_inputs(self, layer: int) -> None:
        envoy = self._envoys[layer]
        if self.inputs[layer]:
            changed = self.inputs[layer].changed(envoy.inputs)
            if changed is not None:
                envoy.inputs = changed
        embedding = self.residual[EMBEDDING_LAYER]
        if layer == 0 and embedding:
            state = embedding.changed(envoy.input)
            if state is not None:
                envoy.input = state

    def _visit_attention(self, layer: int) -> None:
        values, scores, patterns = self._values[layer], self.scores[layer], self.patterns[layer]
        if not (values or scores or patterns):
            return
        call: SourceEnvoy = getattr(self._attentions[layer].source, self._calls[layer])
        if values:
            values.changed(_new_values(values.name, call.inputs))
        if scores:
            softmax = getattr(call.source, _SOFTMAX)
            changed = scores.changed(softmax.input)
            if changed is not None:
                softmax.input = changed
        if patterns:
            patterns.changed(call.output[1])

    def _visit_mixes(self, layer: int) -> None:
        if not self._mixes[layer]:
            return
        envoy = self._projections[layer]
        mixes = envoy.input.unflatten(-1, (self._n_heads, -1))
        changed = self._mixes[layer].changed(mixes)
        if changed is not None:
            envoy.input = changed.flatten(-2)


def _visit_output(place: Place[Tensor], envoy: Envoy, *, wait: bool = False) -> None:
    """A module's output, or the first of several; waited for even where nothing is attached."""
    if not (place or wait):
        return
    output = envoy.output
    state = output[0] if isinstance(output, tuple) else output
    changed = place.changed(state)
    if changed is not None:
        envoy.output = (changed, *output[1:]) if isinstance(output, tuple) else changed


def _attention_call(attention: Envoy) -> str:
    """The name nnsight gives the call of the attention interface: its last operation so named."""
    names: list[str] = [name for name in attention.source.names if name.rpartition("_")[0] == _CALL]
    if not names:
        raise BackboneError(
            f"{type(attention._module).__name__} does not run Transformers' attention interface, "
            "so nnsight cannot see its scores: load it with the backend transformer-lens"
        )
    return names[-1]


def _new_values(name: str, given: Inputs) -> Tensor:
    """Value vectors by group, (batch, seq, group, width), of the columns that this pass feeds."""
    _, query, _, value = given[0][:4]
    assert isinstance(query, Tensor)
    assert isinstance(value, Tensor)
    if query.shape[-2] != value.shape[-2]:
        raise HookError(
            f"'{name}' holds the values of earlier passes too: capture values in a pass without a "
            "cache"
        )
    return value.transpose(1, 2)
