"""Collect states: one frozen pass a prompt serves all layers, sites and value modules.

1. Prompts (and responses) are encoded; whatever cannot be read or does not fit is refused now.
2. The arrays are laid out and their room on the disk is claimed.
3. Rows go through the model longest first, rows of similar length together; every few batches the
   store counts them as done.
4. A collection that was killed goes on where it was; one that asks for something else is refused.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from probes.collection.passes import (
    EncodedExample,
    guided_pass,
    module_layers,
    plain_pass,
    read_module,
    read_residuals,
)
from probes.collection.sites import (
    ResidualSite,
    SiteArray,
    reads_response,
    require_residual_sites,
    site_arrays,
)
from probes.collection.size import SizeEstimate, StoredType, estimate_size, require_room
from probes.collection.store import (
    KIND,
    STORE_FILE,
    StateStore,
    StoreWriter,
    write_examples,
)
from workbench.arguments import typed_arguments
from workbench.backbone.hashing import hash_tensors
from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.data.example import Example
from workbench.data.loading import hash_examples
from workbench.errors import (
    ConfigError,
    ContextLengthError,
    DataError,
    NonFiniteError,
    TokenError,
)
from workbench.guidance.none import NoGuidance
from workbench.guidance.protocol import Guidance
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.runs import RunFolder
from workbench.svgt.config import EMBEDDING_LAYER
from workbench.svgt.value_module import ValueModule

_BATCHES_A_CHUNK = 8


@typed_arguments
def collect(
    backbone: Backbone,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None,
    readers: Mapping[str, ValueModule] | None = None,
    guidance: Guidance | None = None,
    batch_size: int = 64,
    dtype: StoredType = "float32",
    on_size: Callable[[SizeEstimate], None] = lambda size: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> StateStore:
    """Read the states of examples into a store, or go on with a collection that was cut off.

    Without a guidance, responses are read where they stand directly behind the prompt. With one,
    they are read with its slots present, as its own decoding places them.

    Args:
        backbone: The frozen model.
        examples: What to read; from any source.
        folder: New or empty, or holding the same collection, unfinished or finished.
        layers: Layers of the residual sites; all and the embeddings (-1) by default.
        sites: Residual sites (see ``probes.collection.sites``). By default ``prompt_last``, and
            ``response_mean`` where the examples have responses. Naming no site of the response
            leaves the responses unread.
        readers: Value modules that read along, by the name they get in the sites.
        guidance: ``NoGuidance`` or an ``SVGTBridge``.
        batch_size: Rows a pass.
        dtype: Number type on disk; half precision rounds as ``probes.collection.size`` says.
        on_size: Told what is going to be written, before the disk is asked for room.
        on_progress: Told after every batch how many examples of how many are done.

    Raises:
        DataError: No examples, an id twice, a response missing where one is read, or a harm label
            that is neither true nor false.
        ConfigError: No such layer or site, a module that does not fit the backbone or would drop
            units at random, or a guidance that cannot be teacher-forced.
        CheckpointError: A value module was trained for another backbone; both are named.
        TokenError: A text has words that the backbone does not know; the example is named.
        ContextLengthError: An example with its slots exceeds the context; it is named.
        NonFiniteError: A state is NaN or infinite; the example is named.
        RunError: The disk is too small, another process collects there, or the folder holds
            something else (what differs is named).
    """
    plan = _Plan.of(backbone, examples, layers, sites, readers or {}, guidance, dtype)
    if batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}: at least one row a pass is needed")
    encoded = _encode(backbone, examples, plan)
    lengths = torch.tensor([len(row.response) for row in encoded])
    arrays = plan.arrays(backbone, lengths)
    size = estimate_size(arrays, dtype)
    on_size(size)
    if not (Path(folder) / STORE_FILE).exists():
        require_room(Path(folder), size)
    with RunFolder.create(
        folder, kind=KIND, config=_identity(backbone, examples, plan), seed=0, resume=True
    ) as run:
        if run.record.status != "finished":
            write_examples(run, _table(examples, encoded))
            writer = StoreWriter(run, arrays, plan.dtype, lengths)
            _Collection(backbone, examples, encoded, plan, writer).run(batch_size, on_progress)
    return StateStore.open(folder, backbone)


def plan_size(
    backbone: Backbone,
    examples: Sequence[Example],
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None,
    readers: Mapping[str, ValueModule] | None = None,
    guidance: Guidance | None = None,
    dtype: StoredType = "float32",
) -> SizeEstimate:
    """What :func:`collect` would write, with the same arguments; texts are only tokenised.

    Raises:
        DataError: See :func:`collect`, as for the errors below.
        ConfigError: No such layer, site or number type.
        TokenError: A text has words that the backbone does not know.
        ContextLengthError: An example exceeds the context.
    """
    plan = _Plan.of(backbone, examples, layers, sites, readers or {}, guidance, dtype)
    lengths = torch.tensor([len(row.response) for row in _encode(backbone, examples, plan)])
    return estimate_size(plan.arrays(backbone, lengths), dtype)


@dataclass(frozen=True)
class _Plan:
    """What is read, checked against backbone and examples.

    Attributes:
        layers: Layers of the residual sites, in ascending order.
        sites: Residual sites.
        readers: Value modules by name.
        guidance: The bridge, None for the plain model.
        responses: Whether responses are read.
        dtype: Number type on disk.
    """

    layers: tuple[int, ...]
    sites: tuple[ResidualSite, ...]
    readers: Mapping[str, ValueModule]
    guidance: SVGTBridge | None
    responses: bool
    dtype: StoredType

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        examples: Sequence[Example],
        layers: Sequence[int] | None,
        sites: Sequence[str] | None,
        readers: Mapping[str, ValueModule],
        guidance: Guidance | None,
        dtype: StoredType,
    ) -> "_Plan":
        _check_examples(examples)
        _check_readers(readers, backbone)
        bridge = _teacher_forced(guidance, backbone)
        silent = [example.id for example in examples if example.response is None]
        if sites is None:
            sites = (
                ("prompt_last",)
                if len(silent) == len(examples)
                else ("prompt_last", "response_mean")
            )
        responses = bridge is not None or any(reads_response(site) for site in sites)
        if responses and silent:
            raise DataError(
                f"{len(silent)} of {len(examples)} examples have no response ({silent[0]}, for "
                "one): give all of them one, or collect the site prompt_last without guidance"
            )
        plan = cls(
            layers=known_layers(layers, backbone),
            sites=require_residual_sites(sites),
            readers=readers,
            guidance=bridge,
            responses=responses,
            dtype=dtype,
        )
        if not plan.sites and not plan.readers:
            raise ConfigError("nothing to collect: name a site or a value module")
        return plan

    @property
    def run_layers(self) -> tuple[int, ...]:
        """Layers that must be watched, for sites and value modules together."""
        wanted = set(self.layers if self.sites else ())
        for reader in self.readers.values():
            wanted |= module_layers(reader, responses=self.responses)
        return tuple(sorted(wanted))

    def arrays(self, backbone: Backbone, lengths: Int[Tensor, " n"]) -> tuple[SiteArray, ...]:
        """What is written for examples with responses of these lengths."""
        return site_arrays(
            self.sites,
            {name: reader.config for name, reader in self.readers.items()},
            n_examples=len(lengths),
            n_tokens=int(lengths.sum()),
            n_layers=len(self.layers),
            d_model=backbone.d_model,
            responses=self.responses,
        )

    def read(self, backbone: Backbone, rows: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """All sites of some rows, in one pass."""
        if self.guidance is None:
            states = plain_pass(backbone, rows, self.run_layers)
        else:
            states = guided_pass(backbone, rows, self.run_layers, self.guidance)
        values: dict[str, Tensor] = {**read_residuals(states, self.layers, self.sites)}
        for name, reader in self.readers.items():
            values |= read_module(name, reader, states)
        return values


@dataclass(frozen=True, eq=False)
class _Collection:
    """A collection at work.

    Attributes:
        backbone: The frozen model.
        examples: What is read.
        encoded: Their tokens.
        plan: What is read of them.
        writer: Where it goes.
    """

    backbone: Backbone
    examples: Sequence[Example]
    encoded: Sequence[EncodedExample]
    plan: _Plan
    writer: StoreWriter

    def run(self, batch_size: int, on_progress: Callable[[int, int], None]) -> None:
        """Collect what is missing, longest rows first, so that too little memory shows at once."""
        n_rows = len(self.encoded)
        order = sorted(range(n_rows), key=lambda row: (-self.encoded[row].length, row))
        on_progress(self.writer.n_done, n_rows)
        starts = range(self.writer.n_done, n_rows, batch_size)
        for number, start in enumerate(starts, start=1):
            rows = order[start : start + batch_size]
            self._read(rows)
            done = start + len(rows)
            if number % _BATCHES_A_CHUNK == 0 or done == n_rows:
                self.writer.mark_done(done)
            on_progress(done, n_rows)

    @torch.no_grad()
    def _read(self, rows: Sequence[int]) -> None:
        try:
            values = self.plan.read(self.backbone, [self.encoded[row] for row in rows])
            self.writer.write(rows, values)
        except NonFiniteError as error:
            if len(rows) == 1:
                raise NonFiniteError(f"example {self.examples[rows[0]].id}: {error}") from error
            for row in rows:  # to name the one
                self._read([row])
            raise


def _encode(backbone: Backbone, examples: Sequence[Example], plan: _Plan) -> list[EncodedExample]:
    n_slots = 0 if plan.guidance is None else plan.guidance.n_slots
    encoded = []
    for example in examples:
        try:
            [prompt] = backbone.encode([example.prompt]).ids.tolist()
            response: list[int] = []
            if plan.responses and example.response is not None:
                [response] = backbone.encode_responses([example.response]).ids.tolist()
            row = EncodedExample(tuple(prompt), tuple(response))
            backbone.check_context(row.length, n_slots=n_slots, n_new=0)
        except (TokenError, ContextLengthError) as error:
            raise type(error)(f"example {example.id}: {error}") from error
        encoded.append(row)
    return encoded


def _table(examples: Sequence[Example], encoded: Sequence[EncodedExample]) -> pd.DataFrame:
    """The examples as the store keeps them."""
    rows = [
        {
            "id": example.id,
            "context": example.context,
            "group": example.group or example.id,
            "kind": str(example.labels.get("kind") or ""),
            "pair": str(example.labels.get("pair") or ""),
            "prompt_harm": _harm(example, "prompt_harm"),
            "response_harm": _harm(example, "response_harm"),
            "n_prompt": len(row.prompt),
            "n_response": len(row.response),
            "prompt": json.dumps([to_mapping(m) for m in example.prompt], ensure_ascii=False),
            "response": example.response,
        }
        for example, row in zip(examples, encoded, strict=True)
    ]
    return pd.DataFrame(rows).astype(
        {"prompt_harm": "boolean", "response_harm": "boolean", "response": "string"}
    )


def _harm(example: Example, name: str) -> bool | None:
    label = example.labels.get(name)
    if label is None or label in (0, 1):
        return None if label is None else bool(label)
    raise DataError(
        f"example {example.id} has the label {name} = {label!r}; true, false or none is needed"
    )


def _check_examples(examples: Sequence[Example]) -> None:
    if not examples:
        raise DataError("there are no examples to collect: give at least one")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"two examples have the id '{example.id}'; give every one its own")
        seen.add(example.id)
        _harm(example, "prompt_harm")
        _harm(example, "response_harm")


def _check_readers(readers: Mapping[str, ValueModule], backbone: Backbone) -> None:
    for name, reader in readers.items():
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ConfigError(
                f"'{name}' cannot name a value module here: use letters, digits and . _ + -"
            )
        reader.config.validate_for(
            n_layers=backbone.n_layers, d_model=backbone.d_model, backbone=backbone.name
        )
        reader.require_backbone(backbone)
        if any(part.training for part in reader.children()):
            raise ConfigError(
                f"the value module '{name}' is in training mode and drops units at random: "
                "freeze() it, or call eval()"
            )


def known_layers(layers: Sequence[int] | None, backbone: Backbone) -> tuple[int, ...]:
    """The layers in ascending order, each once; None: all of the backbone and the embeddings.

    Raises:
        ConfigError: None is named, or one that the backbone lacks.
    """
    known = range(EMBEDDING_LAYER, backbone.n_layers)
    if layers is None:
        return tuple(known)
    for layer in layers:
        if layer not in known:
            raise ConfigError(
                f"there is no layer {layer}: {backbone.name} has layers 0 to "
                f"{backbone.n_layers - 1}, and -1 for the embeddings"
            )
    if not layers:
        raise ConfigError("name at least one layer, or leave layers out for all of them")
    return tuple(sorted(set(layers)))


def _teacher_forced(guidance: Guidance | None, backbone: Backbone) -> SVGTBridge | None:
    """The bridge that one pass over prompt and response can stand for; None without guidance."""
    if guidance is None or isinstance(guidance, NoGuidance):
        return None
    if not isinstance(guidance, SVGTBridge) or not isinstance(guidance.writer, ValueModule):
        raise ConfigError(
            f"states under the guidance '{guidance.name}' cannot be collected: use none, or the "
            "bridge of a value module"
        )
    if guidance.follows_response:
        raise ConfigError(
            f"the bridge of '{guidance.name}' is written again while the response grows, which "
            "one pass cannot follow: set refresh to none"
        )
    _check_readers({"guidance": guidance.writer}, backbone)
    return guidance


def _identity(backbone: Backbone, examples: Sequence[Example], plan: _Plan) -> dict[str, object]:
    """Everything that decides the numbers; a collection goes on only where all of it is equal."""
    return {
        "backbone": {
            "name": backbone.name,
            "weights_hash": backbone.weights_hash,
            "tokenizer_hash": backbone.tokenizer_hash,
        },
        "layers": list(plan.layers),
        "sites": list(plan.sites),
        "readers": {name: _module_identity(reader) for name, reader in plan.readers.items()},
        "guidance": _guidance_identity(plan.guidance),
        "dtype": plan.dtype,
        "n_examples": len(examples),
        "examples_sha256": hash_examples(examples),
    }


def _guidance_identity(guidance: SVGTBridge | None) -> dict[str, object]:
    if guidance is None:
        return {"name": "none"}
    assert isinstance(guidance.writer, ValueModule)
    return {
        "name": guidance.name,
        "gate_scale": guidance.gate_scale,
        "closed_rows": guidance.closed_rows,
        "module": _module_identity(guidance.writer),
    }


def _module_identity(module: ValueModule) -> dict[str, object]:
    return {"weights": hash_tensors(module.state_dict()), "config": to_mapping(module.config)}
