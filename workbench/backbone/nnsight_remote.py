"""A model that runs on NDIF, or in nnsight's simulation of it: residuals and logits only.

Every pass is one request. What travels there is a block of code (``RemoteBackbone._ask``) with the
token ids and the edits of residuals; what comes back are the captured residuals and the logits.
The weights stay on the server and are not seen here. Therefore whatever needs them, needs a cache
that outlives a request, or acts on this machine in the middle of a pass, is refused by name.
"""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import httpx
import nnsight
import torch
import websocket
from jaxtyping import Float
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from nnsight.tracing.backend import Backend
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from workbench.backbone.adapters import AdaptedWeights, LinearMap
from workbench.backbone.architecture import parts_of
from workbench.backbone.cache import SlotCache
from workbench.backbone.frozen import NNSIGHT, FrozenBackbone
from workbench.backbone.nnsight_backbone import shape_of
from workbench.backbone.protocol import HiddenKeys, ResidualEdit, ScoreEdit
from workbench.backbone.watching import EMBEDDING_LAYER, Captured, Inputs, Point, at
from workbench.errors import BackboneError, HookError, NonFiniteError

KEY = "NDIF_API_KEY"
"""Environment variable that holds the key; it is read for every request and kept nowhere."""


_Steps = tuple[Envoy, bool, list[ResidualEdit | None]]
_Fact = tuple[bool, tuple[int, ...], str, bool]


@dataclass(eq=False)
class _Edit:
    """An edit to be made where the model runs, and how often it was."""

    function: ResidualEdit
    firings: int = 0


class _RemotePlace:
    """The residual stream at a block: what is watched and edited there, in order."""

    def __init__(self, name: str, envoy: Envoy, *, before: bool) -> None:
        self.name = name
        self.envoy = envoy
        self.before = before
        self.entries: list[Callable[[Tensor], Tensor | None] | _Edit] = []

    def attach(self, function: Callable[[Tensor], Tensor | None] | _Edit) -> Callable[[], None]:
        """Watch here once the request has come back, or edit where the model runs."""
        self.entries.append(function)

        def detach() -> None:
            self.entries = [entry for entry in self.entries if entry is not function]

        return detach

    def steps(self) -> list[ResidualEdit | None]:
        """What to do there: an edit, or None for sending the residual home."""
        return [entry.function if isinstance(entry, _Edit) else None for entry in self.entries]


class _RemoteSites:
    """The residual stream; all else is refused."""

    def __init__(self, name: str, traced: TransformersModel) -> None:
        parts = parts_of(name, traced._module)
        envoys = {id(envoy._module): envoy for envoy in traced.modules()}
        outputs = {layer: envoys[id(block)] for layer, block in parts.blocks.items()}
        self.blocks = parts.blocks
        self.scores: Mapping[int, Point[Tensor]] = {}
        self.patterns: Mapping[int, Point[Tensor]] = {}
        self.inputs: Mapping[int, Point[Inputs]] = {}
        self.residual = {
            EMBEDDING_LAYER: _RemotePlace(f"{outputs[0].path}.input", outputs[0], before=True),
            **{
                layer: _RemotePlace(f"{envoy.path}.output", envoy, before=False)
                for layer, envoy in outputs.items()
            },
        }

    def values(self, layer: int) -> Point[Tensor]:
        """Refused."""
        _refuse(f"values of block {layer}", "they need the eager attention")

    def attention(self, layer: int) -> Point[Tensor]:
        """Refused."""
        _refuse(f"what the attention of block {layer} hands on", "residuals and logits travel only")

    def mixes(self, layer: int) -> Point[Tensor]:
        """Refused."""
        _refuse(f"head mixes of block {layer}", "they need the eager attention")

    def output_projection(self, layer: int) -> nn.Module:
        """Refused."""
        _refuse(f"the output map of block {layer}", "the weights stay on the server")

    def readout(self) -> tuple[nn.Module, nn.Module]:
        """Refused."""
        _refuse("the readout", "the weights stay on the server")


class RemoteBackbone(FrozenBackbone):
    """A model on NDIF; ``load_backbone(..., backend="nnsight", remote=True)`` makes one.

    ``encode``, ``forward``, ``logits``, ``run_blocks``, ``capture``, ``overwrite`` and
    ``read_states`` work as everywhere. An edit travels by its source: it may use torch, numpy and
    what it closes over, has no effect on anything here, and must bring its own tensors to the
    residual's device.

    Args:
        name: Hub id, for messages and records.
        traced: The model as nnsight wraps it, without weights unless it is simulated.
        tokenizer: Its tokenizer.
        simulated: Send requests to nnsight's simulation in this process instead of NDIF.
        n_ctx: Most positions a sequence may have.
        eos_ids: Tokens that end a response.
    """

    backend: ClassVar[str] = NNSIGHT

    def __init__(
        self,
        name: str,
        traced: TransformersModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        simulated: bool,
        n_ctx: int,
        eos_ids: tuple[int, ...],
    ) -> None:
        model = traced._module
        places = _RemoteSites(name, traced)
        super().__init__(
            name,
            model,
            tokenizer,
            sites=places,
            shape=shape_of(model),
            plain=model,
            weights=model.state_dict(keep_vars=True),
            n_ctx=n_ctx,
            eos_ids=eos_ids,
            windows={},  # the model on the server keeps its own
        )
        self._traced, self._places, self._simulated = traced, places.residual, simulated

    @property
    def device(self) -> torch.device:
        """Where results arrive."""
        return torch.device("cpu")

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where results arrive; where the server keeps the weights is not known."""
        return (self.device,)

    # --------------------------------------------------------------- forward

    def _run(self, ids: Tensor, inputs: Mapping[str, object]) -> Tensor:
        logits = self._ask(ids, inputs, None)
        assert logits is not None
        return logits

    def _run_lower(self, ids: Tensor, last_layer: int, inputs: Mapping[str, object]) -> None:
        self._ask(ids, inputs, last_layer)

    def _ask(
        self, ids: Tensor, inputs: Mapping[str, object], last_layer: int | None
    ) -> Tensor | None:
        """Make one request, unless nothing is wanted of it, and hand out what it brings home."""
        whole = last_layer is None
        places = [
            place
            for layer, place in self._places.items()
            if place.entries and (last_layer is None or layer <= last_layer)
        ]
        if not (whole or places):
            return None
        plan = [(place.envoy, place.before, place.steps()) for place in places]
        with _failures(self.name):
            states, facts, logits = self._send(ids, dict(inputs), plan, whole)
        _hand_out(places, states, facts)
        return logits

    def _send(
        self, ids: Tensor, inputs: dict[str, object], plan: list[_Steps], whole: bool
    ) -> tuple[list[Tensor], list[_Fact], Tensor | None]:
        # The block below travels as source text. It names nothing of this package, which need not
        # be installed where it runs.
        with self._traced.trace(ids, backend=self._request(), **inputs) as tracer:
            states, facts, logits = [], [], None
            for envoy, before, steps in plan:
                handed = envoy.input if before else envoy.output
                state = handed[0] if isinstance(handed, tuple) else handed
                for step in steps:
                    if step is None:
                        states.append(state)
                        continue
                    edited = step(state)
                    kept = edited.shape == state.shape and edited.dtype == state.dtype
                    finite = bool(edited.isfinite().all())
                    facts.append((kept, tuple(edited.shape), str(edited.dtype), finite))
                    state = edited if kept else state
                if before and any(steps):
                    envoy.input = state
                elif any(steps):
                    envoy.output = (state, *handed[1:]) if isinstance(handed, tuple) else state
            if whole:
                logits = tracer.result.logits
            found = nnsight.save((states, facts, logits))
            if not whole:
                tracer.stop()
        states, facts, logits = found
        return states, facts, logits

    def _request(self) -> Backend:
        """Where the next request goes; the key goes with it and is kept nowhere."""
        if self._simulated:
            return LocalSimulationBackend(self._traced)
        return RemoteBackend(self._traced.to_model_key(), api_key=key_in_environment())

    # ----------------------------------------------------------------- edits

    @contextmanager
    def overwrite(
        self, layer: int, edit: ResidualEdit, *, rows: int | None = None
    ) -> Iterator[None]:
        """Replace the residual after a block by ``edit`` of it, where the model runs.

        Raises:
            HookError: No such layer, no pass inside the context, or another shape or type.
            NonFiniteError: The edit returned a NaN or an infinity.
            BackboneError: ``rows`` (slots) is asked for, or the edit cannot travel.
        """
        if rows is not None:
            _refuse("slots", "no cache outlives a request")
        place = at(self._places, layer)
        travelling = _Edit(edit)
        detach = place.attach(travelling)
        try:
            yield
        finally:
            detach()
        if not travelling.firings:
            raise HookError(
                f"the edit at '{place.name}' did not fire: no forward pass ran through it inside "
                "the context"
            )

    # --------------------------------------------------------------- refused

    def capture_patterns(self, layers: Sequence[int]) -> AbstractContextManager[Captured]:
        """Refused."""
        _refuse("attention patterns", "they need the eager attention")

    def edit_scores(self, layers: Sequence[int], edit: ScoreEdit) -> AbstractContextManager[None]:
        """Refused."""
        _refuse("attention scores", "they need the eager attention")

    def hide_keys(self, layers: Sequence[int], hidden: HiddenKeys) -> AbstractContextManager[None]:
        """Refused."""
        _refuse("hidden keys (slots)", "what is hidden is decided here, in the middle of a pass")

    def only_newest_row(self, last_layer: int, rows: int) -> AbstractContextManager[None]:
        """Refused."""
        _refuse("rows beside a cache (slots)", "no cache outlives a request")

    def new_cache(self, capacity: int) -> SlotCache:
        """Refused."""
        _refuse("a key-value cache (generation)", "no cache outlives a request")

    def current_weights_hash(self) -> str:
        """Refused."""
        _refuse("the fingerprint of the weights", "they stay on the server")

    @property
    def linear_maps(self) -> Mapping[str, LinearMap]:
        """Refused."""
        _refuse("the linear maps", "the weights stay on the server")

    def adapted(self, changes: Mapping[str, Float[Tensor, "..."]]) -> AdaptedWeights:
        """Refused."""
        _refuse("adapted weights", "the weights stay on the server")


def key_in_environment() -> str:
    """The NDIF key.

    Raises:
        BackboneError: There is none.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise BackboneError(
            f"NDIF needs a key: get one at https://login.ndif.us and set the environment variable "
            f"{KEY} (it is read there for each request and written nowhere)"
        )
    return key


def _refuse(what: str, why: str) -> NoReturn:
    raise BackboneError(
        f"a remote model cannot give {what}: {why}; load the model on this machine for that"
    )


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Turn what can go wrong on the way into one line that names no key."""
    try:
        yield
    except RemoteError as error:
        raise BackboneError(f"NDIF did not run {name}: {_masked(error)}") from None
    except (pickle.PicklingError, ModuleNotFoundError, TypeError) as error:
        if isinstance(error, TypeError) and "pickle" not in str(error):
            raise
        raise BackboneError(
            f"the request cannot travel ({_masked(error)}): an edit may use torch, numpy and what "
            "it closes over, if that can be pickled"
        ) from error
    except (OSError, json.JSONDecodeError, websocket.WebSocketException, httpx.HTTPError) as error:
        raise BackboneError(
            f"NDIF or the hub cannot be reached for {name}: check the network and, if you set it, "
            f"NDIF_HOST ({_masked(error)})"
        ) from None


def _masked(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text, key = lines[0] if lines else type(error).__name__, os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _hand_out(
    places: Sequence[_RemotePlace], states: Sequence[Tensor], facts: Sequence[_Fact]
) -> None:
    """Let everyone who waits see his residual, and check what the edits made of theirs."""
    arrived, reported = iter(states), iter(facts)
    for place in places:
        for entry in tuple(place.entries):
            if isinstance(entry, _Edit):
                entry.firings += 1
                _check_edit(place.name, *next(reported))
            else:
                entry(next(arrived).cpu())


def _check_edit(name: str, kept: bool, shape: tuple[int, ...], dtype: str, finite: bool) -> None:
    if not kept:
        raise HookError(
            f"the edit at '{name}' must return the shape and type it was given, it returned "
            f"{dtype} of shape {shape}"
        )
    if not finite:
        raise NonFiniteError(f"the edit at '{name}' returned a NaN or an infinity")
