"""Every number the published code recorded is reproduced from its weights, to 5e-5."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from workbench.backbone import TokenBatch, load_backbone
from workbench.svgt import ValueModule, correct
from workbench.svgt.config import CorrectionConfig
from workbench.svgt.objectives import (
    BridgeLoss,
    BridgeLossWeights,
    combine,
    norm_penalty,
    response_cross_entropy,
    safety_penalty,
)
from workbench.svgt.slots import forward_with_slots
from workbench.svgt.value_space import LastTokenEncoder

TOLERANCE = 5e-5
TINY_GPT2 = "tests/fixtures/tiny-gpt2"

Case = Any  # the fixtures' ParityCase; conftest cannot be imported by name


def assert_reproduced(computed: dict[str, Tensor], recorded: dict[str, Tensor]) -> None:
    assert set(computed) == set(recorded)
    for name, expected in recorded.items():
        torch.testing.assert_close(
            computed[name].detach(),
            expected,
            atol=TOLERANCE,
            rtol=0.0,
            msg=lambda m, n=name: f"{n}: {m}",
        )


class AcrossRows(nn.Module):
    """The published readout's fault: the rows of a batch attend to each other."""

    def __init__(self, readout: LastTokenEncoder) -> None:
        super().__init__()
        self.readout = readout

    def forward(self, token: Tensor) -> Tensor:
        x = token[None]
        for layer in self.readout.layers:
            x = layer(x)
        return x[0]


@contextmanager
def published_batching(module: ValueModule) -> Iterator[None]:
    readout = module.encoder.readout
    if isinstance(readout, LastTokenEncoder):
        module.encoder.readout = AcrossRows(readout)
    yield
    module.encoder.readout = readout


def value_space_outputs(case: Case, module: ValueModule) -> dict[str, Tensor]:
    text, mask = case.input("hidden_states"), case.mask("attention_mask")
    pair = (
        case.input("prompt_hidden"),
        case.input("response_hidden"),
        case.mask("prompt_mask"),
        case.mask("response_mask"),
    )
    everything = (pair[0], pair[1], torch.ones_like(pair[2]), torch.ones_like(pair[3]))
    encoder = module.encoder
    alone = {
        "value_unconditional_single": encoder.unconditional(text, mask),
        "value_conditional_single": encoder.conditional(*pair),
        "value_stage3": encoder.prompt_path(
            case.input("trigger_hidden"), case.mask("trigger_mask")
        ),
        "value_stage3_prompt": encoder.prompt_path(pair[0], pair[2]),
        "value_stage3_prompt_nomask": encoder.prompt_path(pair[0], everything[2]),
    }
    with published_batching(module):
        together = {
            "value_unconditional": encoder.unconditional(text, mask),
            "value_unconditional_nomask": encoder.unconditional(text, torch.ones_like(mask)),
            "value_conditional": encoder.conditional(*pair),
            "value_conditional_nomask": encoder.conditional(*everything),
        }
    scores = {
        f"score_{name}": module.discriminator((alone | together)[f"value_{name}"])
        for name in ("unconditional", "conditional", "stage3")
    }
    return alone | together | scores


@pytest.mark.parametrize("name", ["basic", "pooled"])
def test_value_space_correction_and_attention_bridge(
    parity: Callable[[str], Case], name: str
) -> None:
    case = parity(name)
    module = case.module()
    outputs = value_space_outputs(case, module)
    z, score = outputs["value_stage3"], outputs["score_stage3"]
    trigger = case.input("trigger_hidden")[:, 0]

    def step(z: Tensor, config: CorrectionConfig = CorrectionConfig()) -> Tensor:  # noqa: B008
        return correct(z, module.discriminator, config).delta_z

    delta_z = step(z)
    outputs |= {
        "delta_z": delta_z,
        "delta_z_step0p7": step(z, CorrectionConfig(step_size=0.7)),
        "delta_z_norelu": step(z, CorrectionConfig(two_sided=True)),
        "delta_z_allsafe": step(z[score <= 0]),
        "score_after_delta": module.discriminator(z + delta_z),
        "bridge": module.bridge(trigger, delta_z),
        "bridge_zero_delta": module.bridge(trigger, torch.zeros_like(delta_z)),
    }
    assert_reproduced(outputs, case.recorded("output"))
    assert (outputs["delta_z_allsafe"] == 0).all()


@pytest.mark.parametrize("name", ["basic", "pooled"])
def test_rows_are_independent_of_their_batch(parity: Callable[[str], Case], name: str) -> None:
    """The published encoder readout differs by more than 1 here; ours must not."""
    case = parity(name)
    encoder = case.module().encoder
    mask = case.mask("attention_mask")
    batched = encoder.unconditional(case.input("hidden_states"), mask)
    for row in range(len(mask)):
        alone = encoder.unconditional(
            case.input("hidden_states")[row : row + 1], mask[row : row + 1]
        )
        torch.testing.assert_close(batched[row : row + 1], alone, atol=1e-5, rtol=0.0)


def test_mlp_bridge(parity: Callable[[str], Case]) -> None:
    case = parity("mlp_bridge")
    module = case.module()
    trigger = case.input("trigger_hidden")
    write = module.write_bridge({0: trigger}, case.mask("trigger_mask"))
    adjustment = module.bridge.adjustment(write.delta_z)
    assert_reproduced(
        {
            "value_stage3": write.z,
            "score_stage3": write.score,
            "delta_z": write.delta_z,
            "value_adjustment": adjustment,
            "value_adjustment_zero_delta": module.bridge.adjustment(
                torch.zeros_like(write.delta_z)
            ),
            "value_adjustment_with_trigger": adjustment + trigger,
            "alpha": module.bridge.gate,
            "bridge": write.bridge,
        },
        case.recorded("output"),
    )


# ---------------------------------------------------------- the published two passes, independently


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    model = GPT2LMHeadModel.from_pretrained(TINY_GPT2, dtype=torch.float32).eval()
    return model.requires_grad_(False)


def states_after(model: GPT2LMHeadModel, layer: int, **inputs: Tensor) -> Tensor:
    return model(**inputs, output_hidden_states=True).hidden_states[layer + 1]


def resume_from(
    model: GPT2LMHeadModel, layer: int, states: Tensor, mask: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Second pass: `states` replace the output of `layer`; logits and the next block's output."""
    hook = model.transformer.h[layer].register_forward_hook(lambda *_: states)
    try:
        out = model(
            input_ids=torch.zeros_like(positions),
            attention_mask=mask,
            position_ids=positions,
            output_hidden_states=True,
        )
    finally:
        hook.remove()
    return out.logits, out.hidden_states[layer + 2]


def splice(prompt_lengths: list[int], rows: Tensor, inserted: Tensor) -> Tensor:
    """Put each row's `inserted` entries after its prompt."""
    return torch.stack(
        [
            torch.cat([row[:length], new, row[length:]])
            for length, row, new in zip(prompt_lengths, rows, inserted, strict=True)
        ]
    )


def stage3_loss(
    case: Case, score: Tensor, logits: Tensor, targets: Tensor, bridge: Tensor
) -> BridgeLoss:
    weights = BridgeLossWeights(
        ce=case.config["lambda_ce"],
        safety=case.config["lambda_safe"],
        norm=case.config["lambda_reg"],
    )
    trigger = case.tensors["output.trigger_hidden"][:, 0]
    return combine(
        response_cross_entropy(logits, targets),
        safety_penalty(score),
        norm_penalty(bridge, trigger),
        weights,
    )


def published_gradients(module: ValueModule, names: dict[str, str]) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    gradients = {}
    for theirs, ours in names.items():
        gradient = parameters[ours].grad
        assert gradient is not None, ours
        gradients[theirs] = gradient
    return gradients


def bridge_names(case: Case, module: ValueModule) -> dict[str, str]:
    """Published generator key to our parameter, found by equal values rather than by the map."""
    ours = dict(module.named_parameters())
    return {
        theirs: next(
            name
            for name, value in ours.items()
            if value.shape == case.tensors[theirs].shape
            and torch.equal(value, case.tensors[theirs])
        )
        for theirs in case.tensors
        if theirs.startswith("generator.")
    }


def test_stage3_by_two_passes(parity: Callable[[str], Case], gpt2: GPT2LMHeadModel) -> None:
    case = parity("stage3_loss_gpt2_vlp")
    module = case.module()
    layer, n_bridge = module.config.layer, module.config.n_bridge
    assert (layer, n_bridge, module.config.response_layer) == (1, 5, 2)
    ids, mask, positions = (case.input(n) for n in ("input_ids", "attention_mask", "position_ids"))
    lengths = case.input("prompt_len").tolist()

    states = states_after(gpt2, layer, input_ids=ids, attention_mask=mask, position_ids=positions)
    column = torch.arange(ids.shape[1])
    prompt_mask = column < case.input("prompt_len")[:, None]
    write = module.write_bridge({layer: states}, prompt_mask)

    slots = case.input("prompt_len")[:, None] + torch.arange(n_bridge)
    expanded = splice(lengths, states, write.bridge)
    expanded_mask = splice(lengths, mask, torch.ones_like(slots))
    expanded_positions = splice(lengths, positions, slots)
    logits, above = resume_from(gpt2, layer, expanded, expanded_mask, expanded_positions)

    column = torch.arange(expanded.shape[1])
    in_prompt = column < case.input("prompt_len")[:, None]
    in_response = (column >= case.input("prompt_len")[:, None] + n_bridge) & expanded_mask.bool()
    score = module.score_response(above, above, in_prompt, in_response)
    labels = splice(lengths, case.input("labels"), torch.full_like(slots, -100))
    loss = stage3_loss(case, score, logits[:, :-1], labels[:, 1:], write.bridge)
    loss.total.backward()

    predicts = [
        logits[row, length + n_bridge - 1 :][: int((case.input("labels")[row] != -100).sum())]
        for row, length in enumerate(lengths)
    ]
    assert_reproduced(
        {
            "hidden_at_extract": states,
            "trigger_hidden": torch.stack(
                [states[row, length - 1 : length] for row, length in enumerate(lengths)]
            ),
            "current_value": write.z,
            "trigger_score": write.score,
            "delta_z": write.delta_z,
            "value_bridge": write.bridge,
            "hidden_expanded": expanded,
            "attention_mask_expanded": expanded_mask,
            "position_ids_full": expanded_positions,
            "logits": logits,
            "intervened_hidden": above,
            "response_score": score,
            "loss_ce": loss.ce,
            "loss_safe": loss.safety,
            "loss_reg": loss.norm,
            "total_loss": loss.total,
            "response_logits_0": predicts[0],
            "response_logits_1": predicts[1],
        },
        case.recorded("output"),
    )
    assert_reproduced(
        published_gradients(module, bridge_names(case, module)), case.recorded("grad")
    )


def test_stage3_by_slots_in_one_pass(parity: Callable[[str], Case]) -> None:
    """Our own way gives the published losses and gradients, at every valid position.

    The backbone runs in float64: with states of size 30, unfused float32 attention alone rounds to
    5e-5, and this test is about the method, not about that.
    """
    case = parity("stage3_loss_gpt2_vlp")
    module = case.module()
    n_bridge = module.config.n_bridge
    ids, lengths = case.input("input_ids"), case.input("prompt_len").tolist()
    valid = case.input("attention_mask").sum(dim=1).tolist()
    widest = max(lengths)
    prompt_ids = torch.zeros(2, widest, dtype=torch.long)
    prompt_mask = torch.zeros(2, widest, dtype=torch.bool)
    n_response = [total - length for total, length in zip(valid, lengths, strict=True)]
    response_ids = torch.zeros(2, max(n_response), dtype=torch.long)
    response_mask = torch.zeros(2, max(n_response), dtype=torch.bool)
    for row, (length, n) in enumerate(zip(lengths, n_response, strict=True)):
        prompt_ids[row, widest - length :] = ids[row, :length]
        prompt_mask[row, widest - length :] = True
        response_ids[row, :n] = ids[row, length : length + n]
        response_mask[row, :n] = True

    layer = module.config.response_layer
    out = forward_with_slots(
        load_backbone(TINY_GPT2, dtype=torch.float64),
        TokenBatch(prompt_ids, prompt_mask),
        TokenBatch(response_ids, response_mask),
        module,
        capture_layers=[layer],
    )
    above = out.states[layer]
    score = module.score_response(above.prompt, above.response, prompt_mask, response_mask)
    response_logits = out.response_logits.float()
    targets = response_ids.masked_fill(~response_mask, -100)
    assert out.write is not None
    loss = stage3_loss(case, score, response_logits, targets, out.write.bridge)
    loss.total.backward()

    recorded = case.recorded("output")
    for row, (length, n) in enumerate(zip(lengths, n_response, strict=True)):
        torch.testing.assert_close(
            response_logits[row, :n],
            recorded[f"response_logits_{row}"],
            atol=TOLERANCE,
            rtol=0.0,
        )
        start = length + n_bridge
        torch.testing.assert_close(
            above.response[row, :n].float(),
            recorded["intervened_hidden"][row, start : start + n],
            atol=TOLERANCE,
            rtol=0.0,
        )
    computed = {
        "value_bridge": out.write.bridge,
        "trigger_score": out.write.score,
        "response_score": score,
        "loss_ce": loss.ce,
        "loss_safe": loss.safety,
        "loss_reg": loss.norm,
        "total_loss": loss.total,
    }
    assert_reproduced(computed, {name: recorded[name] for name in computed})
    assert_reproduced(
        published_gradients(module, bridge_names(case, module)), case.recorded("grad")
    )


@torch.no_grad()
def test_generation(parity: Callable[[str], Case], gpt2: GPT2LMHeadModel) -> None:
    """All recorded steps, with the published positions: M.. below the bridge, M+K.. above it."""
    case = parity("generate_gpt2_vlp")
    module = case.module()
    layer = module.config.layer
    prompt = case.input("prompt_ids")
    length = prompt.shape[1]
    refresh, beta = case.config["refresh_interval"], case.config["beta"]

    ids, plain = prompt, prompt
    bridges: list[Tensor] = []
    proposals: list[Tensor] = []
    steps: list[Tensor] = []
    for number in range(12):
        states = states_after(gpt2, layer, input_ids=ids)
        if number % refresh == 0:
            mask = torch.ones(1, length, dtype=torch.bool)
            write = module.write_bridge({layer: states[:, :length]}, mask)
            proposals.append(write.bridge)
            old = bridges[-1] if bridges else write.bridge[0]
            bridge = beta * old + (1 - beta) * write.bridge[0]
        bridges.append(bridge)
        expanded = splice([length], states, bridge[None])
        positions = torch.arange(expanded.shape[1])[None]
        logits, _ = resume_from(gpt2, layer, expanded, torch.ones_like(positions), positions)
        steps.append(logits[0, -1])
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        plain = torch.cat([plain, gpt2(plain).logits[:, -1].argmax(-1, keepdim=True)], dim=1)

    assert_reproduced(
        {
            "generated_ids": ids[0, length:],
            "plain_greedy_ids": plain[0, length:],
            "value_bridge_steps": torch.stack(bridges),
            "proposals": torch.stack(proposals),
            "step_logits": torch.stack(steps),
            "trigger_hidden": states[:, length - 1 : length],
            "trigger_score": write.score,
        },
        case.recorded("output"),
    )


def test_first_generation_step_by_slots(parity: Callable[[str], Case]) -> None:
    case = parity("generate_gpt2_vlp")
    module = case.module()
    prompt = case.input("prompt_ids")
    first = case.tensors["output.generated_ids"][:1][None]
    out = forward_with_slots(
        load_backbone(TINY_GPT2),
        TokenBatch(prompt, torch.ones_like(prompt, dtype=torch.bool)),
        TokenBatch(first, torch.ones_like(first, dtype=torch.bool)),
        module,
    )
    assert out.write is not None
    recorded = case.recorded("output")
    for ours, theirs in (
        (out.response_logits[0, 0], recorded["step_logits"][0]),
        (out.write.bridge[0], recorded["value_bridge_steps"][0]),
        (out.write.score, recorded["trigger_score"]),
    ):
        torch.testing.assert_close(ours.detach(), theirs, atol=TOLERANCE, rtol=0.0)
