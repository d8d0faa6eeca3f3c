"""The strict loader names what is wrong, and reads back what it wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from workbench.config import dump_yaml, from_mapping, load_yaml, to_mapping
from workbench.errors import ConfigError


@dataclass(frozen=True)
class Optimiser:
    learning_rate: float = 1e-3
    name: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Training:
    steps: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    layers: tuple[int, ...] = ()
    note: str | None = None
    shuffle: bool = True
    width: int | Literal["auto"] = "auto"
    weights: Mapping[str, float] = field(default_factory=dict)
    anything: object = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


trainings = st.builds(
    Training,
    steps=st.integers(1, 10**9),
    optimiser=st.builds(
        Optimiser,
        learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        name=st.sampled_from(["adam", "sgd"]),
        betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    ),
    layers=st.lists(st.integers(), max_size=5).map(tuple),
    note=st.none() | st.text(),
    shuffle=st.booleans(),
    width=st.integers() | st.just("auto"),
    weights=st.dictionaries(st.text(), st.floats(-1, 1), max_size=3),
)


@given(trainings)
def test_what_is_written_is_read_back(training: Training) -> None:
    as_json = json.loads(json.dumps(to_mapping(training)))
    assert from_mapping(Training, as_json, where="JSON") == training


@given(trainings)
def test_yaml_carries_the_same(training: Training) -> None:
    assert from_mapping(Training, yaml.safe_load(dump_yaml(training)), where="YAML") == training


def test_a_whole_number_is_a_number_and_comes_back_as_one() -> None:
    rate = from_mapping(Optimiser, {"learning_rate": 1}, where="here").learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"stesp": 3}, "here: unknown key 'stesp' (did you mean 'steps'?); valid keys: steps, opt"),
        ({"steps": 1, "zzz": 0}, "here: unknown key 'zzz'; valid keys: steps"),
        (
            {"steps": 1, "optimiser": {"lr_rate": 0.1}},
            "unknown key 'optimiser.lr_rate' (did you mean 'learning_rate'?)",
        ),
        ({}, "here: missing key 'steps'"),
        ({"steps": "3"}, "here: key 'steps' must be a whole number, got '3' (str)"),
        ({"steps": 3.0}, "key 'steps' must be a whole number, got 3.0 (float)"),
        ({"steps": True}, "key 'steps' must be a whole number, got True (bool)"),
        ({"steps": 1, "shuffle": 1}, "key 'shuffle' must be true or false, got 1 (int)"),
        ({"steps": 1, "note": 4}, "key 'note' must be a text, got 4 (int)"),
        ({"steps": 1, "layers": 4}, "key 'layers' must be a list, got 4 (int)"),
        ({"steps": 1, "layers": [1, "x"]}, "key 'layers[1]' must be a whole number, got 'x'"),
        ({"steps": 1, "optimiser": 4}, "key 'optimiser' must be a group of keys (Optimiser)"),
        (
            {"steps": 1, "optimiser": {"name": "adan"}},
            "key 'optimiser.name' must be one of 'adam', 'sgd', got 'adan' (str) "
            "(did you mean 'adam'?)",
        ),
        ({"steps": 1, "optimiser": {"betas": [0.9]}}, "'optimiser.betas' must be a list of 2"),
        (
            {"steps": 1, "optimiser": {"learning_rate": float("nan")}},
            "'optimiser.learning_rate' must be a finite number",
        ),
        ({"steps": 1, "width": "wide"}, "key 'width' must be a whole number or one of 'auto', got"),
        ({"steps": 1, "weights": {"a": "b"}}, "key 'weights.a' must be a number, got 'b'"),
        ({"steps": 0}, "here: steps must be at least 1, got 0"),
    ],
)
def test_every_mistake_is_named(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Training, mapping, where="here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_range_refused_inside_a_group_says_which_group() -> None:
    @dataclass(frozen=True)
    class Outer:
        inner: Training

    with pytest.raises(ConfigError, match=r"^here: inner: steps must be at least 1"):
        from_mapping(Outer, {"inner": {"steps": 0}}, where="here")


def test_to_mapping_refuses_what_json_cannot_express() -> None:
    with pytest.raises(ConfigError, match=r"Training.anything holds .* cannot express"):
        to_mapping(Training(steps=1, anything={1, 2}))
    with pytest.raises(ConfigError, match=r"Optimiser.learning_rate"):
        to_mapping(Training(steps=1, optimiser=Optimiser(learning_rate=float("inf"))))
    with pytest.raises(ConfigError, match="expected a dataclass instance"):
        to_mapping({"steps": 1})


def test_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "training.yaml"
    path.write_text("steps: 7\noptimiser:\n  learning_rate: 1e-4\nlayers: [1, 2]\n")
    assert load_yaml(Training, path) == Training(
        steps=7, optimiser=Optimiser(learning_rate=1e-4), layers=(1, 2)
    )
    path.write_text("")
    assert load_yaml(Optimiser, path) == Optimiser()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: \xff\n", "not UTF-8 text"),
        (b"steps: [1\n", "not valid YAML"),
        (b"- 1\n- 2\n", "expected `key: value` lines"),
        (b"steps: 1\nsteps: 2\n", "key 'steps' is given twice"),
        (b"stepz: 1\n", "training.yaml: unknown key 'stepz' (did you mean 'steps'?)"),
        (b"1: 2\n", "unknown key '1'"),
    ],
)
def test_bad_yaml_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "training.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_yaml(Training, path)
    assert message in str(caught.value)
    assert "training.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_yaml_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_yaml(Training, tmp_path / "none.yaml")
