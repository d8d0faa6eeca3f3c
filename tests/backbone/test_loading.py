"""Every way a checkpoint can be wrong ends in one clear sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone


@pytest.fixture
def load() -> object:
    from workbench.backbone import load_backbone

    return load_backbone


@pytest.fixture
def error() -> object:
    from workbench.errors import BackboneError

    return BackboneError


def edit_config(folder: Path, **changes: object) -> object:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_sizes_are_those_of_the_checkpoint(backbone: "TransformerLensBackbone") -> None:
    assert (backbone.n_layers, backbone.n_heads, backbone.d_model) == (4, 4, 64)
    assert backbone.vocab_size == 128
    assert backbone.n_ctx == (128 if "gpt2" in backbone.name else 256)
    assert backbone.eos_ids == (127,)
    assert backbone.dtype == torch.float32


def test_unknown_name_lists_the_embedded_ones(
    load: Callable[..., object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"unknown backbone 'testbed-lama'.*testbed-llama"):
        load("testbed-lama")


def test_hub_id_without_network(
    load: Callable[..., object], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match="could not be fetched from the Hugging Face hub"):
        load("nobody/no-such-model")


def test_missing_folder_and_file_instead_of_folder(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    with pytest.raises(error, match="there is no folder"):
        load("/no/such/folder")
    with pytest.raises(error, match="is a file"):
        load(copy_folder() / "config.json")


def test_folder_without_config(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    folder = copy_folder()
    (folder / "config.json").unlink()
    with pytest.raises(error, match=r"has no config\.json"):
        load(folder)


def test_missing_weights(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    folder = copy_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(error, match=r"no model\.safetensors"):
        load(folder)


def test_pickled_weights_are_not_read(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    folder = copy_folder()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(error, match="pickled"):
        load(folder)


def test_truncated_weights(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    path = copy_folder() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(error, match="cannot be read"):
        load(path.parent)


def test_a_missing_tensor_is_not_filled_with_noise(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    path = copy_folder() / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(error, match=r"lacks weights.*layers\.2\.mlp\.up_proj"):
        load(path.parent)


def test_blocks_that_the_configuration_leaves_out_are_named(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    """A model cut short would run, and be another one."""
    folder = copy_folder()
    edit_config(folder, num_hidden_layers=2)
    with pytest.raises(error, match=r"blocks that its config\.json leaves out: model\.layers\.2\."):
        load(folder)


def test_weights_without_a_place_are_named(
    load: Callable[..., object], copy_folder: Callable[..., Path]
) -> None:
    path = copy_folder() / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "extra.head": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"no place for: extra\.head"):
        load(path.parent)


def test_weights_of_another_size(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    folder = copy_folder()
    edit_config(folder, hidden_size=32, head_dim=8)
    with pytest.raises(error, match=r"another shape than its config\.json says: .*weight"):
        load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(
    load: Callable[..., object],
    error: type[Exception],
    copy_folder: Callable[..., Path],
    bad: float,
) -> None:
    path = copy_folder() / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.q_proj.weight"][3, 4] = bad
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(error, match=r"NaN or infinite weights in model\.layers\.1\.self_attn"):
        load(path.parent)


def test_missing_tokenizer(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    folder = copy_folder()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(error, match="no readable tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "no causal language model"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "no causal language model"),
        ({"model_type": "no-such-model"}, "known architecture"),
    ],
)
def test_wrong_kind_of_model(
    load: Callable[..., object],
    error: type[Exception],
    copy_folder: Callable[..., Path],
    changes: dict[str, object],
    message: str,
) -> None:
    folder = copy_folder()
    edit_config(folder, **changes)
    with pytest.raises(error, match=message):
        load(folder)


def test_recurrent_models_are_refused(error: type[Exception]) -> None:
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    from workbench.backbone import wrap_model

    config = MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, state_size=4)
    tokenizer = AutoTokenizer.from_pretrained("tests/fixtures/tiny-gpt2")
    with pytest.raises(error):
        wrap_model("mamba", MambaForCausalLM(config).eval(), tokenizer)


def test_rotary_positions_can_be_counted_on(
    load: Callable[..., "TransformerLensBackbone"], copy_folder: Callable[..., Path]
) -> None:
    """Relative positions: the same tokens at other absolute positions give the same logits."""
    folder = copy_folder("tiny-llama")
    plain, longer = load(folder), load(folder, n_ctx=600)
    assert (plain.n_ctx, longer.n_ctx) == (256, 600)
    assert longer.weights_hash == plain.weights_hash
    ids = torch.arange(10)[None] + 3
    mask = torch.ones_like(ids, dtype=torch.bool)
    near = plain.forward(ids, mask=mask)
    far = longer.forward(ids, mask=mask, position_ids=torch.arange(500, 510)[None])
    torch.testing.assert_close(far, near, atol=2e-4, rtol=0)  # float32 cosines of large angles


def test_learned_positions_cannot(
    load: Callable[..., object], error: type[Exception], copy_folder: Callable[..., Path]
) -> None:
    with pytest.raises(error, match="ends at 128 positions: only rotary"):
        load(copy_folder("tiny-gpt2"), n_ctx=129)
    with pytest.raises(error, match="at least 1"):
        load(copy_folder("tiny-llama"), n_ctx=0)


def test_a_tokenizer_that_was_never_saved(
    backbone: "TransformerLensBackbone", tiny_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from workbench.backbone.loading import wrap_model

    saved = backbone.tokenizer
    in_memory = PreTrainedTokenizerFast(
        tokenizer_object=saved.backend_tokenizer, **saved.special_tokens_map
    )
    wrapped = wrap_model("in memory", AutoModelForCausalLM.from_pretrained(tiny_folder), in_memory)
    ids = wrapped.encode(["t1 t2"])
    expected = backbone.encode(["t1 t2"])
    assert torch.equal(ids.ids, expected.ids)
    assert torch.equal(
        wrapped.forward(ids.ids, mask=ids.mask), backbone.forward(ids.ids, mask=ids.mask)
    )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nonsense", "unknown device 'nonsense'"),
        ({}, "device map is empty"),
        ({"": "disk"}, "leaves '' on disk"),
        ({"model": "cpu", "lm_head": 0}, "sees no cuda device"),
        ("cuda", "sees no cuda device"),
    ],
)
def test_a_device_that_is_not_there(
    load: Callable[..., object],
    error: type[Exception],
    device: object,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        load("testbed-llama", device=device)
