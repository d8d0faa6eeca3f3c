"""Triggers read the tokens they say they read, and no padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workbench.errors import ConfigError, TokenError
from workbench.svgt.config import BridgeConfig, EncoderConfig, SVGTConfig, TriggerConfig
from workbench.svgt.trigger import WindowedTrigger
from workbench.svgt.value_module import ValueModule

D_MODEL, LAYER = 12, 2


def module(trigger: TriggerConfig, *, pooling: bool = False, seed: int = 0) -> ValueModule:
    torch.manual_seed(seed)
    config = SVGTConfig(
        D_MODEL,
        LAYER,
        d_value=8,
        n_bridge=3,
        encoder=EncoderConfig(n_heads=2, pooling=pooling),
        trigger=trigger,
        bridge=BridgeConfig(n_heads=2),
    )
    return ValueModule(config).eval()


WINDOWED = TriggerConfig(kind="windowed", layers=(0, 1, 2), width=8, n_heads=2)


Rows = list[dict[int, Tensor]]


def prompt(lengths: list[int], seed: int = 1, layers: tuple[int, ...] = (0, 1, 2)) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return [
        {layer: torch.randn(length, D_MODEL, generator=generator) for layer in layers}
        for length in lengths
    ]


def batch(rows: Rows, left: list[int], total: int, junk: float) -> tuple[dict[int, Tensor], Tensor]:
    mask = torch.zeros(len(rows), total, dtype=torch.bool)
    states = {layer: torch.full((len(rows), total, D_MODEL), junk) for layer in rows[0]}
    for number, (row, start) in enumerate(zip(rows, left, strict=True)):
        for layer, values in row.items():
            states[layer][number, start : start + len(values)] = values
        mask[number, start : start + len(values)] = True
    return states, mask


TRIGGERS = {
    "prompt-path": module(TriggerConfig()),
    "prompt-path on the whole prompt": module(TriggerConfig(context="prompt"), pooling=True),
    "both-paths": module(TriggerConfig(kind="both-paths")),
    "windowed": module(WINDOWED),
}


@pytest.mark.parametrize("name", TRIGGERS)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    extra=st.integers(0, 6),
    shifts=st.lists(st.integers(0, 11), min_size=4, max_size=4),
    junk=st.sampled_from([0.0, 30.0, float("nan")]),
)
def test_padding_and_batching_change_nothing(
    name: str, lengths: list[int], extra: int, shifts: list[int], junk: float
) -> None:
    rows = prompt(lengths, seed=sum(lengths))
    total = max(lengths) + extra
    left = [shift % (total - length + 1) for shift, length in zip(shifts, lengths, strict=False)]
    together = TRIGGERS[name].write_bridge(*batch(rows, left, total, junk))
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = TRIGGERS[name].write_bridge(*batch([row], [0], length, 0.0))
        for ours, theirs in (
            (together.z, alone.z),
            (together.score, alone.score),
            (together.bridge, alone.bridge),
        ):
            torch.testing.assert_close(ours[index : index + 1], theirs, atol=5e-6, rtol=1e-5)


def moved_by(model: ValueModule, position: int, layer: int) -> float:
    """How much z changes when one prompt state changes."""
    states, mask = batch(prompt([8]), [0], 8, 0.0)
    before = model.write_bridge(states, mask).z.detach()
    states[layer][0, position] += 1.0
    return float((model.write_bridge(states, mask).z.detach() - before).abs().max())


def test_which_tokens_each_trigger_reads() -> None:
    last, early = 7, 0
    assert moved_by(TRIGGERS["prompt-path"], early, LAYER) == 0.0
    assert moved_by(TRIGGERS["prompt-path"], last, LAYER) > 1e-3
    for name in ("prompt-path on the whole prompt", "both-paths", "windowed"):
        assert moved_by(TRIGGERS[name], early, LAYER) > 1e-4, name
    assert moved_by(TRIGGERS["windowed"], early, 0) > 1e-4
    assert moved_by(TRIGGERS["both-paths"], early, 0) == 0.0


def test_current_mode_follows_the_newest_token_and_prompt_mode_does_not() -> None:
    states, mask = batch(prompt([5, 3]), [0, 2], 5, 0.0)
    newest = {layer: torch.randn(2, D_MODEL) for layer in states}
    for kind in ("prompt-path", "both-paths"):
        constant = module(TriggerConfig(kind=kind))
        assert torch.equal(
            constant.write_bridge(states, mask, newest).bridge,
            constant.write_bridge(states, mask).bridge,
        )
        follows = module(TriggerConfig(kind=kind, mode="current"))
        at_start = follows.write_bridge(states, mask)
        later = follows.write_bridge(states, mask, newest)
        assert (later.z - at_start.z).abs().max() > 1e-3
        assert (later.bridge - at_start.bridge).abs().max() > 1e-3
        # Before the first generated token both modes read the prompt's end.
        torch.testing.assert_close(at_start.bridge, constant.write_bridge(states, mask).bridge)


def test_current_mode_with_the_prompts_end_changes_nothing() -> None:
    states, mask = batch(prompt([5, 3]), [0, 2], 5, 0.0)
    end = {layer: values[:, -1] for layer, values in states.items()}
    model = module(TriggerConfig(kind="both-paths", mode="current"))
    assert torch.equal(
        model.write_bridge(states, mask, end).bridge, model.write_bridge(states, mask).bridge
    )


def test_standardiser_makes_the_trigger_blind_to_shift_and_scale() -> None:
    plain, fitted = module(WINDOWED), module(WINDOWED)
    states, mask = batch(prompt([6]), [0], 6, 0.0)
    mean, std = torch.randn(3, D_MODEL), torch.rand(3, D_MODEL) + 0.5
    assert isinstance(fitted.trigger, WindowedTrigger)
    fitted.trigger.fit_standardiser(mean, std)
    raw = {layer: values * std[layer] + mean[layer] for layer, values in states.items()}
    torch.testing.assert_close(
        fitted.write_bridge(raw, mask).z, plain.write_bridge(states, mask).z, atol=1e-5, rtol=1e-5
    )
    assert (plain.write_bridge(raw, mask).z - plain.write_bridge(states, mask).z).abs().max() > 1e-2
    with pytest.raises(ConfigError, match="positive standard deviations"):
        fitted.trigger.fit_standardiser(mean, torch.zeros(3, D_MODEL))


def dropped(model: ValueModule, mask: Tensor) -> Tensor:
    assert isinstance(model.trigger, WindowedTrigger)
    return mask & ~model.trigger._drop_tokens(mask)


def test_token_dropout_rates_and_where_it_acts() -> None:
    torch.manual_seed(4)
    mask = torch.zeros(4000, 12, dtype=torch.bool)
    mask[:, 2:10] = True
    tokens = dropped(module(TriggerConfig(kind="windowed", p_token=0.1)), mask)
    assert abs(float(tokens[:, 2:10].float().mean()) - 0.1) < 0.01
    last3 = dropped(module(TriggerConfig(kind="windowed", p_last3=0.3)), mask)
    assert last3[:, :7].sum() == 0
    assert abs(float(last3[:, 7:10].all(dim=1).float().mean()) - 0.3) < 0.03
    assert torch.equal(last3[:, 7:10].all(dim=1), last3[:, 7:10].any(dim=1))


def test_token_dropout_leaves_no_row_empty() -> None:
    model = module(TriggerConfig(kind="windowed", p_last3=1.0))
    mask = torch.ones(50, 2, dtype=torch.bool)
    assert not dropped(model, mask).any()


def test_token_dropout_acts_in_training_only_and_follows_the_global_seed() -> None:
    config = TriggerConfig(kind="windowed", layers=(0, 1, 2), p_token=0.5)
    model = module(config)
    states, mask = batch(prompt([12]), [0], 12, 0.0)

    def read() -> Tensor:
        return model.trigger(model.encoder, states, mask)

    assert torch.equal(read(), read())
    model.train()
    torch.manual_seed(5)
    first = read()
    assert not torch.equal(first, read())
    torch.manual_seed(5)
    assert torch.equal(first, read())


@pytest.mark.parametrize("name", TRIGGERS)
def test_an_empty_prompt_is_named(name: str) -> None:
    states, mask = batch(prompt([4, 4]), [0, 0], 4, 0.0)
    mask[1] = False
    with pytest.raises(TokenError, match="row 1 of the prompt"):
        TRIGGERS[name].write_bridge(states, mask)
