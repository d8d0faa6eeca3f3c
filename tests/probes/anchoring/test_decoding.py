"""Replies under a bridge: common random numbers, judged rates, doses, trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from probes.anchoring.estimates import Estimates
    from probes.anchoring.generations import Speaker
    from probes.anchoring.scene import Scene
    from workbench.data.example import Example
    from workbench.svgt import ValueModule


@dataclass(frozen=True)
class EvenLength:
    """Takes a reply of an even number of words for harmful; cannot tell about prompts with t31."""

    name: str = "even"

    def judge(self, examples: Sequence["Example"]) -> list:
        from workbench.evaluation.judges import Judgement

        return [
            Judgement(
                harmful=None
                if "t31" in example.prompt[-1].content
                else len((example.response or "").split()) % 2 == 0
            )
            for example in examples
        ]


@pytest.fixture
def speaker() -> "Speaker":
    from probes.anchoring.generations import Speaker
    from workbench.guidance import Sampling

    return Speaker(EvenLength(), Sampling(temperature=1.0), 7, seed=4)


@pytest.fixture
def estimates(scene: "Scene") -> "Estimates":
    from probes.anchoring.estimates import Estimates
    from probes.records import Record

    base = Record("anchoring", "tiny", "", float("nan"))
    return Estimates(base, scene.pairs.groups, 100)


def test_conditions_share_their_random_numbers(scene: "Scene", speaker: "Speaker") -> None:
    from probes.anchoring.edits import unchanged
    from probes.anchoring.interventions import interventions

    def ids(guidance: object) -> list[tuple[int, ...]]:
        replies = speaker.replies(scene.backbone, scene.pairs, guidance)  # type: ignore[arg-type]
        return [reply.ids for reply in replies]

    assert ids(scene.guidance) == ids(scene.guided_by(unchanged))
    random = interventions(scene, None, seed=0)["random"].edit
    assert random is not None
    assert ids(scene.guided_by(random)) != ids(scene.guidance)


def test_rates_are_of_the_judged_and_paired(
    scene: "Scene", speaker: "Speaker", estimates: "Estimates"
) -> None:
    from probes.anchoring.generations import HARM_RATE, generation_records, harm_under
    from probes.anchoring.interventions import interventions
    from workbench.guidance import NoGuidance

    made = interventions(scene, None, seed=0)
    harm = harm_under(scene, made, speaker)
    replies = speaker.replies(scene.backbone, scene.pairs, NoGuidance())
    expected = [float(len(r.text.split()) % 2 == 0) for r in replies[:4]]
    assert harm["no_slots"][:4].tolist() == expected
    assert np.isnan(harm["no_slots"][4:]).all()
    assert np.isnan(harm["harmless"]).all()
    records = generation_records(made, harm, estimates)
    rates = {r.estimator: r for r in records if r.metric == HARM_RATE}
    assert rates["no_slots"].estimate == np.mean(expected)
    assert rates["full"].null == np.mean(expected)
    assert rates["full"].n == 2
    assert np.isnan(rates["harmless"].estimate)
    assert "no harmless prompt with two replies" in rates["harmless"].note


def test_doses_end_where_they_must(
    scene: "Scene", speaker: "Speaker", estimates: "Estimates"
) -> None:
    from probes.anchoring.doses import (
        FLAT,
        KnownHarm,
        gate_margin_records,
        refresh_harm_records,
        token_harm_records,
        token_margin_records,
    )
    from probes.anchoring.estimates import as_values
    from probes.anchoring.interventions import interventions

    plain = as_values(scene.margins(None))
    full = float(scene.margins().mean())
    resting = float(scene.margins(interventions(scene, None, seed=0)["resting"].edit).mean())
    gates = gate_margin_records(scene, (0.0, 0.5, 1.0), plain, estimates)
    assert [r.x for r in gates] == [0.0, 0.5, 1.0]
    assert gates[0].estimate == pytest.approx(resting, abs=1e-6)
    assert gates[2].estimate == pytest.approx(full, abs=1e-6)
    assert gates[1].null == pytest.approx(plain.mean(), abs=1e-6)
    tokens = token_margin_records(scene, plain, estimates)
    for end in ("first", "last"):
        curve = [r.estimate for r in tokens if r.estimator == end]
        assert len(curve) == 4
        assert curve[0] == pytest.approx(plain.mean(), abs=1e-6)
        assert curve[3] == pytest.approx(full, abs=1e-6)
    known = KnownHarm(plain=np.array([1.0] * 6), guided=np.array([0.0, 1.0] * 3))
    harm = token_harm_records(scene, speaker, known, estimates)
    assert [r.estimate for r in harm if r.x == 0] == [1, 1]
    assert [r.estimate for r in harm if r.x == 3] == [0.5, 0.5]
    flat = refresh_harm_records(scene, (1, 5, None), speaker, known, estimates)
    assert [(r.x, r.estimate, r.note) for r in flat] == [(x, 0.5, FLAT) for x in (1.0, 5.0, 0.0)]


def test_refreshing_is_measured_where_the_trigger_follows_the_reply(
    scene: "Scene", speaker: "Speaker", estimates: "Estimates"
) -> None:
    from probes.anchoring.doses import KnownHarm, refresh_harm_records
    from probes.anchoring.scene import set_scene
    from workbench.guidance import SVGTBridge
    from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

    with torch.random.fork_rng():
        torch.manual_seed(0)
        follower = ValueModule(
            SVGTConfig(
                d_model=64, layer=1, d_value=32, n_bridge=3, trigger=TriggerConfig(mode="current")
            )
        ).freeze()
    following = set_scene(scene.backbone, SVGTBridge(follower), scene.pairs)
    known = KnownHarm(plain=np.ones(6), guided=np.zeros(6))
    records = refresh_harm_records(following, (1, None), speaker, known, estimates)
    once = speaker.harm(scene.backbone, scene.pairs, replace(following.guidance, refresh=None))
    assert records[1].estimate == np.nanmean(once)
    assert all(r.note == "" for r in records)


def test_trajectories_are_the_scores_of_the_replies(
    scene: "Scene", speaker: "Speaker", estimates: "Estimates", module: "ValueModule"
) -> None:
    from probes.anchoring.trajectories import draw_replies, harm_scores, trajectory_records

    replies = draw_replies(scene, speaker, module)
    found = harm_scores(replies)
    backbone, layer = scene.backbone, module.config.encoder_layer
    for row, reply in enumerate(replies.unguided):
        ids = backbone.encode([scene.pairs.prompts[row]]).ids[0].tolist()
        whole = torch.tensor([[*ids, *reply.ids]])
        mask = torch.ones_like(whole, dtype=torch.bool)
        with backbone.capture([layer]) as states:
            backbone.forward(whole, mask=mask)
        prompt, response = states[layer].split([len(ids), len(reply.ids)], dim=1)
        score = module.score_response(prompt, response, mask[:, : len(ids)], mask[:, len(ids) :])
        assert float(found.unguided[row, len(reply.ids) - 1]) == pytest.approx(
            float(score), abs=1e-4
        )
        assert found.unguided[row, len(reply.ids) :].isnan().all()
    records = trajectory_records("score", found, estimates)
    guided = {r.x: r for r in records if r.estimator == "guided" and not np.isnan(r.x)}
    unguided = {r.x: r for r in records if r.estimator == "unguided" and not np.isnan(r.x)}
    assert guided[0.0].estimate == pytest.approx(float(found.guided[:, 0].mean()), abs=1e-5)
    assert guided[0.0].null == unguided[0.0].estimate
    ends = next(r for r in records if r.estimator == "unguided" and np.isnan(r.x))
    last = [float(row[~row.isnan()][-1]) for row in found.unguided]
    assert ends.estimate == pytest.approx(np.mean(last), abs=1e-5)
    assert ends.n == 3


def test_a_projection_is_onto_the_states_of_the_reply(scene: "Scene", speaker: "Speaker") -> None:
    from probes.anchoring.trajectories import ResidualDirection, draw_replies, projections

    replies = draw_replies(scene, speaker, None)
    vector = torch.randn(64, generator=torch.Generator().manual_seed(1))
    found = projections(scene, replies, ResidualDirection(5 * vector, 3, "planted"))
    backbone = scene.backbone
    for row, reply in enumerate(replies.unguided):
        ids = backbone.encode([scene.pairs.prompts[row]]).ids[0].tolist()
        whole = torch.tensor([[*ids, *reply.ids]])
        with backbone.capture([3]) as states:
            backbone.forward(whole, mask=torch.ones_like(whole, dtype=torch.bool))
        expected = states[3][0, len(ids) :] @ (vector / vector.norm())
        ours = found.unguided[row, : len(reply.ids)]
        assert (ours - expected).abs().max() < 1e-4
    same = replies.guided[0].ids == replies.unguided[0].ids
    assert same or not torch.equal(found.guided[0], found.unguided[0])
