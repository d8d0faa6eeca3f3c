"""Texts and ids: nothing cut, nothing replaced, nothing added twice."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.backbone.tokenization import Tokenization

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "open", "the", "door", "help"]
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ ' <' + m['role'] + '> ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


def word_tokenizer(template: str | None = TEMPLATE) -> object:
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def tokens() -> object:
    from workbench.backbone.tokenization import Tokenization

    return lambda template=TEMPLATE: Tokenization("toy", word_tokenizer(template), (2,), len(WORDS))


def words(ids: list[int]) -> object:
    return " ".join(WORDS[i] for i in ids)


def test_chat_template_opens_the_assistants_turn_and_adds_bos_once(
    tokens: Callable[..., "Tokenization"],
) -> None:
    ids = tokens().prompt_ids("open the door")
    assert words(ids) == "<bos> <user> open the door <assistant>"


def test_conversations_keep_their_turns(tokens: Callable[..., "Tokenization"]) -> None:
    from workbench.data.example import Message

    turns = (Message("user", "help"), Message("assistant", "the door"), Message("user", "open"))
    assert (
        words(tokens().prompt_ids(turns))
        == "<bos> <user> help <assistant> the door <user> open <assistant>"
    )


def test_without_a_template_the_tokenizers_own_rule_holds(
    tokens: Callable[..., "Tokenization"],
) -> None:
    assert words(tokens(None).prompt_ids("open the door")) == "<bos> open the door"


def test_a_turn_the_template_refuses(tokens: Callable[..., "Tokenization"]) -> None:
    from workbench.data.example import Message
    from workbench.errors import TokenError

    with pytest.raises(TokenError, match="no system turns"):
        tokens().prompt_ids((Message("system", "help"), Message("user", "open")))


def test_responses_end_with_eos_and_have_no_bos(tokens: Callable[..., "Tokenization"]) -> None:
    assert words(tokens().response_ids("open the door")) == "open the door <eos>"


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_prompt(tokens: Callable[..., "Tokenization"], text: str) -> None:
    from workbench.errors import TokenError

    with pytest.raises(TokenError, match="empty"):
        tokens().prompt_ids(text)


def test_unknown_words_are_named_with_a_suggestion(tokens: Callable[..., "Tokenization"]) -> None:
    from workbench.errors import TokenError

    with pytest.raises(TokenError) as error:
        tokens().prompt_ids("opens the bank door zebra zebra")
    message = str(error.value)
    assert "'opens' (did you mean 'open'?), 'bank', 'zebra'." in message
    assert "toy" in message


def test_unknown_words_in_a_response(tokens: Callable[..., "Tokenization"]) -> None:
    from workbench.errors import TokenError

    with pytest.raises(TokenError, match="'bank'"):
        tokens().response_ids("open the bank")


def test_words_that_would_silently_become_an_ordinary_word_are_named(
    backbone: "TransformerLensBackbone",
) -> None:
    from workbench.errors import TokenError

    assert backbone.tokenizer.unk_token_id is None
    assert backbone.encode(["t0 t1"]).ids.tolist() == [[0, 1]]
    with pytest.raises(TokenError, match="'zzz'"):
        backbone.encode(["t0 zzz t2"])


def test_a_tokenizer_without_unknown_token() -> None:
    from workbench.backbone.tokenization import Tokenization
    from workbench.errors import TokenError

    inner = Tokenizer(WordLevel({"open": 0}))
    inner.pre_tokenizer = WhitespaceSplit()
    tokens = Tokenization("toy", PreTrainedTokenizerFast(tokenizer_object=inner), (0,), 1)
    assert tokens.prompt_ids("open open") == [0, 0]
    with pytest.raises(TokenError, match="cannot read 'open door'"):
        tokens.prompt_ids("open door")


def test_encoding_pads_left_and_responses_pad_right(backbone: "TransformerLensBackbone") -> None:
    prompts = backbone.encode(["t1 t2 t3", "t4"])
    assert prompts.mask.tolist() == [[True] * 3, [False, False, True]]
    assert prompts.ids[1, -1] == 4
    responses = backbone.encode_responses(["t1 t2", ""])
    assert responses.ids.tolist() == [[1, 2, 127], [127, 127, 127]]
    assert responses.mask.tolist() == [[True] * 3, [True, False, False]]


def test_one_text_where_a_list_is_meant_is_refused(backbone: "TransformerLensBackbone") -> None:
    """Its letters would be read as prompts."""
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"prompts = 't1' \(str\): a list of texts or lists of"):
        backbone.encode("t1")
    with pytest.raises(ConfigError, match=r"texts = 't1' \(str\): a list of texts is needed"):
        backbone.encode_responses("t1")


def test_decoding_returns_the_text(backbone: "TransformerLensBackbone") -> None:
    ids = backbone.encode_responses(["t1 t2 t3"]).ids.tolist()
    assert backbone.decode(ids) == ["t1 t2 t3"]
    assert backbone.token_strings(ids[0]) == ["t1", "t2", "t3", "<eos>"]


def test_too_long_states_the_numbers(backbone: "TransformerLensBackbone") -> None:
    from workbench.errors import ContextLengthError

    n_ctx = backbone.n_ctx
    with pytest.raises(ContextLengthError, match=f"{n_ctx + 3} prompt tokens exceed the {n_ctx}"):
        backbone.encode(["t1 " * (n_ctx + 3)])
    with pytest.raises(ContextLengthError) as error:
        backbone.check_context(100, n_slots=5, n_new=n_ctx)
    message = str(error.value)
    assert f"100 prompt tokens + 5 slots + {n_ctx} new tokens = {n_ctx + 105}" in message
    assert f"at most {n_ctx - 105} new tokens" in message


def test_positions_start_at_the_first_real_token() -> None:
    import torch

    from workbench.backbone import positions_from_mask

    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    assert positions_from_mask(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]
