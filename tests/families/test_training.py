"""In every family the three stages take a step each that lowers their loss on the same batch."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.data.training import ValueData
    from workbench.svgt.curriculum import TrainingEvent

BAD, GOOD = "how to mend a lock at home", "how to bake bread at home"
ANSWERS = "the cat sat on the mat", "i cannot help with that"


def value_data() -> "ValueData":
    from workbench.data.example import as_conversation
    from workbench.data.training import LabelledPair, LabelledPrompt, SafeTarget, ValueData

    prompts = [as_conversation(text) for text in (BAD, GOOD)]
    return ValueData(
        prompts=[LabelledPrompt(p, harmful=p is prompts[0]) for p in prompts],
        pairs=[
            LabelledPair(p, answer, harmful=p is prompts[0] and answer is ANSWERS[0])
            for p in prompts
            for answer in ANSWERS
        ],
        targets=[SafeTarget(prompts[0], ANSWERS[1])],
    )


def test_each_stage_lowers_its_loss_on_a_fixed_batch(backbone: "TransformerLensBackbone") -> None:
    from workbench.svgt import BridgeConfig, EncoderConfig, SVGTConfig
    from workbench.svgt.curriculum import CurriculumConfig, StageConfig, train_value_module

    config = SVGTConfig(
        d_model=backbone.d_model,
        layer=1,
        n_bridge=3,
        d_value=16,
        encoder=EncoderConfig(n_heads=2, n_layers=1, dropout=0.0),
        bridge=BridgeConfig(n_heads=4, dropout=0.0),
    )
    # Whole data set a batch, so each step sees the same examples.
    stage = StageConfig(epochs=8.0, batch_size=4, learning_rate=3e-3, evaluations=1)
    curriculum = CurriculumConfig(unconditional=stage, conditional=stage, bridge=stage)
    events: list[TrainingEvent] = []
    data = value_data()
    trained = train_value_module(
        backbone, config, curriculum, data, data, seed=0, on_event=events.append
    )
    for name in ("unconditional", "conditional", "bridge"):
        losses = [sum(e.losses.values()) for e in events if e.stage == name and e.losses]
        assert len(losses) >= 2
        assert losses[1] < losses[0], name
        assert losses[-1] < losses[0], name
    assert all(p.dtype == torch.float32 for p in trained.module.parameters())
