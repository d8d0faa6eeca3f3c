"""One typed prompt: numbers that agree with the parts they are made of."""

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge
    from workbench.svgt import ValueModule


def test_a_typed_prompt(backbone: "TransformerLensBackbone", guidance: "SVGTBridge") -> None:
    from probes.anchoring import anchor_prompt
    from probes.margins import ReplyPairs, safety_margin
    from workbench.guidance import GREEDY, NoGuidance, generate

    found = anchor_prompt(
        backbone, guidance, "t1 t2 t3", max_new_tokens=6, seed=0, sampling=GREEDY, gates=(0.0, 1.0)
    )
    texts = [
        generate(backbone, ["t1 t2 t3"], how, max_new_tokens=6, sampling=GREEDY)[0].text
        for how in (guidance, NoGuidance())
    ]
    assert [found.guided.text, found.unguided.text] == texts
    assert texts[0] != texts[1]
    assert found.open
    assert found.note == ""
    assert found.guided.harm_score is not None
    assert len(found.guided.harm_score) == len(found.guided.tokens)
    assert found.attention is not None
    mass = found.attention.mass["slots", "raw"]
    assert mass.shape == (1, 2, backbone.n_heads, len(found.steps))
    assert mass.isfinite().all()
    assert found.control is not None
    assert not torch.equal(found.control.mass["slots", "raw"], mass)
    margins = found.margins
    assert margins is not None
    pairs = ReplyPairs(("t1 t2 t3",), (texts[0],), (texts[1],), ("",), ("",), (True,))
    full = float(safety_margin(backbone, pairs, guidance.writer)[0])
    plain = float(safety_margin(backbone, pairs, None)[0])
    assert margins.by_intervention["full"] == pytest.approx(full, abs=1e-4)
    assert margins.by_intervention["no_slots"] == pytest.approx(plain, abs=1e-4)
    assert margins.by_gate[1] == pytest.approx(full, abs=1e-4)
    assert margins.by_gate[0] == pytest.approx(margins.by_intervention["resting"], abs=1e-4)
    assert set(margins.by_intervention) == {
        "full", "no_slots", "knock_out", "resting", "shuffled", "random", "untrained"
    }  # fmt: skip
    assert margins.heads.shape == (2, backbone.n_heads)
    assert margins.heads.isfinite().all()


def test_a_closed_gate_shows_two_equal_replies_and_no_measurement(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from dataclasses import replace

    from probes.anchoring import anchor_prompt
    from workbench.guidance import GREEDY, SVGTBridge
    from workbench.svgt import ValueModule

    with torch.random.fork_rng():
        gated = ValueModule(replace(module.config, gate="threshold", threshold=1e9))
    gated.load_state_dict(module.state_dict())
    found = anchor_prompt(
        backbone,
        SVGTBridge(gated.freeze(), closed_rows="plain"),
        "t1 t2 t3",
        max_new_tokens=5,
        seed=0,
        sampling=GREEDY,
    )
    assert not found.open
    assert found.guided.text == found.unguided.text
    assert found.attention is None
    assert found.margins is None
    assert "gate is closed" in found.note


def test_bad_input_is_named(backbone: "TransformerLensBackbone", guidance: "SVGTBridge") -> None:
    from probes.anchoring import anchor_prompt
    from workbench.errors import ConfigError, ContextLengthError, TokenError

    with pytest.raises(TokenError):
        anchor_prompt(backbone, guidance, "", max_new_tokens=5, seed=0)
    with pytest.raises(ConfigError, match="gate scale"):
        anchor_prompt(backbone, guidance, "t1", max_new_tokens=5, seed=0, gates=())
    with pytest.raises(ContextLengthError):
        anchor_prompt(backbone, guidance, "t1 " * 200, max_new_tokens=500, seed=0)
