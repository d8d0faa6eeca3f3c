"""From what a person writes to a guidance: one spelling for the command line, the app and records.

==================  ============================================================================
``none``            the plain model
``svgt``            the default value module that ships for the backbone
``svgt:CONFIG``     the shipped module of that configuration, for example ``svgt:paper``
``svgt:FOLDER``     a module of your own, as ``workbench train`` writes it
==================  ============================================================================

Shipped modules stand in ``workbench/svgt/trained/BACKBONE/CONFIG``. A backbone finds its own by
name or, loaded from a folder of another name, by the hash of its weights.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench import svgt
from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.errors import CheckpointError, ConfigError
from workbench.guidance.none import NoGuidance
from workbench.guidance.protocol import Guidance
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.checkpoint import RECORD_FILE, load_value_module, read_checkpoint_record
from workbench.svgt.config import SVGTConfig
from workbench.svgt.recipes import DEFAULT_RECIPE, RECIPES
from workbench.svgt.slots import ClosedRows
from workbench.svgt.value_module import ValueModule

GuidanceFamily = Literal["none", "svgt"]
FAMILIES: tuple[GuidanceFamily, ...] = ("none", "svgt")
DEFAULT_CONFIG = DEFAULT_RECIPE

_TRAINED = Path(svgt.__file__).parent / "trained"


@dataclass(frozen=True)
class GuidanceSpec:
    """What a person asked for.

    Attributes:
        family: The kind of guidance.
        config: Which one of its kind: a configuration's name or a folder; empty for ``none``.
    """

    family: GuidanceFamily
    config: str = ""

    def __str__(self) -> str:
        """The spelling that :func:`parse_guidance` reads."""
        return f"{self.family}:{self.config}" if self.config else self.family


@dataclass(frozen=True)
class GuidanceOptions:
    """The knobs that need no other module; see :class:`SVGTBridge` for their meaning.

    Attributes:
        gate_scale: Strength of the bridge; 1 as trained.
        refresh: New tokens between two writes of the bridge (r); None writes it once.
        momentum: Share of the old bridge that a refresh keeps (beta).
    """

    gate_scale: float = 1.0
    refresh: int | None = 5
    momentum: float = 0.8


def parse_guidance(text: str) -> GuidanceSpec:
    """Read one guidance as a person writes it; ``svgt`` alone means the default configuration.

    Raises:
        ConfigError: No such guidance.
    """
    family, colon, config = text.strip().partition(":")
    if family == "none" and not colon:
        return GuidanceSpec("none")
    if family == "svgt" and (config or not colon):
        return GuidanceSpec("svgt", config or DEFAULT_CONFIG)
    close = difflib.get_close_matches(family, FAMILIES, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close and close[0] != family else ""
    raise ConfigError(
        f"unknown guidance '{text}'{hint}: use none, svgt, svgt:CONFIG (for example svgt:paper) "
        "or svgt:FOLDER"
    )


def parse_guidance_list(text: str) -> tuple[GuidanceSpec, ...]:
    """Read guidances separated by commas.

    Raises:
        ConfigError: One is unknown, or stands there twice.
    """
    specs = tuple(parse_guidance(part) for part in text.split(","))
    twice = [str(spec) for index, spec in enumerate(specs) if spec in specs[:index]]
    if twice:
        raise ConfigError(f"guidance {twice[0]} is named twice; name each once")
    return specs


def shipped_configs(backbone: Backbone) -> tuple[str, ...]:
    """Names of the value modules that ship for a backbone, the default first."""
    folder = _shipped_folder(backbone)
    if folder is None:
        return ()
    names = {path.parent.name for path in folder.glob(f"*/{RECORD_FILE}")}
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_CONFIG, name)))


def find_value_module(config: str, backbone: Backbone) -> Path:
    """The folder of a value module: a shipped configuration's, or a folder given as such.

    Raises:
        CheckpointError: Nothing ships under that name for this backbone and no folder is called
            so; the message names what exists and the command that trains one.
    """
    folder, shipped = _shipped_folder(backbone), shipped_configs(backbone)
    if folder is not None and config in shipped:
        return folder / config
    path = Path(config).expanduser()
    # A bare name may by chance be a folder of the working directory, "workbench" for one.
    if (path / RECORD_FILE).is_file() or (path.is_dir() and path.name != config):
        return path
    recipe = f" --config {config}" if config in RECIPES else ""
    raise CheckpointError(
        f"no value module '{config}' ships for {backbone.name}"
        + (f" (there are {', '.join(shipped)})" if shipped else ", nor any other")
        + ", and no folder of that name holds one; train one with `workbench train --backbone "
        f"{backbone.name}{recipe} --out my-module` and use svgt:my-module"
    )


def load_module(config: str, backbone: Backbone) -> ValueModule:
    """Load a value module for a backbone.

    Raises:
        CheckpointError: Not found, damaged, or trained for another backbone.
    """
    module = load_value_module(find_value_module(config, backbone), backbone)
    return module.to(backbone.device)


def load_guidance(
    wanted: str | GuidanceSpec, backbone: Backbone, options: GuidanceOptions | None = None
) -> Guidance:
    """Build a guidance for a backbone that is already loaded.

    Args:
        wanted: As a person writes it, or parsed.
        backbone: What will be guided.
        options: Strength and refresh; the defaults of the paper otherwise.

    Raises:
        ConfigError: Unknown guidance, or an option out of range.
        CheckpointError: See :func:`load_module`.
    """
    spec = parse_guidance(wanted) if isinstance(wanted, str) else wanted
    options = options or GuidanceOptions()
    if spec.family == "none":
        return NoGuidance()
    module = load_module(spec.config, backbone)
    return SVGTBridge(
        module,
        gate_scale=options.gate_scale,
        refresh=options.refresh,
        momentum=options.momentum,
        closed_rows=_closed_rows(module.config),
    )


def identify_guidance(
    spec: GuidanceSpec, backbone: Backbone, options: GuidanceOptions | None = None
) -> dict[str, object]:
    """What a record keeps of a guidance: options and the hash of its weights.

    Raises:
        CheckpointError: See :func:`load_module`.
    """
    if spec.family == "none":
        return {}
    record = read_checkpoint_record(find_value_module(spec.config, backbone))
    return {"weights_sha256": record.weights_sha256, **to_mapping(options or GuidanceOptions())}


def _closed_rows(config: SVGTConfig) -> ClosedRows:
    """A row whose gate stays closed equals the plain model exactly, wherever that can be known."""
    decided_once = config.gate == "threshold" and config.trigger.mode == "prompt"
    return "plain" if decided_once else "shifted"


def _shipped_folder(backbone: Backbone) -> Path | None:
    named = _TRAINED / Path(backbone.name).name
    if backbone.name == named.name and named.is_dir():
        return named
    folders = sorted(path for path in _TRAINED.glob("*") if path.is_dir())
    return next((path for path in folders if _belongs(path, backbone)), None)


def _belongs(folder: Path, backbone: Backbone) -> bool:
    """Whether the first module in a folder was trained for exactly these weights."""
    first = next(iter(sorted(folder.glob(f"*/{RECORD_FILE}"))), None)
    if first is None:
        return False
    trained_for = read_checkpoint_record(first.parent).backbone
    return trained_for is not None and trained_for.get("weights_hash") == backbone.weights_hash
