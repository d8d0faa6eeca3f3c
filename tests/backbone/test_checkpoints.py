"""What is wrong with a checkpoint, its source, or the memory for it, is said in one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from families import write_checkpoint
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen2", tmp_path_factory.mktemp("sound") / "qwen2")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "qwen2"))


@pytest.fixture
def says() -> Callable[..., str]:
    """The one line that loading a backbone fails with."""
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    def message(source: str | Path, **options: object) -> str:
        with pytest.raises(BackboneError) as caught:
            load_backbone(source, **options)  # type: ignore[arg-type]
        text = str(caught.value)
        assert "\n" not in text
        return text

    return message


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def split(folder: Path) -> list[Path]:
    """Write the weights as two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(weights)}
    for name in names:
        part = {key: weights[key] for key, place in places.items() if place == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [folder / name for name in names]


def test_shards_are_read(folder: Path, sound: Path) -> None:
    """The control: nothing is refused that is sound."""
    from workbench.backbone import load_backbone

    split(folder)
    assert load_backbone(folder).weights_hash == load_backbone(sound).weights_hash


def test_a_missing_shard_is_named(folder: Path, says: Callable[..., str]) -> None:
    split(folder)[1].unlink()
    assert "lacks 1 of the 2 files" in says(folder)
    assert "model-00002-of-00002.safetensors" in says(folder)


def test_a_truncated_shard_is_named(folder: Path, says: Callable[..., str]) -> None:
    shard = split(folder)[0]
    shard.write_bytes(shard.read_bytes()[:5000])
    assert "model-00001-of-00002.safetensors" in says(folder)
    assert "truncated or damaged" in says(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_a_broken_index(folder: Path, says: Callable[..., str], content: str) -> None:
    split(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in says(folder)
    assert "is damaged" in says(folder)


def test_pickled_weights_are_not_read(folder: Path, says: Callable[..., str]) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = says(folder)
    assert "pickled weights (.bin, .pt) are not read" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_quantised_weights(folder: Path, says: Callable[..., str], method: str) -> None:
    edit(folder, "config.json", quantization_config={"quant_method": method, "bits": 4})
    message = says(folder)
    assert f"quantised ({method})" in message
    assert "original checkpoint" in message


@pytest.mark.parametrize(
    ("model_type", "architecture", "message"),
    [
        ("t5", "T5ForConditionalGeneration", "encoder-decoder (t5)"),
        ("bert", "BertForMaskedLM", "no causal language model"),
        ("roberta", "RobertaForCausalLM", "no causal language model"),
    ],
)
def test_no_decoder(
    folder: Path, says: Callable[..., str], model_type: str, architecture: str, message: str
) -> None:
    edit(folder, "config.json", model_type=model_type, architectures=[architecture])
    assert message in says(folder)


def test_blocks_that_hold_no_attention() -> None:
    from transformers import Qwen3Config

    from workbench.backbone.masks import layer_windows
    from workbench.errors import BackboneError

    config = Qwen3Config(num_hidden_layers=2)
    config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(BackboneError, match=r"qwen3.*another kind: linear_attention"):
        layer_windows("some-hybrid", config)


def test_a_tokenizer_with_more_ids_than_rows(folder: Path, says: Callable[..., str]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"extra{number}" for number in range(20)])
    tokenizer.save_pretrained(folder)
    message = says(folder)
    assert "ids up to 310, but the embedding has 302 rows" in message


def test_the_tokenizer_of_a_smaller_model(folder: Path, says: Callable[..., str]) -> None:
    tiny = Path(__file__).parents[1] / "fixtures" / "tiny-gpt2"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, folder / name)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    # Its special tokens are not stated, so that sizes alone tell.
    edit(folder, "config.json", eos_token_id=None, pad_token_id=None)
    (folder / "generation_config.json").unlink()
    message = says(folder)
    assert "129 tokens for an embedding of 302 rows" in message
    assert "another model's" in message


@pytest.mark.parametrize(
    ("cause", "parts"),
    [
        (
            GatedRepoError,
            ("gated", "https://huggingface.co/org/model", "settings/tokens", "hf auth login"),
        ),
        (RepositoryNotFoundError, ("no model 'org/model'", "hf auth login")),
    ],
)
def test_the_hub_refuses(
    says: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    cause: type[Exception],
    parts: tuple[str, ...],
) -> None:
    from transformers import AutoConfig

    def refuse(*_: object, **__: object) -> None:
        raise OSError("You are trying to\naccess it") from cause("401", response=Mock())  # type: ignore[call-arg]

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    message = says("org/model")
    assert all(part in message for part in parts), message


def test_the_hub_is_offline(says: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = says("nobody/no-such-model")
    assert "HF_HUB_OFFLINE is set" in message
    assert "hf download nobody/no-such-model --local-dir FOLDER" in message


def test_an_unknown_number_type() -> None:
    from workbench.backbone.loading import parse_dtype
    from workbench.errors import BackboneError

    assert parse_dtype("bfloat16") == torch.bfloat16
    with pytest.raises(BackboneError, match="unknown number type 'int8': use float32, bfloat16"):
        parse_dtype("int8")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_number_type_that_holds_no_weights(dtype: torch.dtype) -> None:
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    with pytest.raises(BackboneError, match=f"cannot be held in {dtype}: use .*torch.bfloat16"):
        load_backbone("testbed-llama", dtype=dtype)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nGPU 0 has ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_lower(
    sound: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import PreTrainedModel

    from workbench.backbone import load_backbone
    from workbench.errors import MemoryLimitError

    def fail(*_: object, **__: object) -> None:
        raise error

    backbone = load_backbone(sound)
    batch = backbone.encode(["the cat", "the dog sat on the mat"])
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "_run", fail)
        with pytest.raises(MemoryLimitError) as caught:
            backbone.logits(batch)
    width = batch.ids.shape[1]
    message = str(caught.value)
    assert message.startswith(f"out of memory while running 2 rows of {width} tokens on cpu: ")
    assert "lower the batch size, ask for fewer new tokens" in message
    assert "\n" not in message
    monkeypatch.setattr(PreTrainedModel, "to", fail)
    with pytest.raises(MemoryLimitError, match=r"moving .*qwen2 to cpu: .*--dtype bfloat16"):
        load_backbone(sound)


_NO_ROOM = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 1099511627776 bytes."
)


@pytest.mark.parametrize("builder", ["causal_keys", "additive_mask", "beyond_window"])
@pytest.mark.parametrize("pass_", ["forward", "run_blocks"])
def test_masks_of_a_pass_that_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: str, pass_: str
) -> None:
    from workbench.backbone import frozen, load_backbone
    from workbench.errors import MemoryLimitError

    def fail(*_: object, **__: object) -> None:
        raise _NO_ROOM

    backbone = load_backbone(write_checkpoint("mistral", tmp_path / "mistral"))
    batch = backbone.encode(["the cat", "the dog sat on the mat"])
    monkeypatch.setattr(frozen, builder, fail)
    more = {"last_layer": 1} if pass_ == "run_blocks" else {}
    with pytest.raises(MemoryLimitError, match=r"running 2 rows of .* lower the batch size"):
        getattr(backbone, pass_)(batch.ids, mask=batch.mask, **more)


def test_masks_too_large_for_any_machine_say_what_to_lower() -> None:
    """Nothing is pretended here: no machine has room for 4 rows of 2^24 tokens."""
    from workbench.backbone.masks import additive_mask, causal_keys
    from workbench.errors import MemoryLimitError

    width = 2**24
    with pytest.raises(MemoryLimitError) as caught:
        causal_keys(torch.ones((1, 1), dtype=torch.bool).expand(4, width))
    message = str(caught.value)
    assert message.startswith(f"out of memory while masking 4 rows of {width} tokens: lower the")
    assert "\n" not in message
    visible = torch.ones((1, 1, 1), dtype=torch.bool).expand(4, width, width)
    with pytest.raises(MemoryLimitError, match=f"masking 4 rows of {width} tokens"):
        additive_mask(visible, torch.float32)


def test_other_errors_are_not_mistaken_for_it() -> None:
    from workbench.backbone.memory import memory_named

    with pytest.raises(RuntimeError, match="shapes differ"), memory_named("running", "less"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), _NO_ROOM])
def test_a_command_that_runs_out_of_memory_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    from workbench import backbone
    from workbench.cli.main import run

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("workbench.cli._replying.load_backbone", fail)
    monkeypatch.setattr(backbone, "load_backbone", fail)
    said = "--batch-size, or hold the backbone in half the memory with --dtype bfloat16 ("
    assert run(["train", "--backbone", "testbed-llama", "--print-config"]) == 2
    assert f"error: out of memory: lower {said}" in capsys.readouterr().err
    # a command without that option does not name it
    assert run(["generate", "--backbone", "testbed-llama", "--prompt", "hello"]) == 2
    said = "lower --max-new-tokens, or hold the backbone in half the memory with --dtype bfloat16"
    assert f"error: out of memory: {said}" in capsys.readouterr().err


def test_a_pass_that_runs_out_of_memory_names_the_option_of_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from workbench.backbone import TransformerLensBackbone
    from workbench.cli.main import run

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(TransformerLensBackbone, "_run_lower", fail)
    monkeypatch.setattr(TransformerLensBackbone, "_run", fail)
    train = ["train", "--backbone", "testbed-llama", "--size", "0.01", "--out", str(tmp_path / "t")]
    assert run(train) == 2
    assert "rows of" in (said := capsys.readouterr().err)
    assert ": lower --batch-size, or hold the backbone" in said
    asked = ["evaluate", "--guidance", "none", "--limit", "2", "--out", str(tmp_path / "e")]
    assert run(asked) == 2
    assert ": lower --batch-size, or lower --max-new-tokens, or" in capsys.readouterr().err


def test_a_step_of_training_that_runs_out_of_memory_names_its_own_setting() -> None:
    from workbench.backbone.memory import memory_named
    from workbench.errors import MemoryLimitError
    from workbench.remedies import memory_remedy, remedied_by

    def run_out() -> None:
        with memory_named("running", memory_remedy()):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with remedied_by("outer"):
        with (
            remedied_by("lower curriculum.bridge.batch_size"),
            pytest.raises(
                MemoryLimitError, match=r"while running: lower curriculum.bridge.batch_size \(CUDA"
            ),
        ):
            run_out()
        with pytest.raises(MemoryLimitError, match="outer"):
            run_out()
    with pytest.raises(MemoryLimitError, match="dtype='bfloat16'"):
        run_out()


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
def test_a_model_without_positions(folder: Path, says: Callable[..., str], backend: str) -> None:
    edit(folder, "config.json", model_type="bloom", architectures=["BloomForCausalLM"])
    content = json.loads((folder / "config.json").read_text())
    del content["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(content))
    for options in ({}, {"n_ctx": 64}):
        message = says(folder, backend=backend, **options)
        assert f"config.json of {folder} (bloom) states no context length" in message
        assert "take a model of gpt2, qwen2" in message


def test_device_auto_without_cards_is_said(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.backbone import load_backbone
    from workbench.errors import WorkbenchWarning

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(WorkbenchWarning, match="auto: this torch sees no graphics card, so the CPU"):
        backbone = load_backbone(sound, device="auto")
    assert backbone.device == torch.device("cpu")


def test_weights_stored_short_have_one_fingerprint(sound: Path, tmp_path: Path) -> None:
    """Stored in bfloat16 they are the same in both types; stored in float32 they are not."""
    from workbench.backbone import load_backbone

    short = Path(shutil.copytree(sound, tmp_path / "short"))
    weights = load_file(short / "model.safetensors")
    rounded = {key: tensor.bfloat16() for key, tensor in weights.items()}
    save_file(rounded, short / "model.safetensors", metadata={"format": "pt"})

    def fingerprint(folder: Path, dtype: str) -> str:
        return load_backbone(folder, dtype=dtype).weights_hash

    assert fingerprint(short, "float32") == fingerprint(short, "bfloat16")
    assert fingerprint(sound, "float32") != fingerprint(sound, "bfloat16")
    assert fingerprint(sound, "bfloat16") == fingerprint(short, "bfloat16")
