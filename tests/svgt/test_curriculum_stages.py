"""Each stage learns what is planted, nothing where nothing is, and touches only its own parts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workbench.backbone import TransformerLensBackbone, load_backbone
from workbench.backbone.protocol import TokenBatch
from workbench.data.example import Message
from workbench.data.training import SafeTarget
from workbench.errors import ConfigError, DataError
from workbench.svgt import BridgeConfig, EncoderConfig, SVGTConfig, TriggerConfig, ValueModule
from workbench.svgt.curriculum import CurriculumConfig, StageConfig, TrainingEvent
from workbench.svgt.curriculum.loop import StateFile, TrainingState, run_stage
from workbench.svgt.curriculum.sampling import StepSampler
from workbench.svgt.curriculum.stages import (
    Banks,
    BridgeStage,
    ConditionalStage,
    SampleResponses,
    StageTask,
    TokenisedTargets,
    UnconditionalStage,
    auroc,
    bridge_loss,
    classification_metrics,
    conditional_scores,
    tokenise_targets,
    unconditional_scores,
)
from workbench.svgt.curriculum.state_bank import PairBank, PromptBank, TokenStates
from workbench.svgt.objectives import SafetyConfig, safety_penalty
from workbench.svgt.slots import forward_with_slots
from workbench.svgt.value_module import PARTS

FIXTURES = Path(__file__).parent.parent / "fixtures"
D_MODEL = 12
WINDOWED = TriggerConfig(kind="windowed", layers=(0,), width=8, n_heads=2)
FAST = StageConfig(
    epochs=2.0, batch_size=16, learning_rate=3e-3, old_rate=3e-3, clip=None, evaluations=3
)
CONFIG = CurriculumConfig(unconditional=FAST, conditional=FAST, bridge=FAST)
LONG = replace(
    CONFIG, unconditional=replace(FAST, epochs=8.0), conditional=replace(FAST, epochs=8.0)
)


def module(**changes: object) -> ValueModule:
    base = SVGTConfig(
        d_model=D_MODEL,
        layer=0,
        n_bridge=2,
        d_value=16,
        encoder=EncoderConfig(n_heads=2, n_layers=1, dropout=0.0),
        bridge=BridgeConfig(n_heads=4, dropout=0.0),
    )
    torch.manual_seed(3)
    return ValueModule(replace(base, **changes))  # type: ignore[arg-type]


def train(task: StageTask, seed: int = 0) -> tuple[TrainingState, list[TrainingEvent]]:
    state, events = TrainingState(), list[TrainingEvent]()
    run_stage(task, state, {}, StateFile(None), seed=seed, on_event=events.append)
    task.module.eval()
    return state, events


# ------------------------------------------------------------------------------ planted worlds


def texts(n: int, marks: Tensor, generator: torch.Generator) -> TokenStates:
    """Texts of 2 to 6 random tokens; ``marks`` says how far one of each stands out."""
    lengths = torch.randint(2, 7, (n,), generator=generator)
    tokens = torch.randn(int(lengths.sum()), D_MODEL, generator=generator)
    starts = lengths.cumsum(0) - lengths
    place = starts + (torch.rand(n, generator=generator) * lengths).long()
    tokens[place, 0] = marks
    return TokenStates(tokens, lengths)


def prompt_bank(n: int, seed: int, *, permuted: bool = False) -> PromptBank:
    """A prompt is harmful where one of its tokens has +4 as first coordinate, not -4."""
    generator = torch.Generator().manual_seed(seed)
    harmful = torch.rand(n, generator=generator) < 0.5
    states = texts(n, torch.where(harmful, 4.0, -4.0), generator)
    if permuted:
        harmful = harmful[torch.randperm(n, generator=generator)]
    return PromptBank({0: states}, harmful.float())


def pair_bank(n: int, seed: int, *, permuted: bool = False) -> PairBank:
    """Each response stands under a harmful and under a harmless prompt.

    Half of the responses help, half refuse; helping under a harmful prompt is harmful, nothing
    else is. A response's states are the same under both, so that they alone cannot tell.
    """
    generator = torch.Generator().manual_seed(seed)
    harmful = torch.arange(n) % 2 == 0
    helps = (torch.rand(n // 2, generator=generator) < 0.5).repeat_interleave(2)
    prompts = texts(n, torch.where(harmful, 4.0, -4.0), generator)
    once = texts(n // 2, torch.where(helps[::2], 4.0, -4.0), generator)
    rows = [part for part in once.tokens.split(once.lengths.tolist()) for _ in range(2)]
    responses = TokenStates(torch.cat(rows), once.lengths.repeat_interleave(2))
    labels = (harmful & helps).float()
    if permuted:
        labels = labels[torch.randperm(n, generator=generator)]
    return PairBank(prompts, responses, labels, ambiguous=helps)


def banks(n: int, seed: int, *, permuted: bool = False) -> Banks:
    return Banks(prompt_bank(n, seed, permuted=permuted), pair_bank(n, seed + 1, permuted=permuted))


def prompt_scores(model: ValueModule, bank: PromptBank) -> Tensor:
    rows = bank.rows(torch.arange(len(bank)))
    with torch.no_grad():
        return model.discriminator(model.encoder.unconditional(rows.states[0], rows.mask))


# ------------------------------------------------------------------------------------ learning


def test_stage_1_learns_a_planted_mark() -> None:
    task = UnconditionalStage(module(), LONG, banks(640, 0), banks(400, 10))
    state, events = train(task)
    first, last = events[0].metrics, events[-1].metrics
    assert first is not None
    assert last is not None
    assert last["auroc"] > 0.99
    assert last["accuracy"] > 0.97
    assert last["f1"] > 0.97
    assert last["bce"] < 0.2 < 0.6 < first["bce"]
    assert mean_loss(state, slice(-40, None)) < 0.1 < 0.4 < mean_loss(state, slice(0, 10))


def test_stage_2_learns_the_prompts_part_and_the_trigger() -> None:
    task = ConditionalStage(
        module(trigger=WINDOWED),
        replace(LONG, trigger_weight=1.0),
        banks(1280, 0),
        banks(400, 10),
    )
    state, events = train(task)
    last = events[-1].metrics
    assert last is not None
    assert last["auroc"] > 0.98
    assert last["ambiguous_auroc"] > 0.97
    assert last["trigger_auroc"] > 0.99
    assert last["selection"] == pytest.approx(last["bce"] + last["trigger_bce"])
    for name in ("total", "conditional", "trigger"):
        assert mean_loss(state, slice(-40, None), name) < 0.4 * mean_loss(state, slice(0, 10), name)


def test_the_same_response_under_another_prompt_needs_the_conditional_pathway() -> None:
    """The unconditional pathway is even trained on the responses themselves; it cannot know."""
    train_pairs, held_out = pair_bank(1280, 1), pair_bank(400, 11)
    on_responses = [
        Banks(PromptBank({0: pairs.response}, pairs.labels), pairs)
        for pairs in (train_pairs, held_out)
    ]
    model = module()
    train(UnconditionalStage(model, LONG, *on_responses))
    blind = unconditional_scores(model, held_out)
    train(ConditionalStage(model, LONG, *on_responses))
    seeing = conditional_scores(model, held_out)
    unclear, labels = held_out.ambiguous, held_out.labels
    assert auroc(blind, labels) > 0.75  # refusals are safe everywhere, and that it does know
    assert auroc(blind[unclear], labels[unclear]) == pytest.approx(0.5, abs=0.01)
    assert auroc(seeing[unclear], labels[unclear]) > 0.95
    assert auroc(seeing, labels) > 0.95


def test_stage_1_reports_how_blind_it_is() -> None:
    held_out = banks(200, 10)
    task = UnconditionalStage(module(), CONFIG, banks(64, 0), held_out)
    metrics = task.validate()
    scores = unconditional_scores(task.module, held_out.pairs)
    assert metrics["response_auroc"] == auroc(scores, held_out.pairs.labels)
    assert metrics["ambiguous_auroc"] == pytest.approx(0.5, abs=0.01)
    assert metrics["selection"] == metrics["bce"]


@pytest.mark.parametrize("stage", [UnconditionalStage, ConditionalStage])
def test_permuted_labels_teach_nothing_about_held_out_examples(stage: type[StageTask]) -> None:
    """The control: small sets are learned by heart, so a leak into validation would be seen."""
    config = replace(LONG, trigger_weight=1.0)
    config = replace(
        config,
        unconditional=replace(FAST, epochs=60.0, old_rate=3e-3),
        conditional=replace(FAST, epochs=60.0, old_rate=3e-3),
    )
    task = stage(  # type: ignore[call-arg]
        module(trigger=WINDOWED),
        config,
        banks(64, 0, permuted=True),
        banks(1000, 10, permuted=True),
    )
    state, events = train(task)
    assert mean_loss(state, slice(-10, None)) < 0.3 * mean_loss(state, slice(0, 10))
    last = events[-1].metrics
    assert last is not None
    for name, value in last.items():
        if name.endswith("auroc"):
            assert value == pytest.approx(0.5, abs=0.06), name


def mean_loss(state: TrainingState, rows: slice, name: str = "total") -> float:
    values = [float(str(row[name])) for row in state.losses[rows]]
    return sum(values) / len(values)


# ----------------------------------------------------------------------------- the third stage


@pytest.fixture(scope="module")
def backbone() -> TransformerLensBackbone:
    return load_backbone(FIXTURES / "tiny-llama")


def targets(n: int, seed: int) -> list[SafeTarget]:
    generator = torch.Generator().manual_seed(seed)

    def prompt() -> str:
        length = int(torch.randint(2, 8, (), generator=generator))
        return " ".join(f"t{i}" for i in torch.randint(0, 60, (length,), generator=generator))

    return [
        SafeTarget((Message("user", prompt()),), " ".join(["t70 t71", "t72 t73 t74"][: 1 + i % 2]))
        for i in range(n)
    ]


def bridge_stage(
    backbone: TransformerLensBackbone,
    config: CurriculumConfig = CONFIG,
    measure_harm: Callable[[ValueModule], Mapping[str, float]] | None = None,
    sample_responses: SampleResponses | None = None,
    **changes: object,
) -> BridgeStage:
    """Stage 3 on a tiny backbone, with a discriminator to which every prompt is harmful."""
    model = module(**{"d_model": backbone.d_model, "layer": 1, **changes})
    with torch.no_grad():
        model.discriminator.out.bias.fill_(3.0)
    return BridgeStage(
        model,
        config,
        backbone,
        tokenise_targets(backbone, targets(48, 0)),
        tokenise_targets(backbone, targets(24, 1)),
        measure_harm,
        sample_responses,
    )


@pytest.mark.parametrize(("kind", "fall"), [("attention", 0.5), ("offset", 2.0), ("mlp", 1.0)])
def test_stage_3_makes_the_safe_response_likely(
    backbone: TransformerLensBackbone, kind: str, fall: float
) -> None:
    stage = replace(FAST, epochs=8.0, batch_size=8, learning_rate=1e-2)
    bridge = BridgeConfig(kind=kind, n_heads=4, dropout=0.0, gate_init=0.0)  # type: ignore[arg-type]
    task = bridge_stage(backbone, replace(CONFIG, bridge=stage), bridge=bridge)
    before = backbone.current_weights_hash()
    state, events = train(task)
    first, last = events[0].metrics, events[-1].metrics
    assert first is not None
    assert last is not None
    assert last["ce"] < first["ce"] - fall
    weights = CONFIG.bridge_loss
    assert (
        last["total"]
        == last["selection"]
        == pytest.approx(
            weights.ce * last["ce"] + weights.safety * last["safety"] + weights.norm * last["norm"],
            rel=1e-5,
        )
    )
    assert mean_loss(state, slice(-6, None), "ce") < mean_loss(state, slice(0, 6), "ce") - fall / 2
    assert backbone.current_weights_hash() == before == backbone.weights_hash


def test_the_three_terms_of_stage_3_are_what_one_steered_pass_gives(
    backbone: TransformerLensBackbone,
) -> None:
    """Scored one block above the encoder's (``score_layer``), measured at the bridge's own."""
    task = bridge_stage(backbone, encoder=EncoderConfig(n_heads=2, layer=2), score_layer=3)
    module = task.module.eval()
    rows = task.train.rows(torch.arange(4))
    found = bridge_loss(module, backbone, rows, CONFIG)
    steered = forward_with_slots(
        backbone, rows.prompt, rows.response, module, capture_layers=[1, 3]
    )
    assert steered.write is not None
    score = module.score_response(
        steered.states[3].prompt, steered.states[3].response, rows.prompt.mask, rows.response.mask
    )
    ce = []
    for row, n in enumerate(rows.response.lengths):
        logits = steered.response_logits[row, :n].log_softmax(-1)
        ce.append(-logits[torch.arange(n), rows.response.ids[row, :n]].mean())
    ends = steered.states[1].prompt[:, -1]
    ratio = steered.write.bridge.norm(dim=-1).mean() / ends.norm(dim=-1).mean()
    expected = {
        "ce": torch.stack(ce).mean(),
        "safety": (nn.functional.softplus(score) + 2 * score.relu()).mean(),
        "norm": ((ratio - 1).abs() - 0.2).relu(),
    }
    for name, value in expected.items():
        assert float(getattr(found, name).detach()) == pytest.approx(
            float(value.detach()), rel=1e-5
        ), name
    assert float(expected["norm"].detach()) > 0


CONTRASTIVE = SafetyConfig("contrastive", margin=2.0)
ON_POLICY = SafetyConfig("on-policy")


def both(n: int, seed: int) -> list[SafeTarget]:
    return [replace(target, harmful_response="t90 t91 t92") for target in targets(n, seed)]


def scores(task: BridgeStage, rows: TokenisedTargets, response: TokenBatch) -> Tensor:
    """Conditional scores of some responses in a steered pass, at the bridge's own block."""
    steered = forward_with_slots(
        task.backbone, rows.prompt, response, task.module, capture_layers=[3]
    )
    states = steered.states[3]
    return task.module.score_response(
        states.prompt, states.response, rows.prompt.mask, response.mask
    )


def scored_above(backbone: TransformerLensBackbone, safety: SafetyConfig) -> BridgeStage:
    """Stage 3 whose scores the bridge can reach."""
    return bridge_stage(
        backbone,
        replace(CONFIG, safety=safety),
        sample_responses=lambda model, prompt, seed: prompt,
        encoder=EncoderConfig(n_heads=2, layer=3, dropout=0.0),
    )


def test_the_contrastive_term_compares_two_steered_responses(
    backbone: TransformerLensBackbone,
) -> None:
    task = scored_above(backbone, CONTRASTIVE)
    task.module.eval()
    index = torch.tensor([1, 5, 6])
    rows = tokenise_targets(backbone, both(8, 0), with_harmful=True).rows(index)
    assert rows.harmful is not None
    found = bridge_loss(task.module, backbone, rows, task.config)
    gap = scores(task, rows, rows.response) - scores(task, rows, rows.harmful)
    torch.testing.assert_close(found.safety, (2.0 + gap).relu().mean())
    found.safety.backward()
    assert any(p.grad is not None and p.grad.any() for p in task.module.bridge.parameters())


def test_the_on_policy_term_scores_what_was_said(backbone: TransformerLensBackbone) -> None:
    task = scored_above(backbone, ON_POLICY)
    task.module.eval()
    rows = task.train.rows(torch.arange(4))
    own = backbone.encode_responses(["t5 t6", "t7", "t8 t9 t10", "t11"])
    found = bridge_loss(task.module, backbone, rows, task.config, own)
    score = scores(task, rows, own)
    torch.testing.assert_close(found.safety, safety_penalty(score))
    usual = bridge_loss(task.module, backbone, rows, replace(task.config, safety=SafetyConfig()))
    assert torch.equal(found.ce, usual.ce)
    assert float(found.safety.detach()) != pytest.approx(float(usual.safety.detach()), abs=1e-6)
    found.safety.backward()
    assert any(p.grad is not None and p.grad.any() for p in task.module.bridge.parameters())


def test_own_responses_are_drawn_at_rest_from_a_seed_of_the_step(
    backbone: TransformerLensBackbone,
) -> None:
    drawn: list[tuple[bool, int]] = []

    def sample(model: ValueModule, prompt: TokenBatch, seed: int) -> TokenBatch:
        drawn.append((model.training, seed))
        return TokenBatch(prompt.ids[:, -1:], prompt.mask[:, -1:])

    task = bridge_stage(backbone, replace(CONFIG, safety=ON_POLICY), sample_responses=sample)
    task.enter()
    for step in (0, 1, 0):
        task.losses(StepSampler(0, 2, step))
        assert task.module.bridge.training
    assert not any(training for training, _ in drawn)
    first, second, again = (seed for _, seed in drawn)
    assert first == again != second
    drawn.clear()
    task.validate()
    task.validate()
    assert len({seed for _, seed in drawn}) == 1


def test_safety_terms_without_what_they_need_are_refused(
    backbone: TransformerLensBackbone,
) -> None:
    with pytest.raises(ConfigError, match="sample_responses"):
        bridge_stage(backbone, replace(CONFIG, safety=ON_POLICY))
    with pytest.raises(DataError, match="1 of 5 targets have no harmful response"):
        tokenise_targets(backbone, [*both(4, 0), *targets(1, 1)], with_harmful=True)


def test_a_target_counts_the_same_alone_and_in_a_batch(backbone: TransformerLensBackbone) -> None:
    task = bridge_stage(backbone)
    task.module.eval()
    index = torch.tensor([3, 11, 4, 8])
    with torch.no_grad():
        together = bridge_loss(task.module, backbone, task.train.rows(index), CONFIG)
        alone = [
            bridge_loss(task.module, backbone, task.train.rows(i[None]), CONFIG) for i in index
        ]
    for name in ("ce", "safety"):
        values = [float(getattr(loss, name)) for loss in alone]
        assert len(set(values)) == 4
        assert float(getattr(together, name)) == pytest.approx(sum(values) / 4, rel=1e-5)


def test_a_gate_that_is_shut_teaches_the_bridge_nothing(backbone: TransformerLensBackbone) -> None:
    config = replace(CONFIG, bridge_loss=replace(CONFIG.bridge_loss, norm=0.0))
    task = bridge_stage(backbone, config, gate="threshold", threshold=1e6)
    task.enter()
    task.losses(StepSampler(0, 2, 0))["total"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in task.module.bridge.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_validation_does_not_depend_on_how_it_is_batched(
    backbone: TransformerLensBackbone,
) -> None:
    task = bridge_stage(backbone)
    task.module.eval()
    at_once = task.validate()
    task.batch_size = 5
    in_parts = task.validate()
    for name in ("ce", "safety"):
        assert in_parts[name] == pytest.approx(at_once[name], rel=1e-5)


def test_generated_harm_is_measured_at_every_evaluation_on_the_module_at_rest(
    backbone: TransformerLensBackbone,
) -> None:
    calls: list[bool] = []

    def measure(model: ValueModule) -> Mapping[str, float]:
        calls.append(model.training)
        return {"harm_rate": 0.25 * len(calls)}

    _, events = train(bridge_stage(backbone, measure_harm=measure))
    measured = [event.metrics for event in events if event.metrics is not None]
    assert calls == [False] * 4
    assert [metrics["harm_rate"] for metrics in measured] == [0.25, 0.5, 0.75, 1.0]


# ------------------------------------------------------------------------- what learns, and how

CONDITIONAL_PARTS = ("prompt_projection", "cross_attention", "cross_norm", "cross_scale")
POOLED = EncoderConfig(n_heads=2, n_layers=1, dropout=0.1, pooling=True)
WHOLE_PROMPT = TriggerConfig(context="prompt")


@dataclass(frozen=True)
class Case:
    """A stage, its configuration, and which weights it may and must change."""

    task: Callable[[TransformerLensBackbone], StageTask]
    learns: Callable[[str], bool]


def conditional(trigger: TriggerConfig, weight: float) -> Callable[..., StageTask]:
    config = replace(CONFIG, trigger_weight=weight)
    return lambda _: ConditionalStage(
        module(trigger=trigger, encoder=POOLED), config, banks(32, 0), banks(16, 1)
    )


def in_encoder(name: str, *but: str) -> bool:
    return name.startswith("encoder.") and not name.startswith(tuple(f"encoder.{b}" for b in but))


CASES = {
    "1": Case(
        lambda _: UnconditionalStage(
            module(trigger=WINDOWED, encoder=POOLED), CONFIG, banks(32, 0), banks(16, 1)
        ),
        lambda name: (
            in_encoder(name, "pooling_query", *CONDITIONAL_PARTS)
            or name.startswith("discriminator.")
        ),
    ),
    "2": Case(
        conditional(WINDOWED, 0.0),
        lambda name: in_encoder(name, "pooling_query") or name.startswith("discriminator."),
    ),
    "2 with a windowed trigger": Case(
        conditional(WINDOWED, 1.0),
        lambda name: (
            in_encoder(name, "pooling_query") or name.startswith(("discriminator.", "trigger."))
        ),
    ),
    "2 with a pooled trigger": Case(
        conditional(WHOLE_PROMPT, 1.0),
        lambda name: in_encoder(name) or name.startswith("discriminator."),
    ),
    "3": Case(
        lambda backbone: bridge_stage(backbone, trigger=replace(WINDOWED, layers=(1,))),
        lambda name: name.startswith("bridge."),
    ),
    "3 with offsets": Case(
        lambda backbone: bridge_stage(backbone, bridge=BridgeConfig(kind="offset", dropout=0.1)),
        lambda name: name.startswith("bridge."),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stage_changes_its_own_parts_and_no_bit_of_the_others(
    name: str, backbone: TransformerLensBackbone
) -> None:
    task = CASES[name].task(backbone)
    weights = dict(task.module.named_parameters())
    buffers = {n: b.clone() for n, b in task.module.named_buffers()}
    before = {n: p.detach().clone() for n, p in weights.items()}
    changed = set[str]()

    def look(event: TrainingEvent) -> None:
        changed.update(n for n, p in weights.items() if not torch.equal(p, before[n]))

    run_stage(task, TrainingState(), {}, StateFile(None), seed=0, on_event=look)
    assert changed == {n for n in weights if CASES[name].learns(n)}
    assert all(torch.equal(b, buffers[n]) for n, b in task.module.named_buffers())


@pytest.mark.parametrize("name", CASES)
def test_parts_that_do_not_learn_are_frozen_and_at_rest(
    name: str, backbone: TransformerLensBackbone
) -> None:
    task = CASES[name].task(backbone)

    def look(event: TrainingEvent) -> None:
        for part in PARTS:
            inside = task.module.get_submodule(part)
            learns = part in task.learning_parts
            assert {m.training for m in inside.modules()} == {learns}, part
            assert {p.requires_grad for p in inside.parameters()} <= {learns}, part

    run_stage(task, TrainingState(), {}, StateFile(None), seed=0, on_event=look)


def loss_twice(task: StageTask) -> tuple[float, float]:
    """The loss of the same examples under two states of the generator that dropout draws from."""
    task.enter()
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values.append(float(task.losses(StepSampler(0, 1, 0))["total"].detach()))
    return values[0], values[1]


def test_dropout_and_noise_touch_learning_parts_only(backbone: TransformerLensBackbone) -> None:
    shaky = {
        "encoder": EncoderConfig(n_heads=2, n_layers=1, dropout=0.5),
        "trigger": replace(WINDOWED, layers=(1,), p_token=0.5, p_last3=0.5, noise=1.0),
    }
    still, dropping = (BridgeConfig(n_heads=4, dropout=p) for p in (0.0, 0.5))
    one, other = loss_twice(bridge_stage(backbone, bridge=still, **shaky))
    assert one == other
    one, other = loss_twice(bridge_stage(backbone, bridge=dropping, **shaky))
    assert one != other


@pytest.mark.parametrize(
    "trigger", [{"noise": 0.5}, {"p_token": 0.5}, {"p_last3": 0.5}], ids=lambda t: next(iter(t))
)
def test_the_triggers_noise_acts_in_training_and_never_in_validation(
    trigger: dict[str, float],
) -> None:
    config = replace(CONFIG, trigger_weight=1.0)

    def stage(options: TriggerConfig) -> ConditionalStage:
        return ConditionalStage(module(trigger=options), config, banks(32, 0), banks(32, 1))

    one, other = loss_twice(stage(WINDOWED))
    assert one == other
    noisy = stage(replace(WINDOWED, **trigger))  # type: ignore[arg-type]
    one, other = loss_twice(noisy)
    assert one != other
    noisy.module.eval()
    validations = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        validations.append(noisy.validate())
    assert validations[0] == validations[1]


def test_noise_has_the_size_it_says_in_standard_deviations() -> None:
    model = module(trigger=replace(WINDOWED, noise=0.3))
    mean, std = torch.full((1, D_MODEL), 2.0), torch.full((1, D_MODEL), 5.0)
    model.trigger.fit_standardiser(mean, std)  # type: ignore[operator]
    states, mask = torch.randn(200, 6, D_MODEL), torch.ones(200, 6, dtype=torch.bool)
    read: list[Tensor] = []
    embed = model.trigger.get_submodule("embed")
    embed.register_forward_hook(lambda _, given, __: read.append(given[0].detach()))
    for mode in (True, False):
        model.train(mode)
        model.trigger(model.encoder, {0: states}, mask)
    noise = read[0] - read[1]
    torch.testing.assert_close(read[1], (states - 2) / 5)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("wanted", "seen"), [(5, 5), (1, 1), (100, 32)])
def test_the_trigger_has_batches_of_its_own(wanted: int, seen: int) -> None:
    config = replace(CONFIG, trigger_weight=1.0, trigger_batch=wanted)
    train_banks = banks(32, 0)
    task = ConditionalStage(module(trigger=WINDOWED), config, train_banks, banks(16, 1))
    rows: dict[str, int] = {}
    with watch(task.module.trigger, lambda given: rows.update(trigger=len(given[2]))):
        losses = task.losses(StepSampler(7, 1, 3))
    assert rows["trigger"] == seen
    drawn = train_banks.prompts.rows(StepSampler(7, 1, 3).draw(32, wanted))
    with torch.no_grad():
        z = task.module.trigger(task.module.encoder, drawn.states, drawn.mask)
        expected = nn.functional.binary_cross_entropy_with_logits(
            task.module.discriminator(z), drawn.labels
        )
    assert float(losses["trigger"].detach()) == pytest.approx(float(expected), rel=1e-5)
    pairs = train_banks.pairs.rows(StepSampler(7, 1, 3).draw(32, FAST.batch_size))
    assert len(pairs.labels) == 16  # whatever the trigger's batch


@contextmanager
def watch(part: nn.Module, look: Callable[[tuple[object, ...]], object]) -> Iterator[None]:
    handle = part.register_forward_pre_hook(lambda _, given: look(given) and None)
    yield
    handle.remove()


def test_without_a_weight_the_trigger_is_not_even_read() -> None:
    task = ConditionalStage(module(trigger=WINDOWED), CONFIG, banks(32, 0), banks(16, 1))
    read: list[object] = []
    with watch(task.module.trigger, read.append):
        assert set(task.losses(StepSampler(0, 1, 0))) == {"total", "conditional"}
    assert not read


def test_label_smoothing_moves_targets_towards_one_half() -> None:
    train_banks = banks(16, 0)
    smooth = replace(CONFIG, label_smoothing=0.1)
    task = UnconditionalStage(module(), smooth, train_banks, train_banks)
    total = float(task.losses(StepSampler(0, 0, 0))["total"].detach())
    score = prompt_scores(task.module, train_banks.prompts).double()
    target = torch.where(train_banks.prompts.labels.bool(), 0.9, 0.1).double()
    p = torch.sigmoid(score)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert total == pytest.approx(float(expected), rel=1e-5)


# ---------------------------------------------------------------------------- rates and clipping


@dataclass
class OptimiserLog:
    """Rates, and norm of all gradients, at every step of AdamW."""

    rates: list[list[float]]
    norms: list[float]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> OptimiserLog:
    log = OptimiserLog([], [])
    plain = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW) -> None:
        groups = optimizer.param_groups
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        log.rates.append([float(group["lr"]) for group in groups])
        log.norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))))
        plain(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return log


def two_rates(**changes: object) -> StageTask:
    stage = replace(
        FAST,
        learning_rate=1e-2,
        old_rate=1e-3,
        batch_size=8,
        epochs=1.0,
        **changes,  # type: ignore[arg-type]
    )
    return ConditionalStage(
        module(), replace(CONFIG, conditional=stage), banks(32, 0), banks(16, 1)
    )


def test_rates_stay_or_fall_in_a_line(steps: OptimiserLog) -> None:
    train(two_rates())
    assert steps.rates == [[1e-2, 1e-3]] * 4
    steps.rates.clear()
    train(two_rates(schedule="linear"))
    expected = [[1e-2 * share, 1e-3 * share] for share in (1.0, 0.75, 0.5, 0.25)]
    assert [pytest.approx(pair) for pair in expected] == steps.rates


def test_gradients_are_clipped_where_asked(steps: OptimiserLog) -> None:
    train(two_rates())
    assert max(steps.norms) > 0.2
    steps.norms.clear()
    train(two_rates(clip=0.05))
    assert max(steps.norms) <= 0.05 * (1 + 1e-4)


def test_parts_that_stage_1_trained_learn_at_the_old_rate() -> None:
    stage = replace(FAST, old_rate=0.0)
    task = ConditionalStage(
        module(), replace(CONFIG, conditional=stage), banks(32, 0), banks(16, 1)
    )
    before = {n: p.detach().clone() for n, p in task.module.named_parameters()}
    train(task)
    changed = {n for n, p in task.module.named_parameters() if not torch.equal(p, before[n])}
    new = {
        n for n in before if n.startswith(tuple(f"encoder.{part}" for part in CONDITIONAL_PARTS))
    }
    assert changed == new


# -------------------------------------------------------------------------------------- metrics


def test_classification_metrics_by_hand() -> None:
    score = torch.tensor([2.0, -1.0, 0.5, -3.0])
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
    found = classification_metrics(score, labels, "x_")
    assert found["x_accuracy"] == 0.5
    assert found["x_f1"] == 0.5  # one of two found, one of two right
    assert found["x_auroc"] == 0.75  # three of four pairs in order
    expected = sum(
        -(y * torch.sigmoid(s).log() + (1 - y) * torch.sigmoid(-s).log())
        for s, y in zip(score, labels, strict=True)
    )
    assert found["x_bce"] == pytest.approx(float(expected) / 4)


def test_one_class_alone_has_no_auroc() -> None:
    found = classification_metrics(torch.tensor([1.0, -1.0]), torch.zeros(2))
    assert found["auroc"] != found["auroc"]
    assert found["accuracy"] == 0.5
    assert found["f1"] == 0.0


def test_where_no_response_is_ambiguous_their_auroc_is_not_measured() -> None:
    pairs = pair_bank(16, 1)
    clear = Banks(prompt_bank(16, 0), replace(pairs, ambiguous=torch.zeros_like(pairs.ambiguous)))
    for stage in (UnconditionalStage, ConditionalStage):
        found = stage(module(), CONFIG, banks(16, 0), clear).validate()
        assert found["ambiguous_auroc"] != found["ambiguous_auroc"]
        assert found["auroc"] == found["auroc"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_have_no_auroc(bad: float) -> None:
    for label in (0.0, 1.0):
        found = auroc(torch.tensor([1.0, bad, -1.0]), torch.tensor([1.0, label, 0.0]))
        assert found != found
