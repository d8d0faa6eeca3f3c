"""The language model inside a multimodal checkpoint is read by itself, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from families import MULTIMODAL, write_checkpoint, write_multimodal
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

if TYPE_CHECKING:
    from workbench.backbone.frozen import FrozenBackbone

PROMPTS = ["Tell me how to bake bread, how to mend a lock, and why.", "Help!"]


@pytest.fixture(scope="module", params=MULTIMODAL)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = str(request.param)
    return write_multimodal(kind, tmp_path_factory.mktemp("multimodal") / kind)


@pytest.fixture
def load() -> Callable[..., "FrozenBackbone"]:
    from workbench.backbone import load_backbone
    from workbench.errors import WorkbenchWarning

    def loaded(source: Path, **options: object) -> "FrozenBackbone":
        with pytest.warns(WorkbenchWarning, match="multimodal: its language model is loaded by"):
            return load_backbone(source, **options)  # type: ignore[arg-type]

    return loaded


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
def test_logits_and_states_are_the_whole_models_on_text(
    folder: Path, load: Callable[..., "FrozenBackbone"], backend: str
) -> None:
    backbone = load(folder, backend=backend)
    whole = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    for prompt in PROMPTS:
        batch = backbone.encode([prompt])
        with torch.no_grad():
            theirs = whole(batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
        assert torch.equal(backbone.logits(batch), theirs.logits)
        state = backbone.read_states(batch, [1])[1]
        assert torch.equal(state, theirs.hidden_states[2])
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(backbone.eos_ids) == set(ends if isinstance(ends, list) else [ends])


def test_both_layouts_of_the_weights_are_read(
    folder: Path, load: Callable[..., "FrozenBackbone"], tmp_path: Path
) -> None:
    """Older files have the whole behind the prefix, newer ones have it inside the base model."""
    weights = load_file(folder / "model.safetensors")
    names = {key.partition("language_model.")[0] for key in weights if "language_model." in key}
    [written] = names
    turn = {
        "": lambda key: (
            "lm_head.weight"
            if key == "language_model.lm_head.weight"
            else "model." + key.replace("language_model.model.", "language_model.")
        ),
        "model.": lambda key: (
            "language_model.lm_head.weight"
            if key == "lm_head.weight"
            else key.removeprefix("model.").replace("language_model.", "language_model.model.")
        ),
    }[written]
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    renamed = {turn(key): tensor for key, tensor in weights.items()}
    assert not set(renamed) & set(weights)
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    assert load(other).weights_hash == load(folder).weights_hash


def test_a_missing_weight_of_the_language_model_is_named(
    folder: Path, load: Callable[..., "FrozenBackbone"], tmp_path: Path
) -> None:
    from workbench.errors import BackboneError

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    [key] = [key for key in weights if key.endswith("layers.2.mlp.up_proj.weight")]
    save_file(
        {name: tensor for name, tensor in weights.items() if name != key},
        other / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BackboneError, match=r"lacks weights.*layers\.2\.mlp\.up_proj"):
        load(other)


def test_it_can_be_read_again_as_an_ordinary_model(
    folder: Path, load: Callable[..., "FrozenBackbone"]
) -> None:
    from workbench.backbone.loading import load_plain
    from workbench.errors import WorkbenchWarning

    backbone = load(folder)
    with pytest.warns(WorkbenchWarning, match="multimodal"):
        model, _ = load_plain(backbone)
    assert type(model).__name__ in ("Gemma3ForCausalLM", "MistralForCausalLM")
    batch = backbone.encode(PROMPTS[:1])
    with torch.no_grad():
        assert torch.equal(model(batch.ids).logits, backbone.logits(batch))


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
@pytest.mark.parametrize(
    ("model_type", "architecture", "inside"),
    [
        ("llama4", "Llama4ForConditionalGeneration", "llama4_text"),
        ("qwen2_vl", "Qwen2VLForConditionalGeneration", "qwen2_vl_text"),
        ("llava", "LlavaForConditionalGeneration", "llama"),
        ("gemma3n", "Gemma3nForConditionalGeneration", "gemma3n_text"),
    ],
)
def test_others_are_refused_by_name(
    tmp_path: Path, model_type: str, architecture: str, inside: str, backend: str
) -> None:
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    folder = tmp_path / "seeing"
    folder.mkdir()
    config = {"model_type": model_type, "architectures": [architecture], "text_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError) as caught:
        load_backbone(folder, backend=backend)
    message = str(caught.value)
    assert message.startswith(f"{folder} is a multimodal model ({model_type}): its language model")
    assert f"({inside})" in message
    assert "Take a checkpoint of a language model by itself" in message
    assert "\n" not in message


def test_a_language_model_by_itself_is_not_taken_for_one(tmp_path: Path) -> None:
    """The control: its note is not given, and its fingerprint does not change."""
    import warnings

    from workbench.backbone import load_backbone

    folder = write_checkpoint("gemma3", tmp_path / "gemma3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(folder)
