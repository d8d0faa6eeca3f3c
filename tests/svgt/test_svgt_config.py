"""Every value that makes no sense is refused with its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.config import from_mapping, to_mapping
from workbench.errors import ConfigError
from workbench.svgt import (
    BridgeConfig,
    CorrectionConfig,
    EncoderConfig,
    SVGTConfig,
    TriggerConfig,
)

BASE = {"d_model": 64, "layer": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_bridge": 0}, "n_bridge = 0"),
        ({"layer": -1}, "layer = -1"),
        ({"d_model": 0}, "d_model = 0"),
        ({"d_value": 1}, "d_value = 1"),
        ({"score_layer": -2}, "score_layer = -2"),
        ({"gate": "sometimes"}, "gate"),
        ({"encoder": {"n_heads": 5}}, "encoder.n_heads = 5 does not divide the width 128"),
        ({"encoder": {"n_heads": 0}}, "encoder.n_heads = 0"),
        ({"encoder": {"n_layers": 0}}, "encoder.n_layers = 0"),
        ({"encoder": {"dropout": 1.0}}, "encoder.dropout = 1.0"),
        ({"encoder": {"readout": "mean"}}, "readout"),
        ({"bridge": {"n_heads": 7}}, "bridge.n_heads = 7 does not divide the width 64"),
        ({"bridge": {"apply_gate_twice": True}}, "apply_gate_twice"),
        ({"bridge": {"kind": "mlp", "gain_init": "residual-norm"}}, "gain_init"),
        ({"bridge": {"hidden": 0}}, "bridge.hidden = 0"),
        ({"correction": {"max_norm": 0.0}}, "correction.max_norm = 0.0"),
        ({"correction": {"step_size": -1.0}}, "correction.step_size = -1.0"),
        ({"correction": {"kind": "none"}}, "'gradient', 'zero'"),
        ({"bridge": {"conditioning": "mean"}}, "'state', 'none'"),
        ({"bridge": {"kind": "offset", "conditioning": "none"}}, "never reads the trigger state"),
        ({"trigger": {"layers": [3]}}, "written at layer 2"),
        ({"trigger": {"layers": [0, 1]}}, "reads one layer"),
        ({"trigger": {"kind": "windowed", "layers": [1, 1]}}, "names a layer twice"),
        ({"trigger": {"kind": "windowed", "layers": [-2]}}, "count from 0"),
        ({"trigger": {"kind": "windowed", "mode": "current"}}, "reads the prompt only"),
        ({"trigger": {"kind": "windowed", "window": 4}}, "trigger.window = 4"),
        ({"trigger": {"kind": "windowed", "width": 50}}, "trigger.n_heads = 4 does not divide"),
        ({"trigger": {"kind": "windowed", "p_token": 1.0}}, "trigger.p_token = 1.0"),
        ({"trigger": {"kind": "windowed", "context": "prompt"}}, "trigger.context"),
        ({"trigger": {"p_last3": 0.3}}, "options of the windowed trigger"),
        ({"n_bridges": 4}, "did you mean 'n_bridge'"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(SVGTConfig, BASE | changes, where="test.yaml")
    assert message in str(caught.value)


def test_the_heads_of_an_unused_attention_do_not_matter() -> None:
    SVGTConfig(6, 0, d_value=8, bridge=BridgeConfig(kind="offset"))


@given(
    layer=st.integers(0, 30),
    kind=st.sampled_from(["attention", "mlp", "offset"]),
    trigger=st.sampled_from(["prompt-path", "both-paths", "windowed"]),
    max_norm=st.none() | st.floats(0.1, 10.0),
    readout=st.sampled_from(["last-mlp", "encoder"]),
    score_layer=st.none() | st.integers(0, 30),
)
def test_round_trip_through_a_mapping(
    layer: int,
    kind: str,
    trigger: str,
    max_norm: float | None,
    readout: str,
    score_layer: int | None,
) -> None:
    config = SVGTConfig(
        64,
        layer,
        encoder=EncoderConfig(readout=readout),
        trigger=TriggerConfig(kind=trigger, layers=(0,)),
        correction=CorrectionConfig(max_norm=max_norm),
        bridge=BridgeConfig(kind=kind),
        score_layer=score_layer,
    )
    assert from_mapping(SVGTConfig, to_mapping(config), where="test") == config


def test_defaults_are_filled_in() -> None:
    config = SVGTConfig(64, 3)
    assert config.trigger_layers == (3,)
    assert config.response_layer == 3
    assert SVGTConfig(64, 3, score_layer=4).response_layer == 4


def test_the_bridge_needs_a_block_above_it() -> None:
    config = SVGTConfig(64, 3)
    config.validate_for(n_layers=5, d_model=64, backbone="tiny")
    with pytest.raises(ConfigError, match=r"layer = 3 is out of range for tiny .* choose 0 to 2"):
        config.validate_for(n_layers=4, d_model=64, backbone="tiny")
    with pytest.raises(ConfigError, match=r"tiny has one block: .* two blocks or more"):
        config.validate_for(n_layers=1, d_model=64, backbone="tiny")
    with pytest.raises(ConfigError, match="width 64, but tiny has width 96"):
        config.validate_for(n_layers=5, d_model=96, backbone="tiny")
    with pytest.raises(ConfigError, match="score_layer = 5"):
        SVGTConfig(64, 3, score_layer=5).validate_for(n_layers=5, d_model=64, backbone="tiny")
