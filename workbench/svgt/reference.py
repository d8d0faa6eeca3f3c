"""Bring a value module that was trained with the SVGT authors' published code.

That code keeps three modules, whose state-dict keys start with ``value_transformer.``,
``discriminator.`` and ``generator.``, and describes them in a YAML file. `import_reference` turns
both into a `ValueModule` that gives the same numbers; `read_reference_file` reads the weights from
safetensors or from the code's own ``.pt`` checkpoints, without running any code they may carry.

Two forms of configuration are understood: the published YAML (sections ``model``,
``architecture``, ``generator`` and, for the step size, ``training.stage3``), and one flat mapping
with the constructor arguments (``hidden_dim``, ``value_dim``, ``n_heads``, ...). Entries about
training, data and paths say nothing about the module and are not read.
"""

import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import yaml
from torch import Tensor

from workbench.errors import CheckpointError, ConfigError, RunError
from workbench.files import read_tensors
from workbench.svgt.config import (
    BridgeConfig,
    BridgeKind,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
)
from workbench.svgt.value_module import ValueModule

logger = logging.getLogger(__name__)

MODULES = ("value_transformer", "discriminator", "generator")
RECORDED = ("input.", "output.", "grad.")
"""Prefixes of test vectors that may stand beside weights in one file; they are no weights."""

_WRAPPERS = ("model_state_dict", "state_dict")


@dataclass(frozen=True)
class ReferenceFile:
    """What a file of the published code holds.

    Attributes:
        tensors: Weights by their full published key.
        config: The configuration stored beside them, if any.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, object] | None


def import_reference(
    tensors: Mapping[str, Tensor], config: Mapping[str, object], *, layer: int | None = None
) -> ValueModule:
    """Build a value module from published weights.

    Args:
        tensors: Weights by their published key. Test vectors (``input.*``, ``output.*``,
            ``grad.*``) may stand beside them.
        config: The published configuration, nested or flat; see the module's docstring.
        layer: The block whose output the module reads (``extract_layer``); overrides the
            configuration's. Flat configurations often name none: the module is then complete, but
            placed at layer 0, with a logged warning.

    Returns:
        The module, in eval mode and float32, with the published semantics: prompt pathway on the
        last prompt token, uncapped correction, bridge always open, gate of the MLP generator
        applied twice, responses scored one block above the bridge.

    Raises:
        ConfigError: The configuration lacks or contradicts what the module needs.
        CheckpointError: Keys are unknown, missing, misshapen or hold NaN; all are named.
    """
    weights = {key: value for key, value in tensors.items() if not key.startswith(RECORDED)}
    module = ValueModule(_read_config(config, weights, layer))
    names = _published_names(module.config)
    _check_keys(weights, names, module.state_dict())
    module.load_state_dict({ours: weights[theirs].float() for theirs, ours in names.items()})
    return module.eval()


def read_reference_file(path: str | Path) -> ReferenceFile:
    """Read published weights from safetensors or from a ``.pt`` checkpoint.

    A checkpoint may hold the three modules at its top or under ``model_state_dict``.

    Raises:
        CheckpointError: The file is missing, truncated, or holds anything but tensors and plain
            values; nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file at {path}")
    if path.suffix == ".safetensors":
        try:
            tensors, _ = read_tensors(path)
        except RunError as error:
            raise CheckpointError(str(error)) from error
        return ReferenceFile(tensors=tensors, config=None)
    return _read_torch_file(path)


def read_reference_config(path: str | Path) -> dict[str, object]:
    """Read a published configuration, YAML or JSON.

    Raises:
        ConfigError: The file is missing, not UTF-8, no YAML or JSON, or no group of keys.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror or error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is neither YAML nor JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no `key: value` lines")
    return {str(key): value for key, value in content.items()}


# ------------------------------------------------------------------------------------------ reading


def _read_torch_file(path: Path) -> ReferenceFile:
    try:
        with warnings.catch_warnings(action="ignore"):  # on pickle protocols, which say nothing
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds other objects than plain tensors, whose code is not run: save its three "
            "state dicts as safetensors instead"
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise CheckpointError(
            f"{path} is no torch checkpoint, or a truncated one: copy it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    config = content.get("config")
    return ReferenceFile(
        tensors=dict(_named_tensors(_weights_of(content))),
        config=config if isinstance(config, Mapping) else None,
    )


def _weights_of(content: Mapping[str, object]) -> Mapping[str, object]:
    for wrapper in _WRAPPERS:
        wrapped = content.get(wrapper)
        if isinstance(wrapped, Mapping):
            return cast(Mapping[str, object], wrapped)
    nested = {name: content[name] for name in MODULES if isinstance(content.get(name), Mapping)}
    return nested or content


def _named_tensors(node: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in node.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _named_tensors(value, f"{prefix}{key}.")


# ------------------------------------------------------------------------------------ configuration


@dataclass(frozen=True)
class _Published:
    """The published configuration, both forms brought to one."""

    architecture: Mapping[str, object]
    generator: Mapping[str, object]
    step_size: float

    def number(self, section: str, *keys: str) -> float | None:
        """The first of `keys` that the section has, as a number."""
        entries = self.architecture if section == "architecture" else self.generator
        for key in keys:
            if entries.get(key) is not None:
                return _number(key, entries[key])
        return None

    def whole(self, section: str, *keys: str) -> int | None:
        """The same, as a whole number."""
        value = self.number(section, *keys)
        if value is not None and value != int(value):
            raise ConfigError(f"{keys[0]} = {value}: a whole number is needed")
        return None if value is None else int(value)

    def flag(self, key: str) -> bool:
        """A switch of the architecture, off when absent."""
        value = self.architecture.get(key, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, got {value!r}")
        return value


def _number(key: str, value: object) -> float:
    # Recorded configurations annotate numbers, as in "0.1 (off, eval mode)".
    text = value.split()[0] if isinstance(value, str) and value.strip() else value
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ConfigError(f"{key} must be a number, got {value!r}")
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{key} must be a number, got {value!r}") from error


def _section(config: Mapping[str, object], *path: str) -> Mapping[str, object]:
    node: object = config
    for key in path:
        node = node.get(key, {}) if isinstance(node, Mapping) else {}
    if not isinstance(node, Mapping):
        raise ConfigError(f"{'.'.join(path)} must be a group of keys, got {node!r}")
    return node


def _published(config: Mapping[str, object]) -> _Published:
    stage3 = _section(config, "training", "stage3")
    step_size = config.get("gradient_step_size", stage3.get("gradient_step_size", 1.0))
    nested = isinstance(config.get("architecture"), Mapping)
    architecture = {**config, **_section(config, "architecture")} if nested else config
    generator = _section(config, "generator") if nested else config
    return _Published(
        architecture=architecture,
        generator=generator,
        step_size=_number("gradient_step_size", step_size),
    )


def _read_config(
    config: Mapping[str, object], weights: Mapping[str, Tensor], layer: int | None
) -> SVGTConfig:
    published = _published(config)
    kind = _bridge_kind(published)
    d_model, d_value = _widths(published, weights)
    place = _layer(published, layer)
    dropout = published.number("architecture", "dropout")
    dropout = 0.1 if dropout is None else dropout
    return SVGTConfig(
        name="imported",
        d_model=d_model,
        layer=place,
        score_layer=place + 1,
        d_value=d_value,
        n_bridge=_n_bridge(published, weights),
        encoder=EncoderConfig(
            n_heads=published.whole("architecture", "n_heads") or 4,
            n_layers=published.whole("architecture", "n_self_attn_layers") or 2,
            dropout=dropout,
            readout="encoder" if published.flag("use_transformer_aggregate") else "last-mlp",
            pooling=published.flag("use_attention_pooling"),
        ),
        correction=CorrectionConfig(step_size=published.step_size),
        bridge=BridgeConfig(
            kind=kind,
            n_heads=published.whole("generator", "vlp_n_heads", "generator_n_heads") or 8,
            dropout=dropout,
            apply_gate_twice=kind == "mlp",
        ),
    )


def _bridge_kind(published: _Published) -> BridgeKind:
    named = published.generator.get("generator")
    if named == "ValueBridgeGenerator" or published.generator.get("use_vlp") is True:
        return "attention"
    if published.generator.get("use_transformer_projector") is True:
        named = "TransformerValueProjector"
    if named not in (None, "TokenGenerator"):
        raise ConfigError(
            f"generator {named!r} cannot be imported; "
            "ValueBridgeGenerator (use_vlp: true) and TokenGenerator can"
        )
    if published.generator.get("use_delta_only") is False:
        raise ConfigError(
            "a TokenGenerator with use_delta_only: false cannot be imported; "
            "the published scripts always train it with true"
        )
    return "mlp"


def _widths(published: _Published, weights: Mapping[str, Tensor]) -> tuple[int, int]:
    d_model = published.whole("architecture", "hidden_dim", "hidden_size")
    d_value = published.whole("architecture", "value_dim")
    projection = weights.get("value_transformer.response_proj.0.weight")
    if projection is not None and projection.dim() == 2:
        d_value = d_value or projection.shape[0]
        d_model = d_model or projection.shape[1]
    if d_model is None or d_value is None:
        raise CheckpointError(
            "value_transformer.response_proj.0.weight is missing or no matrix, "
            "so the widths of the module are unknown"
        )
    return d_model, d_value


def _n_bridge(published: _Published, weights: Mapping[str, Tensor]) -> int:
    n_bridge = published.whole("architecture", "n_intervention_tokens", "n_tokens", "K")
    if n_bridge is not None:
        return n_bridge
    for key in ("generator.query_seeds", "generator.safe_bias"):
        if key in weights:
            return len(weights[key])
    raise ConfigError("the configuration lacks n_intervention_tokens, the number of bridge tokens")


def _layer(published: _Published, layer: int | None) -> int:
    if layer is not None:
        return layer
    named = published.whole("architecture", "extract_layer_resolved", "extract_layer")
    if named is not None:
        return named
    n_layers = published.whole("architecture", "n_layer", "num_hidden_layers")
    if n_layers is not None:  # the published default for `extract_layer: null`
        return n_layers // 2 if n_layers > 20 else n_layers - 3
    if "extract_layer" in published.architecture:
        raise ConfigError(
            "extract_layer is null: the published code then derives it from the backbone, "
            "which the weights do not name; give the layer"
        )
    logger.warning("the reference configuration names no layer; the module is placed at layer 0")
    return 0


# ------------------------------------------------------------------------------------------ weights


def _published_names(config: SVGTConfig) -> dict[str, str]:
    """Published key to ours, for every tensor of the module."""
    encoder = {
        **_linear("response_proj.0", "response_projection"),
        **_linear("prompt_proj.0", "prompt_projection"),
        **_attention("cross_attn", "cross_attention"),
        **_linear("cross_norm", "cross_norm"),
        "cross_scale": "cross_scale",
    }
    for index in range(config.encoder.n_layers):
        encoder |= _encoder_layer(f"self_attn_layers.{index}", f"mixer.{index}")
    if config.encoder.readout == "encoder":
        for index in range(2):
            encoder |= _encoder_layer(f"aggregate.layers.{index}", f"readout.layers.{index}")
    else:
        encoder |= _linear("aggregate.0", "readout.linear")
        encoder |= _linear("aggregate.3", "readout.norm")
    if config.encoder.pooling:
        encoder["pooling_query"] = "pooling_query"
    discriminator = {**_linear("classifier.0", "hidden"), **_linear("classifier.3", "out")}
    bridge = _ATTENTION_BRIDGE if config.bridge.kind == "attention" else _MLP_BRIDGE
    return {
        **_within("value_transformer", "encoder", encoder),
        **_within("discriminator", "discriminator", discriminator),
        **_within("generator", "bridge", bridge),
    }


def _within(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{key}": f"{ours}.{value}" for key, value in names.items()}


def _linear(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}


def _attention(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.in_proj_weight": f"{ours}.in_projection.weight",
        f"{theirs}.in_proj_bias": f"{ours}.in_projection.bias",
        **_linear(f"{theirs}.out_proj", f"{ours}.out_projection"),
    }


def _encoder_layer(theirs: str, ours: str) -> dict[str, str]:
    return {
        **_attention(f"{theirs}.self_attn", f"{ours}.attention"),
        **_linear(f"{theirs}.norm1", f"{ours}.attention_norm"),
        **_linear(f"{theirs}.linear1", f"{ours}.expand"),
        **_linear(f"{theirs}.linear2", f"{ours}.contract"),
        **_linear(f"{theirs}.norm2", f"{ours}.feed_forward_norm"),
    }


_ATTENTION_BRIDGE = {
    "query_seeds": "seeds",
    "gate_alpha": "gate_logit",
    **_linear("value_proj.0", "value_in"),
    **_linear("value_proj.2", "value_out"),
    **_attention("cross_attn", "attention"),
    **_linear("layer_norm", "norm"),
}
_MLP_BRIDGE = {
    "gating_alpha": "gate_logit",
    "position_embeds": "positions",
    "safe_bias": "bias",
    **_linear("generator.0", "hidden"),
    **_linear("generator.3", "out"),
}


def _check_keys(
    weights: Mapping[str, Tensor], names: Mapping[str, str], state: Mapping[str, Tensor]
) -> None:
    unknown = sorted(set(weights) - set(names))
    missing = sorted(set(names) - set(weights))
    misshapen = [
        f"{theirs} {tuple(weights[theirs].shape)} (expected {tuple(state[ours].shape)})"
        for theirs, ours in names.items()
        if theirs in weights and weights[theirs].shape != state[ours].shape
    ]
    not_finite = [
        theirs
        for theirs in names
        if theirs in weights and not bool(weights[theirs].isfinite().all())
    ]
    problems = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", misshapen),
            ("NaN or infinite", not_finite),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("these weights do not fit the configuration; " + "; ".join(problems))
