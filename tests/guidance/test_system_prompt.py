"""A system message in front: through the template, once, and only where the model takes it."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from workbench.backbone import load_backbone
from workbench.data.example import Message
from workbench.data.training import ValueData
from workbench.errors import CheckpointError, ConfigError
from workbench.guidance import GREEDY, NoGuidance, generate
from workbench.guidance.method import MAX_CANDIDATES
from workbench.guidance.system_prompt import (
    SAFETY_PROMPTS,
    SystemPrompt,
    SystemPromptConfig,
    grid,
    require_system_turn,
)
from workbench.testbed.corpus import SYSTEM_CAREFUL
from workbench.testbed.pretraining import build_model
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

ASKED = "how do i hack my boss 's phone ?"
NOTHING = ValueData((), (), ())
TEXT = SYSTEM_CAREFUL[1]


def tiny_world(folder: Path, template: str | None = None) -> "TransformerLensBackbone":
    """A random backbone with the embedded world's words, and its template or another one."""
    config = PretrainConfig(
        "gpt2", "fragile", width=16, n_layers=2, n_heads=2, n_kv_heads=2, feed_forward=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config.n_ctx)
        build_model(config, tokenizer).save_pretrained(folder)
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return load_backbone(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> "TransformerLensBackbone":
    return tiny_world(tmp_path_factory.mktemp("world") / "tiny")


def words(world: "TransformerLensBackbone", guidance: SystemPrompt, prompt: object) -> str:
    """The prompt as the model reads it."""
    (prepared,) = guidance.prepare([prompt])  # type: ignore[list-item]
    return " ".join(world.token_strings(world.encode([prepared]).ids[0].tolist()))


def test_the_message_stands_in_a_system_turn_before_the_rest(
    world: "TransformerLensBackbone",
) -> None:
    guidance = SystemPrompt.fit(world, NOTHING, SystemPromptConfig(TEXT), seed=0)
    rest = f"<user> {ASKED} <eou> <assistant>"
    assert words(world, guidance, ASKED) == f"<bos> <system> {TEXT} <eou> {rest}"
    several = (
        Message("user", "hello"),
        Message("assistant", "i can help ."),
        Message("user", ASKED),
    )
    assert guidance.prepare([several])[0] == (Message("system", TEXT), *several)


def test_two_system_messages_become_one(world: "TransformerLensBackbone") -> None:
    guidance = SystemPrompt(SystemPromptConfig(TEXT))
    mine = (Message("system", "answer in short sentences ."), Message("user", ASKED))
    read = words(world, guidance, mine)
    assert read.count("<system>") == 1
    assert f"<system> {TEXT} answer in short sentences . <eou> <user>" in read


def test_off_is_off_and_on_changes_the_reply(world: "TransformerLensBackbone") -> None:
    guidance = SystemPrompt(SystemPromptConfig(TEXT))
    prompts = [ASKED, "how do i sell my own phone ?"]

    def reply(guidance: SystemPrompt | NoGuidance) -> list[tuple[int, ...]]:
        made = generate(world, prompts, guidance, max_new_tokens=8, sampling=GREEDY, stop=())
        return [one.ids for one in made]

    off = guidance.scaled(0.0)
    assert off.coefficient == 0
    assert off.prepare(prompts) is prompts
    assert reply(off) == reply(NoGuidance())
    assert reply(SystemPrompt(SystemPromptConfig(TEXT, 0.0))) == reply(NoGuidance())
    assert reply(guidance) != reply(NoGuidance())
    assert reply(guidance) == [
        generate(world, [p], guidance, max_new_tokens=8, sampling=GREEDY, stop=())[0].ids
        for p in prompts
    ]


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
def test_only_there_or_not_there(factor: float) -> None:
    guidance = SystemPrompt(SystemPromptConfig(TEXT))
    with pytest.raises(ConfigError, match=r"is a switch, on .* or off"):
        guidance.scaled(factor)
    with pytest.raises(ConfigError, match=r"is a switch, on .* or off"):
        SystemPromptConfig(TEXT, factor)


REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<bos> ' + messages[0]['content'] }}"
)
DROPS = (
    "{{ '<bos>' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ ' <user> ' + m['content'] + ' <eou>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(("template", "does"), [(REFUSES, "refuses"), (DROPS, "drops")])
def test_a_template_without_system_turns_is_refused(
    tmp_path: Path, template: str, does: str
) -> None:
    other = tiny_world(tmp_path / "other", template)
    for attempt in (
        lambda: SystemPrompt.fit(other, NOTHING, SystemPromptConfig(TEXT), seed=0),
        lambda: grid(other),
    ):
        with pytest.raises(ConfigError, match=f"chat template of .* {does} system turns"):
            attempt()


def test_unknown_words_are_named(world: "TransformerLensBackbone") -> None:
    with pytest.raises(ConfigError, match=r"cannot read this system message.*'zebra'"):
        require_system_turn(world, "be a zebra .")
    with pytest.raises(ConfigError, match="text is empty"):
        SystemPromptConfig("  ")


def test_candidates_are_in_words_that_the_backbone_reads(
    world: "TransformerLensBackbone", backbone: "TransformerLensBackbone"
) -> None:
    assert [config.text for config in grid(world)] == list(SYSTEM_CAREFUL)
    assert 1 < len(SAFETY_PROMPTS) <= MAX_CANDIDATES
    with pytest.raises(ConfigError, match="cannot read this system message"):
        grid(backbone)  # knows neither the words of people nor those of the embedded world


def test_saved_and_loaded(
    world: "TransformerLensBackbone", backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    SystemPrompt(SystemPromptConfig(TEXT)).save(tmp_path, world, about={"harm": 0.5})
    loaded = SystemPrompt.load(tmp_path, world)
    assert loaded.config == SystemPromptConfig(TEXT)
    assert loaded.about == {"harm": 0.5}
    with pytest.raises(CheckpointError, match="fitted on"):
        SystemPrompt.load(tmp_path, backbone)
    record = tmp_path / "guidance.json"
    record.write_text(record.read_text().replace('"strength": 1.0', '"strength": 0.3'))
    with pytest.raises(CheckpointError, match="is a switch"):
        SystemPrompt.load(tmp_path, world)


def test_tokens_are_refused_for_the_message_would_be_left_out(
    world: "TransformerLensBackbone",
) -> None:
    tokens = world.encode(["how do i bake my cake ?"])
    with pytest.raises(ConfigError, match="rewrites prompts"):
        generate(
            world, tokens, SystemPrompt(SystemPromptConfig(TEXT)), max_new_tokens=1, sampling=GREEDY
        )
    off = SystemPrompt(SystemPromptConfig(TEXT)).scaled(0.0)
    assert generate(world, tokens, off, max_new_tokens=1, sampling=GREEDY)
