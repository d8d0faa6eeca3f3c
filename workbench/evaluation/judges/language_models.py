"""The models behind the classifier judges: what a judge asks of them, and Hugging Face's answer.

A judge asks one of three things: text that continues a prompt, how a model shares its next token
among some words, or the probabilities of a classifier's labels. Anything that answers can stand
in, so that judges are tested without their weights.

Weights are read from safetensors only, and code that comes with a checkpoint is never run. Nothing
is cut silently: a prompt that does not fit into the model's context gets no answer (None, NaN).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workbench.backbone.chat import render_chat
from workbench.data.example import Conversation
from workbench.errors import CheckpointError, ConfigError
from workbench.hub import reachable_model

Floats = NDArray[np.float64]
BATCH_SIZE = 8
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@runtime_checkable
class ClipsText(Protocol):
    """Cuts a text in its own tokens."""

    def clip(self, text: str, max_tokens: int) -> str:
        """The first ``max_tokens`` tokens of a text."""
        ...


@runtime_checkable
class GeneratesText(ClipsText, Protocol):
    """Continues a prompt greedily."""

    def generate_text(
        self, prompts: Sequence[str], max_new_tokens: int, *, special_tokens: bool = True
    ) -> list[str | None]:
        """One continuation a prompt, without special tokens; None where the prompt is too long.

        ``special_tokens`` says whether the tokenizer adds its own (a beginning of sequence), which
        prompts made by :meth:`chat_prompt` hold already.
        """
        ...

    def chat_prompt(self, turns: Conversation) -> str:
        """A conversation in the template that comes with the model."""
        ...


@runtime_checkable
class GradesText(ClipsText, Protocol):
    """Shares its next token among a few words."""

    def next_token_shares(self, prompts: Sequence[str], words: Sequence[str]) -> Floats:
        """Probabilities of the words among themselves, ``(n, len(words))``; NaN: too long."""
        ...


@runtime_checkable
class ClassifiesText(Protocol):
    """Gives independent probabilities of its labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names."""
        ...

    def probabilities(self, texts: Sequence[str], max_tokens: int) -> Floats:
        """One row a text, one column a label; texts are cut to ``max_tokens``."""
        ...


@dataclass(frozen=True, eq=False)
class CausalJudgeModel:
    """A causal language model that answers for a judge.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Pads and cuts on the left.
        batch_size: Prompts at a time.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = BATCH_SIZE

    @classmethod
    def load(cls, path: str, *, batch_size: int = BATCH_SIZE) -> "CausalJudgeModel":
        """Load a checkpoint folder or hub id onto the GPU where there is one.

        Raises:
            CheckpointError: It cannot be read; the message says what to do.
        """
        model, tokenizer = _load(path, AutoModelForCausalLM.from_pretrained, padding_side="left")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return cls(model, tokenizer, batch_size)

    def clip(self, text: str, max_tokens: int) -> str:
        """The first ``max_tokens`` tokens of a text; shorter texts come back as they are."""
        ids = self.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
        whole = self.tokenizer(text)["input_ids"]
        if len(whole) <= max_tokens:
            return text
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def chat_prompt(self, turns: Conversation) -> str:
        """The conversation in the checkpoint's own chat template.

        Raises:
            CheckpointError: The checkpoint has none.
        """
        if not self.tokenizer.chat_template:
            raise CheckpointError(
                "this checkpoint has no chat template: use the tokenizer files it was released with"
            )
        return render_chat(self.tokenizer, turns, open_reply=False)

    @torch.inference_mode()
    def generate_text(
        self, prompts: Sequence[str], max_new_tokens: int, *, special_tokens: bool = True
    ) -> list[str | None]:
        """Greedy continuations; see :class:`GeneratesText`."""
        answers: list[str | None] = [None] * len(prompts)
        for rows, batch in self._batches(prompts, max_new_tokens, special_tokens):
            generated = self.model.generate(  # type: ignore[operator] # a mixin that mypy misses
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            new = generated[:, batch["input_ids"].shape[1] :]
            texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
        return answers

    @torch.inference_mode()
    def next_token_shares(self, prompts: Sequence[str], words: Sequence[str]) -> Floats:
        """Softmax over the words' logits behind each prompt; see :class:`GradesText`.

        Raises:
            CheckpointError: A word is not one token of this tokenizer.
        """
        ids = [self._one_token(word) for word in words]
        shares = np.full((len(prompts), len(words)), np.nan)
        for rows, batch in self._batches(prompts, 1, special_tokens=True):
            positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
            logits = self.model(**batch, position_ids=positions).logits[:, -1, ids]
            shares[rows] = logits.double().softmax(dim=-1).cpu().numpy()
        return shares

    def _one_token(self, word: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(word)
        if not isinstance(found, int) or found == self.tokenizer.unk_token_id:
            raise CheckpointError(f"'{word}' is no token of this checkpoint: it is another model")
        return found

    def _batches(
        self, prompts: Sequence[str], room: int, special_tokens: bool
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Left-padded batches of the prompts that leave room, with their indices."""
        lengths = [
            len(self.tokenizer(prompt, add_special_tokens=special_tokens)["input_ids"])
            for prompt in prompts
        ]
        most = _context_length(self.model) - room
        fitting = [index for index, length in enumerate(lengths) if 0 < length <= most]
        fitting.sort(key=lambda index: lengths[index])
        for start in range(0, len(fitting), self.batch_size):
            rows = fitting[start : start + self.batch_size]
            batch = self.tokenizer(
                [prompts[row] for row in rows],
                add_special_tokens=special_tokens,
                padding=True,
                return_tensors="pt",
            )
            kept = ("input_ids", "attention_mask")
            yield rows, {key: batch[key].to(self.model.device) for key in kept}


@dataclass(frozen=True, eq=False)
class SequenceJudgeModel:
    """A sequence classifier with independent labels that answers for a judge.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Pads and cuts on the right.
        batch_size: Texts at a time; 1 where padding cannot be told from the text's end.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = BATCH_SIZE

    @classmethod
    def load(cls, path: str, *, batch_size: int = BATCH_SIZE) -> "SequenceJudgeModel":
        """Load a checkpoint folder or hub id onto the GPU where there is one.

        Raises:
            CheckpointError: It cannot be read; the message says what to do.
        """
        model, tokenizer = _load(
            path, AutoModelForSequenceClassification.from_pretrained, padding_side="right"
        )
        apart = tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
        # The classifier reads the last token that is no padding, and finds it by this id.
        model.config.pad_token_id = tokenizer.pad_token_id if apart else None
        return cls(model, tokenizer, batch_size if apart else 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names, in the order of the columns."""
        names: dict[Any, Any] = dict(self.model.config.id2label or {})
        return tuple(str(names[index]) for index in range(len(names)))

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str], max_tokens: int) -> Floats:
        """Sigmoids of the logits, the end-of-sequence token behind each text."""
        found = np.full((len(texts), len(self.labels)), np.nan)
        ended = [text + (self.tokenizer.eos_token or "") for text in texts]
        for start in range(0, len(ended), self.batch_size):
            batch = self.tokenizer(
                ended[start : start + self.batch_size],
                padding=self.batch_size > 1,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            )
            kept = ("input_ids", "attention_mask")
            logits = self.model(**{key: batch[key].to(self.model.device) for key in kept}).logits
            found[start : start + self.batch_size] = logits.double().sigmoid().cpu().numpy()
        return found


def _load(
    path: str, loader: Callable[..., Any], *, padding_side: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    on_hub = _HUB_ID.fullmatch(path) and not Path(path).is_dir()
    source = reachable_model(path) if on_hub else path
    if source is None:
        silent = ConnectionError("the Hugging Face hub does not answer")
        raise CheckpointError(_unreadable(path, silent))
    try:
        model = loader(source, dtype="auto", use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(
            source, padding_side=padding_side, trust_remote_code=False
        )
    except ImportError as error:
        raise ConfigError(f"{path} needs another package: {_first_line(error)}") from error
    except Exception as error:  # transformers and safetensors raise many kinds
        raise CheckpointError(_unreadable(path, error)) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), tokenizer


def _unreadable(path: str, error: Exception) -> str:
    if Path(path).is_dir():
        advice = "it must hold config.json, tokenizer files and safetensors (no pickled .bin)"
    elif not _HUB_ID.fullmatch(path):
        return (
            f"cannot load the judge's model {path}: there is no such folder; give one that holds a "
            "checkpoint, or a hub id such as org/model"
        )
    else:
        advice = (
            "there is no such folder; accept the conditions on the model's page where it has any, "
            f"run `hf auth login`, then `hf download {path} --local-dir FOLDER`, and give FOLDER"
        )
    return f"cannot load the judge's model {path}: {advice} ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _context_length(model: PreTrainedModel) -> int:
    config = model.config
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        length = getattr(config, name, None)
        if isinstance(length, int):
            return length
    raise CheckpointError("the model's config does not say how long its context is")
