"""Texts to token ids and back, one way for training and for decoding.

A prompt goes through the tokenizer's chat template, with the assistant's turn opened; a tokenizer
without a template reads the turns as lines, with whatever special tokens it adds by itself
(:mod:`workbench.backbone.chat`). Nothing is cut, no word is silently replaced by the unknown token,
and no token is fed that the embedding has no row for.
"""

import difflib
from collections.abc import Iterable, Sequence

import jinja2
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase

from workbench.backbone.chat import render_chat, render_lines
from workbench.backbone.protocol import Prompt
from workbench.data.example import as_conversation
from workbench.errors import TokenError

_SMALL_VOCABULARY = 20_000


class Tokenization:
    """A tokenizer with the workbench's rules.

    Args:
        name: Backbone's name, for messages.
        tokenizer: The tokenizer as loaded; its settings are not changed.
        eos_ids: Tokens that end a response; the first one closes it in training.
        n_rows: Rows of the embedding.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: tuple[int, ...],
        n_rows: int,
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._n_rows = n_rows
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, *eos_ids)
        self.pad_id = next((int(i) for i in special if i is not None and i < n_rows), 0)
        self._unknown_id, self._unknown_literal = _unknown_token(tokenizer)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt up to where the response begins.

        Raises:
            TokenError: Empty, unknown words, or turns that the chat template refuses.
        """
        conversation = as_conversation(prompt)
        if not any(message.content.strip() for message in conversation):
            raise TokenError("the prompt is empty: type at least one word")
        if self._tokenizer.chat_template is None:
            return self._ids(render_lines(conversation), add_special_tokens=True)
        try:
            rendered = render_chat(self._tokenizer, conversation, open_reply=True)
        except jinja2.TemplateSyntaxError as error:
            raise TokenError(
                f"the chat template of {self._name} is damaged ({error}): put the tokenizer's own "
                "chat_template.jinja or tokenizer_config.json beside its weights"
            ) from error
        except (jinja2.TemplateError, ValueError) as error:  # several templates, none the default
            raise TokenError(
                f"the chat template of {self._name} refuses these turns "
                f"({', '.join(message.role for message in conversation)}): {error}"
            ) from error
        return self._ids(rendered, add_special_tokens=False)

    def response_ids(self, text: str) -> list[int]:
        """Ids of a response, closed by the end token.

        Raises:
            TokenError: Unknown words, or no end token.
        """
        if not self._eos_ids:
            raise TokenError(
                f"the tokenizer of {self._name} has no end-of-sequence token: set 'eos_token' in "
                "its tokenizer_config.json"
            )
        return [*self._ids(text, add_special_tokens=False), self._eos_ids[0]]

    def text(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token's own text."""
        return [str(self._tokenizer.decode([token])) for token in ids]

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            encoded = self._tokenizer(
                text,
                add_special_tokens=add_special_tokens,
                return_attention_mask=False,
                return_offsets_mapping=bool(self._tokenizer.is_fast),
                truncation=False,
                verbose=False,
            )
        except Exception as error:  # all that a word-level tokenizer without unknown token raises
            raise TokenError(
                f"the tokenizer of {self._name} cannot read {text.strip()!r}: {error}. Use words "
                "the model knows, or choose a backbone with a larger vocabulary"
            ) from error
        ids = [int(token) for token in encoded["input_ids"]]
        unknown = self._unknown_words(text, ids, encoded.get("offset_mapping"))
        if unknown:
            named = ", ".join(self._described(word) for word in dict.fromkeys(unknown))
            raise TokenError(
                f"not in the vocabulary of {self._name}: {named}. Replace these words by ones the "
                "model knows, or choose a backbone with a larger vocabulary"
            )
        beyond = dict.fromkeys(token for token in ids if token >= self._n_rows)
        if beyond:
            raise TokenError(
                f"{self._name} has no embedding for {', '.join(map(repr, self.pieces(beyond)))}: "
                f"its tokenizer knows more tokens than the embedding has rows ({self._n_rows}). "
                "Leave them out of the text"
            )
        return ids

    def _unknown_words(
        self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]] | None
    ) -> list[str]:
        """Words that became the unknown token."""
        if self._unknown_id is None or self._unknown_id not in ids:
            return []
        if offsets is None:
            return [text]
        spans = zip(ids, offsets, strict=True)
        words = [text[start:end] for token, (start, end) in spans if token == self._unknown_id]
        return [word for word in words if word.lower() != self._unknown_literal]

    def _described(self, word: str) -> str:
        vocabulary = self._tokenizer.get_vocab()
        if len(vocabulary) > _SMALL_VOCABULARY:
            return repr(word)
        close = difflib.get_close_matches(word.lower(), list(vocabulary), n=1, cutoff=0.75)
        return f"{word!r} (did you mean {close[0]!r}?)" if close else repr(word)


def _unknown_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, str | None]:
    """Id that unknown words get, and the one word that has this id by right, if any.

    Byte-level tokenizers name their end token as unknown token too, and never use it. Some
    word-level ones declare none, and the model inside falls back on an ordinary word.
    """
    declared = tokenizer.unk_token_id
    if declared is not None:
        special = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        return (None if declared in special else int(declared)), None
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if not isinstance(model, WordLevel):
        return None, None
    fallback = tokenizer.get_vocab().get(model.unk_token)
    return fallback, model.unk_token.lower()
