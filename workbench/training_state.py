"""Optimiser states as plain tensors: a training resumes from safetensors, never a pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from workbench.errors import CheckpointError


def optimizer_tensors(optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """Flatten the per-parameter state of an optimiser into named tensors.

    Names are ``{prefix}.{parameter index}.{entry}``; scalars become tensors of no dimension.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{entry}": torch.as_tensor(value).detach().clone()
        for index, entries in state.items()
        for entry, value in entries.items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Put the state of :func:`optimizer_tensors` back into an optimiser of the same parameters.

    Raises:
        CheckpointError: if the state names a parameter that the optimiser does not have.
    """
    known = optimizer.state_dict()
    indices = {index for group in known["param_groups"] for index in group["params"]}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(f"{prefix}."):
            continue
        _, index, entry = name.rsplit(".", 2)
        if int(index) not in indices:
            raise CheckpointError(
                f"the saved optimiser state names parameter {index}, which this training does not "
                "have; it belongs to another configuration: start anew in another folder"
            )
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": known["param_groups"]})
