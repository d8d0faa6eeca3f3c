"""The three stages as tasks: which parameters learn, what the loss is, how it is validated.

    1 unconditional   BCE(D(unconditional(prompt)))
    2 conditional     v BCE(D(conditional(prompt, response))) + w BCE(D(trigger(prompt)))
    3 bridge          CE of the safe response through the slots, plus safety and norm terms

A task knows nothing of epochs, optimisers or files; see `loop`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import SafeTarget
from workbench.errors import ConfigError, DataError
from workbench.svgt.curriculum.recipe import CurriculumConfig, StageConfig, StageName
from workbench.svgt.curriculum.sampling import StepSampler
from workbench.svgt.curriculum.state_bank import BATCH_SIZE, PairBank, PromptBank, PromptBatch
from workbench.svgt.objectives import (
    IGNORED,
    BridgeLoss,
    combine,
    contrastive_penalty,
    norm_penalty,
    response_cross_entropy,
    safety_penalty,
)
from workbench.svgt.slots import SlotForward, forward_with_slots
from workbench.svgt.value_module import PARTS, Part, ValueModule
from workbench.svgt.value_space import last_valid

SampleResponses = Callable[[ValueModule, TokenBatch, int], TokenBatch]
"""Draws responses (right-padded) to encoded prompts under a value module, from a seed."""

_VALIDATION_SEED = 0
_NEW_IN_STAGE_2: tuple[str, ...] = (
    "prompt_projection",
    "cross_attention",
    "cross_norm",
    "cross_scale",
)
_NEW_WITH_TRIGGER: tuple[str, ...] = ("pooling_query",)


@dataclass(frozen=True)
class LearningGroup:
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float


class StageTask(ABC):
    """One stage on one training and one validation set.

    Validation reads ``batch_size`` examples at a time; a step, as many as the stage's settings say.
    """

    name: StageName

    def __init__(
        self, module: ValueModule, config: CurriculumConfig, *, batch_size: int = BATCH_SIZE
    ) -> None:
        self.module = module
        self.config = config
        self.batch_size = batch_size

    @property
    def stage(self) -> StageConfig:
        """The stage's settings."""
        return self.config.stage(self.name)

    @property
    @abstractmethod
    def n_examples(self) -> int:
        """How many training examples an epoch has."""

    @property
    @abstractmethod
    def learning_parts(self) -> tuple[Part, ...]:
        """The parts that learn; all others are frozen, in evaluation mode."""

    @abstractmethod
    def groups(self) -> list[LearningGroup]:
        """The parameters that learn, by rate."""

    @abstractmethod
    def losses(self, sampler: StepSampler) -> Mapping[str, Tensor]:
        """Scalar losses on a step's training examples; ``total`` is what is minimised."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on the validation set; the lowest ``selection`` is the best state."""

    def enter(self) -> None:
        """Let the stage's parts learn and freeze the others."""
        self.module.unfreeze(*self.learning_parts)
        others: list[Part] = [part for part in PARTS if part not in self.learning_parts]
        self.module.freeze(*others)
        self.module.train()


def _smoothed_bce(
    score: Float[Tensor, " batch"], labels: Float[Tensor, " batch"], smoothing: float
) -> Float[Tensor, ""]:
    target = labels * (1 - 2 * smoothing) + smoothing
    return functional.binary_cross_entropy_with_logits(score, target)


def auroc(score: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> float:
    """Area under the ROC curve; NaN where a class is missing or a score is not finite."""
    truth = labels.bool().numpy()
    if not (0 < truth.sum() < len(truth) and bool(score.isfinite().all())):
        return float("nan")
    return float(roc_auc_score(truth, score.numpy()))


def classification_metrics(
    score: Float[Tensor, " n"], labels: Float[Tensor, " n"], prefix: str = ""
) -> dict[str, float]:
    """Accuracy and F1 at score 0, AUROC, and mean BCE in nats."""
    truth, guess = labels.bool().numpy(), (score > 0).numpy()
    return {
        f"{prefix}accuracy": float((truth == guess).mean()),
        f"{prefix}f1": float(f1_score(truth, guess, zero_division=0)),
        f"{prefix}auroc": auroc(score, labels),
        f"{prefix}bce": float(functional.binary_cross_entropy_with_logits(score, labels)),
    }


def in_batches(
    n: int,
    score: Callable[[Int[Tensor, " batch"]], Float[Tensor, " batch"]],
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, " n"]:
    """Score ``n`` rows without gradients, some at a time; the scores stand on the CPU."""
    with torch.no_grad():
        return torch.cat([score(index).cpu() for index in torch.split(torch.arange(n), batch_size)])


def unconditional_scores(
    module: ValueModule, bank: PairBank, batch_size: int = BATCH_SIZE
) -> Float[Tensor, " n"]:
    """Scores of responses read on their own, with the stage-1 pathway."""

    def score(index: Int[Tensor, " batch"]) -> Tensor:
        rows = bank.rows(index).to(module.device)
        scored: Tensor = module.discriminator(
            module.encoder.unconditional(rows.response, rows.response_mask)
        )
        return scored

    return in_batches(len(bank), score, batch_size)


def conditional_scores(
    module: ValueModule, bank: PairBank, batch_size: int = BATCH_SIZE
) -> Float[Tensor, " n"]:
    """Scores of responses read with their prompts."""

    def score(index: Int[Tensor, " batch"]) -> Tensor:
        rows = bank.rows(index).to(module.device)
        return module.score_response(
            rows.prompt, rows.response, rows.prompt_mask, rows.response_mask
        )

    return in_batches(len(bank), score, batch_size)


def trigger_scores(
    module: ValueModule, bank: PromptBank, batch_size: int = BATCH_SIZE
) -> Float[Tensor, " n"]:
    """Scores of prompts read with the trigger pathway, which decides about the bridge."""

    def score(index: Int[Tensor, " batch"]) -> Tensor:
        rows = bank.rows(index).to(module.device)
        scored: Tensor = module.discriminator(
            module.trigger(module.encoder, rows.states, rows.mask)
        )
        return scored

    return in_batches(len(bank), score, batch_size)


def _ambiguous_auroc(score: Tensor, bank: PairBank) -> float:
    rows = bank.ambiguous
    return auroc(score[rows], bank.labels[rows])


@dataclass(frozen=True, eq=False)
class Banks:
    """The states of one split: prompts (every layer that is read) and pairs."""

    prompts: PromptBank
    pairs: PairBank


class UnconditionalStage(StageTask):
    """Stage 1: is this text harmful?"""

    name = "unconditional"

    def __init__(
        self,
        module: ValueModule,
        config: CurriculumConfig,
        train: Banks,
        validation: Banks,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(module, config, batch_size=batch_size)
        self.layer = module.config.encoder_layer
        self.train, self.validation = train, validation

    @property
    def n_examples(self) -> int:
        """Labelled prompts."""
        return len(self.train.prompts)

    @property
    def learning_parts(self) -> tuple[Part, ...]:
        """Encoder and discriminator."""
        return ("encoder", "discriminator")

    def groups(self) -> list[LearningGroup]:
        """All but the encoder's conditional parts, which stage 1 does not use."""
        fixed = _NEW_IN_STAGE_2 + _NEW_WITH_TRIGGER
        encoder = [
            parameter
            for name, parameter in self.module.encoder.named_parameters()
            if not name.startswith(fixed)
        ]
        learning = [*encoder, *self.module.discriminator.parameters()]
        return [LearningGroup(learning, self.stage.learning_rate)]

    def _scores(self, rows: PromptBatch) -> Float[Tensor, " batch"]:
        z = self.module.encoder.unconditional(rows.states[self.layer], rows.mask)
        score: Tensor = self.module.discriminator(z)
        return score

    def losses(self, sampler: StepSampler) -> Mapping[str, Tensor]:
        """BCE of the unconditional score."""
        drawn = sampler.draw(self.n_examples, self.stage.batch_size)
        rows = self.train.prompts.rows(drawn, [self.layer]).to(self.module.device)
        return {
            "total": _smoothed_bce(self._scores(rows), rows.labels, self.config.label_smoothing)
        }

    def validate(self) -> dict[str, float]:
        """Metrics on texts, and on responses read without their prompts."""
        bank = self.validation.prompts
        metrics = classification_metrics(
            in_batches(
                len(bank),
                lambda index: self._scores(bank.rows(index, [self.layer]).to(self.module.device)),
                self.batch_size,
            ),
            bank.labels,
        )
        on_pairs = unconditional_scores(self.module, self.validation.pairs, self.batch_size)
        return {
            **metrics,
            "response_auroc": auroc(on_pairs, self.validation.pairs.labels),
            "ambiguous_auroc": _ambiguous_auroc(on_pairs, self.validation.pairs),
            "selection": metrics["bce"],
        }


class ConditionalStage(StageTask):
    """Stage 2: is this response harmful here, and (option) does this prompt call for a bridge?"""

    name = "conditional"

    def __init__(
        self,
        module: ValueModule,
        config: CurriculumConfig,
        train: Banks,
        validation: Banks,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(module, config, batch_size=batch_size)
        self.train, self.validation = train, validation

    @property
    def n_examples(self) -> int:
        """Labelled pairs."""
        return len(self.train.pairs)

    @property
    def learning_parts(self) -> tuple[Part, ...]:
        """Encoder, discriminator and, where it is trained, the trigger."""
        parts: tuple[Part, ...] = ("encoder", "discriminator")
        return (*parts, "trigger") if self.config.trigger_weight > 0 else parts

    def groups(self) -> list[LearningGroup]:
        """New parts at the full rate, parts that stage 1 trained at the old rate."""
        fresh = _NEW_IN_STAGE_2
        if self.config.trigger_weight > 0:
            fresh += _NEW_WITH_TRIGGER
        new = [p for n, p in self.module.encoder.named_parameters() if n.startswith(fresh)]
        old = [
            p
            for n, p in self.module.encoder.named_parameters()
            if not n.startswith(fresh + _NEW_WITH_TRIGGER)
        ]
        if self.config.trigger_weight > 0:
            new += list(self.module.trigger.parameters())
        old += list(self.module.discriminator.parameters())
        return [
            LearningGroup(new, self.stage.learning_rate),
            LearningGroup(old, self.stage.old_rate),
        ]

    def losses(self, sampler: StepSampler) -> Mapping[str, Tensor]:
        """BCE of the conditional score and of the trigger's."""
        drawn = sampler.draw(self.n_examples, self.stage.batch_size)
        pairs = self.train.pairs.rows(drawn).to(self.module.device)
        smoothing = self.config.label_smoothing
        score = self.module.score_response(
            pairs.prompt, pairs.response, pairs.prompt_mask, pairs.response_mask
        )
        conditional = _smoothed_bce(score, pairs.labels, smoothing)
        if self.config.trigger_weight == 0:
            return {"total": self.config.pair_weight * conditional, "conditional": conditional}
        drawn = sampler.draw(len(self.train.prompts), self.config.trigger_batch)
        prompts = self.train.prompts.rows(drawn).to(self.module.device)
        z = self.module.trigger(self.module.encoder, prompts.states, prompts.mask)
        trigger = _smoothed_bce(self.module.discriminator(z), prompts.labels, smoothing)
        return {
            "total": self.config.pair_weight * conditional + self.config.trigger_weight * trigger,
            "conditional": conditional,
            "trigger": trigger,
        }

    def validate(self) -> dict[str, float]:
        """Metrics of the conditional score, of ambiguous responses, and of the trigger."""
        pairs, prompts = self.validation.pairs, self.validation.prompts
        score = conditional_scores(self.module, pairs, self.batch_size)
        metrics = classification_metrics(score, pairs.labels)
        trigger = classification_metrics(
            trigger_scores(self.module, prompts, self.batch_size), prompts.labels, "trigger_"
        )
        return {
            **metrics,
            **trigger,
            "ambiguous_auroc": _ambiguous_auroc(score, pairs),
            "selection": self.config.pair_weight * metrics["bce"]
            + self.config.trigger_weight * trigger["trigger_bce"],
        }


@dataclass(frozen=True, eq=False)
class TokenisedTargets:
    """Harmful prompts (left-padded), the safe responses they should get, and harmful ones.

    Attributes:
        prompt: Prompts.
        response: Safe responses.
        harmful: Harmful responses to the same prompts; None where none were asked for.
    """

    prompt: TokenBatch
    response: TokenBatch
    harmful: TokenBatch | None = None

    def __len__(self) -> int:
        return len(self.prompt.ids)

    def rows(self, index: Int[Tensor, " batch"]) -> "TokenisedTargets":
        """Some rows, without the columns that are padding in all of them."""
        prompt = self.prompt.rows(index)
        start = prompt.ids.shape[1] - int(prompt.lengths.max())
        return TokenisedTargets(
            TokenBatch(prompt.ids[:, start:], prompt.mask[:, start:]),
            _trimmed(self.response.rows(index)),
            None if self.harmful is None else _trimmed(self.harmful.rows(index)),
        )


def _trimmed(response: TokenBatch) -> TokenBatch:
    stop = int(response.lengths.max())
    return TokenBatch(response.ids[:, :stop], response.mask[:, :stop])


def tokenise_targets(
    backbone: Backbone, targets: Sequence[SafeTarget], *, with_harmful: bool = False
) -> TokenisedTargets:
    """Tokenise stage 3's examples.

    Raises:
        DataError: Harmful responses are wanted and a target has none.
    """
    harmful = None
    if with_harmful:
        texts = [target.harmful_response for target in targets]
        known = [text for text in texts if text is not None]
        if len(known) < len(texts):
            raise DataError(
                f"{len(texts) - len(known)} of {len(texts)} targets have no harmful response; the "
                "contrastive safety term compares each safe response with one"
            )
        harmful = backbone.encode_responses(known)
    return TokenisedTargets(
        backbone.encode([target.prompt for target in targets]),
        backbone.encode_responses([target.safe_response for target in targets]),
        harmful,
    )


def _steer(
    module: ValueModule, backbone: Backbone, prompt: TokenBatch, response: TokenBatch
) -> SlotForward:
    layers = sorted({module.config.layer, module.config.response_layer})
    return forward_with_slots(backbone, prompt, response, module, capture_layers=layers)


def _steered_score(
    module: ValueModule, steered: SlotForward, prompt: TokenBatch, response: TokenBatch
) -> Float[Tensor, " batch"]:
    """The score s of the response as it stands in the steered pass."""
    scored = steered.states[module.config.response_layer]
    return module.score_response(
        scored.prompt.float(), scored.response.float(), prompt.mask, response.mask
    )


def bridge_loss(
    module: ValueModule,
    backbone: Backbone,
    rows: TokenisedTargets,
    config: CurriculumConfig,
    own_responses: TokenBatch | None = None,
) -> BridgeLoss:
    """The loss of stage 3 on a few examples, in one steered pass (two where the safety term needs).

    Args:
        module: The value module.
        backbone: The frozen model.
        rows: The examples.
        config: Weights and kind of the terms.
        own_responses: What the guided model says to the prompts: scored by the on-policy term.
    """
    steered = _steer(module, backbone, rows.prompt, rows.response)
    assert steered.write is not None
    at_bridge = steered.states[module.config.layer].prompt.float()
    return combine(
        response_cross_entropy(
            steered.response_logits, rows.response.ids.masked_fill(~rows.response.mask, IGNORED)
        ),
        _safety_term(module, backbone, rows, steered, config, own_responses),
        norm_penalty(steered.write.bridge, last_valid(at_bridge, rows.prompt.mask)),
        config.bridge_loss,
    )


def _safety_term(
    module: ValueModule,
    backbone: Backbone,
    rows: TokenisedTargets,
    steered: SlotForward,
    config: CurriculumConfig,
    own_responses: TokenBatch | None,
) -> Float[Tensor, ""]:
    """See `workbench.svgt.objectives`."""

    def score(response: TokenBatch) -> Float[Tensor, " batch"]:
        anew = _steer(module, backbone, rows.prompt, response)
        return _steered_score(module, anew, rows.prompt, response)

    kind = config.safety.kind
    if kind == "on-policy":
        assert own_responses is not None, "the stage draws them"
        return safety_penalty(score(own_responses))
    safe = _steered_score(module, steered, rows.prompt, rows.response)
    if kind == "contrastive":
        assert rows.harmful is not None, "the stage asks for them"
        return contrastive_penalty(safe, score(rows.harmful), config.safety.margin)
    return safety_penalty(safe)


class BridgeStage(StageTask):
    """Stage 3: bridge tokens after which the frozen backbone gives the safe response."""

    name = "bridge"

    def __init__(
        self,
        module: ValueModule,
        config: CurriculumConfig,
        backbone: Backbone,
        train: TokenisedTargets,
        validation: TokenisedTargets,
        measure_harm: Callable[[ValueModule], Mapping[str, float]] | None,
        sample_responses: SampleResponses | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__(module, config, batch_size=batch_size)
        if config.safety.kind == "on-policy" and sample_responses is None:
            raise ConfigError(
                "safety.kind = 'on-policy' scores what the guided model says, and this training "
                "was given no way to generate; pass sample_responses"
            )
        self.backbone = backbone
        self.train, self.validation = train, validation
        self.measure_harm = measure_harm
        self.sample_responses = sample_responses

    @property
    def n_examples(self) -> int:
        """Safe responses."""
        return len(self.train)

    @property
    def learning_parts(self) -> tuple[Part, ...]:
        """The bridge alone."""
        return ("bridge",)

    def groups(self) -> list[LearningGroup]:
        """The bridge's parameters."""
        return [LearningGroup(list(self.module.bridge.parameters()), self.stage.learning_rate)]

    def _own_responses(self, rows: TokenisedTargets, seed: int) -> TokenBatch | None:
        """What the guided model says without dropout; None where it is not scored."""
        if self.config.safety.kind != "on-policy" or self.sample_responses is None:
            return None
        training = self.module.training
        try:
            return self.sample_responses(self.module.eval(), rows.prompt, seed)
        finally:
            self.module.train(training)

    def losses(self, sampler: StepSampler) -> Mapping[str, Tensor]:
        """The three terms and their weighted sum."""
        rows = self.train.rows(sampler.draw(self.n_examples, self.stage.batch_size))
        own = self._own_responses(rows, sampler.torch_seed())
        loss = bridge_loss(self.module, self.backbone, rows, self.config, own)
        return {"total": loss.total, "ce": loss.ce, "safety": loss.safety, "norm": loss.norm}

    def validate(self) -> dict[str, float]:
        """The three terms, and the harm rate of generated text where it can be judged."""
        sums: dict[str, float] = {}
        with torch.no_grad():
            for index in torch.split(torch.arange(len(self.validation)), self.batch_size):
                rows = self.validation.rows(index)
                own = self._own_responses(rows, _VALIDATION_SEED)
                loss = bridge_loss(self.module, self.backbone, rows, self.config, own)
                share = len(index) / len(self.validation)
                for name in ("ce", "safety", "norm", "total"):
                    sums[name] = sums.get(name, 0.0) + share * float(getattr(loss, name))
        generated = {} if self.measure_harm is None else dict(self.measure_harm(self.module))
        return {**sums, **generated, "selection": sums["total"]}
