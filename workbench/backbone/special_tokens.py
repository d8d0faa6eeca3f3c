"""Whether a tokenizer is the model's own, as far as both name the same special tokens.

Two vocabularies of similar size fit the same embedding, and the model would read noise. What both
sides state are the ids that begin, end and pad a text. They often differ for good reasons: a chat
model ends a turn with another token than a text, and may list several. So an id of the
configuration agrees if the tokenizer gives it to that purpose, or to any special or added token; it
contradicts if it is an ordinary word there, or nothing at all.
"""

import warnings
from collections.abc import Mapping, Sequence

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from workbench.errors import BackboneError, WorkbenchWarning

_ROLES = ("bos_token", "eos_token", "pad_token")


def check_special_tokens(name: str, source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compare a tokenizer with the ids that the model's own files state.

    Args:
        name: The backbone, for messages.
        source: Its folder or hub id.
        tokenizer: As loaded from there.

    Raises:
        BackboneError: Everything that can be compared contradicts: it is another model's.

    Warns:
        WorkbenchWarning: Some of it does.
    """
    stated = _stated_ids(source)
    compared = [role for role in _ROLES if stated[role] and _id(tokenizer, role) is not None]
    wrong = [role for role in compared if not _agrees(tokenizer, role, stated[role])]
    said = [_contradiction(tokenizer, role, stated[role]) for role in wrong]
    if wrong and wrong == compared:
        raise BackboneError(
            f"the tokenizer of {name} is another model's: {'; '.join(said)}. Put the tokenizer "
            "files of this model beside its weights, or correct the ids in a copy of its "
            "config.json"
        )
    said += _misnamed(source, tokenizer)
    if said:
        warnings.warn(
            f"the tokenizer of {name} may be another model's: {'; '.join(said)}. Compare its files "
            "with those the model was released with",
            WorkbenchWarning,
            stacklevel=3,
        )


def _stated_ids(source: str) -> dict[str, tuple[int, ...]]:
    """Ids by purpose as the files state them; what a configuration class would add is left out."""
    content, _ = PretrainedConfig.get_config_dict(source)
    try:
        generation = GenerationConfig.from_pretrained(source).to_dict()
    except OSError:  # many checkpoints have none
        generation = {}
    inside = content.get("text_config")
    holders = [content, inside if isinstance(inside, Mapping) else {}, generation]
    return {role: _ids([holder.get(f"{role}_id") for holder in holders]) for role in _ROLES}


def _ids(values: Sequence[int | list[int] | None]) -> tuple[int, ...]:
    found: list[int] = []
    for value in values:
        found.extend(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(dict.fromkeys(token for token in found if token >= 0))  # -1 stands for none


def _id(tokenizer: PreTrainedTokenizerBase, role: str) -> int | None:
    found = getattr(tokenizer, f"{role}_id")
    return None if found is None else int(found)


def _agrees(tokenizer: PreTrainedTokenizerBase, role: str, stated: tuple[int, ...]) -> bool:
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return _id(tokenizer, role) in stated or any(token in marks for token in stated)


def _contradiction(tokenizer: PreTrainedTokenizerBase, role: str, stated: tuple[int, ...]) -> str:
    there = tokenizer.convert_ids_to_tokens(stated[0]) if stated[0] < len(tokenizer) else None
    ordinary = "which the tokenizer does not have" if there is None else f"there {there!r}"
    return (
        f"the model's {role} is id {stated[0]}, {ordinary}, and the tokenizer's is "
        f"{getattr(tokenizer, role)!r}, id {_id(tokenizer, role)}"
    )


def _misnamed(source: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens to which tokenizer_config.json gives another id than the tokenizer itself."""
    named = get_tokenizer_config(source).get("added_tokens_decoder") or {}
    vocabulary = tokenizer.get_vocab()
    for key, token in named.items():
        text = str(token["content"] if isinstance(token, Mapping) else token)
        if vocabulary.get(text) != int(key):
            return [
                f"tokenizer_config.json gives {text!r} the id {key}, the tokenizer "
                f"{vocabulary.get(text, 'none')}"
            ]
    return []
