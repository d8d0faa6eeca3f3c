"""Checkpoints that hold a language model beside something that sees or hears.

Their configuration holds the language model's as ``text_config``, and their weights have it under
a prefix. Where that language model is one of the tested families and is nothing else than a text
model inside, it is read by itself; all others are refused by name.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping

from transformers import PretrainedConfig

from workbench.errors import BackboneError, WorkbenchWarning

_WHOLES = ("gemma3", "mistral3")
_TEXT_MODELS: Mapping[str, str] = {
    "gemma3_text": "Gemma3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
"""Class of the language model by its type: those that the tests hold against the whole."""
TEXT_KEYS: Mapping[str, str] = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
}
"""Where the language model's weights stand in either layout, and what it calls them itself."""
_BESIDE = ("vision_tower.", "multi_modal_projector.")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def is_multimodal(config: PretrainedConfig) -> bool:
    """Whether a configuration holds a language model's."""
    return isinstance(getattr(config, "text_config", None), PretrainedConfig)


def check_text_model(name: str, config: PretrainedConfig) -> None:
    """Look whether the language model of a multimodal checkpoint can be read by itself.

    Raises:
        BackboneError: It cannot; the message says why, and what to take instead.
    """
    inside = config.text_config
    if config.model_type not in _WHOLES or inside.model_type not in _TEXT_MODELS:
        raise BackboneError(
            f"{name} is a multimodal model ({config.model_type}): its language model "
            f"({inside.model_type}) sits inside another model, and the workbench reads it out of "
            f"{' and '.join(_WHOLES)} alone. Take a checkpoint of a language model by itself, "
            "of the same family if there is one"
        )


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The language model's configuration, complete: class and token ids stand in the whole's."""
    inside: PretrainedConfig = copy.deepcopy(config.text_config)
    inside.architectures = [_TEXT_MODELS[inside.model_type]]
    for field in _TOKENS:
        stated = getattr(config, field, None)
        if stated is not None:
            setattr(inside, field, stated)
    return inside


def without_others(
    name: str, report: Mapping[str, Iterable[object]]
) -> Mapping[str, Iterable[object]]:
    """What transformers says of the loading, less the parts that are left out on purpose.

    Warns:
        WorkbenchWarning: That they are left out.
    """
    warnings.warn(
        f"{name} is multimodal: its language model is loaded by itself, and what sees images stays "
        "out",
        WorkbenchWarning,
        stacklevel=2,
    )
    left_out = map(str, report["unexpected_keys"])
    kept = [key for key in left_out if not key.removeprefix("model.").startswith(_BESIDE)]
    return {**report, "unexpected_keys": kept}
