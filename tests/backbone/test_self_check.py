"""An untested family is let in if its numbers are right, and refused if they are not."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch
from families import write_checkpoint
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.backbone.frozen import FrozenBackbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> "Path":
    return write_checkpoint("llama", tmp_path_factory.mktemp("unknown") / "llama")


@pytest.fixture
def load(folder: "Path", monkeypatch: pytest.MonkeyPatch) -> object:
    """Loads a Llama as if its family were an untested one."""
    from workbench.backbone import load_backbone, self_check

    monkeypatch.setattr(self_check, "TESTED", ("gpt2",))
    return lambda backend="transformer-lens": load_backbone(folder, backend=backend)


@pytest.mark.parametrize("backend", ["transformer-lens", "nnsight"])
def test_a_sound_one_is_let_in(load: object, backend: str) -> None:
    assert load(backend).n_layers == 4  # type: ignore[operator]


def test_other_logits_are_refused(load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.backbone.transformer_lens import TransformerLensBackbone
    from workbench.errors import BackboneError

    run = TransformerLensBackbone._run

    def skewed(self: TransformerLensBackbone, ids: Tensor, inputs: dict[str, object]) -> Tensor:
        logits = run(self, ids, inputs)
        return logits + 1e-3 * logits.abs().max()

    monkeypatch.setattr(TransformerLensBackbone, "_run", skewed)
    with pytest.raises(BackboneError, match=r"not among the tested.*logits differ.*gpt2"):
        load()  # type: ignore[operator]


def test_slots_that_cannot_be_hidden_are_refused(
    load: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone.frozen import FrozenBackbone
    from workbench.errors import BackboneError

    monkeypatch.setattr(FrozenBackbone, "hide_keys", lambda *_: nullcontext())
    with pytest.raises(BackboneError, match="slots cannot be hidden"):
        load()  # type: ignore[operator]


def test_positions_that_are_not_listened_to_are_refused(
    load: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone.frozen import FrozenBackbone
    from workbench.errors import BackboneError

    forward = FrozenBackbone.forward

    def counting(self: "FrozenBackbone", ids: Tensor, **options: object) -> Tensor:
        cache, positions = options.get("cache"), options.get("position_ids")
        if cache is not None and isinstance(positions, Tensor):
            start = cache.get_seq_length()  # type: ignore[attr-defined]
            options["position_ids"] = start + torch.arange(ids.shape[1])[None]
        return forward(self, ids, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FrozenBackbone, "forward", counting)
    with pytest.raises(BackboneError, match="slots cannot be hidden"):
        load()  # type: ignore[operator]


def test_a_block_that_does_nothing_is_refused(
    folder: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.backbone import self_check, wrap_model
    from workbench.errors import BackboneError

    monkeypatch.setattr(self_check, "TESTED", ("gpt2",))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    block = model.model.layers[2]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    with pytest.raises(BackboneError, match="leaves the residual as it was"):
        wrap_model("dead block", model, AutoTokenizer.from_pretrained(folder))
