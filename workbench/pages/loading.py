"""Models in memory, one copy for all sessions.

A model is only ever read, but a forward pass holds hooks on it, so sessions take turns: whoever
runs a pass owns the backbone's lock until its hooks are gone.
"""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from workbench.backbone import load_backbone
from workbench.backbone.frozen import FrozenBackbone
from workbench.errors import ConfigError
from workbench.guidance import Guidance, NoGuidance, SVGTBridge
from workbench.guidance.method import FittedGuidance
from workbench.guidance.registry import (
    GuidanceOptions,
    GuidanceSpec,
    find_fitted,
    find_value_module,
    load_guidance,
    parse_guidance,
    shipped_configs,
)
from workbench.pages.hardware import Hardware, chosen_hardware
from workbench.svgt.value_module import ValueModule
from workbench.testbed.registry import EMBEDDED, embedded_path

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone and the lock that a forward pass takes."""

    backbone: FrozenBackbone
    lock: threading.Lock
    stamp: Stamp


@dataclass(frozen=True, eq=False)
class LoadedModule:
    """A value module and the guidance it gives, with the default knobs."""

    module: ValueModule
    guidance: SVGTBridge


@dataclass(frozen=True, eq=False)
class LoadedGuidance:
    """What guides a model, and what scores its replies.

    Attributes:
        guidance: At its own strength.
        observer: SVGT's own module, else the backbone's default one; None where none ships.
    """

    guidance: Guidance
    observer: ValueModule | None

    def with_options(self, options: GuidanceOptions) -> Guidance:
        """The guidance as the knobs want it.

        Raises:
            ConfigError: A knob that this guidance does not have so.
        """
        guidance = self.guidance
        if isinstance(guidance, SVGTBridge):
            return replace(
                guidance,
                gate_scale=options.strength,
                refresh=options.refresh,
                momentum=options.momentum,
            )
        return (
            guidance.scaled(options.strength) if isinstance(guidance, FittedGuidance) else guidance
        )


def get_backbone(name: str) -> LoadedBackbone:
    """The backbone of this name or folder, on the device that was chosen.

    It is loaded once on a device in a number type, and again when its files change.

    Raises:
        BackboneError: it cannot be loaded.
        ConfigError: no name is given, or the environment names no device.
        MemoryLimitError: the device has no room for it.
    """
    if not name.strip():
        raise ConfigError("give a Hugging Face checkpoint folder, or choose another backbone")
    folder = embedded_path(name) if name in EMBEDDED else Path(name).expanduser()
    hardware = chosen_hardware()
    # What a model gives depends on where it computes: whatever is kept of it knows by the stamp.
    where = (f"{hardware.device} {hardware.dtype}", 0, 0)
    return _backbone(name, hardware, (where, *_stamp(folder)))


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


def get_guidance(spelled: str, loaded: LoadedBackbone) -> LoadedGuidance:
    """A guidance at its own strength, and the value module that scores replies under it.

    Raises:
        CheckpointError: not found, damaged, or of another backbone.
        ConfigError: no such guidance, or none is given.
    """
    if not spelled.strip():
        raise ConfigError("give METHOD:FOLDER, for example svgt:my-module, or choose what ships")
    spec = parse_guidance(spelled)
    if spec.family == "none":
        return LoadedGuidance(NoGuidance(), None)
    if spec.family == "svgt":
        module = get_module(spec.config, loaded)
        return LoadedGuidance(module.guidance, module.module)
    backbone = loaded.backbone
    stamp = _stamp(find_fitted(spec, backbone))
    guidance = _method(str(spec), backbone.name, loaded.stamp, stamp, loaded)
    shipped = shipped_configs(backbone)
    return LoadedGuidance(guidance, get_module(shipped[0], loaded).module if shipped else None)


def _stamp(folder: Path) -> Stamp:
    """Names, times and sizes of a folder's files, so that a changed checkpoint is read again."""
    if not folder.is_dir():
        return ()
    states = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


@st.cache_resource(max_entries=3, show_spinner=False)
def _backbone(name: str, hardware: Hardware, stamp: Stamp) -> LoadedBackbone:
    backbone = load_backbone(name, device=hardware.device, dtype=hardware.dtype)
    return LoadedBackbone(backbone, threading.Lock(), stamp)


@st.cache_resource(max_entries=16, show_spinner=False)
def _module(
    config: str, backbone: str, backbone_stamp: Stamp, stamp: Stamp, _loaded: LoadedBackbone
) -> LoadedModule:
    guidance = load_guidance(GuidanceSpec("svgt", config), _loaded.backbone)
    assert isinstance(guidance, SVGTBridge)
    assert isinstance(guidance.writer, ValueModule)
    return LoadedModule(guidance.writer, guidance)


@st.cache_resource(max_entries=16, show_spinner=False)
def _method(
    spelled: str, backbone: str, backbone_stamp: Stamp, stamp: Stamp, _loaded: LoadedBackbone
) -> Guidance:
    return load_guidance(spelled, _loaded.backbone)
