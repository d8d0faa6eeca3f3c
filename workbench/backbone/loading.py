"""One way in for every backbone: an embedded name, a checkpoint folder, or a Hugging Face id.

Only safetensors are read, and no code that comes with a checkpoint is run. Every weight must be
there and finite: a model that is silently half random would still talk.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workbench.backbone.chat import closing_id
from workbench.backbone.checkpoints import (
    check_architecture,
    check_cached,
    check_files,
    check_report,
    check_tokenizer_files,
    check_vocabulary,
    first_line,
    unreachable,
)
from workbench.backbone.frozen import BACKENDS, NNSIGHT, TRANSFORMER_LENS, FrozenBackbone
from workbench.backbone.hashing import hash_tensors
from workbench.backbone.masks import layer_windows
from workbench.backbone.memory import memory_named
from workbench.backbone.multimodal import (
    TEXT_KEYS,
    is_multimodal,
    text_config,
    without_others,
)
from workbench.backbone.placement import AUTO, DeviceMap, check_spread, parse_device, parse_map
from workbench.backbone.protocol import Backbone
from workbench.backbone.self_check import TESTED, check_wrapped, plain_logits
from workbench.backbone.special_tokens import check_special_tokens
from workbench.backbone.transformer_lens import TransformerLensBackbone
from workbench.errors import BackboneError, MemoryLimitError, WorkbenchWarning
from workbench.hub import reachable_model
from workbench.quiet import quiet_libraries
from workbench.testbed.registry import EMBEDDED, embedded_path

if TYPE_CHECKING:
    from workbench.backbone.nnsight_backbone import NnsightBackbone
    from workbench.backbone.nnsight_remote import RemoteBackbone

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_HELD = (*DTYPES.values(), torch.float64)
"""What weights can be held in: float64, twice the memory, is for exact comparisons alone."""

_SMALLER = "take a smaller model, or hold it in half the memory with --dtype bfloat16"


def load_backbone(
    name_or_path: str | Path,
    *,
    device: str | DeviceMap = "cpu",
    dtype: torch.dtype | str = torch.float32,
    n_ctx: int | None = None,
    backend: str = TRANSFORMER_LENS,
    remote: bool | Literal["local"] = False,
) -> FrozenBackbone:
    """Load a frozen backbone.

    Args:
        name_or_path: An embedded name (``testbed-llama``, ...), a Hugging Face checkpoint folder,
            or a hub id (``org/model``), taken from the local cache when it is there.
        device: Torch device; ``"auto"`` spreads the blocks over all graphics cards, and a mapping
            says which module of the checkpoint lies where (``device_map`` of Transformers).
        dtype: Number type the weights are held in, or its name: float32, bfloat16 or float16;
            torch.float64 for exact comparisons.
        n_ctx: Allow this many positions, more than the model states. Rotary positions are simply
            counted on; nothing is rescaled or trained, so what the model does there must be
            measured.
        backend: The library that watches the model, one of ``BACKENDS``; both give the same
            numbers.
        remote: Leave the weights where they are and run a hub model on NDIF (nnsight alone; its key
            stands in the environment variable NDIF_API_KEY); ``"local"`` simulates that here.

    Raises:
        BackboneError: Unknown name, device, number type or backend; missing, truncated or
            non-finite weights; no safetensors, no tokenizer, or a model that is not decoder-only; a
            device map that does not fit; more positions asked of a model that learned an embedding
            for each; a multimodal model whose language model cannot be read by itself; a tokenizer
            whose special tokens are not the model's; or a family outside the tested ones that fails
            the check of :mod:`workbench.backbone.self_check`. The message says what to do.
        MemoryLimitError: No room for the weights.

    Warns:
        WorkbenchWarning: What stays out of a multimodal model, what speaks against the tokenizer,
            or ``"auto"`` without a graphics card.
    """
    name = str(name_or_path)
    if backend not in BACKENDS:
        raise BackboneError(f"unknown backend '{backend}': use {' or '.join(BACKENDS)}")
    if remote and backend != NNSIGHT:
        raise BackboneError(f"{backend} runs no remote models: use the backend {NNSIGHT}")
    wanted = _parse_placement(device)
    number_type = parse_dtype(dtype)
    source = _resolve(name)
    if remote is True:
        _check_remote(name, source)
    with quiet_libraries():
        config = _load_config(name, source)
        check_architecture(name, config)
        if is_multimodal(config):
            if remote:
                raise BackboneError(
                    f"{name} is multimodal ({config.model_type}), and its language model cannot be "
                    "taken out of it on NDIF: load it on this machine"
                )
            config = text_config(config)
        stated = _context_length(name, config)
        if n_ctx is not None:
            _check_extension(name, config, stated, n_ctx)
        if remote:
            if not isinstance(wanted, torch.device):
                raise BackboneError("a remote model has no devices here: leave the device out")
            simulated = remote == "local"
            return _load_remote(name, source, config, number_type, n_ctx, simulated=simulated)
        spread = None if isinstance(wanted, torch.device) else wanted
        tokenizer = _load_tokenizer(name, source)
        check_special_tokens(name, source, tokenizer)
        model = _load_model(name, source, number_type, spread)
    if isinstance(wanted, torch.device):
        with memory_named(f"moving {name} to {wanted}", _SMALLER):
            model.to(wanted)  # type: ignore[arg-type]
    wrap = wrap_model if backend == TRANSFORMER_LENS else trace_model
    return wrap(name, model, tokenizer, n_ctx=n_ctx)


def _parse_placement(device: str | DeviceMap) -> torch.device | str | dict[str, torch.device]:
    """One device, the word for all graphics cards, or a checked map."""
    if not isinstance(device, str):
        return parse_map(device)
    if device != AUTO:
        return parse_device(device)
    if not torch.cuda.is_available():
        warnings.warn(
            "device auto: this torch sees no graphics card, so the CPU runs the backbone",
            WorkbenchWarning,
            stacklevel=3,
        )
    return device


def load_plain(backbone: Backbone) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a backbone's checkpoint again, as an ordinary model that may be trained or written.

    Raises:
        BackboneError: Its name leads to no checkpoint, or to one with other weights.
    """
    source = _resolve(backbone.name)
    model = _load_model(backbone.name, source, backbone.dtype)
    if hash_tensors(model.state_dict()) != backbone.weights_hash:
        raise BackboneError(
            f"the checkpoint {source} holds other weights than the loaded {backbone.name}: load "
            "the backbone again"
        )
    return model, _load_tokenizer(backbone.name, source)


def wrap_model(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_ctx: int | None = None,
) -> TransformerLensBackbone:
    """Wrap a model in memory with TransformerLens; its modules are replaced in place.

    Args:
        name: Name for messages and records.
        model: A decoder-only Hugging Face model.
        tokenizer: Its tokenizer.
        n_ctx: Most positions a sequence may have; what the model states by default.

    Raises:
        BackboneError: Weights are not finite, TransformerLens does not know the architecture, or
            an untested family fails the check of :mod:`workbench.backbone.self_check`.
    """
    weights = _checked_weights(name, model, tokenizer)
    config = model.config
    wanted = plain_logits(model)
    windows = layer_windows(name, config)
    eos_ids = _eos_ids(model, tokenizer)
    try:
        with _stored(tokenizer) as stored:
            bridge = TransformerBridge.boot_transformers(
                name,
                hf_model=model,
                tokenizer=stored,
                device=str(model.device),
                dtype=model.dtype,
            )
    except (ValueError, KeyError, NotImplementedError, AttributeError) as error:
        raise BackboneError(
            f"TransformerLens cannot wrap {name} ({type(model).__name__}): {error}"
        ) from error
    _use_native_layer_norms(bridge)
    if model.dtype != torch.float32:
        _keep_number_type(bridge, model.dtype)
    backbone = TransformerLensBackbone(
        name,
        bridge,
        tokenizer,
        weights=weights,
        n_ctx=n_ctx or _context_length(name, config),
        eos_ids=eos_ids,
        windows=windows,
    )
    check_wrapped(backbone, config, wanted)
    return backbone


def trace_model(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_ctx: int | None = None,
) -> "NnsightBackbone":
    """Wrap a model in memory with nnsight; its modules stay, and their forward can be watched.

    Args:
        name: Name for messages and records.
        model: A decoder-only Hugging Face model.
        tokenizer: Its tokenizer.
        n_ctx: Most positions a sequence may have; what the model states by default.

    Raises:
        BackboneError: Weights are not finite, the architecture's parts cannot be found, or an
            untested family fails the check of :mod:`workbench.backbone.self_check`.
    """
    # Not above: importing nnsight patches torch and gives every object a ``save`` attribute.
    from workbench.backbone.nnsight_backbone import NnsightBackbone

    weights = _checked_weights(name, model, tokenizer)
    wanted = plain_logits(model)
    backbone = NnsightBackbone(
        name,
        model,
        tokenizer,
        weights=weights,
        n_ctx=n_ctx or _context_length(name, model.config),
        eos_ids=_eos_ids(model, tokenizer),
        windows=layer_windows(name, model.config),
    )
    check_wrapped(backbone, model.config, wanted)
    return backbone


def _checked_weights(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """The model's tensors by checkpoint name, finite, well placed, and fit for the tokenizer."""
    weights: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    check_spread(name, weights, model)
    _check_finite(name, weights)
    check_vocabulary(name, _n_rows(model), tokenizer)
    return weights


def _n_rows(model: PreTrainedModel) -> int:
    """Rows of the embedding."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return len(weight)


def parse_dtype(wanted: torch.dtype | str) -> torch.dtype:
    """A number type that weights can be held in, by its name or as it is.

    Raises:
        BackboneError: Another name than float32, bfloat16 or float16, or a type that is neither
            one of these nor torch.float64.
    """
    if isinstance(wanted, str):
        if wanted not in DTYPES:
            raise BackboneError(f"unknown number type '{wanted}': use {', '.join(DTYPES)}")
        return DTYPES[wanted]
    if wanted not in _HELD:
        raise BackboneError(
            f"a backbone cannot be held in {wanted}: use one of {', '.join(map(str, _HELD))}"
        )
    return wanted


def _check_remote(name: str, source: str) -> None:
    from workbench.backbone.nnsight_remote import key_in_environment

    key_in_environment()
    if Path(source).is_dir():
        raise BackboneError(
            f"{name} is a folder on this machine, and NDIF runs models of the hub: give an id such "
            "as org/model, or leave remote out"
        )


def _load_remote(
    name: str,
    source: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    n_ctx: int | None,
    *,
    simulated: bool,
) -> "RemoteBackbone":
    """A model without weights that speaks for one on NDIF, or one with weights to simulate that."""
    from nnsight import TransformersModel

    from workbench.backbone.nnsight_remote import RemoteBackbone

    tokenizer = _load_tokenizer(name, source)
    model = _load_model(name, source, dtype) if simulated else source
    traced = TransformersModel(
        model,
        task="text-generation",
        tokenizer=copy.deepcopy(tokenizer),  # nnsight sets its padding side
        **({} if simulated else {"dtype": dtype}),
    )
    return RemoteBackbone(
        name,
        traced,
        tokenizer,
        simulated=simulated,
        n_ctx=n_ctx or _context_length(name, config),
        eos_ids=_eos_ids(traced._module, tokenizer),
    )


@contextmanager
def _stored(tokenizer: PreTrainedTokenizerBase) -> Iterator[PreTrainedTokenizerBase]:
    """A copy that can be read again from where it came from, which TransformerLens does.

    One that was built in memory came from nowhere, so it is written to a folder for the while.
    """
    copied = copy.deepcopy(tokenizer)
    if copied.init_kwargs.get("name_or_path"):
        yield copied
        return
    with TemporaryDirectory() as folder:
        copied.save_pretrained(folder)
        copied.init_kwargs["name_or_path"] = copied.name_or_path = folder
        yield copied


def _resolve(name: str) -> str:
    """Folder or hub id that a name stands for."""
    if name in EMBEDDED:
        return str(_embedded_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BackboneError(f"{name} is no Hugging Face checkpoint: it has no config.json")
        return str(path)
    if path.is_file():
        raise BackboneError(f"{name} is a file: give the checkpoint folder that holds it")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise BackboneError(f"there is no folder {name}")
    if "/" not in name:
        raise BackboneError(
            f"unknown backbone '{name}': the embedded ones are {', '.join(EMBEDDED)}; otherwise "
            "give a checkpoint folder or a Hugging Face id such as org/model"
        )
    found = reachable_model(name)
    if found is None:
        raise unreachable(name, name, ConnectionError("no connection"))
    return found


def _embedded_folder(name: str) -> Path:
    folder = embedded_path(name)
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"the embedded checkpoint of {name} is missing from {folder}: install the package "
            "again, or train it with `workbench testbed pretrain`"
        )
    return folder


def _load_config(name: str, source: str) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        raise unreachable(name, source, error) from error
    except (ValueError, KeyError) as error:
        raise BackboneError(
            f"the config.json of {name} cannot be read as a known architecture, download it again "
            f"or check its model_type: {first_line(error)}"
        ) from error
    assert isinstance(config, PretrainedConfig)
    return config


def _load_model(
    name: str,
    source: str,
    dtype: torch.dtype,
    spread: str | Mapping[str, torch.device] | None = None,
) -> PreTrainedModel:
    check_files(name, source)
    whole = _load_config(name, source)
    inside: dict[str, object] = {}
    if is_multimodal(whole):
        inside = {"config": text_config(whole), "key_mapping": dict(TEXT_KEYS)}
    try:
        with memory_named(f"loading {name}", _SMALLER):
            loaded = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                device_map=spread,
                **inside,
            )
    except OSError as error:
        check_cached(name, source)
        raise unreachable(name, source, error) from error
    except MemoryLimitError:
        raise
    except ValueError as error:
        if spread is None or "device_map" not in str(error):
            raise _unreadable(name, error) from error
        raise BackboneError(
            f"{name} cannot be spread over devices that way: {first_line(error)}"
        ) from error
    except Exception as error:  # safetensors and transformers raise many kinds for a broken file
        check_cached(name, source)
        raise _unreadable(name, error) from error
    assert isinstance(loaded, tuple)
    model, report = loaded
    check_report(name, without_others(name, report) if inside else report, model)
    assert isinstance(model, PreTrainedModel)
    return model


def _unreadable(name: str, error: Exception) -> BackboneError:
    return BackboneError(
        f"the weights of {name} cannot be read, the file is truncated or belongs to another "
        f"configuration: {first_line(error)}"
    )


def _load_tokenizer(name: str, source: str) -> PreTrainedTokenizerBase:
    check_tokenizer_files(name, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a missing or broken tokenizer raises many kinds
        raise BackboneError(
            f"{name} has no readable tokenizer: put tokenizer.json and tokenizer_config.json "
            f"beside its weights ({first_line(error)})"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _check_finite(name: str, weights: Mapping[str, Tensor]) -> None:
    broken = [key for key, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise BackboneError(
            f"{name} has NaN or infinite weights in {', '.join(broken[:5])}"
            f"{' ...' if len(broken) > 5 else ''}: the checkpoint is damaged"
        )


def _use_native_layer_norms(bridge: TransformerBridge) -> None:
    """Let LayerNorms run as in the plain model: TransformerLens's own differs in the last bits."""
    for module in bridge.modules():
        if isinstance(module, NormalizationBridge):
            module.use_native_layernorm_autograd = True


def _keep_number_type(bridge: TransformerBridge, dtype: torch.dtype) -> None:
    """Bring rotated queries and keys back to the model's number type, as the plain model does.

    OLMo 2 rotates in float32; TransformerLens leaves its queries there, and its values cannot
    follow.
    """
    for block in bridge.blocks:
        for name in ("hook_rot_q", "hook_rot_k"):
            point = getattr(block.attn, name, None)
            if isinstance(point, HookPoint):
                point.register_forward_hook(lambda _module, _inputs, rotated: rotated.to(dtype))


def _check_extension(name: str, config: PretrainedConfig, stated: int, n_ctx: int) -> None:
    """Positions beyond the stated ones exist only where they are computed, not looked up."""
    if n_ctx < 1:
        raise BackboneError(f"{n_ctx} positions asked of {name}: ask for at least 1")
    if n_ctx > stated and not _counts_on(config):
        raise BackboneError(
            f"{name} ends at {stated} positions: only rotary positions whose frequencies do not "
            "depend on the length can be counted on; ask for no more, or take such a backbone"
        )


def _rotations(config: PretrainedConfig) -> list[dict[str, object]]:
    """How positions are rotated; some models have one way for each kind of block."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_block = [item for item in parameters.values() if isinstance(item, dict)]
    return by_block or ([parameters] if parameters else [])


def _counts_on(config: PretrainedConfig) -> bool:
    """Whether positions are computed, each by itself."""
    rotations = _rotations(config)
    moving = [item for item in rotations if item.get("rope_type") in ("dynamic", "longrope")]
    return bool(rotations) and not moving


def _context_length(name: str, config: PretrainedConfig) -> int:
    """Positions a sequence may have, so that no number depends on what comes later.

    LongRoPE changes its frequencies once a sequence passes the original length: keys in a cache,
    and rows of a batch, would then hold two kinds. So its context ends there. GPT-Neo keeps its
    sliding window in the attention module and counts it in columns.
    """
    lengths = [getattr(config, field, None) for field in ("max_position_embeddings", "n_positions")]
    for rotation in _rotations(config):
        if rotation.get("rope_type") == "longrope":
            lengths.append(rotation.get("original_max_position_embeddings"))
    if "local" in (getattr(config, "attention_layers", None) or ()):
        lengths.append(config.window_size)
    known = [int(length) for length in lengths if length]
    if not known:
        raise BackboneError(
            f"the config.json of {name} ({config.model_type}) states no context length, as those "
            "of models that know distance by a bias on their attention alone (ALiBi). Slots need "
            f"positions: take a model of {', '.join(TESTED)}; if this one has positions, write "
            "max_position_embeddings into the config.json of a copy, and load that folder"
        )
    return min(known)


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a response, those the model has at all.

    The one with which the chat template closes a turn comes first, then the tokenizer's own.
    """
    generation = getattr(model, "generation_config", None)
    closing = closing_id(tokenizer)
    found = [] if closing is None else [closing]
    for holder in (tokenizer, model.config, generation):
        ids = getattr(holder, "eos_token_id", None)
        found.extend(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return tuple(i for i in dict.fromkeys(map(int, found)) if i < model.config.vocab_size)
