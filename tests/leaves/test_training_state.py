"""An optimiser's state survives as plain tensors, down to the last bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from workbench.errors import CheckpointError
from workbench.files import read_tensors, write_tensors
from workbench.training_state import load_optimizer_tensors, optimizer_tensors

OPTIMISERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda model: AdamW(model.parameters(), lr=0.1, weight_decay=0.01),
    "amsgrad": lambda model: AdamW(model.parameters(), lr=0.1, amsgrad=True),
    "momentum": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
    "plain": lambda model: SGD(model.parameters(), lr=0.1),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))


def step(network: nn.Module, optimizer: Optimizer, seed: int) -> None:
    data = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(data).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_training_goes_on_from_the_file_as_if_it_had_never_stopped(
    name: str, tmp_path: Path
) -> None:
    one = model()
    first = OPTIMISERS[name](one)
    for seed in range(3):
        step(one, first, seed)
    tensors = optimizer_tensors(first, "opt")
    write_tensors(tmp_path / "state.safetensors", {**tensors, "other.0.step": torch.ones(())})
    other = model()
    other.load_state_dict(one.state_dict())
    second = OPTIMISERS[name](other)
    load_optimizer_tensors(second, read_tensors(tmp_path / "state.safetensors")[0], "opt")
    for seed in range(3, 6):
        step(one, first, seed)
        step(other, second, seed)
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_what_is_kept_is_a_copy() -> None:
    network = model()
    optimizer = OPTIMISERS["adamw"](network)
    step(network, optimizer, 0)
    kept = optimizer_tensors(optimizer, "opt")
    before = {name: value.clone() for name, value in kept.items()}
    step(network, optimizer, 1)
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    assert set(kept) == {
        f"opt.{index}.{entry}" for index in range(4) for entry in ("step", "exp_avg", "exp_avg_sq")
    }


def test_parameters_that_never_learned_have_no_state() -> None:
    network = model()
    network[0].requires_grad_(False)
    optimizer = OPTIMISERS["adamw"](network)
    step(network, optimizer, 0)
    kept = optimizer_tensors(optimizer, "opt")
    assert {name.split(".")[1] for name in kept} == {"2", "3"}
    load_optimizer_tensors(OPTIMISERS["adamw"](network), kept, "opt")


def test_the_settings_of_the_run_at_hand_win() -> None:
    """Rates belong to the configuration, not to the saved state."""
    network = model()
    saved = AdamW(network.parameters(), lr=0.1)
    step(network, saved, 0)
    resumed = AdamW(network.parameters(), lr=0.5, weight_decay=0.2)
    load_optimizer_tensors(resumed, optimizer_tensors(saved, "opt"), "opt")
    assert resumed.param_groups[0]["lr"] == 0.5
    assert resumed.param_groups[0]["weight_decay"] == 0.2


def test_groups_keep_their_own_parameters() -> None:
    def grouped(network: nn.Module) -> AdamW:
        groups = [
            {"params": list(part.parameters()), "lr": rate}
            for part, rate in ((network[2], 0.1), (network[0], 0.01))  # type: ignore[index]
        ]
        return AdamW(groups)

    network = model()
    saved = grouped(network)
    step(network, saved, 0)
    resumed = grouped(network)
    load_optimizer_tensors(resumed, optimizer_tensors(saved, "opt"), "opt")
    for parameter in network.parameters():
        found: Tensor = resumed.state[parameter]["exp_avg"]
        assert torch.equal(found, saved.state[parameter]["exp_avg"])
        assert found.shape == parameter.shape


def test_nothing_saved_is_a_fresh_optimiser() -> None:
    network = model()
    optimizer = OPTIMISERS["adamw"](network)
    load_optimizer_tensors(optimizer, {}, "opt")
    load_optimizer_tensors(optimizer, {"other.0.step": torch.ones(())}, "opt")
    assert not optimizer.state


def test_a_state_of_more_parameters_is_refused() -> None:
    network = model()
    optimizer = OPTIMISERS["adamw"](network)
    step(network, optimizer, 0)
    kept = optimizer_tensors(optimizer, "opt")
    smaller = AdamW([next(network.parameters())])
    with pytest.raises(CheckpointError, match=r"parameter 1.*another folder"):
        load_optimizer_tensors(smaller, kept, "opt")
