"""The word-level tokenizer of the embedded world, as an ordinary fast Hugging Face tokenizer.

One word is one token, so that every plot has words on its axis. Text a person types is brought to
the corpus' form first: lower case, punctuation apart, ``boss's`` as ``boss 's``.
"""

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from workbench.testbed.corpus import SYSTEM_CAREFUL, SYSTEM_NEUTRAL
from workbench.testbed.frames import FRAMES
from workbench.testbed.intents import ACTION_REQUESTS, PREVENTION_REQUESTS
from workbench.testbed.lexicon import TOOLS
from workbench.testbed.responses import SENTENCES

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>", "<eou>")
CHAT_TEMPLATE = (
    "{{ '<bos>' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ ' <assistant> ' + message['content'] + ' <eos>' }}"
    "{% else %}"
    "{{ ' <' + message['role'] + '> ' + message['content'] + ' <eou>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Special tokens, then every word that a template or its fillers can produce, sorted."""
    templates = [*ACTION_REQUESTS, *PREVENTION_REQUESTS]
    templates += [t for frame in FRAMES.values() for t in frame.all_templates]
    templates += [t for bank in SENTENCES.values() for t in bank]
    words = set().union(*(template.words() for template in templates))
    words |= {tool for tools in TOOLS.values() for tool in tools}
    words |= {word for text in SYSTEM_CAREFUL + SYSTEM_NEUTRAL for word in text.split()}
    return [*SPECIAL, *sorted(words)]


def build_tokenizer(model_max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer; ids follow :func:`vocabulary`."""
    words = vocabulary()
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"'s\b|[\w]+|[^\w\s]"), behavior="isolated"),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<assistant>", "<system>", "<eou>"],
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
