"""A tiny random model, a value module that moves it, and pairs of prompts in two contexts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

if TYPE_CHECKING:
    from probes.anchoring.scene import Scene
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="session", params=("tiny-gpt2", "tiny-llama"))
def folder(request: pytest.FixtureRequest) -> Path:
    """Folder of a random 4-block model: learned positions, or rotary ones with grouped queries."""
    return FIXTURES / str(request.param)


@pytest.fixture(scope="session")
def backbone(folder: Path) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(folder)


@pytest.fixture(scope="session")
def plain(folder: Path) -> PreTrainedModel:
    """The same model as plain Hugging Face code runs it."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def one_head_reads(folder: Path) -> Callable[[int, int], "TransformerLensBackbone"]:
    """The model with one attention head left above block 1; all others write nothing."""
    from workbench.backbone import wrap_model

    def plant(layer: int, head: int) -> "TransformerLensBackbone":
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        width = model.config.hidden_size // model.config.num_attention_heads
        silent = torch.ones(model.config.hidden_size, dtype=torch.bool)
        with torch.no_grad():
            for index in (2, 3):
                quiet = silent.clone()
                if index == layer:
                    quiet[head * width : (head + 1) * width] = False
                if model.config.model_type == "gpt2":
                    model.transformer.h[index].attn.c_proj.weight[quiet] = 0.0
                else:
                    model.model.layers[index].self_attn.o_proj.weight[:, quiet] = 0.0
        return wrap_model("planted", model, AutoTokenizer.from_pretrained(folder))

    return plant


@pytest.fixture(scope="session")
def module() -> "ValueModule":
    """Writes three bridge tokens at block 1 of four; its gate is always open."""
    from workbench.svgt import BridgeConfig, SVGTConfig, TriggerConfig, ValueModule

    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = ValueModule(
            SVGTConfig(
                d_model=64,
                layer=1,
                d_value=32,
                n_bridge=3,
                trigger=TriggerConfig(kind="windowed", layers=(-1, 0, 1)),
                bridge=BridgeConfig(gate_init=2.0),
            )
        )
        with torch.no_grad():
            module.bridge.norm.weight.fill_(3.0)
            # Scores lie above 0, so that there is a correction to write.
            module.discriminator.out.bias.fill_(2.0)
    return module.freeze()


@pytest.fixture(scope="session")
def guidance(module: "ValueModule") -> "SVGTBridge":
    from workbench.guidance import SVGTBridge

    return SVGTBridge(module)


@pytest.fixture(scope="session")
def pairs() -> "ReplyPairs":
    """Three groups in two contexts, all harmful."""
    from probes.margins import ReplyPairs

    return ReplyPairs(
        prompts=(
            "t1 t2 t3 t4 t5 t6",
            "t1 t2 t9 t8",
            "t20 t21 t22",
            "t20 t23 t22 t24 t25",
            "t31 t30 t32 t31",
            "t31 t30 t33 t34 t35 t36 t37",
        ),
        safe=("t7 t7 t9", "t7 t7 t9", "t40 t41", "t40 t41", "t44 t45 t46 t47", "t44 t45 t46 t47"),
        harmful=("t11 t12", "t11 t12", "t50 t51 t52", "t50 t51 t52", "t60", "t60"),
        groups=("a", "a", "b", "b", "c", "c"),
        contexts=("x", "y", "x", "y", "x", "y"),
        prompt_harm=(True,) * 6,
    )


@pytest.fixture
def scene(
    backbone: "TransformerLensBackbone", guidance: "SVGTBridge", pairs: "ReplyPairs"
) -> "Scene":
    from probes.anchoring.scene import set_scene

    return set_scene(backbone, guidance, pairs)
