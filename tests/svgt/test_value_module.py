"""The module as a whole: frozen, float32, gated, and differentiable where it should be."""

import pytest
import torch
from torch import Tensor

from workbench.errors import ConfigError, NonFiniteError
from workbench.svgt import BridgeConfig, EncoderConfig, SVGTConfig, TriggerConfig, ValueModule

D_MODEL = 16


def module(**options: object) -> ValueModule:
    torch.manual_seed(0)
    settings = {
        "n_bridge": 3,
        "d_value": 8,
        "encoder": EncoderConfig(n_heads=2),
        "bridge": BridgeConfig(n_heads=4),
    }
    return ValueModule(SVGTConfig(D_MODEL, 2, **(settings | options)))


WINDOWED = TriggerConfig(kind="windowed", layers=(1, -1), width=8, n_heads=2, p_token=0.3)


def prompt(model: ValueModule, n: int = 6) -> tuple[dict[int, Tensor], Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(n, 5, dtype=torch.bool)
    mask[0, :3] = False
    return {layer: torch.randn(n, 5, D_MODEL) for layer in model.capture_layers}, mask


def test_capture_layers_are_the_triggers_and_the_bridges() -> None:
    assert module().capture_layers == (2,)
    assert module(trigger=WINDOWED).capture_layers == (-1, 1, 2)


@pytest.mark.parametrize("options", [{}, {"trigger": WINDOWED}])
def test_frozen_means_same_output_twice_and_no_gradient(options: dict[str, object]) -> None:
    model = module(**options)
    states, mask = prompt(model)
    model.train()
    assert not torch.equal(
        model.write_bridge(states, mask).bridge, model.write_bridge(states, mask).bridge
    )
    model.freeze().train()
    write = model.write_bridge(states, mask)
    assert torch.equal(write.bridge, model.write_bridge(states, mask).bridge)
    assert not write.bridge.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_freezing_parts_trains_the_bridge_alone() -> None:
    model = module().freeze("encoder", "trigger", "discriminator").train()
    assert model.frozen_parts == {"encoder", "trigger", "discriminator"}
    states, mask = prompt(model)
    first, second = model.write_bridge(states, mask), model.write_bridge(states, mask)
    assert torch.equal(first.score, second.score)
    assert not torch.equal(first.bridge, second.bridge)  # the bridge's own dropout
    first.bridge.sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning
    assert all(name.startswith("bridge.") for name in learning)
    model.unfreeze()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_bridge_does_not_teach_the_value_space() -> None:
    """The correction is a reading of the discriminator, never differentiated through."""
    model = module().eval()
    states, mask = prompt(model)
    write = model.write_bridge(states, mask)
    assert (write.delta_z.norm(dim=1) > 0).any()
    write.bridge.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.discriminator.parameters())
    model.write_bridge(states, mask).score.sum().backward()
    assert model.discriminator.out.bias.grad is not None


def test_casting_is_refused_and_low_precision_states_are_read() -> None:
    model = module().eval()
    for cast in (model.bfloat16, model.half, model.double, lambda: model.to(torch.float16)):
        with pytest.raises(ConfigError, match="stays in float32"):
            cast()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.to("cpu")
    states, mask = prompt(model)
    low = {layer: values.bfloat16() for layer, values in states.items()}
    exact = {layer: values.float() for layer, values in low.items()}
    assert torch.equal(model.write_bridge(low, mask).bridge, model.write_bridge(exact, mask).bridge)


def test_an_outer_module_cannot_cast_it_either() -> None:
    outer = torch.nn.ModuleList([module(), torch.nn.Linear(2, 2)])
    with pytest.raises(ConfigError, match="stays in float32"):
        outer.to(torch.bfloat16)


def test_threshold_gate_opens_above_the_threshold_only() -> None:
    model = module(gate="threshold").eval()
    states, mask = prompt(model, n=60)
    write = model.write_bridge(states, mask)
    middle = write.score.median().item()
    assert torch.equal(write.open, write.score > 0)
    model = module(gate="threshold", threshold=middle).eval()
    opened = model.write_bridge(states, mask).open
    assert 25 <= int(opened.sum()) <= 30
    assert model.write_bridge(states, mask).bridge.isfinite().all()
    assert module().eval().write_bridge(states, mask).open.all()


@pytest.mark.parametrize("layer", [1, 2])
def test_a_state_that_is_not_finite_is_an_error_that_names_its_row(layer: int) -> None:
    model = module(trigger=TriggerConfig(layers=(1,))).eval()
    states, mask = prompt(model)
    states[layer][4, -1, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="row 4"):
        model.write_bridge(states, mask)


def test_score_response_equals_the_discriminator_on_the_conditional_pathway() -> None:
    model = module().eval()
    given, said = torch.randn(2, 4, D_MODEL), torch.randn(2, 3, D_MODEL)
    masks = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    score = model.score_response(given, said, *masks)
    z = model.encoder.conditional(given, said, *masks)
    assert torch.equal(score, model.discriminator(z))
    assert score.shape == (2,)


def test_a_batch_of_one_keeps_its_axis() -> None:
    model = module().eval()
    states, mask = prompt(model, n=1)
    write = model.write_bridge(states, mask)
    assert write.score.shape == write.open.shape == (1,)
    assert write.bridge.shape == (1, 3, D_MODEL)
