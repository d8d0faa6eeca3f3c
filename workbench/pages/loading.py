"""Models in memory, one copy for all sessions.

A model is only ever read, but a forward pass holds hooks on it, so sessions take turns: whoever
runs a pass owns the backbone's lock until its hooks are gone.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from workbench.backbone import load_backbone
from workbench.backbone.transformer_lens import TransformerLensBackbone
from workbench.errors import ConfigError
from workbench.guidance import SVGTBridge
from workbench.guidance.registry import GuidanceSpec, find_value_module, load_guidance
from workbench.svgt.value_module import ValueModule
from workbench.testbed.registry import EMBEDDED, embedded_path

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone and the lock that a forward pass takes."""

    backbone: TransformerLensBackbone
    lock: threading.Lock
    stamp: Stamp


@dataclass(frozen=True, eq=False)
class LoadedModule:
    """A value module and the guidance it gives, with the default knobs."""

    module: ValueModule
    guidance: SVGTBridge


def get_backbone(name: str) -> LoadedBackbone:
    """The backbone of this name or folder, loaded once and again when its files change.

    Raises:
        BackboneError: it cannot be loaded.
        ConfigError: no name is given.
    """
    if not name.strip():
        raise ConfigError("give a Hugging Face checkpoint folder, or choose another backbone")
    folder = embedded_path(name) if name in EMBEDDED else Path(name).expanduser()
    return _backbone(name, _stamp(folder))


def get_module(config: str, loaded: LoadedBackbone) -> LoadedModule:
    """The value module of this configuration or folder for a backbone, loaded once.

    Raises:
        CheckpointError: not found, damaged, or of another backbone.
        ConfigError: no configuration is given.
    """
    if not config.strip():
        raise ConfigError("give the folder of a value module, or choose a shipped configuration")
    backbone = loaded.backbone
    stamp = _stamp(find_value_module(config, backbone))
    return _module(config, backbone.name, loaded.stamp, stamp, loaded)


def _stamp(folder: Path) -> Stamp:
    """Names, times and sizes of a folder's files, so that a changed checkpoint is read again."""
    if not folder.is_dir():
        return ()
    states = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


@st.cache_resource(max_entries=3, show_spinner=False)
def _backbone(name: str, stamp: Stamp) -> LoadedBackbone:
    return LoadedBackbone(load_backbone(name), threading.Lock(), stamp)


@st.cache_resource(max_entries=16, show_spinner=False)
def _module(
    config: str, backbone: str, backbone_stamp: Stamp, stamp: Stamp, _loaded: LoadedBackbone
) -> LoadedModule:
    guidance = load_guidance(GuidanceSpec("svgt", config), _loaded.backbone)
    assert isinstance(guidance, SVGTBridge)
    assert isinstance(guidance.writer, ValueModule)
    return LoadedModule(guidance.writer, guidance)
