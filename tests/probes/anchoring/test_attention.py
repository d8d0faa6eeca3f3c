"""Attention on slots agrees with what decoding sees, and its weighting with its formula."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from probes.anchoring.scene import Scene
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge


def test_raw_mass_is_what_the_decoder_traces(
    scene: "Scene", backbone: "TransformerLensBackbone"
) -> None:
    """Two ways to the same numbers: cached decoding token by token, and one pass over the reply."""
    from dataclasses import replace

    from probes.anchoring.attention import attention_mass
    from workbench.guidance import GREEDY, TraceRequest, generate

    replies = generate(
        backbone,
        scene.pairs.prompts,
        scene.guidance,
        max_new_tokens=6,
        sampling=GREEDY,
        trace=TraceRequest(slot_attention="heads"),
    )
    assert backbone.encode_responses([r.text for r in replies]).ids[:, :6].tolist() == [
        list(r.ids) for r in replies
    ], "texts must give the same tokens for this comparison"
    drawn = replace(scene, pairs=replace(scene.pairs, safe=tuple(r.text for r in replies)))
    read = attention_mass(drawn, 6)
    assert read.layers == (2, 3)
    for row, reply in enumerate(replies):
        traced = reply.trace.slot_attention  # (token, layer, head)
        assert traced is not None
        ours = read.mass["slots", "raw"][row].permute(2, 0, 1)
        assert (ours - traced).abs().max() < 1e-5
        assert traced.max() > 0.05


def test_the_weighting_is_its_formula(scene: "Scene") -> None:
    """By the heads' outputs themselves, one unpadded prompt, every vector in full width."""
    from probes.anchoring.attention import attention_mass
    from probes.margins import ReplyBatch

    backbone = scene.backbone
    read = attention_mass(scene, 8)
    for row in range(len(scene)):
        one = scene.rows([row])
        prompt = backbone.encode(one.pairs.prompts)
        response = backbone.encode_responses(one.pairs.safe)
        batch = ReplyBatch(torch.tensor([0]), prompt, response)
        columns = one.columns(batch)
        n = response.ids.shape[1]
        with (
            backbone.capture_patterns([2, 3]) as patterns,
            backbone.capture_values([2, 3]) as values,
        ):
            one.run(batch, lambda write: write)
        for index, layer in enumerate((2, 3)):
            weights, _ = backbone.output_map(layer)
            written = torch.einsum("hke,hed->hkd", values[layer][0], weights)
            queries = patterns[layer][0, :, columns.slots.stop - 1 : -1]
            sizes = (queries[..., None] * written[:, None]).norm(dim=-1)
            expected = {
                ("slots", "weighted"): sizes[..., columns.slots].sum(-1) / sizes.sum(-1),
                ("sink", "weighted"): sizes[..., 0] / sizes.sum(-1),
                ("slots", "raw"): queries[..., columns.slots].sum(-1),
                ("sink", "raw"): queries[..., 0],
            }
            for kind, share in expected.items():
                ours = read.mass[kind][row, index, :, :n]
                assert (ours - share).abs().max() < 1e-5, kind
                assert not ours.isnan().any()
            assert read.mass["slots", "raw"][row, :, :, n:].isnan().all()


def test_a_slot_that_a_head_is_made_to_seek_takes_its_attention(
    backbone: "TransformerLensBackbone", guidance: "SVGTBridge", pairs: "ReplyPairs"
) -> None:
    from probes.anchoring.attention import attention_mass
    from probes.anchoring.scene import set_scene

    scene = set_scene(backbone, guidance, pairs)
    n_response = backbone.encode_responses(pairs.safe).ids.shape[1]

    def seek(scores: Tensor, layer: int) -> Tensor:
        sought = scores.clone()
        last_slot = scores.shape[-1] - n_response - 1
        sought[:, 1, last_slot:, last_slot] += 1e4
        return sought

    with backbone.edit_scores([3], seek):
        read = attention_mass(scene, 99)
    mass = read.mass["slots", "raw"]
    real = ~mass[:, 1, 1].isnan()
    assert torch.allclose(mass[:, 1, 1][real], torch.ones(()), atol=1e-6)
    assert mass[:, 1, 0][real].max() < 1
    assert read.mass["sink", "raw"][:, 1, 1][real].max() < 1e-6


def test_records_are_means_with_the_control_as_null(scene: "Scene") -> None:
    from probes.anchoring.attention import attention_mass, attention_records
    from probes.anchoring.estimates import Estimates
    from probes.anchoring.interventions import random_bridges
    from probes.records import Record

    read = attention_mass(scene, 3)
    control = attention_mass(scene, 3, random_bridges(scene, np.random.default_rng(0)))
    base = Record("anchoring", "tiny", "", float("nan"))
    records = attention_records(read, control, Estimates(base, scene.pairs.groups, 200))
    n_heads = scene.backbone.n_heads
    assert len(records) == 4 * 2 * n_heads * (1 + 3)
    picked = next(
        r
        for r in records
        if (r.site, r.estimator, r.layer, r.head, r.x) == ("slots", "weighted", 3, 2, 1.0)
    )
    assert picked.estimate == pytest.approx(
        float(read.mass["slots", "weighted"][:, 1, 2, 1].nanmean()), abs=1e-6
    )
    assert picked.null == pytest.approx(
        float(control.mass["slots", "weighted"][:, 1, 2, 1].nanmean()), abs=1e-6
    )
    assert picked.low <= picked.estimate <= picked.high
    assert picked.n == 3


def test_where_heads_have_no_fixed_share_only_weighted_attention_is_not_measured(
    scene: "Scene", monkeypatch: pytest.MonkeyPatch
) -> None:
    from probes.anchoring.attention import attention_mass, attention_records
    from probes.anchoring.estimates import Estimates
    from probes.records import Record
    from workbench.errors import BackboneError

    measured = attention_mass(scene, 3)

    def refuse(self: object, layer: int) -> None:
        raise BackboneError("the blocks norm what their attention gives")

    monkeypatch.setattr(type(scene.backbone), "output_map", refuse)
    read = attention_mass(scene, 3)
    assert torch.equal(
        read.mass["slots", "raw"].nan_to_num(), measured.mass["slots", "raw"].nan_to_num()
    )
    base = Record("anchoring", "tiny", "", float("nan"))
    records = attention_records(read, read, Estimates(base, scene.pairs.groups, 50))
    weighted = [record for record in records if record.estimator == "weighted"]
    assert len(weighted) == 2 * 2 * scene.backbone.n_heads
    assert all(np.isnan(record.estimate) for record in weighted)
    assert {record.note for record in weighted} == {
        "not measured: the blocks norm what their attention gives"
    }
    raw = [record for record in records if (record.estimator, record.site) == ("raw", "slots")]
    assert not any(np.isnan(record.estimate) for record in raw if np.isnan(record.x))


def test_a_planted_head_is_the_only_one_that_weighs(
    one_head_reads: Callable[[int, int], "TransformerLensBackbone"],
    guidance: "SVGTBridge",
    pairs: "ReplyPairs",
) -> None:
    """Silent heads have attention and write nothing: their weighted mass has nothing to share."""
    from probes.anchoring.attention import value_norms
    from probes.anchoring.scene import set_scene

    scene = set_scene(one_head_reads(2, 1), guidance, pairs)
    with scene.backbone.capture_values([2, 3]) as values:
        scene.backbone.logits(scene.backbone.encode(pairs.prompts))
    sizes = {layer: value_norms(scene.backbone, layer, values[layer]) for layer in (2, 3)}
    assert sizes[2][:, 1].min() > 0
    assert sizes[2][:, [0, 2, 3]].max() < 1e-6
    assert sizes[3].max() < 1e-6
