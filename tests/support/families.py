"""Small random checkpoints of the model families, with real tokenizers, as the hub would hold them.

Each has what makes its family awkward: grouped queries, sliding windows, soft caps, norms after the
sublayer, fused projections, an embedding longer than the vocabulary, no pad token, several end
tokens, a chat template that refuses a system turn.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CONTEXT = 128
WINDOW = 8
"""Keys a query sees where attention slides: fewer than a prompt has."""
MAX_PARAMETERS = 150_000

_TEXT = (
    "tell me how to bake bread and how to mend a lock at home",
    "the cat sat on the mat while the dog slept by the door",
    "i cannot help with that but here is a safer way to do it",
)
_CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_OLMO = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{% if not loop.last %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\n<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class _Words:
    """A tokenizer: its special tokens, which of them begin, end and pad, and its chat template."""

    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    template: str | None = None
    pieces: bool = False  # SentencePiece's way (a mark for blanks, bytes as a fallback)
    adds_bos: bool = False


@dataclass(frozen=True)
class _Family:
    """How a family's checkpoint is built.

    Attributes:
        model_type: Its name in ``config.json``.
        words: Its tokenizer.
        ends: Further end tokens, named in ``generation_config.json``.
        settings: Configuration besides the sizes that all share.
        spare_rows: Rows of the embedding beyond the vocabulary.
    """

    model_type: str
    words: _Words
    ends: tuple[str, ...] = ()
    settings: Mapping[str, object] | None = None
    spare_rows: int = 0


_DECODER: Mapping[str, object] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
_QWEN = _Words(
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    eos="<|im_end|>",
    pad="<|endoftext|>",
    template=_CHATML,
)
_GEMMA_WORDS = _Words(
    ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    eos="<eos>",
    bos="<bos>",
    pad="<pad>",
    unk="<unk>",
    template=_GEMMA,
    pieces=True,
    adds_bos=True,
)
_SENTENCE = ("<unk>", "<s>", "</s>")

_FAMILIES: Mapping[str, _Family] = {
    "gpt2": _Family(
        "gpt2",
        _Words(("<|endoftext|>",), eos="<|endoftext|>", bos="<|endoftext|>", unk="<|endoftext|>"),
        settings={"n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": CONTEXT},
    ),
    "qwen2": _Family(
        "qwen2",
        _QWEN,
        ends=("<|endoftext|>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": WINDOW,
        },
        spare_rows=11,
    ),
    "qwen3": _Family(
        "qwen3",
        _QWEN,
        ends=("<|endoftext|>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": True,
        },
        spare_rows=11,
    ),
    "llama": _Family(
        "llama",
        _Words(
            (
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
            ),
            eos="<|eot_id|>",
            bos="<|begin_of_text|>",
            template=_LLAMA,
            adds_bos=True,
        ),
        ends=("<|end_of_text|>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": CONTEXT // 4,
            },
        },
    ),
    "mistral": _Family(
        "mistral",
        _Words(
            _SENTENCE,
            eos="</s>",
            bos="<s>",
            unk="<unk>",
            template=_MISTRAL,
            pieces=True,
            adds_bos=True,
        ),
        settings={**_DECODER, "num_key_value_heads": 2, "sliding_window": WINDOW},
    ),
    "gemma2": _Family(
        "gemma2",
        _GEMMA_WORDS,
        ends=("<end_of_turn>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            # Low caps, so that what ignores them gives other numbers.
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": _Family(
        "gemma3_text",
        _GEMMA_WORDS,
        ends=("<end_of_turn>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
            ],
        },
    ),
    "phi3": _Family(
        "phi3",
        _Words(
            (*_SENTENCE, "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
            eos="<|endoftext|>",
            bos="<s>",
            pad="<|endoftext|>",
            unk="<unk>",
            template=_PHI,
            pieces=True,
        ),
        ends=("<|end|>",),
        settings={
            **_DECODER,
            "num_key_value_heads": 4,
            "sliding_window": WINDOW,
            "original_max_position_embeddings": CONTEXT,
        },
        spare_rows=11,
    ),
    "olmo2": _Family(
        "olmo2",
        _Words(
            ("<|endoftext|>", "<|pad|>"),
            eos="<|endoftext|>",
            bos="<|endoftext|>",
            pad="<|pad|>",
            template=_OLMO,
        ),
        settings={**_DECODER, "num_key_value_heads": 2},
    ),
    "gpt_neox": _Family(
        "gpt_neox",
        _Words(
            ("<|endoftext|>", "<|padding|>"),
            eos="<|endoftext|>",
            bos="<|endoftext|>",
            unk="<|endoftext|>",
        ),
        settings={**_DECODER, "use_parallel_residual": True, "hidden_act": "gelu"},
        spare_rows=11,
    ),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)


def write_checkpoint(family: str, folder: Path) -> Path:
    """Write ``config.json``, ``model.safetensors``, ``generation_config.json`` and the tokenizer.

    Args:
        family: One of ``FAMILIES``.
        folder: Is made; the same family always gets the same weights.
    """
    recipe = _FAMILIES[family]
    tokenizer = _tokenizer(recipe.words)
    ids = _stated(recipe.words, tokenizer)
    config = CONFIG_MAPPING[recipe.model_type](
        vocab_size=len(tokenizer) + recipe.spare_rows, **ids, **(recipe.settings or {})
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _randomise(model)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert n_parameters < MAX_PARAMETERS, (family, n_parameters)
    return _save(recipe, model, tokenizer, ids, folder)


MULTIMODAL: Mapping[str, str] = {"gemma3": "gemma3", "mistral3": "mistral"}
"""Model types that hold a language model beside eyes, and the family of that language model."""


def write_multimodal(model_type: str, folder: Path) -> Path:
    """Write a checkpoint whose language model stands as ``text_config`` and under a prefix.

    Args:
        model_type: One of ``MULTIMODAL``.
        folder: Is made.
    """
    recipe = _FAMILIES[MULTIMODAL[model_type]]
    tokenizer = _tokenizer(recipe.words)
    ids = _stated(recipe.words, tokenizer)
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    eyes |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    text = {"model_type": recipe.model_type, "vocab_size": len(tokenizer) + 1, "head_dim": 12}
    config = CONFIG_MAPPING[model_type](
        text_config={**text, **(recipe.settings or {})},
        vision_config={
            "model_type": {"gemma3": "siglip_vision_model", "mistral3": "pixtral"}[model_type],
            **eyes,
        },
        **{
            "gemma3": {"mm_tokens_per_image": 4},
            "mistral3": {"tie_word_embeddings": False},
        }[model_type],
        **{f"image_token_{word}": len(tokenizer) for word in ("id", "index")},
        **ids,
    )
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _randomise(model)
    return _save(recipe, model, tokenizer, ids, folder)


def _save(
    recipe: _Family,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: Mapping[str, int | None],
    folder: Path,
) -> Path:
    ends = [ids["eos_token_id"], *map(tokenizer.convert_tokens_to_ids, recipe.ends)]
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos_token_id"],
        eos_token_id=ends if recipe.ends else ends[0],
        pad_token_id=ids["pad_token_id"],
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _stated(words: _Words, tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    """The special tokens' ids as a configuration states them."""
    named = {"bos_token_id": words.bos, "eos_token_id": words.eos, "pad_token_id": words.pad}
    return {
        name: None if token is None else tokenizer.convert_tokens_to_ids(token)
        for name, token in named.items()
    }


@torch.no_grad()
def _randomise(model: torch.nn.Module) -> None:
    """Weights large enough that every part matters; norms and biases that are not the identity."""
    generator = torch.Generator().manual_seed(20260511)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter += 0.2 * noise
        else:
            parameter.copy_(noise * (2.0 / parameter.shape[-1]) ** 0.5)


def _tokenizer(words: _Words) -> PreTrainedTokenizerFast:
    inner = _pieces(words) if words.pieces else _bytes(words)
    if words.adds_bos:
        assert words.bos is not None
        inner.post_processor = processors.TemplateProcessing(
            single=f"{words.bos} $A", special_tokens=[(words.bos, inner.token_to_id(words.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=words.bos,
        eos_token=words.eos,
        pad_token=words.pad,
        unk_token=words.unk,
        additional_special_tokens=list(words.special),
    )
    tokenizer.chat_template = words.template
    return tokenizer


def _bytes(words: _Words) -> Tokenizer:
    """Byte-level pairs, as GPT-2, Qwen, Llama 3, OLMo 2 and GPT-NeoX have them."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(inner, words.special, 256 + 32, alphabet)


def _pieces(words: _Words) -> Tokenizer:
    """SentencePiece-like pairs with bytes as a fallback, as Mistral, Gemma and Phi-3 have them."""
    inner = Tokenizer(models.BPE(unk_token=words.unk, byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    content = json.loads(_trained(inner, words.special, 64, []).to_str())
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    learned = [token for token in content["model"]["vocab"] if token not in words.special]
    vocabulary = [*words.special, *fallback, *learned]
    content["model"]["vocab"] = {token: number for number, token in enumerate(vocabulary)}
    return Tokenizer.from_str(json.dumps(content))


def _trained(
    inner: Tokenizer, special: tuple[str, ...], size: int, alphabet: list[str]
) -> Tokenizer:
    trainer = BpeTrainer(
        vocab_size=len(special) + size,
        special_tokens=list(special),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(_TEXT, trainer)
    return inner
