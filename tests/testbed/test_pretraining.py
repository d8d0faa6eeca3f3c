"""Pre-training: the same batch at the same step, whatever came before; resume changes nothing."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.errors import CheckpointError, ConfigError
from workbench.files import read_tensors, write_tensors
from workbench.testbed.pretraining import Pretrainer, batches, pretrain, tokenise_dialogue
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.tokenizer import build_tokenizer

STATE = "pretraining.safetensors"


def tiny(architecture: str, steps: int = 7) -> PretrainConfig:
    return PretrainConfig(
        architecture=architecture,  # type: ignore[arg-type]
        world="fragile",
        steps=steps,
        batch_size=4,
        width=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        feed_forward=32,
        warmup=2,
    )


class KilledError(Exception):
    """Stands for a kill."""


def killed_at(step: int) -> Callable[[int, float], None]:
    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise KilledError

    return on_step


@pytest.fixture(autouse=True)
def _global_generator_is_left_alone() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_resumed_training_equals_an_uninterrupted_one(architecture: str, tmp_path: Path) -> None:
    config = tiny(architecture)
    losses: dict[int, float] = {}
    whole = pretrain(config, tmp_path / "whole", on_step=losses.__setitem__)
    with pytest.raises(KilledError):
        pretrain(config, tmp_path / "cut", save_every=2, on_step=killed_at(5))
    assert (tmp_path / "cut" / STATE).exists()
    again: dict[int, float] = {}
    resumed = pretrain(
        config, tmp_path / "cut", resume=True, save_every=2, on_step=again.__setitem__
    )
    assert list(again) == [5, 6, 7]  # step 4 was the last one saved
    assert all(again[step] == losses[step] for step in again)
    weights = dict(whole.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    one, other = (tmp_path / run / "model.safetensors" for run in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "cut" / STATE).exists()


def test_training_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    pretrain(tiny("llama", 40), tmp_path, on_step=lambda _, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_seeds_differ() -> None:
    first, second = (
        next(Pretrainer(PretrainConfig("gpt2", "fragile", width=16, feed_forward=32, seed=seed))
             .model.parameters()) for seed in (0, 1)
    )  # fmt: skip
    assert not torch.equal(first, second)


def test_batches_do_not_depend_on_what_came_before() -> None:
    config, tokenizer = tiny("llama"), build_tokenizer(256)
    from_start = list(islice(batches(config, tokenizer, 0), 9))
    for first in (1, 3, 4, 6):
        for batch, expected in zip(
            islice(batches(config, tokenizer, first), 3), from_start[first:], strict=False
        ):
            assert torch.equal(batch.ids, expected.ids)
            assert torch.equal(batch.positions, expected.positions)
            assert torch.equal(batch.weights, expected.weights)


def test_only_the_assistant_and_its_end_weigh_one() -> None:
    from workbench.data.example import Message

    tokenizer = build_tokenizer(256)
    dialogue = (
        Message("user", "hello ,"),
        Message("assistant", "sure ."),
        Message("user", "bake my cake ."),
        Message("assistant", "i have to decline ."),
    )
    tokenised = tokenise_dialogue(dialogue, tokenizer, 0.2)
    tokens = tokenizer.convert_ids_to_tokens(tokenised.ids)
    heavy = [t for t, weight in zip(tokens, tokenised.weights, strict=True) if weight == 1.0]
    assert heavy == ["sure", ".", "<eos>", "i", "have", "to", "decline", ".", "<eos>"]
    assert set(tokenised.weights) == {0.2, 1.0}


def test_the_checkpoint_is_an_ordinary_hugging_face_folder(tmp_path: Path) -> None:
    trainer = pretrain(tiny("gpt2", 2), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == trainer.tokenizer.get_vocab()
    ids = tokenizer("how do i bake my cake ?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trainer.model(ids).logits)
    assert tokenizer.chat_template == trainer.tokenizer.chat_template


def test_a_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        pretrain(tiny("llama"), tmp_path, save_every=1, on_step=killed_at(2))
    other = PretrainConfig("llama", "fragile", width=32, feed_forward=32, n_layers=2)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(other, tmp_path, resume=True)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        pretrain(tiny("llama"), tmp_path, save_every=1, on_step=killed_at(2))
    tensors, metadata = read_tensors(tmp_path / STATE)
    name = next(name for name in tensors if name.startswith("model."))
    del tensors[name]
    write_tensors(tmp_path / STATE, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"is missing or of another shape"):
        pretrain(tiny("llama"), tmp_path, resume=True)


def test_a_dialogue_longer_than_the_context_is_an_error() -> None:
    config = PretrainConfig("llama", "fragile", n_ctx=16, batch_size=4)
    with pytest.raises(ConfigError, match="raise n_ctx"):
        next(batches(config, build_tokenizer(16), 0))


def test_random_numbers_of_the_caller_stay_as_they_were() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Pretrainer(tiny("gpt2"))
    assert torch.equal(torch.rand(3), expected)
