"""Readers taken away one by one, or left alone, give the two ends and a planted reader."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from probes.anchoring.paths import Readers
    from probes.anchoring.scene import Scene
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge

Plant = Callable[[int, int], "TransformerLensBackbone"]


def readers_of(scene: "Scene") -> dict[tuple[str, int | None, int | None], "Readers"]:
    from probes.anchoring.paths import all_readers

    return {(found.site, found.layer, found.head): found for found in all_readers(scene)}


def test_all_readers_blinded_is_the_knock_out(scene: "Scene") -> None:
    from probes.anchoring.edits import knocked_out
    from probes.anchoring.paths import path_margins

    margins, readers = path_margins(scene), readers_of(scene)
    out, full = scene.margins(knocked_out).numpy(), scene.margins().numpy()
    everything = readers["all", None, None]
    # 1e-5: a hidden key adds exp(-huge) = 0, only the order of sums differs
    assert np.abs(margins.without(everything) - out).max() < 1e-5
    assert np.abs(margins.only(everything) - full).max() == 0
    assert np.abs(full - out).min() > 1e-3


def test_heads_and_stream_are_each_others_complement(scene: "Scene") -> None:
    from probes.anchoring.paths import path_margins

    margins, readers = path_margins(scene), readers_of(scene)
    heads, stream = readers["heads", None, None], readers["stream", None, None]
    assert np.array_equal(margins.without(heads), margins.only(stream))
    assert np.array_equal(margins.without(stream), margins.only(heads))
    assert np.abs(margins.only(heads) - margins.only(stream)).max() > 1e-3


def test_every_head_and_block_above_the_bridge_is_asked_once(scene: "Scene") -> None:
    readers = readers_of(scene)
    heads = [key for key in readers if key[0] == "head"]
    n_heads = scene.backbone.n_heads
    assert heads == [("head", layer, head) for layer in (2, 3) for head in range(n_heads)]
    union = torch.stack([readers[key].heads for key in heads]).int().sum(dim=0)
    assert torch.equal(union.bool(), readers["heads", None, None].heads)
    assert union.max() == 1
    assert not union[:2].any()


@pytest.mark.parametrize("planted", [(2, 3), (3, 1)])
def test_a_planted_reader_is_found(
    one_head_reads: Plant,
    guidance: "SVGTBridge",
    pairs: "ReplyPairs",
    planted: tuple[int, int],
) -> None:
    """One head alone writes above the bridge, so all that heads do is that head's doing."""
    from probes.anchoring.paths import path_margins
    from probes.anchoring.scene import set_scene

    scene = set_scene(one_head_reads(*planted), guidance, pairs)
    margins, readers = path_margins(scene), readers_of(scene)
    whole = margins.whole.margin.numpy()
    without_heads = margins.without(readers["heads", None, None])
    assert np.abs(without_heads - whole).min() > 1e-4, "the planted head does nothing"
    for (site, layer, head), reader in readers.items():
        if site not in ("head", "layer"):
            continue
        found = margins.without(reader)
        if (layer, head) == planted or (site == "layer" and layer == planted[0]):
            assert np.abs(found - without_heads).max() < 1e-5
            assert (
                np.abs(margins.only(reader) - margins.without(readers["stream", None, None])).max()
                < 1e-5
            )
        else:
            assert np.abs(found - whole).max() < 1e-5
            assert np.abs(margins.only(reader) - margins.none.margin.numpy()).max() < 1e-5


def test_blinding_hides_the_slots_from_predicting_queries_alone(scene: "Scene") -> None:
    from probes.anchoring.scene import blinded
    from probes.margins import reply_batches

    backbone = scene.backbone
    blind = torch.zeros((backbone.n_layers, backbone.n_heads), dtype=torch.bool)
    blind[2, 1] = True
    prompt = backbone.encode(scene.pairs.prompts)
    response = backbone.encode_responses(scene.pairs.safe)
    ((_, batch),) = reply_batches(prompt, response, 64)
    columns = scene.columns(batch)
    keys = columns.is_slot().expand(len(batch.rows), -1)
    with backbone.capture_patterns([2, 3]) as patterns, blinded(backbone, columns, blind, keys):
        scene.run(batch, lambda write: write)
    first, last = columns.slots.start, columns.slots.stop - 1
    on_slots = patterns[2][..., columns.slots]
    assert on_slots[:, 1, last:].max() == 0
    assert on_slots[:, 1, first:last].sum() > 0, "earlier slots may read one another"
    assert on_slots[:, [0, 2, 3], last:].sum(dim=-1).min() > 0
    assert patterns[3][..., last:, columns.slots].sum(dim=-1).min() > 0


def test_the_control_hides_as_many_prompt_tokens_and_never_the_first(scene: "Scene") -> None:
    from probes.anchoring.paths import random_prompt_keys
    from probes.margins import reply_batches

    prompt = scene.backbone.encode(scene.pairs.prompts)
    response = scene.backbone.encode_responses(scene.pairs.safe)
    seen = set()
    for seed in range(20):
        control = random_prompt_keys(scene, seed)
        for _, batch in reply_batches(prompt, response, 4):
            keys = control.of(scene.columns(batch), batch)
            n_prompt = batch.prompt.ids.shape[1]
            usable = (batch.prompt.lengths - 1).clamp(max=scene.n_slots)
            assert torch.equal(keys.sum(dim=1), usable)
            first = n_prompt - batch.prompt.lengths
            assert not bool(keys[torch.arange(len(first)), first].any())
            assert not bool((keys[:, :n_prompt] & ~batch.prompt.mask).any())
            assert not bool(keys[:, n_prompt:].any())
            seen.add(tuple(keys[-1].tolist()))
    assert len(seen) > 5


def test_shares_of_the_two_ends(scene: "Scene") -> None:
    from probes.anchoring.edits import knocked_out
    from probes.anchoring.estimates import Estimates
    from probes.anchoring.paths import path_records
    from probes.records import Record

    base = Record("anchoring", "tiny", "", float("nan"))
    towards_safety = turned(scene, scene.margins() > scene.margins(knocked_out))
    records = path_records(towards_safety, Estimates(base, tuple("abcdef"), 200), seed=0)
    found = {(r.estimator, r.site, r.layer, r.head): r for r in records}
    for name in ("necessity", "sufficiency"):
        assert found[name, "all", None, None].estimate == pytest.approx(1, abs=1e-5)
    for site, other in (("heads", "stream"), ("stream", "heads")):
        necessity = found["necessity", site, None, None]
        sufficiency = found["sufficiency", other, None, None]
        assert necessity.estimate == pytest.approx(1 - sufficiency.estimate, abs=1e-5)
        assert necessity.low == pytest.approx(1 - sufficiency.high, abs=1e-5)
    control = [r.null for key, r in found.items() if key[0] == "necessity" and key[2] is not None]
    assert np.isfinite(control).all()
    assert np.abs(control).max() > 1e-3, "hiding prompt tokens does something in a random model"


def test_no_share_of_no_effect(scene: "Scene") -> None:
    from probes.anchoring.edits import knocked_out
    from probes.anchoring.estimates import NO_EFFECT, Estimates
    from probes.anchoring.paths import path_records
    from probes.records import Record

    gains = scene.margins() > scene.margins(knocked_out)
    alternating = torch.arange(len(scene)) % 2 == 0
    base = Record("anchoring", "tiny", "", float("nan"))
    mixed = turned(scene, gains == alternating)
    for record in path_records(mixed, Estimates(base, tuple("abcdef"), 200), seed=0):
        assert np.isnan(record.estimate)
        assert record.note == NO_EFFECT


def turned(scene: "Scene", kept: torch.Tensor) -> "Scene":
    """The scene with safe and harmful replies exchanged where not kept, which turns the margin."""
    pairs = scene.pairs
    both = zip(pairs.safe, pairs.harmful, kept.tolist(), strict=True)
    ordered = [(safe, harm) if keep else (harm, safe) for safe, harm, keep in both]
    safe, harmful = zip(*ordered, strict=True)
    return replace(scene, pairs=replace(pairs, safe=safe, harmful=harmful))


def test_patched_decoding_has_the_same_two_ends(scene: "Scene") -> None:
    from probes.anchoring.edits import knocked_out
    from probes.anchoring.patched import PatchedBridge
    from workbench.guidance import GREEDY, Guidance, NoGuidance, generate

    def ids(guidance: Guidance) -> list[tuple[int, ...]]:
        replies = generate(
            scene.backbone, scene.pairs.prompts, guidance, max_new_tokens=10, sampling=GREEDY
        )
        return [reply.ids for reply in replies]

    readers = readers_of(scene)
    heads = readers["heads", None, None].heads
    nobody = torch.zeros_like(heads)
    before = scene.backbone.logits(scene.backbone.encode(scene.pairs.prompts))
    guided, out = ids(scene.guidance), ids(scene.guided_by(knocked_out))
    assert ids(PatchedBridge(scene.guidance, nobody, stream=True)) == guided
    assert ids(PatchedBridge(scene.guidance, heads, stream=False)) == out
    only_heads = ids(PatchedBridge(scene.guidance, nobody, stream=False))
    only_stream = ids(PatchedBridge(scene.guidance, heads, stream=True))
    assert [row[0] for row in only_heads] == [row[0] for row in ids(NoGuidance())]
    for row, (by_heads, by_stream) in enumerate(zip(only_heads, only_stream, strict=True)):
        assert list(by_heads[1:]) == likeliest(scene, row, by_heads, nobody)[1:]
        assert list(by_stream) == likeliest(scene, row, by_stream, heads)
    assert only_heads != out
    assert only_stream != guided
    assert torch.equal(before, scene.backbone.logits(scene.backbone.encode(scene.pairs.prompts)))


def likeliest(
    scene: "Scene", row: int, response: tuple[int, ...], blind: torch.Tensor
) -> list[int]:
    """The likeliest token at every place of a teacher-forced pass with these heads blind."""
    from probes.anchoring.scene import blinded
    from probes.margins import ReplyBatch
    from workbench.backbone import pad_rows

    batch = ReplyBatch(
        rows=torch.tensor([row]),
        prompt=scene.backbone.encode([scene.pairs.prompts[row]]),
        response=pad_rows([response], pad_id=0, side="right", device="cpu"),
    )
    columns = scene.columns(batch)
    with blinded(scene.backbone, columns, blind, columns.is_slot()[None]):
        return scene.run(batch, lambda write: write).response_logits[0].argmax(-1).tolist()
