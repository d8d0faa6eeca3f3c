"""Edits do what they say and nothing else; off is exactly off."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from probes.anchoring.scene import Scene
    from probes.margins import ReplyPairs
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge
    from workbench.svgt import ValueModule


def test_the_identity_changes_nothing_bit_for_bit(scene: "Scene") -> None:
    from probes.anchoring.edits import EditedWriter, taken_from, unchanged
    from probes.margins import safety_margin

    own = torch.arange(len(scene))
    assert torch.equal(scene.margins(unchanged), scene.margins(taken_from(own)))
    writer = scene.guidance.writer
    with torch.no_grad():
        direct = safety_margin(scene.backbone, scene.pairs, writer)
        edited = safety_margin(scene.backbone, scene.pairs, EditedWriter(writer, unchanged, 3))
    assert torch.equal(direct, edited)
    # Replayed bridges were computed under another padding: equal up to rounding.
    assert (scene.margins() - direct).abs().max() < 1e-5
    assert (scene.margins() - scene.margins(None)).abs().min() > 1e-3, "the bridge does nothing"


def test_a_knocked_out_bridge_is_the_plain_model_at_shifted_positions(
    scene: "Scene", plain: PreTrainedModel
) -> None:
    from probes.anchoring.edits import knocked_out

    margins = scene.margins(knocked_out)
    expected = torch.stack([shifted_margin(scene, plain, row) for row in range(len(scene))])
    assert (margins - expected).abs().max() < 1e-5
    if plain.config.model_type == "gpt2":  # learned positions tell where the response stands
        assert (margins - scene.margins(None)).abs().max() > 1e-3


@torch.no_grad()
def shifted_margin(scene: "Scene", plain: PreTrainedModel, row: int) -> Tensor:
    """By Hugging Face code alone: no slots, but the response K positions further on."""

    def per_token(reply: str) -> Tensor:
        before = scene.backbone.encode([scene.pairs.prompts[row]]).ids[0].tolist()
        after = scene.backbone.encode_responses([reply]).ids[0].tolist()
        m = len(before)
        positions = [*range(m), *range(m + scene.n_slots, m + scene.n_slots + len(after))]
        logits = plain(
            torch.tensor([[*before, *after]]), position_ids=torch.tensor([positions])
        ).logits[0, m - 1 : -1]
        return logits.log_softmax(-1)[range(len(after)), after].mean()

    return per_token(scene.pairs.safe[row]) - per_token(scene.pairs.harmful[row])


def test_gate_zero_is_the_resting_bridge(scene: "Scene") -> None:
    from probes.anchoring.interventions import interventions
    from probes.margins import safety_margin

    resting = interventions(scene, None, seed=0)["resting"]
    with torch.no_grad():
        at_zero = safety_margin(scene.backbone, scene.pairs, scene.guidance.writer, gate_scale=0.0)
    assert (scene.margins(resting.edit) - at_zero).abs().max() < 1e-5
    assert (at_zero - scene.margins()).abs().max() > 1e-3


def test_transplanting_a_prompts_own_bridge_is_the_identity(scene: "Scene") -> None:
    from probes.anchoring.edits import replaced

    assert torch.equal(scene.margins(replaced(scene.write.bridge)), scene.margins())


def test_a_transplanted_bridge_is_as_if_the_donor_had_written_it(scene: "Scene") -> None:
    """Row 0 with row 3's bridge equals a writer that writes row 3's bridge behind prompt 0."""
    from probes.anchoring.edits import ReplayedWriter, rows_of, taken_from
    from probes.margins import safety_margin

    donors = torch.tensor([3, 2, 1, 0, 5, 4])
    margins = scene.margins(taken_from(donors))
    for row, donor in enumerate(donors.tolist()):
        write = rows_of(scene.write, torch.tensor([donor, donor]))
        writer = ReplayedWriter(scene.guidance.writer.config, write)
        alone = safety_margin(scene.backbone, scene.pairs.rows([row]), writer)
        assert (margins[row] - alone[0]).abs() < 1e-5


def test_edits_of_the_tokens(scene: "Scene") -> None:
    from probes.anchoring.edits import first_tokens, last_tokens, randomised, shuffled

    bridge = scene.write.bridge
    order = torch.tensor([[2, 0, 1]] * len(scene))
    assert torch.equal(shuffled(order)(scene.write).bridge, bridge[:, [2, 0, 1]])
    noise = torch.randn(bridge.shape, generator=torch.Generator().manual_seed(0))
    random = randomised(noise)(scene.write).bridge
    assert torch.allclose(random.norm(dim=-1), bridge.norm(dim=-1), rtol=1e-5)
    assert torch.nn.functional.cosine_similarity(random, bridge, dim=-1).abs().max() < 0.5
    assert torch.equal(first_tokens(2)(scene.write).bridge, bridge[:, :2])
    assert torch.equal(last_tokens(2)(scene.write).bridge, bridge[:, 1:])
    assert torch.equal(scene.margins(last_tokens(3)), scene.margins())


def test_the_first_token_alone_is_a_bridge_of_one(scene: "Scene", module: "ValueModule") -> None:
    from probes.anchoring.edits import first_tokens
    from probes.margins import safety_margin

    class One:
        """Writes the first of the module's tokens, as its own single one."""

        config = replace(module.config, n_bridge=1)
        capture_layers = module.capture_layers

        def write_bridge(self, *args: object, **options: object) -> object:
            write = module.write_bridge(*args, **options)  # type: ignore[arg-type]
            return replace(write, bridge=write.bridge[:, :1])

    with torch.no_grad():
        expected = safety_margin(scene.backbone, scene.pairs, One())
    assert (scene.margins(first_tokens(1)) - expected).abs().max() < 1e-5


def test_generations_follow_the_edits(scene: "Scene") -> None:
    from probes.anchoring.edits import knocked_out, unchanged
    from workbench.guidance import GREEDY, NoGuidance, SVGTBridge, generate

    def texts(guidance: SVGTBridge | NoGuidance) -> list[tuple[int, ...]]:
        replies = generate(
            scene.backbone, scene.pairs.prompts, guidance, max_new_tokens=8, sampling=GREEDY
        )
        return [reply.ids for reply in replies]

    guided, plain = texts(scene.guidance), texts(NoGuidance())
    assert texts(scene.guided_by(unchanged)) == guided
    out = texts(scene.guided_by(knocked_out))
    assert out != guided
    # The first token comes from the prompt's end, which no position shift touches.
    assert [row[0] for row in out] == [row[0] for row in plain]


def test_donors_are_of_another_group_or_context(scene: "Scene") -> None:
    from probes.anchoring.interventions import interventions

    made = interventions(scene, None, seed=1)
    groups = np.array(scene.pairs.groups)
    contexts = np.array(scene.pairs.contexts)

    def donors(name: str) -> np.ndarray:
        """Whose bridge each row got, told by the bridges themselves."""
        edited = made[name].edit(scene.write).bridge  # type: ignore[misc]
        same = (edited[:, None] == scene.write.bridge[None]).all(dim=(2, 3))
        assert bool((same.sum(dim=1) == 1).all())
        return same.int().argmax(dim=1).numpy()

    assert (groups[donors("resample")] != groups).all()
    assert (groups[donors("context")] == groups).all()
    assert (contexts[donors("context")] != contexts).all()
    assert not bool(made["harmless"].measured.any())
    moved = made["shuffled"].edit(scene.write).bridge  # type: ignore[misc]
    assert not bool((moved == scene.write.bridge).all(dim=-1).any()), "a token kept its place"
    assert torch.equal(moved.sort(dim=1).values, scene.write.bridge.sort(dim=1).values)
    again = interventions(scene, None, seed=1)["random"].edit(scene.write)  # type: ignore[misc]
    assert torch.equal(again.bridge, made["random"].edit(scene.write).bridge)  # type: ignore[misc]


def test_where_no_donor_is_there_the_prompt_is_not_measured(scene: "Scene") -> None:
    from probes.anchoring.effects import margins_under
    from probes.anchoring.interventions import interventions

    lonely = scene.rows([0, 1, 2])  # row 2 has no other context; all of group a have row 2
    made = interventions(lonely, None, seed=0)
    margins = margins_under(lonely, made)
    assert np.isfinite(margins["context"]).tolist() == [True, True, False]
    assert np.isfinite(margins["resample"]).all()
    assert np.isnan(margins["harmless"]).all()


def test_a_harmless_donor_is_the_matched_one(
    backbone: "TransformerLensBackbone", guidance: "SVGTBridge", pairs: "ReplyPairs", scene: "Scene"
) -> None:
    from probes.anchoring.interventions import interventions
    from probes.anchoring.scene import set_scene

    harmless = set_scene(
        backbone,
        guidance,
        replace(pairs, prompts=tuple(f"t70 {prompt}" for prompt in pairs.prompts)).rows(
            [5, 4, 3, 2, 1, 0]
        ),
    )
    edit = interventions(scene, harmless, seed=0)["harmless"].edit
    assert edit is not None
    assert torch.equal(edit(scene.write).bridge, harmless.write.bridge.flip(0))


def test_untrained_bridges_are_new_and_leave_the_random_state_alone(
    scene: "Scene", module: "ValueModule"
) -> None:
    from probes.anchoring.interventions import untrained_bridges

    before = torch.random.get_rng_state()
    one, again, other = (untrained_bridges(scene, module, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 1e-3
    assert (one - scene.write.bridge).abs().max() > 1e-3


def test_closed_rows_are_left_out_and_none_left_is_an_error(scene: "Scene") -> None:
    from workbench.errors import DataError

    opened = torch.tensor([True, False, True, True, False, True])
    half = replace(scene, write=replace(scene.write, open=opened)).seeing()
    assert half.pairs.prompts == tuple(
        prompt for prompt, seen in zip(scene.pairs.prompts, opened, strict=True) if seen
    )
    assert torch.equal(half.write.bridge, scene.write.bridge[opened])
    closed = replace(scene, write=replace(scene.write, open=torch.zeros_like(opened)))
    with pytest.raises(DataError, match="stays closed for all 6 prompts"):
        closed.seeing()
