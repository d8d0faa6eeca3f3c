"""The nnsight backend gives the numbers of the TransformerLens backend, in every family.

Both run the same Hugging Face modules in the same order, so differences are rounding at most; what
is allowed is 1e-5 of the largest number compared.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from families import FAMILIES, write_checkpoint
from torch import Tensor

if TYPE_CHECKING:
    from workbench.backbone import FrozenBackbone, TokenBatch
    from workbench.svgt import ValueModule

TOLERANCE = 1e-5
# A gradient sums roundings over tokens and blocks, and TransformerLens splits fused projections.
GRADIENT_TOLERANCE = 5e-5
PROMPTS = ([7, 3, 20, 41, 5, 33, 18, 29, 12, 50], [11, 5])  # one is longer than a window
RESPONSES = ([9, 4, 8], [6])
N_SLOTS = 2
Run = Callable[["FrozenBackbone"], dict[str, Tensor]]


@dataclass(frozen=True)
class Pair:
    """One checkpoint behind both libraries."""

    lens: "FrozenBackbone"
    traced: "FrozenBackbone"

    def agree(self, run: Run) -> dict[str, Tensor]:
        """Compare all that a function measures; what TransformerLens gave."""
        expected, found = run(self.lens), run(self.traced)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            assert found[name].shape == tensor.shape, name
            assert found[name].dtype == tensor.dtype, name
            scale = tensor.abs().max()
            assert scale > 0, f"{name}: zeros would agree whatever was measured"
            bound = GRADIENT_TOLERANCE if name.startswith("gradient") else TOLERANCE
            assert (found[name] - tensor).abs().max() <= bound * scale, name
        return expected


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    from workbench.backbone import load_backbone

    folder = write_checkpoint(str(request.param), tmp_path_factory.mktemp("pair") / "model")
    return Pair(load_backbone(folder), load_backbone(folder, backend="nnsight"))


@pytest.fixture(scope="module")
def tiny() -> "FrozenBackbone":
    from workbench.backbone import load_backbone

    fixtures = Path(__file__).parents[1] / "fixtures"
    return load_backbone(fixtures / "tiny-llama", backend="nnsight")


def prompts() -> "TokenBatch":
    from workbench.backbone import pad_rows

    return pad_rows(PROMPTS, pad_id=0, side="left", device="cpu")


def responses() -> "TokenBatch":
    from workbench.backbone import pad_rows

    return pad_rows(RESPONSES, pad_id=0, side="right", device="cpu")


def value_module(backbone: "FrozenBackbone", **changes: object) -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    torch.manual_seed(0)
    config = SVGTConfig(d_model=backbone.d_model, layer=1, d_value=16, n_bridge=N_SLOTS, **changes)
    module = ValueModule(config).eval()
    with torch.no_grad():
        module.bridge.gate_logit += 4  # a bridge that is felt
    return module


def hide_third_key(scores: Tensor, layer: int) -> object:
    hidden = torch.arange(scores.shape[-1]) == 2
    only_others = torch.arange(scores.shape[-2])[:, None] > 2
    return scores.masked_fill(only_others & hidden, torch.finfo(scores.dtype).min)


def test_the_same_model(pair: Pair) -> None:
    from workbench.backbone import Backbone

    assert isinstance(pair.traced, Backbone)
    for name in (
        "weights_hash",
        "tokenizer_hash",
        "n_layers",
        "n_heads",
        "d_model",
        "vocab_size",
        "n_ctx",
        "dtype",
        "device",
        "eos_ids",
        "pad_id",
    ):
        assert getattr(pair.traced, name) == getattr(pair.lens, name), name
    assert pair.traced.linear_maps == pair.lens.linear_maps
    assert not any(parameter.requires_grad for parameter in pair.traced._weights.values())


def test_what_is_watched(pair: Pair) -> None:
    def run(model: "FrozenBackbone") -> dict[str, Tensor]:
        batch, layers = prompts(), range(model.n_layers)
        real = batch.mask[:, :, None]
        with (
            model.capture([-1, *layers]) as residual,
            model.capture_patterns(layers) as patterns,
            model.capture_values(layers) as values,
            model.capture_mixes(layers) as mixes,
            model.capture_attention(layers) as attended,
        ):
            logits = model.logits(batch)
        found = {"logits": logits * real}
        for layer in layers:
            found[f"residual {layer}"] = residual[layer] * real
            found[f"pattern {layer}"] = patterns[layer] * real[:, None]
            found[f"values {layer}"] = values[layer] * real[:, None]
            found[f"mixes {layer}"] = mixes[layer] * real[:, None]
            found[f"attention {layer}"] = attended[layer] * real
        found |= {f"states {i}": s for i, s in model.read_states(batch, [-1, 0, 2]).items()}
        return found | {"embeddings": residual[-1] * real}

    pair.agree(run)


def test_what_is_changed(pair: Pair) -> None:
    def run(model: "FrozenBackbone") -> dict[str, Tensor]:
        batch, found = prompts(), {}
        real = batch.mask[:, :, None]
        changes: dict[str, Callable[[], list[object]]] = {
            "nothing": lambda: [],
            "embeddings": lambda: [model.overwrite(-1, lambda r: r * 1.5)],
            "residual": lambda: [model.overwrite(1, lambda r: r.roll(1, dims=-1))],
            "twice": lambda: [model.overwrite(1, lambda r: r + 1), model.overwrite(1, torch.neg)],
            "scores": lambda: [model.edit_scores([0, 2], hide_third_key)],
            "mixes": lambda: [model.overwrite_mixes(2, lambda m: m.roll(1, dims=1))],
            "attention": lambda: [model.overwrite_attention(1, lambda a: a.roll(1, dims=-1))],
        }
        for name, opened in changes.items():
            with ExitStack() as stack:
                for context in opened():
                    stack.enter_context(context)
                found[name] = model.logits(batch) * real
        return found

    logits = pair.agree(run)
    plain = logits.pop("nothing")
    for name, changed in logits.items():
        if name != "scores":
            assert (changed - plain).abs().max() > 1e-3, name


def test_heads_and_readout(pair: Pair) -> None:
    """The families that norm what attention gives refuse the map through either library."""
    from workbench.errors import BackboneError

    def output_map(model: "FrozenBackbone") -> Tensor:
        try:
            return model.output_map(1)[0]
        except BackboneError:
            return torch.ones(1)

    def run(model: "FrozenBackbone") -> dict[str, Tensor]:
        states = model.read_states(prompts(), [model.n_layers - 1])[model.n_layers - 1][:, -1]
        direction, constant = model.logit_direction(states, torch.tensor([3, 5]))
        return {
            "output map": output_map(model),
            "attributed logit": (states * direction).sum(-1) + constant,
            "direction": direction,
        }

    pair.agree(run)


def test_adapted_weights(pair: Pair) -> None:
    """TransformerLens refuses GPT-NeoX's here, so the plain model is asked."""
    from workbench.backbone import load_plain

    name, linear = next(iter(pair.traced.linear_maps.items()))
    change = torch.full(linear.shape, 0.1)
    plain, _ = load_plain(pair.traced)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        plain.get_parameter(f"{name}.weight").add_(linear.as_stored(change))
        expected = plain.eval()(ids).logits
        with pair.traced.adapted({name: change}):
            found = pair.traced.forward(ids, mask=torch.ones_like(ids, dtype=torch.bool))
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("gate", ["always", "threshold"])
def test_slots_and_their_gradient(pair: Pair, gate: str) -> None:
    from workbench.svgt.slots import forward_with_slots

    def run(model: "FrozenBackbone") -> dict[str, Tensor]:
        module = value_module(model, gate=gate)
        passed = forward_with_slots(model, prompts(), responses(), module, capture_layers=[2])
        real = responses().mask[:, :, None]
        assert passed.write is not None
        (passed.response_logits * real).square().sum().backward()
        found = {"logits": passed.response_logits.detach() * real}
        found["above"] = passed.states[2].response.detach() * real
        found["bridge"] = passed.write.bridge.detach()
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().max() > 0:
                found[f"gradient of {name}"] = parameter.grad
        return found

    found = pair.agree(run)
    assert gate == "threshold" or any(name.startswith("gradient") for name in found)


def test_guided_decoding(pair: Pair) -> None:
    """Cached, refreshed every second token, greedy and sampled: the same tokens and traces."""
    from workbench.guidance import GREEDY, Sampling, SVGTBridge, TraceRequest, generate
    from workbench.svgt import TriggerConfig

    def run(model: "FrozenBackbone") -> dict[str, Tensor]:
        module = value_module(model, trigger=TriggerConfig(mode="current"))
        guided, found = SVGTBridge(module, refresh=2), {}
        ways = {
            "greedy": GREEDY,
            "sampled": Sampling(temperature=1.0),
        }
        for name, sampling in ways.items():
            replies = generate(
                model,
                prompts(),
                guided,
                max_new_tokens=3,
                sampling=sampling,
                generator=torch.Generator().manual_seed(1),
                stop=(),
                trace=TraceRequest(slot_attention="heads"),
            )
            found[name] = torch.tensor([reply.ids for reply in replies]) + 1
        return found

    pair.agree(run)


def test_leaving_restores_bit_for_bit(pair: Pair) -> None:
    model, batch = pair.traced, prompts()
    before, hashed = model.logits(batch), model.current_weights_hash()
    layers = range(model.n_layers)

    def fail(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with model.capture([-1, *layers]), model.edit_scores(layers, lambda scores, _: scores):
        assert torch.equal(model.logits(batch), before)
    for context in (model.overwrite(1, fail), model.overwrite_mixes(1, fail)):
        with pytest.raises(KeyboardInterrupt), context:
            model.logits(batch)
    assert not model._sites.watched
    assert torch.equal(model.logits(batch), before)
    assert model.current_weights_hash() == hashed == pair.lens.weights_hash


def test_blocks_above_the_last_do_not_run(tiny: "FrozenBackbone") -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in tiny._sites.blocks.items()
    ]
    with tiny.capture([0]) as captured:
        tiny.run_blocks(prompts().ids, mask=prompts().mask, last_layer=1)
    for handle in handles:
        handle.remove()
    assert captured.firings == {0: 1}
    assert set(ran) <= {0, 1}


def test_proofs(tiny: "FrozenBackbone") -> None:
    from workbench.errors import HookError, NonFiniteError

    batch = prompts()
    opened = {
        "model.model.layers.1.output": lambda: tiny.capture([1]),
        "nn_functional_softmax_0.input": lambda: tiny.edit_scores([1], lambda s, _: s),
        "o_proj.input": lambda: tiny.capture_mixes([1]),
    }
    for name, context in opened.items():
        with pytest.raises(HookError, match="did not fire") as error, context():
            pass
        assert name in str(error.value)
    with tiny.capture([1]) as captured:
        tiny.logits(batch)
        tiny.logits(batch)
    assert captured.firings == {1: 2}
    with pytest.raises(HookError, match="there is no layer 9"), tiny.capture([9]):
        tiny.logits(batch)
    for edit in (lambda r: r[:, :1], lambda r: r.double(), lambda r: r.mean(1, keepdim=True)):
        with pytest.raises(HookError, match="must return"), tiny.overwrite(1, edit):
            tiny.logits(batch)
    with (
        pytest.raises(NonFiniteError, match=r"layers\.2\.output"),
        tiny.overwrite(2, lambda r: r / 0),
    ):
        tiny.logits(batch)


def test_values_of_earlier_passes_are_refused(tiny: "FrozenBackbone") -> None:
    from workbench.errors import HookError

    ids, cache = torch.tensor([[3, 4]]), tiny.new_cache(2)
    for column in range(2):
        step = {
            "mask": torch.zeros(1, 1, 1, column + 1),
            "position_ids": torch.tensor([[column]]),
            "cache": cache,
        }
        if column == 0:
            with tiny.capture_values([0]) as values:
                tiny.forward(ids[:, :1], **step)
            assert values[0].shape == (1, tiny.n_heads, 1, tiny.d_head)
        else:
            with pytest.raises(HookError, match="without a cache"), tiny.capture_values([0]):
                tiny.forward(ids[:, 1:], **step)


def test_a_value_module_of_one_backend_belongs_to_the_other(tmp_path: Path) -> None:
    from workbench.backbone import load_backbone
    from workbench.guidance.registry import load_module

    by_lens = load_module("workbench", load_backbone("testbed-llama"))
    traced = load_backbone("testbed-llama", backend="nnsight")
    by_nnsight = load_module("workbench", traced)
    for one, other in zip(by_lens.parameters(), by_nnsight.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_backend() -> None:
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    with pytest.raises(BackboneError, match="use transformer-lens or nnsight"):
        load_backbone("testbed-llama", backend="nnsigth")
