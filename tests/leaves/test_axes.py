"""Every shape in the code is written in the words of the axis vocabulary."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.axes import AXES

ROOT = Path(__file__).resolve().parent.parent.parent
SHAPED = {"Float", "Int", "Bool", "Shaped", "Num", "Integer", "UInt", "Complex", "Key"}


def shapes_in(source: str) -> Iterator[tuple[int, str]]:
    """The line and text of every ``Float[Tensor, "..."]`` and its like."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Subscript)
            and getattr(node.value, "id", None) in SHAPED
            and isinstance(node.slice, ast.Tuple)
            and isinstance(node.slice.elts[-1], ast.Constant)
        ):
            yield node.lineno, str(node.slice.elts[-1].value)


def strangers(source: str) -> list[str]:
    return [
        f"{line}: '{name}' in \"{shape}\""
        for line, shape in shapes_in(source)
        # numbers, `...` and sums such as `seq+1` are no names; `*batch` and `#seq` are
        for name in re.findall(r"[A-Za-z]\w*", shape)
        if name not in AXES
    ]


@pytest.mark.parametrize("package", ["workbench", "probes"])
def test_all_shapes_use_the_vocabulary(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{stranger}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for stranger in strangers(file.read_text(encoding="utf-8"))
    ]
    assert found == [], "use a name of workbench/axes.py, or add it there with its meaning"


def test_a_stranger_is_named() -> None:
    source = (
        'def f(x: Float[Tensor, "batch seq+1 *batch 1 ... d_model"]) -> Int[Tensor, " n"]: ...\n'
        'y: Bool[Tensor, "batch sequence"]\n'
    )
    assert strangers(source) == ["2: 'sequence' in \"batch sequence\""]


def test_every_axis_has_a_meaning_of_its_own() -> None:
    assert all(AXES.values())
    assert len(set(AXES.values())) == len(AXES)
