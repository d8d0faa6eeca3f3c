"""Turns become the same text on every day, and a reply is closed as its template closes a turn."""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from families import write_checkpoint
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

if TYPE_CHECKING:
    from workbench.backbone.frozen import FrozenBackbone

DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}"
    "{% endif %}{% endif %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: "
    "{{ date_string }}<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}"
    "<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Asks the clock as the template of Llama-3.2-Instruct does."""
OPEN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A family's checkpoint, with another chat template if wanted."""

    def save(family: str, template: str | None = None) -> Path:
        folder = write_checkpoint(family, tmp_path / family)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return save


@pytest.fixture
def load() -> Callable[..., "FrozenBackbone"]:
    from workbench.backbone import load_backbone

    return load_backbone  # type: ignore[return-value]


def text(backbone: "FrozenBackbone", ids: list[int]) -> str:
    return str(backbone.tokenizer.decode(ids))


def on(day: date, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock that templates ask stand at noon of a day."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Clock":
            return cls(day.year, day.month, day.day, 12)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_a_prompt_is_the_same_on_every_day(
    saved: Callable[..., Path],
    load: Callable[..., "FrozenBackbone"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = load(saved("llama", DATED))
    turns = [{"role": "user", "content": "mend a lock"}]
    rows, theirs = [], []
    for day in (date(2025, 1, 2), date(2031, 12, 24)):
        on(day, monkeypatch)
        rows.append(backbone.encode(["mend a lock"]).ids.tolist()[0])
        theirs.append(backbone.tokenizer.apply_chat_template(turns, tokenize=False))
    assert "02 Jan 2025" in theirs[0], "the control: the template does ask the clock"
    assert "24 Dec 2031" in theirs[1]
    assert rows[0] == rows[1]
    stopped = theirs[0].replace("02 Jan 2025", "26 Jul 2024")
    expected = stopped + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert text(backbone, rows[0]) == expected, "nothing else is changed"


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("\n  {% if true %}\n{{ strftime_now('%Y-%m-%d') }}\n  {% endif %}\n", None),
        ("  {% if true %}\n{{ strftime_now('%Y-%m-%d') }}\n  {% endif %}\n", None),
        ("{{ strftime_now('%A, %-d %B %Y %H:%M') }}", "Friday, 26 July 2024 00:00"),
        ("{%- macro day() -%}{{ strftime_now('%d/%m/%y') }}{%- endmacro -%} {{ day() }}", None),
    ],
)
def test_the_clock_stands_still_and_all_else_is_as_the_template_has_it(
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    written: str | None,
) -> None:
    """On the chosen date itself, the text is what Transformers writes with the real clock."""
    from workbench.backbone.chat import PROMPT_DATE, render_chat
    from workbench.data.example import Message

    tokenizer = AutoTokenizer.from_pretrained(saved("gpt2"))
    tokenizer.chat_template = template
    found = render_chat(tokenizer, (Message("user", "x"),), open_reply=True)
    on(PROMPT_DATE, monkeypatch)
    turns = [{"role": "user", "content": "x"}]
    theirs = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert found == (theirs if written is None else written)


def test_the_date_belongs_to_the_fingerprint_of_a_template_that_asks_for_it(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone import chat
    from workbench.backbone.hashing import hash_tokenizer

    dated = AutoTokenizer.from_pretrained(saved("llama", DATED))
    plain = AutoTokenizer.from_pretrained(saved("mistral"))
    before = hash_tokenizer(dated), hash_tokenizer(plain)
    monkeypatch.setattr(chat, "PROMPT_DATE", date(2025, 7, 26))
    assert hash_tokenizer(dated) != before[0]
    assert hash_tokenizer(plain) == before[1]


@pytest.mark.parametrize(
    ("family", "closing"),
    [
        ("llama", "<|eot_id|>"),
        ("qwen2", "<|im_end|>"),
        ("mistral", "</s>"),
        ("gemma2", "<end_of_turn>"),
        ("gemma3", "<end_of_turn>"),
        ("phi3", "<|end|>"),
        ("olmo2", "<|endoftext|>"),  # its template leaves the turn open: the end token
        ("gpt2", "<|endoftext|>"),  # no template
    ],
)
def test_a_reply_is_closed_as_the_template_closes_a_turn(
    saved: Callable[..., Path],
    load: Callable[..., "FrozenBackbone"],
    family: str,
    closing: str,
) -> None:
    backbone = load(saved(family))
    [reply] = backbone.encode_responses(["the cat sat"]).ids.tolist()
    assert backbone.token_strings([reply[-1]]) == [closing]
    assert reply[-1] in backbone.eos_ids, "decoding stops where training closed"
    assert backbone.decode([reply]) == ["the cat sat"]
    if backbone.tokenizer.chat_template and family != "olmo2":
        turns = [{"role": "user", "content": "Help!"}]
        turns.append({"role": "assistant", "content": "the cat sat"})
        whole = str(backbone.tokenizer.apply_chat_template(turns, tokenize=False))
        trained = backbone.encode(["Help!"]).ids.tolist()[0] + reply
        assert whole.rstrip() == text(backbone, trained), "what is trained is what is rendered"


def test_a_template_that_closes_with_several_tokens_or_with_none(
    saved: Callable[..., Path],
) -> None:
    from workbench.backbone.chat import closing_id

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(saved("phi3"))
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    released = str(tokenizer.chat_template) + (
        "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    )
    for template, expected in [
        (released, end),
        (released.replace("<|end|>", " <|end|>"), end),
        (OPEN, None),
        ("{{ raise_exception('no') }}", None),
        (None, None),
    ]:
        tokenizer.chat_template = template
        assert closing_id(tokenizer) == expected, template


def test_without_a_template_a_reply_begins_on_its_own_line(
    saved: Callable[..., Path], load: Callable[..., "FrozenBackbone"]
) -> None:
    from workbench.data.example import Message

    backbone = load(saved("gpt2"))
    prompt = backbone.encode(["How do I mend a lock?"]).ids.tolist()[0]
    reply = backbone.encode_responses(["I use oil."]).ids.tolist()[0]
    assert text(backbone, prompt + reply) == "How do I mend a lock?\nI use oil.<|endoftext|>"
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Help"))
    assert text(backbone, backbone.encode([turns]).ids.tolist()[0]) == "Hi\nHello\nHelp\n"


def test_rules_that_decide_the_ids_are_part_of_the_fingerprint(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules trained with other rules are refused; where no rule applies nothing changes."""
    from workbench.backbone import chat
    from workbench.backbone.chat import reading_rules
    from workbench.backbone.hashing import hash_tokenizer

    gpt2 = AutoTokenizer.from_pretrained(saved("gpt2"))
    before = hash_tokenizer(gpt2)
    monkeypatch.setattr(chat, "LINE_END", "\n\n")
    assert hash_tokenizer(gpt2) != before
    phi3, llama = (AutoTokenizer.from_pretrained(saved(name)) for name in ("phi3", "llama"))
    assert reading_rules(phi3) == {
        "closes_reply": str(phi3.convert_tokens_to_ids("<|end|>")),
    }
    assert reading_rules(llama) == {}


def test_several_templates(
    saved: Callable[..., Path], load: Callable[..., "FrozenBackbone"]
) -> None:
    from workbench.errors import TokenError

    backbone = load(saved("qwen2"))
    plain = backbone.tokenizer.chat_template
    expected = backbone.encode(["mend"]).ids.tolist()
    backbone.tokenizer.chat_template = {"default": plain, "tool_use": OPEN}
    assert backbone.encode(["mend"]).ids.tolist() == expected
    backbone.tokenizer.chat_template = {"rag": plain, "tool_use": OPEN}
    with pytest.raises(TokenError, match="multiple chat templates"):
        backbone.encode(["mend"])


EMBEDDED_TOKENIZER = "324fce5d5cd82e14e8b08aa734230adefd8e1e9e114f3438b0fb0ea08de9051f"
"""Fingerprint in every module that was trained on an embedded backbone."""


@pytest.mark.parametrize("name", ["testbed-llama", "testbed-gpt2", "testbed-llama-anchored"])
def test_embedded_backbones_read_as_ever(load: Callable[..., "FrozenBackbone"], name: str) -> None:
    from workbench.data.example import Message

    backbone = load(name)
    turns = (Message("user", "how do i"), Message("assistant", "i"), Message("user", "how"))
    rows = [backbone.encode([prompt]).ids.tolist()[0] for prompt in ("how do i", turns)]
    expected = [
        "<bos> <user> how do i <eou> <assistant>",
        "<bos> <user> how do i <eou> <assistant> i <eos> <user> how <eou> <assistant>",
    ]
    assert [" ".join(backbone.token_strings(row)) for row in rows] == expected
    assert backbone.eos_ids == (2,)
    assert backbone.encode_responses(["how"]).ids.tolist()[0][1:] == [2]
    assert backbone.tokenizer_hash == EMBEDDED_TOKENIZER
