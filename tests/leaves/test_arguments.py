"""What does not fit its type is named, and what fits passes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from workbench.arguments import Count, Seed, require_field_types, typed_arguments
from workbench.errors import ConfigError


class Named(Protocol):
    name: str

    def call(self) -> None: ...


class Good:
    def __init__(self) -> None:
        self.name = "good"

    def call(self) -> None: ...


@typed_arguments
def ask(
    layers: Sequence[int] | None = None,
    *,
    seed: Seed = 0,
    rate: float = 1.0,
    kind: Literal["a", "b"] = "a",
    table: Mapping[str, float] | None = None,
    folder: str | Path = "x",
    who: Named | None = None,
    tell: Callable[[int], None] | None = None,
    limit: Count | None = None,
) -> str:
    return "done"


@pytest.mark.parametrize(
    "given",
    [
        {"layers": [1, 2]}, {"layers": (1,)}, {"layers": range(3)}, {"seed": 3}, {"rate": 2},
        {"rate": 0.5}, {"kind": "b"}, {"table": {"a": 1.0}}, {"folder": Path("y")},
        {"who": Good()}, {"tell": print}, {"limit": None}, {"limit": 1},
    ],
)  # fmt: skip
def test_what_fits_passes(given: dict[str, Any]) -> None:
    assert ask(**given) == "done"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": "12"}, "layers = '12' (str): a list of whole numbers is needed"),
        ({"layers": 1}, "layers = 1 (int): a list of whole numbers is needed"),
        ({"layers": [1, "2"]}, "layers[1] = '2' (str): a whole number is needed"),
        ({"layers": [True]}, "layers[0] = True (bool): a whole number is needed"),
        ({"seed": 1.5}, "seed = 1.5 (float): a whole number is needed"),
        ({"seed": -1}, "seed = -1 (int): a whole number from 0 is needed"),
        ({"rate": "high"}, "rate = 'high' (str): a number is needed"),
        ({"kind": "c"}, "kind = 'c' (str): one of 'a', 'b' is needed"),
        ({"table": {"a": "b"}}, "table['a'] = 'b' (str): a number is needed"),
        ({"table": ["a"]}, "table = ['a'] (list): a mapping to numbers is needed"),
        ({"folder": 3}, "folder = 3 (int): a text or a value of the type Path is needed"),
        ({"who": "good"}, "who = 'good' (str): a value of the type Named is needed"),
        ({"tell": 3}, "tell = 3 (int): a function is needed"),
        ({"limit": 0}, "limit = 0 (int): a whole number from 1 is needed"),
        ({"layers": "x" * 99}, f"layers = '{'x' * 56}... (str): a list of whole numbers"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_argument_is_left_to_python() -> None:
    with pytest.raises(TypeError, match="layer"):
        ask(layer=3)  # type: ignore[call-arg]


def test_tensors_are_shown_by_type_and_shape() -> None:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    @typed_arguments
    def take(states: Float[Tensor, "n width"]) -> None: ...

    take(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match=r"states = Tensor of torch.float32, shape \(2,\): "):
        take(torch.zeros(2))
    with pytest.raises(ConfigError, match=r"states = \[1.0\] \(list\): a value of the type Float"):
        take([1.0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Part:
    size: int = 1

    def __post_init__(self) -> None:
        require_field_types(self)


@dataclass(frozen=True)
class Config:
    names: tuple[str, ...] = ("a",)
    span: tuple[int, int] = (0, 1)
    part: Part = Part()

    def __post_init__(self) -> None:
        require_field_types(self)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["a"]}, r"names = \['a'\] \(list\): a tuple of texts is needed"),
        ({"names": (3,)}, r"names\[0\] = 3 \(int\): a text is needed"),
        ({"span": (0, 1, 2)}, "a tuple of 2 values is needed"),
        ({"span": (0, 0.5)}, r"span\[1\] = 0.5 \(float\): a whole number is needed"),
        ({"part": {"size": 2}}, "a value of the type Part is needed"),
    ],
)
def test_fields_of_a_configuration(given: dict[str, Any], message: str) -> None:
    assert Config(names=("b", "c"), part=Part(2)).span == (0, 1)
    with pytest.raises(ConfigError, match=message):
        Config(**given)


def test_a_methods_arguments_are_checked_and_self_is_not() -> None:
    class Asker:
        @typed_arguments
        def ask(self, names: Sequence[str | tuple[int, ...]], *, seed: Seed = 0) -> int:
            return len(names) + seed

    assert Asker().ask(["a", (1, 2)], seed=3) == 5
    with pytest.raises(ConfigError) as caught:
        Asker().ask("ab")
    needed = "names = 'ab' (str): a list of texts or lists of whole numbers is needed"
    assert str(caught.value) == needed
