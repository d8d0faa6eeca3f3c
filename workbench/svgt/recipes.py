"""The named configurations: what is built and how it is trained, by name.

=================  =================================================================================
``paper``          the published method at its published settings (arXiv 2605.11712): the trigger is
                   the prompt's last state and its pathway is never trained, stage 3 scores states
                   one block above those the encoder learned on, the correction has no cap
``paper-fixed``    the same with just these mended: the trigger follows the generation, its pathway
                   is trained in stage 2, stage 3 scores the layer the encoder learned on, and the
                   correction is capped
``workbench-lstar``  windowed trigger that reads block l* alone, threshold gate, offset bridge
``workbench``      the same, but the trigger reads the blocks up to l* and the embeddings: the
                   default
``input-only``     control: the same again, but the trigger reads only the token embeddings. What it
                   reaches is no evidence that anything is read off the model's own computation
=================  =================================================================================

``workbench`` reads the input too and is to a large part a classifier of the text: judge it beside
its control.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from workbench.config import load_yaml
from workbench.errors import ConfigError
from workbench.svgt.config import (
    EMBEDDING_LAYER,
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
)
from workbench.svgt.curriculum.recipe import CurriculumConfig, DataConfig, Recipe, StageConfig
from workbench.svgt.objectives import BridgeLossWeights

DEFAULT_RECIPE = "workbench"
RECIPES: tuple[str, ...] = ("workbench", "workbench-lstar", "paper", "paper-fixed", "input-only")
_SMALL, _MIDDLE, _LARGE = 256, 1536, 2048
"""Widths from which on the published sizes change: GPT-2 and Qwen2-1.5B take one set, Llama-3.2-3B
and Mistral-7B a larger one. The embedded backbones are smaller than any of these."""
_CAP = 3.0


def default_layer(n_layers: int) -> int:
    """l* where nothing else is said: the block that ends the second third, as in the paper."""
    return max(0, min(n_layers - 2, round(2 * n_layers / 3) - 1))


def _value_width(d_model: int) -> int:
    return 64 if d_model < _SMALL else 256 if d_model >= _LARGE else 128


def _heads(width: int, wanted: int) -> int:
    return next(n for n in range(wanted, 0, -1) if width % n == 0)


def named_recipe(wanted: str, *, d_model: int, n_layers: int) -> Recipe:
    """A recipe by name, or the one that a YAML file holds.

    Args:
        wanted: One of ``RECIPES``, or a file that ends in ``.yaml`` or ``.yml``.
        d_model: The backbone's residual width.
        n_layers: Its blocks.

    Raises:
        ConfigError: An unknown name, or a file that cannot be read.
    """
    if _is_file(wanted):
        return load_yaml(Recipe, wanted)
    return make_recipe(wanted, d_model=d_model, n_layers=n_layers)


def require_fit(recipe: Recipe, wanted: str, *, d_model: int, n_layers: int, backbone: str) -> None:
    """Make sure that a recipe fits a backbone, which a file may have been written for another of.

    Args:
        recipe: What :func:`named_recipe` made of ``wanted``.
        wanted: The name or file.
        d_model: The backbone's residual width.
        n_layers: Its blocks.
        backbone: Its name.

    Raises:
        ConfigError: It does not; file, key and remedy are named.
    """
    try:
        recipe.module.validate_for(n_layers=n_layers, d_model=d_model, backbone=backbone)
    except ConfigError as error:
        if not _is_file(wanted):
            raise
        raise ConfigError(
            f"{wanted}: module.{error}; give the backbone that the file was written for, or write "
            f"one that fits: `workbench train --backbone {backbone} --print-config > mine.yaml`"
        ) from error


def _is_file(wanted: str) -> bool:
    return Path(wanted).suffix in (".yaml", ".yml")


def make_recipe(name: str, *, d_model: int, n_layers: int) -> Recipe:
    """Build a named recipe for a backbone of this size.

    Raises:
        ConfigError: if no recipe has this name.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ConfigError(
            f"unknown configuration '{name}'{hint}: choose one of {', '.join(RECIPES)}"
        )
    layer = default_layer(n_layers)
    if name in ("paper", "paper-fixed"):
        return _paper(d_model, layer, fixed=name == "paper-fixed")
    layers = {
        "workbench": (EMBEDDING_LAYER, *range(layer + 1)),
        "workbench-lstar": (layer,),
        "input-only": (EMBEDDING_LAYER,),
    }[name]
    return _workbench(name, d_model, layer, layers)


def _paper(d_model: int, layer: int, *, fixed: bool) -> Recipe:
    large = d_model >= _LARGE
    module = SVGTConfig(
        name="paper",
        d_model=d_model,
        layer=layer,
        n_bridge=7 if large else 5,
        d_value=_value_width(d_model),
        encoder=EncoderConfig(
            n_heads=16 if large else 4,
            readout="encoder" if large else "last-mlp",
            pooling=large,
        ),
        trigger=TriggerConfig(kind="prompt-path", mode="prompt"),
        bridge=BridgeConfig(
            kind="attention", n_heads=_heads(d_model, 16 if d_model >= _MIDDLE else 8)
        ),
        gate="always",
        score_layer=layer + 1,
    )
    if not fixed:
        return Recipe(module)
    return Recipe(
        replace(
            module,
            name="paper-fixed",
            encoder=replace(module.encoder, layer=layer + 1),
            trigger=TriggerConfig(kind="both-paths", mode="current"),
            correction=CorrectionConfig(max_norm=_CAP),
        ),
        CurriculumConfig(trigger_weight=1.0),
    )


def _workbench(name: str, d_model: int, layer: int, layers: tuple[int, ...]) -> Recipe:
    # One layer tells less than several: more prompts, and more noise so that its threshold carries
    # over to frames where the signal is small.
    lstar = name == "workbench-lstar"
    module = SVGTConfig(
        name=name,
        d_model=d_model,
        layer=layer,
        n_bridge=4,
        d_value=_value_width(d_model),
        encoder=EncoderConfig(n_heads=4),
        trigger=TriggerConfig(
            kind="windowed",
            layers=layers,
            width=64,
            n_heads=8,
            p_token=0.05,
            p_last3=0.3,
            noise=0.7 if lstar else 0.4,
        ),
        correction=CorrectionConfig(max_norm=_CAP),
        bridge=BridgeConfig(kind="offset", gain_init="residual-norm", dropout=0.0, gate_init=0.0),
        gate="threshold",
    )
    curriculum = CurriculumConfig(
        unconditional=StageConfig(
            epochs=0.4, batch_size=32, learning_rate=1e-3, schedule="linear", evaluations=2
        ),
        conditional=StageConfig(
            epochs=3.0 if lstar else 4.0,
            batch_size=8 if lstar else 16,
            learning_rate=3e-3,
            old_rate=5e-4,
            schedule="linear",
            weight_decay=1e-2,
            evaluations=4,
        ),
        bridge=StageConfig(
            epochs=2.0, batch_size=16, learning_rate=3e-3, schedule="linear", evaluations=4
        ),
        trigger_weight=8.0,
        trigger_batch=64,
        label_smoothing=0.03,
        bridge_loss=BridgeLossWeights(ce=1.0, safety=0.0, norm=0.1),
    )
    data = DataConfig(
        n_prompts=28000 if lstar else 12000,
        n_pairs=6000,
        n_targets=1600,
        filler=True,
        composed=0.3,
    )
    return Recipe(module, curriculum, data)
