"""Parts of a logit difference add up, stand where they were planted, or are not reported."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from probes.anchoring.scene import Scene
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge


def test_the_parts_add_up_to_the_models_own_logits(scene: "Scene") -> None:
    from probes.anchoring.attribution import attribute
    from workbench.svgt.slots import forward_with_slots

    found = attribute(scene)
    backbone = scene.backbone
    with torch.no_grad():
        logits = forward_with_slots(
            backbone,
            backbone.encode(scene.pairs.prompts),
            backbone.encode_responses(scene.pairs.safe),
            scene.guidance.writer,
        ).response_logits[:, 0]
    rows = torch.arange(len(scene))
    safe = backbone.encode_responses(scene.pairs.safe).ids[:, 0]
    harmful = backbone.encode_responses(scene.pairs.harmful).ids[:, 0]
    expected = logits[rows, safe] - logits[rows, harmful]
    assert expected.abs().min() > 1e-3
    assert (found.difference - expected).abs().max() < 1e-4
    assert (found.total - expected).abs().max() < 1e-4
    assert found.adds_up
    assert found.slots.abs().max() > 1e-3
    assert found.stream.abs().min() > 1e-3


def test_slots_write_what_is_lost_without_their_values(scene: "Scene") -> None:
    """The part of one head's slots is what its query loses when its slot values are zero."""
    from probes.anchoring.attribution import attribute, find_decisions
    from probes.margins import reply_batches

    found, decision = attribute(scene), find_decisions(scene)
    backbone, layer, head = scene.backbone, 3, 2
    prompt = backbone.encode(scene.pairs.prompts)
    weights, _ = backbone.output_map(layer)
    for _, batch in reply_batches(prompt, decision.response, 64):
        columns = scene.columns(batch)
        with (
            backbone.capture_patterns([layer]) as patterns,
            backbone.capture_values([layer]) as values,
            backbone.capture([layer]) as residual,
        ):
            scene.run(batch, lambda write: write)
        query = columns.slots.stop - 1
        alpha = patterns[layer][:, head, query, columns.slots]
        lost = torch.einsum(
            "bk,bke,ed->bd", alpha, values[layer][:, head, columns.slots], weights[head]
        )
        final = residual[layer][:, query]
        safe, _ = backbone.logit_direction(final, decision.safe[batch.rows])
        harm, _ = backbone.logit_direction(final, decision.harmful[batch.rows])
        expected = (lost * (safe - harm)).sum(-1)
        ours = found.slots[batch.rows, layer - scene.first_layer, head]
        assert (ours - expected).abs().max() < 1e-5


def test_a_planted_head_is_the_only_one_that_writes(
    one_head_reads: Callable[[int, int], "TransformerLensBackbone"],
    guidance: "SVGTBridge",
    pairs: "ReplyPairs",
) -> None:
    from probes.anchoring.attribution import attribute
    from probes.anchoring.scene import set_scene

    found = attribute(set_scene(one_head_reads(3, 2), guidance, pairs))
    others = torch.ones_like(found.slots, dtype=torch.bool)
    others[:, 1, 2] = False
    assert found.slots[~others].abs().max() > 1e-3
    assert found.slots[others].abs().max() < 1e-6
    assert found.tokens[others].abs().max() < 1e-6
    assert found.adds_up


def test_the_decision_is_the_first_token_in_which_the_replies_differ(
    scene: "Scene",
) -> None:
    from probes.anchoring.attribution import attribute, find_decisions

    pairs = replace(
        scene.pairs,
        safe=("t7 t7 t9", "t7", "t40 t41", "t44", "t1 t2 t3 t4", "t9"),
        harmful=("t7 t7 t8", "t7 t8", "t50", "t44", "t1 t2 t5", "t8"),
    )
    changed = replace(scene, pairs=pairs)
    decision = find_decisions(changed)
    assert decision.place.tolist()[:3] == [2, 1, 0]
    assert decision.exists.tolist() == [True, True, True, False, True, True]
    eos = scene.backbone.eos_ids[0]
    assert int(decision.safe[1]) == eos, "one reply ends where the other goes on"
    found = attribute(changed)
    assert np.isnan(found.difference.numpy()).tolist() == [False] * 3 + [True] + [False] * 2
    assert found.slots[3].isnan().all()
    assert found.adds_up


def test_what_does_not_add_up_is_not_reported(scene: "Scene") -> None:
    from probes.anchoring.attribution import BROKEN_SUM, attribute, attribution_records
    from probes.anchoring.estimates import Estimates
    from probes.records import Record

    found = attribute(scene)
    base = Record("anchoring", "tiny", "", float("nan"))
    estimates = Estimates(base, scene.pairs.groups, 100)
    whole = attribution_records(found, found, estimates)
    n_heads = scene.backbone.n_heads
    assert len(whole) == 4 + 2 * (1 + 2 * n_heads)
    total = next(r for r in whole if r.site == "total")
    parts = [r.estimate for r in whole if r.site not in ("total", "difference")]
    assert sum(parts) == pytest.approx(total.estimate, abs=1e-4)
    assert all(r.null == pytest.approx(r.estimate) for r in whole)
    capped = replace(found, difference=found.difference.tanh())
    (refused,) = attribution_records(capped, found, estimates)
    assert np.isnan(refused.estimate)
    assert refused.note == BROKEN_SUM
