"""The store: states on disk, one memory-mapped array a site.

    run.json          a run folder of kind "states": backbone, layers, sites, modules, guidance
    examples.parquet  one row an example, in the order in which the states lie
    store.json        how many rows are collected, in the order of collection
    prompt_last.npy   (example, layer, d_model), and so on: see ``probes.collection.sites``

Number types and what half precision costs: ``probes.collection.size``. NumPy has no bfloat16, so
such arrays lie on disk as the 16 bits of each number (int16).

Rows are written in chunks. A chunk counts once ``store.json`` says so, which is replaced in one
step after the arrays have reached the disk: a killed collection goes on with the chunk it was at.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probes.collection.sites import TOKEN_SITE, SiteArray, has_layers
from probes.collection.size import StoredType
from workbench.backbone.protocol import Backbone
from workbench.errors import NonFiniteError, RunError
from workbench.files import read_json, read_parquet, write_json, write_parquet
from workbench.runs import RunFolder
from workbench.svgt.curriculum.state_bank import TokenStates

KIND = "states"
STORE_FILE = "store.json"
EXAMPLES_FILE = "examples.parquet"


class StateStore:
    """States of many examples, read as they are asked for.

    Attributes:
        path: The folder.
        backbone: Name of the model they come from.
        guidance: What guided the responses: ``none`` or a guidance's name.
        layers: Layers of the residual sites; -1 stands for the embeddings.
        dtype: Number type on disk; states are read back as float32.
        sites: Every site there is.
        examples: A table with ``id, context, group, kind, pair, prompt_harm, response_harm,
            n_prompt, n_response, prompt, response``, in the order of the states. Harm is missing
            where the source does not say; ``prompt`` is JSON.
    """

    def __init__(self, run: RunFolder) -> None:
        config: Mapping[str, Any] = run.record.config
        self.path = run.path
        self.backbone = str(config["backbone"]["name"])
        self.guidance = str(config["guidance"]["name"])
        self.layers = tuple(int(layer) for layer in config["layers"])
        self.dtype: StoredType = config["dtype"]
        self.examples = read_parquet(run.file(EXAMPLES_FILE))
        self._arrays = {
            site: _open_array(run.file(_file(site)), tuple(shape), self.dtype, "r")
            for site, shape in read_json(run.file(STORE_FILE))["shapes"].items()
        }
        self.sites = tuple(self._arrays)

    @classmethod
    def open(cls, folder: str | Path, backbone: Backbone | None = None) -> "StateStore":
        """Open a finished collection.

        Args:
            folder: Where it lies.
            backbone: Refuse states of any other model; None skips that check.

        Raises:
            RunError: No collection, an unfinished one, one with missing or damaged files, or one
                of another backbone (both are named).
        """
        run = RunFolder.open(folder)
        if run.record.kind != KIND:
            raise RunError(f"{folder} holds a run of kind '{run.record.kind}', no collected states")
        if run.record.status != "finished":
            raise RunError(
                f"the collection in {folder} is not finished: collect again into the same folder "
                "to go on with it"
            )
        if backbone is not None:
            _require_backbone(run, backbone)
        return cls(run)

    def __len__(self) -> int:
        return len(self.examples)

    def states(self, site: str, layer: int | None = None) -> Float[Tensor, "n width"]:
        """States of all examples at a site, in float32.

        Args:
            site: Any but ``response_tokens``, for which there is :meth:`tokens`.
            layer: Which layer, for a site that has layers; None for the others.

        Raises:
            RunError: No such site or layer here, or a layer where there are none.
        """
        if site == TOKEN_SITE:
            raise RunError(f"{TOKEN_SITE} has no single state an example: ask for its tokens")
        return self._read(site, layer)

    def all_layers(self, site: str) -> Float[Tensor, "layer n width"]:
        """States of all examples at a site, layer by layer; one layer for sites without.

        Raises:
            RunError: See :meth:`states`.
        """
        layers = self.layers if has_layers(site) else (None,)
        return torch.stack([self.states(site, layer) for layer in layers])

    def at_step(self, step: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "layer row d_model"]:
        """States of some examples at one token of their responses, layer by layer.

        Args:
            step: Which token, from 0.
            rows: Which examples; every one's response must reach it.

        Raises:
            RunError: Response tokens were not collected, or a response is shorter.
        """
        lengths = self.examples["n_response"].to_numpy()
        picked = rows.numpy()
        if step < 0 or (lengths[picked] <= step).any():
            raise RunError(f"step {step} lies outside a response; steps count from 0")
        starts = lengths.cumsum() - lengths
        states = self._array(TOKEN_SITE)[starts[picked] + step]
        return _decoded(states, self.dtype).transpose(0, 1)

    def tokens(self, layer: int) -> TokenStates:
        """States of every response token of all examples in one layer.

        Raises:
            RunError: They were not collected, or not in that layer.
        """
        lengths = torch.tensor(self.examples["n_response"].to_numpy(), dtype=torch.long)
        return TokenStates(self._read(TOKEN_SITE, layer), lengths)

    def _read(self, site: str, layer: int | None) -> Float[Tensor, "n width"]:
        array = self._array(site)
        if not has_layers(site):
            if layer is not None:
                raise RunError(f"the site '{site}' has no layers; leave the layer out")
            return _decoded(array, self.dtype)
        if layer not in self.layers:
            raise RunError(
                f"layer {layer} was not collected in {self.path}; there are "
                f"{', '.join(map(str, self.layers))}"
            )
        return _decoded(array[:, self.layers.index(layer)], self.dtype)

    def _array(self, site: str) -> NDArray[Any]:
        if site not in self._arrays:
            raise RunError(
                f"the site '{site}' was not collected in {self.path}; there are "
                f"{', '.join(self.sites)}"
            )
        return self._arrays[site]


class StoreWriter:
    """Fills the arrays of a collection that this process owns, chunk by chunk.

    Args:
        run: The run folder, owned.
        arrays: What to write.
        dtype: Number type on disk.
        lengths: Response tokens of every example.

    Raises:
        RunError: The disk is full, or files of an earlier process are missing or of another shape.
    """

    def __init__(
        self,
        run: RunFolder,
        arrays: Sequence[SiteArray],
        dtype: StoredType,
        lengths: Int[Tensor, " n"],
    ) -> None:
        self._run = run
        self._dtype: StoredType = dtype
        self._shapes = {array.site: array.shape for array in arrays}
        self._starts = (lengths.cumsum(0) - lengths).tolist()
        self._lengths = lengths.tolist()
        started = run.file(STORE_FILE).exists()
        self.n_done = int(read_json(run.file(STORE_FILE))["rows_done"]) if started else 0
        if not started:
            _reserve(run.path, arrays, dtype)
        self._arrays = {
            array.site: _open_array(run.file(array.file), array.shape, dtype, "r+")
            for array in arrays
        }
        if not started:
            self._mark()

    def write(self, rows: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Write the states of some examples; they do not count before :meth:`mark_done`.

        Raises:
            NonFiniteError: A state is NaN, infinite, or too large for the number type on disk.
        """
        for site, states in values.items():
            rounded = states.cpu().to(getattr(torch, self._dtype))
            if not bool(rounded.isfinite().all()):
                raise NonFiniteError(f"a state at {site} is NaN, infinite, or beyond {self._dtype}")
            places = self._places(rows) if site == TOKEN_SITE else list(rows)
            self._arrays[site][places] = _encoded(rounded)

    def mark_done(self, n_rows: int) -> None:
        """Count what was written: the first ``n_rows`` in the order of collection are done."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        self.n_done = n_rows
        self._mark()

    def _mark(self) -> None:
        write_json(
            self._run.file(STORE_FILE), {"rows_done": self.n_done, "shapes": dict(self._shapes)}
        )

    def _places(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Where the response tokens of some examples lie."""
        return np.concatenate([self._starts[row] + np.arange(self._lengths[row]) for row in rows])


def write_examples(run: RunFolder, examples: pd.DataFrame) -> None:
    """Write the table of examples, unless an earlier process did."""
    if not run.file(EXAMPLES_FILE).exists():
        write_parquet(run.file(EXAMPLES_FILE), examples)


def _file(site: str) -> str:
    return SiteArray(site, ()).file


def _on_disk(dtype: StoredType) -> np.dtype[Any]:
    """NumPy's type of the numbers, or of their bits."""
    return np.dtype("int16" if dtype == "bfloat16" else dtype)


def _encoded(states: Tensor) -> NDArray[Any]:
    bits = states.contiguous().view(torch.int16) if states.dtype == torch.bfloat16 else states
    return bits.numpy()


def _decoded(array: NDArray[Any], dtype: StoredType) -> Tensor:
    """The numbers in float32, in memory of their own."""
    kept = torch.tensor(array)
    return kept.view(torch.bfloat16).float() if dtype == "bfloat16" else kept.float()


def _reserve(folder: Path, arrays: Sequence[SiteArray], dtype: StoredType) -> None:
    """Create all arrays and claim their room, so that a full disk is met now and not half-way."""
    for array in arrays:
        path = folder / array.file
        try:
            np.lib.format.open_memmap(path, mode="w+", dtype=_on_disk(dtype), shape=array.shape)
            if hasattr(os, "posix_fallocate"):  # elsewhere a full disk is met while writing
                _claim(path)
        except OSError as error:
            raise RunError(f"cannot reserve {path} ({error.strerror or error})") from error


def _claim(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, path.stat().st_size)
    finally:
        os.close(descriptor)


def _open_array(path: Path, shape: tuple[int, ...], dtype: StoredType, mode: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is missing or damaged ({error}); collect again into a new folder"
        ) from error
    if array.shape != shape or array.dtype != _on_disk(dtype):
        raise RunError(
            f"{path} holds {array.dtype} of shape {array.shape}, {_on_disk(dtype)} of shape "
            f"{shape} belongs "
            "there; collect again into a new folder"
        )
    return array


def _require_backbone(run: RunFolder, backbone: Backbone) -> None:
    kept: Any = run.record.config["backbone"]
    for what, then, now in (
        ("weights", kept["weights_hash"], backbone.weights_hash),
        ("tokenizer", kept["tokenizer_hash"], backbone.tokenizer_hash),
    ):
        if then != now:
            raise RunError(
                f"the states in {run.path} were read from {kept['name']}, whose {what} differ from "
                f"those of {backbone.name} (sha256 {then[:12]}, not {now[:12]}); load that "
                "backbone, or collect again into a new folder"
            )
