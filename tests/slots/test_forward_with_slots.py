"""One pass with slots equals the published two passes, and behaves at its edges."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TokenBatch, TransformerLensBackbone
    from workbench.svgt import BridgeWrite, ValueModule

PROMPTS = ["t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22"]
RESPONSES = ["t7 t7 t9", "t30 t31 t32 t33 t34", ""]
PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
TwoPasses = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def module() -> "ValueModule":
    from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

    torch.manual_seed(3)
    trigger = TriggerConfig(kind="windowed", layers=(-1, 0, 1))
    return ValueModule(
        SVGTConfig(d_model=64, layer=1, d_value=32, n_bridge=5, trigger=trigger)
    ).eval()


class Forced:
    """A writer whose gate is decided by hand."""

    def __init__(self, module: "ValueModule", opened: list[bool]) -> None:
        self.module, self.opened = module, torch.tensor(opened)
        self.config = replace(module.config, gate="threshold")
        self.capture_layers = module.capture_layers

    def write_bridge(
        self,
        prompt: dict[int, Tensor],
        prompt_mask: Tensor,
        current: dict[int, Tensor] | None = None,
        gate_scale: float = 1.0,
    ) -> "BridgeWrite":
        write = self.module.write_bridge(prompt, prompt_mask, current, gate_scale)
        return replace(write, open=self.opened)


def batches(backbone: "TransformerLensBackbone") -> tuple["TokenBatch", "TokenBatch"]:
    return backbone.encode(PROMPTS), backbone.encode_responses(RESPONSES)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def oracle_write(module: "ValueModule", mask: Tensor) -> Callable[[list[Tensor]], Tensor]:
    """The bridge from Hugging Face's hidden states (index 0: embeddings)."""

    def write(hidden: list[Tensor]) -> Tensor:
        states = {layer: hidden[layer + 1] for layer in module.capture_layers}
        return module.write_bridge(states, mask).bridge

    return write


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_equals_the_published_two_passes(
    backbone: "TransformerLensBackbone", two_passes: TwoPasses, layer: int
) -> None:
    from workbench.svgt import SVGTConfig, ValueModule
    from workbench.svgt.slots import forward_with_slots

    torch.manual_seed(layer)
    module = ValueModule(SVGTConfig(d_model=64, layer=layer, d_value=32)).eval()
    prompt, response = batches(backbone)
    with torch.no_grad():
        ours = forward_with_slots(backbone, prompt, response, module, capture_layers=[layer + 1])
        for row in range(len(PROMPTS)):
            ids = prompt.ids[row][prompt.mask[row]].tolist()
            answer = response.ids[row][response.mask[row]].tolist()
            ones = torch.ones((1, len(ids)), dtype=torch.bool)
            logits, above = two_passes(ids, answer, layer, 5, oracle_write(module, ones))
            states = ours.states[layer + 1]
            assert relative(ours.response_logits[row, : len(answer)], logits) < 3e-6
            assert relative(states.response[row, : len(answer)], above[len(ids) + 5 :]) < 3e-6
            assert relative(states.prompt[row][prompt.mask[row]], above[: len(ids)]) < 3e-6


def test_equals_the_logits_that_the_published_code_gave(tiny_folder: Path) -> None:
    """Stage-3 forward of the authors' code on tiny-gpt2, with its own bridge written by hand."""
    from workbench.backbone import load_backbone, pad_rows
    from workbench.svgt import SVGTConfig, ValueModule
    from workbench.svgt.slots import forward_with_slots

    if tiny_folder.name != "tiny-gpt2":
        pytest.skip("the recorded pass is of tiny-gpt2")
    backbone = load_backbone(tiny_folder)
    recorded = load_file(PARITY / "stage3_loss_gpt2_vlp.safetensors")
    ids, lengths = recorded["input.input_ids"], recorded["input.prompt_len"].tolist()
    used = recorded["input.attention_mask"].sum(1).tolist()
    prompt = pad_rows(
        [ids[i, :m].tolist() for i, m in enumerate(lengths)], pad_id=127, side="left", device="cpu"
    )
    response = pad_rows(
        [ids[i, m:n].tolist() for i, (m, n) in enumerate(zip(lengths, used, strict=True))],
        pad_id=127,
        side="right",
        device="cpu",
    )
    module = ValueModule(SVGTConfig(d_model=64, layer=1, d_value=32)).eval()
    recorded_bridge = recorded["output.value_bridge"]

    class Recorded(Forced):
        def write_bridge(self, *args: object, **options: object) -> "BridgeWrite":
            write = super().write_bridge(*args, **options)  # type: ignore[arg-type]
            return replace(write, bridge=recorded_bridge)

    with torch.no_grad():
        ours = forward_with_slots(
            backbone, prompt, response, Recorded(module, [True, True]), capture_layers=[1, 2]
        )
    for row, (m, n) in enumerate(zip(lengths, used, strict=True)):
        expected = recorded[f"output.response_logits_{row}"]
        assert (ours.response_logits[row, : n - m] - expected).abs().max() < 5e-5
        above = recorded["output.intervened_hidden"][row, m + 5 : n + 5]
        assert (ours.states[2].response[row, : n - m] - above).abs().max() < 5e-5
        at_layer = recorded["output.hidden_at_extract"][row, m:n]
        assert (ours.states[1].response[row, : n - m] - at_layer).abs().max() < 5e-5


def test_zero_slots_are_the_plain_model(backbone: "TransformerLensBackbone") -> None:
    from workbench.backbone import TokenBatch
    from workbench.svgt.slots import forward_with_slots

    prompt, response = batches(backbone)
    plain = forward_with_slots(backbone, prompt, response, None)
    joined = TokenBatch(
        torch.cat([prompt.ids, response.ids], 1), torch.cat([prompt.mask, response.mask], 1)
    )
    whole = backbone.logits(joined)[:, prompt.ids.shape[1] - 1 : -1]
    assert plain.write is None
    assert relative(plain.response_logits[response.mask], whole[response.mask]) < 3e-6


def test_batched_equals_single(backbone: "TransformerLensBackbone", module: "ValueModule") -> None:
    from workbench.svgt.slots import forward_with_slots

    with torch.no_grad():
        together = forward_with_slots(backbone, *batches(backbone), module)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            alone = forward_with_slots(
                backbone, backbone.encode([prompt]), backbone.encode_responses([response]), module
            )
            n = alone.response_logits.shape[1]
            assert relative(together.response_logits[row, :n], alone.response_logits[0]) < 5e-6


def test_the_bridge_matters_and_only_above_its_block(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.svgt.slots import forward_with_slots

    prompt, response = batches(backbone)
    with torch.no_grad():
        steered = forward_with_slots(backbone, prompt, response, module, capture_layers=[0, 1, 2])
        module.bridge.gate_logit += 4
        other = forward_with_slots(backbone, prompt, response, module, capture_layers=[0, 1, 2])
    for layer in (0, 1):
        assert torch.equal(steered.states[layer].prompt, other.states[layer].prompt)
        assert torch.equal(steered.states[layer].response, other.states[layer].response)
    above = [result.states[2].prompt[prompt.mask] for result in (steered, other)]
    assert torch.equal(*above)
    changed = steered.states[2].response - other.states[2].response
    assert changed[response.mask].abs().max() > 1e-3


def test_gradients_reach_the_bridge_and_no_graph_is_kept_below(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.svgt.slots import forward_with_slots

    before = backbone.current_weights_hash()
    prompt, response = batches(backbone)
    result = forward_with_slots(backbone, prompt, response, module, capture_layers=[-1, 0, 1, 2])
    for layer in (-1, 0, 1):
        assert not result.states[layer].response.requires_grad
        assert not result.states[layer].prompt.requires_grad
    assert result.states[2].response.requires_grad
    picked = result.response_logits.log_softmax(-1).gather(-1, response.ids[..., None])
    loss = -(picked.squeeze(-1) * response.mask).sum()
    loss.backward()
    gradients = {n: p.grad for n, p in module.named_parameters() if n.startswith("bridge.")}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert sum(float(g.abs().sum()) for g in gradients.values() if g is not None) > 0
    assert all(tensor.grad is None for tensor in backbone._weights.values())
    assert backbone.current_weights_hash() == before


def test_gradient_equals_a_finite_difference(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.svgt.slots import forward_with_slots

    prompt, response = batches(backbone)

    def value() -> Tensor:
        logits = forward_with_slots(backbone, prompt, response, module).response_logits
        return logits[response.mask].log_softmax(-1)[:, 17].mean()

    value().backward()
    gate = module.bridge.gate_logit
    assert gate.grad is not None
    step = 0.02
    with torch.no_grad():
        gate += step
        up = value()
        gate -= 2 * step
        down = value()
    numeric = float((up - down) / (2 * step))
    assert numeric == pytest.approx(float(gate.grad), rel=0.02)


def test_closed_rows_do_not_see_the_slots(
    backbone: "TransformerLensBackbone", module: "ValueModule", plain: PreTrainedModel
) -> None:
    from workbench.svgt.slots import forward_with_slots

    prompt, response = batches(backbone)
    with torch.no_grad():
        always = forward_with_slots(backbone, prompt, response, module)
        mixed = forward_with_slots(backbone, prompt, response, Forced(module, [True, False, False]))
        assert relative(mixed.response_logits[0], always.response_logits[0]) < 3e-6
        ids = prompt.ids[1][prompt.mask[1]].tolist() + response.ids[1].tolist()
        positions = torch.tensor([[0, 1, *range(7, 7 + response.ids.shape[1])]])
        expected = plain(torch.tensor([ids]), position_ids=positions).logits[0, 1:-1]
    assert relative(mixed.response_logits[1], expected) < 3e-6
    assert (mixed.response_logits[1] - always.response_logits[1]).abs().max() > 1e-2


def test_plain_closed_rows_equal_the_plain_model(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.svgt.slots import forward_with_slots

    prompt, response = batches(backbone)
    with torch.no_grad():
        always = forward_with_slots(backbone, prompt, response, module)
        unguided = forward_with_slots(backbone, prompt, response, None)
        mixed = forward_with_slots(
            backbone,
            prompt,
            response,
            Forced(module, [True, False, False]),
            closed_rows="plain",
        )
    real = response.mask
    assert relative(mixed.response_logits[0][real[0]], always.response_logits[0][real[0]]) < 3e-6
    for row in (1, 2):
        ours, theirs = mixed.response_logits[row], unguided.response_logits[row]
        assert relative(ours[real[row]], theirs[real[row]]) < 3e-6


def test_open_rows_agree_with_the_gate_of_the_pass(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.svgt.slots import forward_with_slots, open_rows

    prompt, response = batches(backbone)
    with torch.no_grad():
        score = forward_with_slots(backbone, prompt, response, module).write
        assert score is not None
        middle = float(score.score.sort().values[1])
        module.config = replace(module.config, gate="threshold", threshold=middle)
        write = forward_with_slots(backbone, prompt, response, module).write
    assert write is not None
    assert int(write.open.sum()) == 1
    assert torch.equal(open_rows(backbone, prompt, module), write.open)


def test_too_long_states_the_numbers(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.errors import ContextLengthError
    from workbench.svgt.slots import forward_with_slots

    half = "t1 " * (backbone.n_ctx // 2 - 1)
    prompt, response = backbone.encode([half]), backbone.encode_responses([half])
    with pytest.raises(ContextLengthError, match=r"\+ 5 slots"):
        forward_with_slots(backbone, prompt, response, module)
    fits = "t1 " * (backbone.n_ctx // 2 - 5)
    prompt, response = backbone.encode([half]), backbone.encode_responses([fits])
    assert forward_with_slots(backbone, prompt, response, module).write is not None


def test_a_nan_bridge_is_refused_and_leaves_the_model_as_it_was(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.errors import NonFiniteError
    from workbench.svgt.slots import forward_with_slots

    class Broken(Forced):
        def write_bridge(self, *args: object, **options: object) -> "BridgeWrite":
            write = super().write_bridge(*args, **options)  # type: ignore[arg-type]
            return replace(write, bridge=write.bridge * float("nan"))

    prompt, response = batches(backbone)
    before = backbone.logits(prompt)
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.hook_out"):
        forward_with_slots(backbone, prompt, response, Broken(module, [True] * 3))
    assert torch.equal(backbone.logits(prompt), before)


def test_a_writer_cannot_read_above_its_block(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.errors import ConfigError
    from workbench.svgt.slots import forward_with_slots

    writer = Forced(module, [True] * 3)
    writer.capture_layers = (1, 3)
    with pytest.raises(ConfigError, match="cannot read block 3"):
        forward_with_slots(backbone, *batches(backbone), writer)
