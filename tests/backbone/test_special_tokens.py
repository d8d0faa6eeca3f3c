"""A tokenizer is held against the special tokens that the model's own files state."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from families import FAMILIES, write_checkpoint
from transformers import AddedToken, AutoTokenizer

IMAGE = "<image_soft_token>"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: write_checkpoint(family, tmp_path / family)


@pytest.fixture
def check() -> Callable[..., str]:
    """Compare the tokenizer in a folder; the note it gives, if any."""
    from workbench.backbone.special_tokens import check_special_tokens
    from workbench.errors import WorkbenchWarning

    def checked(folder: Path) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_special_tokens("some model", str(folder), AutoTokenizer.from_pretrained(folder))
        notes = [str(item.message) for item in caught if item.category is WorkbenchWarning]
        return "\n".join(notes)

    return checked


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    content = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in content.items() if value != "absent"}
    path.write_text(json.dumps(kept))


def take_tokenizer(folder: Path, of: Path) -> None:
    """Put another model's tokenizer beside the weights."""
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (of / name).is_file():
            shutil.copy(of / name, folder / name)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_gives_a_false_alarm(
    saved: Callable[[str], Path], check: Callable[..., str], family: str
) -> None:
    assert check(saved(family)) == ""


@pytest.mark.parametrize(
    ("family", "config", "generation"),
    [
        # Llama 3: the text's end in the configuration, a list with the turn's end beside it
        ("llama", {"eos_token_id": 1}, {"eos_token_id": [1, 2, 4]}),
        ("llama", {"eos_token_id": [1, 2, 4]}, {"eos_token_id": [1, 2, 4]}),
        # the text's end alone, and no generation_config.json: the tokenizer ends turns
        ("llama", {"eos_token_id": 1}, None),
        # Qwen 2: the configuration begins a text, the tokenizer has no such token
        ("qwen2", {"bos_token_id": 0, "eos_token_id": 2}, {"bos_token_id": 0}),
        ("qwen2", {"bos_token_id": 0, "eos_token_id": 0}, {"eos_token_id": [2, 0]}),
        # Phi-3 pads with its end, and ends a turn with another
        ("phi3", {"pad_token_id": 3, "eos_token_id": 3}, {"eos_token_id": [3, 7, 6]}),
        # early conversions of Llama pad with -1
        ("mistral", {"pad_token_id": -1}, {"pad_token_id": -1}),
        # nothing is stated: what the configuration's class would add says nothing
        ("llama", dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), "absent"), None),
    ],
)
def test_ids_that_differ_for_good_reasons_give_none(
    saved: Callable[[str], Path],
    check: Callable[..., str],
    family: str,
    config: dict[str, object],
    generation: dict[str, object] | None,
) -> None:
    folder = saved(family)
    edit(folder, "config.json", **config)
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        edit(folder, "generation_config.json", **generation)
    assert check(folder) == ""


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ("qwen2", "the model's eos_token is id 284, there"),
        ("gpt2", "the model's bos_token is id 280, there"),
        ("gemma2", "the model's bos_token is id 280, there"),
    ],
)
def test_another_models_tokenizer_is_refused(
    saved: Callable[[str], Path], tokenizer: str, said: str, backend: str
) -> None:
    """The vocabularies are of similar size, and the model's special tokens are its last ones."""
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    folder = saved("llama")
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, bos_token_id=280, eos_token_id=[284, 281])
    take_tokenizer(folder, saved(tokenizer))
    with pytest.raises(BackboneError) as caught:
        load_backbone(folder, backend=backend)
    message = str(caught.value)
    assert f"the tokenizer of {folder} is another model's: " in message
    assert said in message
    assert "Put the tokenizer files of this model beside its weights" in message
    assert "\n" not in message


def test_a_single_contradiction_is_said_and_nothing_is_refused(
    saved: Callable[[str], Path], check: Callable[..., str]
) -> None:
    folder = saved("llama")
    edit(folder, "config.json", bos_token_id=77)
    edit(folder, "generation_config.json", bos_token_id=77)
    note = check(folder)
    assert "some model may be another model's: the model's bos_token is id 77" in note
    assert "eos_token" not in note


def test_tokens_that_the_tokenizers_two_files_name_differently(
    saved: Callable[[str], Path], check: Callable[..., str]
) -> None:
    folder = saved("llama")
    right = {"2": {"content": "<|start_header_id|>", "special": True}}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=right)
    assert check(folder) == ""
    wrong = {"70": {"content": "<|start_header_id|>", "special": True}}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=wrong)
    note = check(folder)
    assert "tokenizer_config.json gives '<|start_header_id|>' the id 70, the tokenizer 2" in note


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
def test_special_tokens_beyond_the_embedding_are_refused_in_a_text_alone(
    saved: Callable[[str], Path], backend: str
) -> None:
    """gemma-3-1b-it names a token for images, which its embedding has no row for."""
    from workbench.backbone import load_backbone
    from workbench.errors import TokenError
    from workbench.guidance import GREEDY, NoGuidance, generate

    folder = saved("gemma3")
    before = load_backbone(folder, backend=backend)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(IMAGE, special=True)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    backbone = load_backbone(folder, backend=backend)
    assert max(backbone.tokenizer.get_vocab().values()) == backbone.vocab_size
    assert backbone.weights_hash == before.weights_hash
    batch, same = backbone.encode(["mend a lock"]), before.encode(["mend a lock"])
    assert batch.ids.tolist() == same.ids.tolist()
    assert backbone.logits(batch).equal(before.logits(same))
    [reply] = generate(
        backbone, ["mend a lock"], NoGuidance(), max_new_tokens=3, sampling=GREEDY, stop=()
    )
    assert len(reply.ids) == 3
    with pytest.raises(TokenError) as caught:
        backbone.encode([f"what is on {IMAGE} here"])
    assert f"has no embedding for '{IMAGE}'" in str(caught.value)
    assert f"the embedding has rows ({backbone.vocab_size}). Leave them out" in str(caught.value)


def test_a_pad_token_beyond_the_embedding_is_never_fed(saved: Callable[[str], Path]) -> None:
    """A pad token added without resizing the embedding: common, and the model needs none."""
    from workbench.backbone import load_backbone

    folder = saved("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<my_pad>"})
    tokenizer.save_pretrained(folder)
    backbone = load_backbone(folder)
    assert backbone.tokenizer.pad_token_id == backbone.vocab_size
    assert backbone.pad_id == backbone.eos_ids[0]
    together = backbone.logits(backbone.encode(["Help!", "the cat sat on the mat"]))
    alone = backbone.logits(backbone.encode(["Help!"]))
    gap = (together[0, -alone.shape[1] :] - alone[0]).abs().max() / alone.abs().max()
    assert float(gap) < 1e-5
