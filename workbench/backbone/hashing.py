"""Fingerprints that tie a value module to the model and the tokenizer it was trained with."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.backbone.chat import reading_rules


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values of the tensors, in the order of their names.

    Values are read as float32 (integers as int64), so a checkpoint has one fingerprint whether it
    is stored in float32 or in a shorter type that holds the same numbers.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        number = torch.float32 if tensor.is_floating_point() else torch.int64
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.to(device="cpu", dtype=number).contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over everything that decides which ids a text gets.

    Padding and truncation settings are left out: calls change them, and no text depends on them
    here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: dict[str, object] = {"vocab": tokenizer.get_vocab()}
    else:
        content = json.loads(backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
    description = {
        "tokenizer": content,
        "chat_template": tokenizer.chat_template,
        "special_tokens": {
            name: str(token) for name, token in tokenizer.special_tokens_map.items()
        },
        **reading_rules(tokenizer),
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
