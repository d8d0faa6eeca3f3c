"""Published test vectors and small modules, shared by the tests of this room."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True)
class ParityCase:
    """Weights, inputs and outputs that the published code gave."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def input(self, name: str) -> Tensor:
        return self.tensors[f"input.{name}"]

    def mask(self, name: str) -> Tensor:
        return self.input(name).bool()

    def recorded(self, prefix: str) -> dict[str, Tensor]:
        """Everything recorded under a prefix, by its name after it."""
        prefix = f"{prefix}."
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }

    def module(self) -> "ValueModule":
        from workbench.svgt import import_reference

        return import_reference(self.tensors, self.config)


def load_case(name: str) -> ParityCase:
    folder = FIXTURES / "parity"
    config = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["config"]
    return ParityCase(name, config, load_file(folder / f"{name}.safetensors"))


@pytest.fixture(scope="session")
def parity() -> Callable[[str], ParityCase]:
    return load_case


@pytest.fixture
def seeded() -> None:
    """Fix torch's global generator, from which modules are initialised."""
    torch.manual_seed(20260511)
