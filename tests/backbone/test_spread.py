"""A backbone whose blocks lie on several devices gives the numbers of one that lies on one.

The cards are pretended (``tests/support/pretended.py``): they compute on the CPU, and refuse to mix
tensors of different devices. ``tests/gpu/test_cuda.py`` holds the same against two real cards.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate import dispatch_model
from families import write_checkpoint
from pretended import MixedDevicesError, PretendedCards, card
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone.frozen import FrozenBackbone
    from workbench.guidance import Generation
    from workbench.svgt import ValueModule

PROMPTS = ["Tell me how to bake bread at home.", "Help!", "the cat sat"]
RESPONSES = ["here is a safer way to do it", "I cannot help with that, sorry.", ""]
FAMILIES = ("llama", "gpt2", "qwen2", "gemma2")
BACKENDS = ("transformer-lens", "nnsight")
N_LAYERS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = str(request.param)
    return write_checkpoint(family, tmp_path_factory.mktemp("spread") / family)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(folder: Path, backend: str) -> "FrozenBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(folder, backend=backend)


@pytest.fixture(scope="module")
def split(folder: Path, backend: str) -> Iterator["FrozenBackbone"]:
    """Embeddings and the first two blocks on one card, the rest on another."""
    with PretendedCards():
        yield spread(folder, backend, lambda layer: card(layer // 2))


def spread(
    folder: Path, backend: str, device_of: Callable[[int], torch.device]
) -> "FrozenBackbone":
    """A checkpoint with accelerate's hooks, as ``device_map`` of Transformers puts them."""
    from workbench.backbone.loading import trace_model, wrap_model

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    dispatch_model(
        model,
        device_map(model, device_of),
        skip_keys=model._skip_keys_device_placement,
        force_hooks=True,
    )
    wrap = wrap_model if backend == "transformer-lens" else trace_model
    return wrap(folder.name, model, AutoTokenizer.from_pretrained(folder))


def device_map(
    model: PreTrainedModel, device_of: Callable[[int], torch.device]
) -> dict[str, torch.device]:
    """Blocks where ``device_of`` puts them, what follows them with the last."""
    places = {}
    for name, module in model.base_model.named_children():
        path = f"{model.base_model_prefix}.{name}"
        if isinstance(module, torch.nn.ModuleList):
            places |= {f"{path}.{i}": device_of(i) for i in range(len(module))}
        else:
            places[path] = device_of(N_LAYERS - 1 if "norm" in name or name == "ln_f" else 0)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return {**places, "lm_head": device_of(0 if tied else N_LAYERS - 1)}


def value_module(backbone: "FrozenBackbone", layer: int, *, gate: str = "always") -> "ValueModule":
    from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

    torch.manual_seed(0)
    config = SVGTConfig(
        d_model=backbone.d_model,
        layer=layer,
        d_value=16,
        gate=gate,
        trigger=TriggerConfig(mode="current"),
    )
    module = ValueModule(config).eval()
    with torch.no_grad():
        module.bridge.gate_logit += 4
    return module.to(backbone.device)


def same(found: Tensor, wanted: Tensor) -> bool:
    return torch.equal(found.detach().cpu(), wanted.detach().cpu())


def close(found: Tensor, wanted: Tensor) -> bool:
    """Equal up to the order of sums, which pretended tensors may change by taking kernels apart."""
    return torch.allclose(found.detach().cpu(), wanted.detach().cpu(), rtol=1e-5, atol=1e-5)


def test_mixing_is_noticed() -> None:
    """The control of everything below."""
    with PretendedCards() as cards:
        here, there = torch.ones(2, device=card(0)), torch.ones(2, device=card(1))
        with pytest.raises(MixedDevicesError, match=r"lazy:0, lazy:1"):
            here + there
        with pytest.raises(MixedDevicesError, match=r"lazy:0, cpu"):
            here + torch.ones(2)
        assert float((here + there.to(card(0))).sum()) == 4
        assert cards.moved == 8


def test_it_is_spread_and_its_fingerprint_is_the_same(
    split: "FrozenBackbone", whole: "FrozenBackbone"
) -> None:
    assert split.devices == (card(0), card(1))
    assert split.device == card(0)
    assert whole.devices == (torch.device("cpu"),)
    assert split.weights_hash == whole.weights_hash


def test_states_and_logits_come_home(split: "FrozenBackbone", whole: "FrozenBackbone") -> None:
    prompt = split.encode(PROMPTS)
    layers = [-1, *range(N_LAYERS)]
    with split.capture(layers) as there, split.capture_patterns([1, 3]) as patterns:
        logits = split.logits(prompt)
    with whole.capture(layers) as here, whole.capture_patterns([1, 3]) as wanted:
        expected = whole.logits(whole.encode(PROMPTS))
    assert same(logits, expected)
    assert {state.device for state in (logits, *there.values(), *patterns.values())} == {card(0)}
    assert all(same(there[layer], here[layer]) for layer in layers)
    assert all(same(patterns[layer], wanted[layer]) for layer in (1, 3))
    read = split.read_states(prompt, [0, 2])
    expected_read = whole.read_states(whole.encode(PROMPTS), [0, 2])
    assert all(same(read[layer], expected_read[layer]) for layer in read)


def test_edits_are_made_at_home_and_go_back_to_the_block(
    split: "FrozenBackbone", whole: "FrozenBackbone"
) -> None:
    seen: list[torch.device] = []

    def logits(backbone: "FrozenBackbone") -> Tensor:
        step = torch.linspace(-1, 1, backbone.d_model).to(backbone.device)

        def shift(states: Tensor) -> Tensor:
            seen.append(states.device)
            return states + step

        def halve(states: Tensor, _layer: int = 0) -> Tensor:
            seen.append(states.device)
            return states / 2

        def flat(scores: Tensor, _layer: int) -> Tensor:
            seen.append(scores.device)
            return torch.where(scores > -1e9, 0.0, scores)

        with (
            backbone.overwrite(3, shift),
            backbone.overwrite_mixes(2, halve),
            backbone.edit_scores([1, 3], flat),
        ):
            return backbone.logits(backbone.encode(PROMPTS))

    found = logits(split)
    assert set(seen) == {card(0)}
    assert same(found, logits(whole))
    assert not same(found, whole.logits(whole.encode(PROMPTS)))


@pytest.mark.parametrize("layer", [1, 2])
def test_a_pass_with_slots_and_its_gradients(
    split: "FrozenBackbone", whole: "FrozenBackbone", layer: int
) -> None:
    """Bridge written on one card or the other; the training step's gradients cross back."""
    from workbench.svgt.slots import forward_with_slots

    def step(backbone: "FrozenBackbone") -> tuple[Tensor, list[Tensor]]:
        module = value_module(backbone, layer, gate="threshold").unfreeze("bridge")
        prompt, response = backbone.encode(PROMPTS), backbone.encode_responses(RESPONSES)
        logits = forward_with_slots(backbone, prompt, response, module).response_logits
        wanted = logits.log_softmax(-1).gather(-1, response.ids[..., None])[..., 0]
        torch.autograd.backward(-wanted[response.mask].mean())
        return logits, [p.grad for p in module.bridge.parameters() if p.grad is not None]

    (logits, gradients), (expected, wanted) = step(split), step(whole)
    assert close(logits, expected)
    assert len(gradients) == len(wanted) > 0
    for found, known in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(found.cpu(), known, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", [1, 2])
def test_guided_decoding(split: "FrozenBackbone", whole: "FrozenBackbone", layer: int) -> None:
    """Cache, refreshed slots, gate, trace, sampling: token for token."""
    from workbench.guidance import Sampling, SVGTBridge, TraceRequest, generate

    def decode(backbone: "FrozenBackbone") -> list["Generation"]:
        module = value_module(backbone, layer, gate="threshold")
        return generate(
            backbone,
            PROMPTS,
            SVGTBridge(module, refresh=2),
            max_new_tokens=6,
            sampling=Sampling(temperature=1.0),
            generator=torch.Generator().manual_seed(0),
            stop=(),
            trace=TraceRequest(observer=module, bridge=True, slot_attention="heads"),
        )

    for found, wanted in zip(decode(split), decode(whole), strict=True):
        assert found.ids == wanted.ids
        for name in ("harm_score", "trigger_score", "correction_norm", "slot_attention"):
            assert close(getattr(found.trace, name), getattr(wanted.trace, name)), name


def test_a_cache_keeps_the_keys_of_a_block_where_the_block_is(split: "FrozenBackbone") -> None:
    from workbench.backbone.masks import additive_mask, causal_keys

    prompt = split.encode(PROMPTS[:1])
    cache = split.new_cache(prompt.ids.shape[1])
    split.forward(
        prompt.ids,
        mask=additive_mask(causal_keys(prompt.mask), split.dtype),
        position_ids=torch.arange(prompt.ids.shape[1], device=split.device)[None],
        cache=cache,
    )
    assert [cache.keys(i).device for i in range(N_LAYERS)] == [card(i // 2) for i in range(4)]


def test_heads_readout_and_adapters(split: "FrozenBackbone", whole: "FrozenBackbone") -> None:
    """Weights of a block are read and changed where they are."""
    from workbench.errors import BackboneError

    def parts(backbone: "FrozenBackbone") -> list[Tensor]:
        prompt = backbone.encode(PROMPTS)
        with backbone.capture([N_LAYERS - 1]) as states:
            backbone.logits(prompt)
        last = states[N_LAYERS - 1][:, -1]
        found = list(backbone.logit_direction(last, prompt.ids[:, -1]))
        try:
            found += backbone.output_map(3)
        except BackboneError:  # Gemma 2 norms what heads give
            assert "gemma2" in backbone.name
        name, linear = list(backbone.linear_maps.items())[-1]
        assert linear.layer == N_LAYERS - 1
        change = torch.full(linear.shape, 0.01, device=backbone.device)
        with backbone.adapted({name: change}):
            found.append(backbone.logits(prompt))
        return found

    found, wanted = parts(split), parts(whole)
    assert {tensor.device for tensor in found} == {card(0)}
    for one, other in zip(found, wanted, strict=True):
        assert same(one, other)


def test_hooks_on_one_device_change_nothing(
    folder: Path, backend: str, whole: "FrozenBackbone"
) -> None:
    from workbench.backbone import load_backbone

    hooked = spread(folder, backend, lambda _: torch.device("cpu"))
    mapped = load_backbone(folder, device={"": "cpu"}, backend=backend)
    wanted = whole.logits(whole.encode(PROMPTS))
    for backbone in (hooked, mapped):
        assert backbone.devices == (torch.device("cpu"),)
        assert torch.equal(backbone.logits(backbone.encode(PROMPTS)), wanted)
