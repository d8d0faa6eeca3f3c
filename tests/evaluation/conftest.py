"""A backbone of random weights that speaks the embedded world's words, and planted guidance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.svgt import ValueModule


@dataclass(frozen=True)
class TinyModel:
    """A wrapped backbone beside an untouched copy of the Hugging Face model in it."""

    backbone: "TransformerLensBackbone"
    plain: Any
    embedding: Tensor


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    from workbench.backbone import load_backbone
    from workbench.testbed.pretraining import build_model
    from workbench.testbed.pretraining_config import PretrainConfig
    from workbench.testbed.tokenizer import build_tokenizer

    config = PretrainConfig(
        "llama", "fragile", width=32, n_layers=3, n_heads=4, n_kv_heads=2, feed_forward=64
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(config.n_ctx)
        model = build_model(config, tokenizer).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4)  # logits far enough apart to matter
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    embedding = model.get_input_embeddings().weight.detach().clone()
    return TinyModel(load_backbone(folder), model, embedding)


@pytest.fixture(scope="session")
def scripted(tiny: TinyModel) -> Callable[[str], Any]:
    """Makes guidance under which the (greedy) model says one text, whatever it is asked."""
    from workbench.backbone import Backbone, Prompt, TokenBatch
    from workbench.guidance import DecoderPass, SlotlessSession

    class Session(SlotlessSession):
        def __init__(self, backbone: Backbone, ids: Sequence[int]) -> None:
            self._backbone = backbone
            self._ids = ids

        @contextmanager
        def during(self, call: DecoderPass) -> Iterator[None]:  # type: ignore[override]
            token = self._ids[min(call.step, len(self._ids) - 1)]
            wanted = tiny.embedding[token]
            with self._backbone.overwrite(2, lambda states: wanted.expand_as(states).clone()):
                yield

    @dataclass(frozen=True)
    class Scripted:
        text: str
        name: str = "scripted"
        coefficient: float = 1.0
        n_slots: int = 0

        def prepare(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
            return prompts

        def begin(self, backbone: Backbone, prompt: TokenBatch) -> Session:
            return Session(backbone, backbone.encode_responses([self.text]).ids[0].tolist())

    return Scripted


@pytest.fixture
def make_module() -> Callable[..., "ValueModule"]:
    """Untrained value modules for the tiny backbone."""
    from workbench.svgt import BridgeConfig, EncoderConfig, SVGTConfig, ValueModule

    def make(**changes: object) -> ValueModule:
        base = SVGTConfig(
            d_model=32,
            layer=1,
            n_bridge=2,
            d_value=16,
            encoder=EncoderConfig(n_heads=2, n_layers=1),
            bridge=BridgeConfig(n_heads=4),
        )
        config = replace(base, **changes)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return ValueModule(config).freeze()

    return make
