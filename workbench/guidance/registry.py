"""From what a person writes to a guidance: one spelling for the command line, the app and records.

==================  ============================================================================
``none``            the plain model
``svgt``            the default value module that ships for the backbone
``svgt:CONFIG``     the shipped module of that configuration, for example ``svgt:paper``
``svgt:FOLDER``     a module of your own, as ``workbench train`` writes it
``METHOD``          another method as it ships for the backbone, for example ``caa``; see
                    :mod:`workbench.guidance.methods`
``METHOD:FOLDER``   one of your own, as ``workbench fit`` writes it
==================  ============================================================================

Shipped modules stand in ``workbench/svgt/trained/BACKBONE/CONFIG``, shipped methods in
``workbench/guidance/trained/BACKBONE/METHOD``. A backbone finds its own by name or, loaded from a
folder of another name, by the hash of its weights.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench import svgt
from workbench.backbone.protocol import Backbone
from workbench.config import to_mapping
from workbench.errors import CheckpointError, ConfigError
from workbench.guidance.artifact import ARTIFACT_FILE, read_artifact_record
from workbench.guidance.methods import METHODS, get_method
from workbench.guidance.none import NoGuidance
from workbench.guidance.protocol import Guidance
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.checkpoint import RECORD_FILE, load_value_module, read_checkpoint_record
from workbench.svgt.config import SVGTConfig
from workbench.svgt.recipes import DEFAULT_RECIPE, RECIPES
from workbench.svgt.slots import ClosedRows
from workbench.svgt.value_module import ValueModule

FAMILIES: tuple[str, ...] = ("none", "svgt", *METHODS)
DEFAULT_CONFIG = DEFAULT_RECIPE

_TRAINED = Path(svgt.__file__).parent / "trained"
_FITTED = Path(__file__).parent / "trained"


@dataclass(frozen=True)
class GuidanceSpec:
    """What a person asked for.

    Attributes:
        family: The kind of guidance.
        config: Which one of its kind: a configuration's name or a folder; empty for ``none`` and
            for a method as it ships.
    """

    family: str
    config: str = ""

    def __str__(self) -> str:
        """The spelling that :func:`parse_guidance` reads."""
        return f"{self.family}:{self.config}" if self.config else self.family


@dataclass(frozen=True)
class GuidanceOptions:
    """The knobs of a generation.

    Attributes:
        strength: Factor on the guidance's own strength; 1 as trained or fitted. At 0 a method has
            no effect and SVGT's bridge is at rest (its gate scale).
        refresh: New tokens between two writes of SVGT's bridge (r); None writes it once.
        momentum: Share of the old bridge that a refresh keeps (beta).
    """

    strength: float = 1.0
    refresh: int | None = 5
    momentum: float = 0.8

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ConfigError(f"strength = {self.strength}: give a finite factor; 1 is as fitted")


def parse_guidance(text: str) -> GuidanceSpec:
    """Read one guidance as a person writes it; ``svgt`` alone means the default configuration.

    Raises:
        CheckpointError: The path of a folder whose ``guidance.json`` is damaged.
        ConfigError: No such guidance; for the path of a folder that holds one, how it is written.
    """
    family, colon, config = text.strip().partition(":")
    if family == "none" and not colon:
        return GuidanceSpec("none")
    if family == "svgt" and (config or not colon):
        return GuidanceSpec("svgt", config or DEFAULT_CONFIG)
    if family in METHODS and (config or not colon):
        return GuidanceSpec(family, config)
    spelled = _spelling_of_folder(Path(text.strip())) if text.strip() else None
    if spelled is not None:
        raise ConfigError(f"a guidance is written with its method in front: use {spelled}")
    close = difflib.get_close_matches(family, FAMILIES, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close and close[0] != family else ""
    raise ConfigError(
        f"unknown guidance '{text}'{hint}: use none, svgt, svgt:CONFIG (for example svgt:paper), "
        f"svgt:FOLDER, one of {', '.join(METHODS)}, or METHOD:FOLDER"
    )


def _spelling_of_folder(path: Path) -> str | None:
    """How the guidance in a folder, or beside a record in it, is written; None where none is."""
    folder = path.parent if path.name in (RECORD_FILE, ARTIFACT_FILE) else path
    there = folder.expanduser()
    if (there / RECORD_FILE).is_file():
        return f"svgt:{folder}"
    if (there / ARTIFACT_FILE).is_file():
        return f"{read_artifact_record(there).method}:{folder}"
    return None


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


def shipped_methods(backbone: Backbone) -> tuple[str, ...]:
    """Names of the methods that ship fitted for a backbone, in the order of the table."""
    folder = _own_folder(_FITTED, backbone, _fitted_on)
    return tuple(
        name for name in METHODS if folder is not None and (folder / name / ARTIFACT_FILE).is_file()
    )


def find_fitted(spec: GuidanceSpec, backbone: Backbone) -> Path:
    """The folder of a fitted method: the shipped one, or a folder given as such.

    Raises:
        CheckpointError: Nothing ships for this backbone, or the folder holds none; the message
            names the command that fits one.
    """
    if spec.config:
        folder = Path(spec.config).expanduser()
        if (folder / ARTIFACT_FILE).is_file():
            return folder
        problem = f"no {ARTIFACT_FILE} in {folder}"
    else:
        shipped = _own_folder(_FITTED, backbone, _fitted_on)
        if shipped is not None and (shipped / spec.family / ARTIFACT_FILE).is_file():
            return shipped / spec.family
        problem = f"{spec.family} does not ship for {backbone.name}"
    raise CheckpointError(
        f"{problem}; fit one with `workbench fit {spec.family} --backbone {backbone.name} --tune "
        f"--out my-{spec.family}` and use {spec.family}:my-{spec.family}"
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
    if spec.family != "svgt":
        fitted = get_method(spec.family).load(find_fitted(spec, backbone), backbone)
        return fitted.scaled(options.strength)
    module = load_module(spec.config, backbone)
    return SVGTBridge(
        module,
        gate_scale=options.strength,
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
    options = options or GuidanceOptions()
    if spec.family != "svgt":
        artifact = read_artifact_record(find_fitted(spec, backbone))
        return {
            "tensors_sha256": artifact.tensors_sha256,
            "config": dict(artifact.config),
            "strength": options.strength,
        }
    record = read_checkpoint_record(find_value_module(spec.config, backbone))
    return {"weights_sha256": record.weights_sha256, **to_mapping(options)}


def _closed_rows(config: SVGTConfig) -> ClosedRows:
    """A row whose gate stays closed equals the plain model exactly, wherever that can be known."""
    decided_once = config.gate == "threshold" and config.trigger.mode == "prompt"
    return "plain" if decided_once else "shifted"


def _shipped_folder(backbone: Backbone) -> Path | None:
    return _own_folder(_TRAINED, backbone, _trained_for)


def _own_folder(
    root: Path, backbone: Backbone, belongs_to: Callable[[Path], object]
) -> Path | None:
    """A backbone's folder under a root: the one of its name, or the one made for its weights."""
    named = root / Path(backbone.name).name
    if backbone.name == named.name and named.is_dir():
        return named
    folders = sorted(path for path in root.glob("*") if path.is_dir())
    return next((path for path in folders if belongs_to(path) == backbone.weights_hash), None)


def _trained_for(folder: Path) -> object:
    """Hash of the weights that the first value module in a folder was trained for."""
    first = next(iter(sorted(folder.glob(f"*/{RECORD_FILE}"))), None)
    trained_for = None if first is None else read_checkpoint_record(first.parent).backbone
    return None if trained_for is None else trained_for.get("weights_hash")


def _fitted_on(folder: Path) -> object:
    """Hash of the weights that the first fitted method in a folder was fitted on."""
    first = next(iter(sorted(folder.glob(f"*/{ARTIFACT_FILE}"))), None)
    return None if first is None else read_artifact_record(first.parent).backbone.weights_hash
