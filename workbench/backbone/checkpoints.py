"""What can be wrong with a checkpoint or with where it comes from, said in one line each."""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.backbone.multimodal import check_text_model, is_multimodal
from workbench.errors import BackboneError
from workbench.testbed.registry import EMBEDDED

# Causal by class name, bidirectional by nature: their "LM heads" are for decoders made of encoders.
_ENCODERS = ("Bert", "Roberta", "Electra", "XLM", "XLNet", "Camembert", "RemBert", "MegatronBert")
_DECODERS = "a decoder-only language model (GPT, Llama, Qwen, Mistral, ...)"
_INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_CONVERT = (
    "take a checkpoint with safetensors, or convert one you trust with "
    "from_pretrained(...).save_pretrained(...) of transformers"
)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check_architecture(name: str, config: PretrainedConfig) -> None:
    """Refuse what is not a decoder, and weights that are no plain numbers.

    Raises:
        BackboneError: Encoder-only, encoder-decoder, or quantised.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise BackboneError(
            f"{name} is an encoder-decoder ({config.model_type}): the workbench needs {_DECODERS}"
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "unknown method")
        raise BackboneError(
            f"the weights of {name} are quantised ({method}): slots, heads and adapters need "
            "weights that are plain numbers. Take the original checkpoint, in half the memory with "
            "--dtype bfloat16"
        )
    named = tuple(getattr(config, "architectures", None) or ())
    if is_multimodal(config):
        check_text_model(name, config)
        return
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if not any(item in causal and not item.startswith(_ENCODERS) for item in named):
        raise BackboneError(
            f"{name} is no causal language model (architectures: {', '.join(named) or 'none'}): "
            f"the workbench needs {_DECODERS}"
        )


def check_files(name: str, source: str) -> None:
    """Look whether the weights of a folder are all there and can be read; a hub id is left alone.

    Raises:
        BackboneError: No safetensors, a shard missing or broken, or a broken index.
    """
    folder = Path(source)
    if folder.is_dir():
        _check_folder(name, folder, "download the checkpoint again")


def check_cached(name: str, source: str) -> None:
    """Look what is wrong with the cached files of a hub id that could not be loaded.

    Raises:
        BackboneError: A shard is not in the cache, or is broken; the message names it.
    """
    if Path(source).is_dir():
        return
    config = try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str):
        return
    folder = Path(config).parent
    if (folder / _INDEX).is_file() or any(folder.glob("*.safetensors")):
        _check_folder(
            name,
            folder,
            f"where there is a network, run `hf download {source} --force-download`, which fills "
            f"the local cache ({folder})",
        )


def _check_folder(name: str, folder: Path, remedy: str) -> None:
    index = folder / _INDEX
    shards = _indexed(name, index) if index.is_file() else sorted(folder.glob("*.safetensors"))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise BackboneError(
            f"{name} lacks {len(missing)} of the {len(shards)} files that {_INDEX} names: "
            f"{_some(missing)}; {remedy}"
        )
    if not shards:
        raise no_safetensors(name, any(folder.glob("*.bin")) or any(folder.glob("*.pt")))
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BackboneError(
                f"{shard.name} of {name} cannot be read, it is truncated or damaged ({error}): "
                f"{remedy}"
            ) from error


def _indexed(name: str, index: Path) -> list[Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        files = sorted(set(content["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BackboneError(
            f"{_INDEX} of {name} is damaged ({error!r}): download the checkpoint again"
        ) from error
    return [index.parent / file for file in files]


def check_report(name: str, report: Mapping[str, Iterable[object]], model: nn.Module) -> None:
    """Look whether weights and configuration speak of the same model.

    Args:
        name: Of the checkpoint.
        report: What transformers says of the loading.
        model: What it loaded.

    Raises:
        BackboneError: Weights are missing, of another shape, or of blocks that the configuration
            leaves out: the model would run, and be another one.
    """
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise BackboneError(
            f"{name} lacks weights that its configuration asks for: {_some(missing)}; download or "
            "export the checkpoint again"
        )
    misshapen = sorted(
        str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"]
    )
    if misshapen:
        raise BackboneError(
            f"{name} has weights of another shape than its config.json says: {_some(misshapen)}; "
            "put the config.json of this checkpoint beside its weights"
        )
    left_out = sorted(map(str, report["unexpected_keys"]))
    known = {_unnumbered(key) for key in model.state_dict()}
    blocks = [key for key in left_out if _unnumbered(key) in known]
    if blocks:
        raise BackboneError(
            f"{name} has weights of blocks that its config.json leaves out: {_some(blocks)}; put "
            "the config.json of this checkpoint beside its weights"
        )
    if left_out:
        warnings.warn(
            f"{name}: weights that the model has no place for: {_some(left_out)}", stacklevel=2
        )


def _unnumbered(key: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", key)


def check_tokenizer_files(name: str, source: str) -> None:
    """Look whether a folder has a tokenizer at all; a hub id is left alone.

    Raises:
        BackboneError: It has none: transformers would make up an empty one.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise BackboneError(
            f"{name} has no readable tokenizer: put tokenizer.json and tokenizer_config.json "
            "beside its weights"
        )


def no_safetensors(name: str, pickled: bool) -> BackboneError:
    """What to say where a checkpoint has no safetensors."""
    if not pickled:
        return BackboneError(f"{name} has no model.safetensors: download or export it again")
    return BackboneError(
        f"{name} has no model.safetensors, and pickled weights (.bin, .pt) are not read, for they "
        f"can run code: {_CONVERT}"
    )


def check_vocabulary(name: str, n_rows: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Look whether a tokenizer can belong to an embedding of so many rows.

    A few rows more than tokens are usual: embeddings are rounded up. So are special tokens that
    were added for what the model does not have, such as images: they are refused in a text, and
    nowhere else.

    Raises:
        BackboneError: Ordinary ids without a row, or fewer than half of the rows with a token.
    """
    ids = tokenizer.get_vocab().values()
    added = tokenizer.added_tokens_decoder.items()
    unused = {number for number, token in added if token.special}
    beyond = {number for number in ids if number >= n_rows} - unused
    if beyond:
        raise BackboneError(
            f"the tokenizer of {name} has ids up to {max(beyond)}, but the embedding has {n_rows} "
            "rows: it is another model's, or tokens were added without resizing the embedding"
        )
    if 2 * len(set(ids)) < n_rows:
        raise BackboneError(
            f"the tokenizer of {name} has {len(set(ids))} tokens for an embedding of {n_rows} "
            "rows: it is another model's. Put the tokenizer files of this model beside its weights"
        )


def unreachable(name: str, source: str, error: Exception) -> BackboneError:
    """What to say where a folder or a hub id gave no configuration or weights."""
    if Path(source).is_dir():
        return BackboneError(f"the checkpoint folder {name} cannot be read: {first_line(error)}")
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated repo" in str(error):
        return BackboneError(
            f"{name} is a gated repository: (1) accept its conditions at "
            f"https://huggingface.co/{source}, (2) make a token that may read it at "
            "https://huggingface.co/settings/tokens, (3) run `hf auth login`, or set HF_TOKEN, "
            "and try again"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return BackboneError(
            f"the Hugging Face hub has no model '{name}', or it is private: check the id, and for "
            "a private one run `hf auth login`, or set HF_TOKEN"
        )
    offline = [variable for variable in _OFFLINE if os.environ.get(variable, "0") not in ("", "0")]
    if ".safetensors" in str(error) and not offline:
        return BackboneError(
            f"no safetensors of {name} could be fetched. Either it has none, and pickled weights "
            f"are not read, for they can run code: {_CONVERT}. Or the network does not answer: "
            f"where there is one, run `hf download {source}`"
        )
    why = f"{offline[0]} is set" if offline else "the network does not answer, or the id is wrong"
    return BackboneError(
        f"'{name}' is neither an embedded backbone ({', '.join(EMBEDDED)}) nor a folder nor in the "
        f"local cache, and it could not be fetched from the Hugging Face hub ({why}): where there "
        f"is a network run `hf download {source} --local-dir FOLDER`, and give that folder; a "
        f"gated model also wants its conditions accepted at https://huggingface.co/{source} and "
        "`hf auth login`"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
