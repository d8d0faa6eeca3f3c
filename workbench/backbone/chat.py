"""How turns become one text, and which token closes a reply: the same for every day and every use.

A chat template renders the turns and ends the assistant's turn with a token of its own
(``<end_of_turn>``, ``<|eot_id|>``, ...): that token closes a reply in training, and ends one in
decoding. Some templates write the date of the day into the prompt; here it is always the same
date, or no number could be measured again tomorrow. A tokenizer without a template gets the turns
as lines, each ended by a line break, so that a reply begins on a line of its own.
"""

from collections.abc import Sequence
from datetime import date

import jinja2
from transformers import PreTrainedTokenizerBase

from workbench.data.example import Message

PROMPT_DATE = date(2024, 7, 26)
"""The date templates are told: the one that Llama 3's templates name where they know no date."""
LINE_END = "\n"
"""Ends every turn, the last one too, where there is no template."""
_CLOCK = "strftime_now"
_DATE_PARTS = (*"aAbBdejmuwyYFDxcHIMSp", "-d", "-m")
"""Directives of ``strftime`` that templates write dates and times with."""
_REPLY = "WORKBENCH-REPLY"


def render_chat(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], *, open_reply: bool
) -> str:
    """The turns as the chat template writes them on ``PROMPT_DATE``.

    Args:
        tokenizer: One that has a template.
        turns: The conversation.
        open_reply: Whether the assistant's turn is opened at the end.

    Raises:
        jinja2.TemplateError: The template is damaged, or refuses these turns.
        ValueError: There are several templates, none of them the default.
    """
    return str(
        tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            chat_template=_on_the_date(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=open_reply,
        )
    )


def _on_the_date(template: str) -> str:
    """The template with a clock that stands still, if it asks a clock at all.

    Transformers hands no function to a template, so the template brings its own: a macro that
    writes the date's parts for their directives. The line break behind it is dropped, as one
    behind a block always is there, and leaves the template's first line as it was.
    """
    if _CLOCK not in template:
        return template
    written = "".join(
        f"|replace('%{part}', '{PROMPT_DATE.strftime('%' + part)}')" for part in _DATE_PARTS
    )
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{written} }}}}{{% endmacro %}}\n{template}"


def render_lines(turns: Sequence[Message]) -> str:
    """The turns as lines, for a tokenizer without a template."""
    return "".join(turn.content + LINE_END for turn in turns)


def closing_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template closes the assistant's turn.

    Returns:
        The first token after a reply, if it is a special or added one; None without a template,
        or where the template leaves the turn open.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        rendered = render_chat(
            tokenizer, (Message("user", "?"), Message("assistant", _REPLY)), open_reply=False
        )
    except (jinja2.TemplateError, ValueError):  # said by name when a prompt is rendered
        return None
    _, found, after = rendered.rpartition(_REPLY)
    if not found or not after.strip():
        return None
    first = int(tokenizer(after.strip(), add_special_tokens=False)["input_ids"][0])
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return first if first in marks else None


def reading_rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What is decided here and not by the tokenizer's files, for its fingerprint.

    Returns:
        Empty for a template that reads no clock and closes replies with the end token.
    """
    if tokenizer.chat_template is None:
        return {"line_end": LINE_END}
    rules = {}
    if _CLOCK in str(tokenizer.chat_template):
        rules["date"] = PROMPT_DATE.isoformat()
    closing = closing_id(tokenizer)
    if closing not in (None, tokenizer.eos_token_id):
        rules["closes_reply"] = str(closing)
    return rules
