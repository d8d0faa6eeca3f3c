"""ITI: a few attention heads shifted along the direction in which safe and harmful replies differ.

1. *States.* What every head gathers, before the output projection, at the last token of every
   labelled reply (prompt and reply together), x in R^d_head. The paper's examples are right and
   wrong answers to the same questions; ``targets`` are like that, safe and harmful replies to the
   same prompts. ``pairs`` are replies of both kinds to prompts of all kinds: more various, but
   what sets their classes apart is also whether the *prompt* was harmful.
2. *Heads.* For each head a logistic probe of the label is fitted on one part of the examples; the
   k heads whose probes are most accurate on the rest are chosen. Examples of one group fall into
   the same part. Ties go to the probe with the lower loss.
3. *Shift.* theta = (mean of safe - mean of harmful) / |...|, the mass-mean direction, and sigma =
   the standard deviation of theta . x, over all examples. At the prompt's last token and every
   generated one each chosen head becomes x + strength sigma theta.

(Inference-time intervention, Li et al., arXiv 2306.03341: k = 48 of 1024 heads, strength 15.) Both
parts come from the examples handed to ``fit``: no other data choose heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.training import LabelledPair, ValueData
from workbench.errors import ConfigError, DataError
from workbench.guidance.artifact import load_artifact, read_config, save_artifact, take_tensors
from workbench.guidance.editing import ActivationEdit, Change, EditingSession
from workbench.guidance.fitting import (
    check_strength,
    class_means_apart,
    read_heads,
    reply_tokens,
    require_classes,
)
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession, SlotlessSession

NAME = "iti"
ITIExamples = Literal["pairs", "targets"]
_RIDGE = 1.0
_NEWTON_STEPS = 50
_STEP_SIZES = (1.0, 0.5, 0.25, 0.125, 0.03125, 0.0)
_CONVERGED = 1e-8


@dataclass(frozen=True)
class ITIConfig:
    """What is tuned.

    Attributes:
        n_heads: Heads that are shifted (k), over all blocks.
        strength: Shift in standard deviations; above 0 steers towards safe replies.
        examples: Replies of the labelled ``pairs``, or both replies of every one of the
            ``targets`` that has a harmful one.
        held_out: Share of the groups that probes are not fitted on and that choose the heads.

    Raises:
        ConfigError: A value out of range.
    """

    n_heads: int
    strength: float = 5.0
    examples: ITIExamples = "pairs"
    held_out: float = 0.25

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.n_heads < 1:
            raise ConfigError(f"n_heads = {self.n_heads}: shift at least one head")
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"held_out = {self.held_out}: a share between 0 and 1 of the groups chooses heads"
            )


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """How well each head's probe tells harmful from safe on examples it was not fitted on.

    Attributes:
        accuracy: Share of examples on the right side.
        loss: Mean cross-entropy, nats.
    """

    accuracy: Float[Tensor, "layer head"]
    loss: Float[Tensor, "layer head"]


@dataclass(frozen=True, eq=False)
class ITI(WithoutSlots):
    """The chosen heads' shifts as a guidance.

    Attributes:
        config: How many heads and how strongly.
        shift: sigma theta of the chosen heads, 0 elsewhere; units of the heads' states.
        accuracy: Accuracy of every head's probe on the held-out part.
        about: How many examples probes were fitted on and chosen by.
        factor: 1 as tuned, 0 no guidance, -1 towards harm.
    """

    config: ITIConfig
    shift: Float[Tensor, "layer head d_head_v"]
    accuracy: Float[Tensor, "layer head"]
    about: Mapping[str, object] = field(default_factory=dict)
    factor: float = 1.0

    @property
    def name(self) -> str:
        """Name in records."""
        return NAME

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """The chosen heads as (layer, head)."""
        return tuple((int(layer), int(head)) for layer, head in self.shift.any(dim=-1).nonzero())

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that shifts the heads; none of its hooks where nothing is to be shifted."""
        if self.coefficient == 0:
            return SlotlessSession()
        steps = self.coefficient * self.shift.to(backbone.device)
        layers = sorted({layer for layer, _ in self.heads})
        return EditingSession(
            backbone, [ActivationEdit("heads", layer, _adds(steps[layer])) for layer in layers]
        )

    @classmethod
    def fit(cls, backbone: Backbone, data: ValueData, config: ITIConfig, *, seed: int) -> "ITI":
        """Choose heads by probes and shift them by what sets the classes apart.

        Args:
            backbone: The frozen model.
            data: Its ``pairs`` or ``targets`` are read.
            config: How many heads.
            seed: Decides which groups are held out.

        Raises:
            ConfigError: More heads than the backbone has.
            DataError: Too few examples of a class, in all or in one of the two parts.
        """
        total = backbone.n_layers * backbone.n_heads
        if config.n_heads > total:
            raise ConfigError(
                f"n_heads = {config.n_heads}: {backbone.name} has {total} heads in all"
            )
        pairs = _labelled_replies(data, config.examples)
        harmful = torch.tensor([pair.harmful for pair in pairs], dtype=torch.bool)
        held_out = hold_out_groups([pair.group for pair in pairs], config.held_out, seed=seed)
        require_classes(harmful[~held_out], "replies to fit probes on")
        require_classes(harmful[held_out], "replies to choose heads by")
        states = read_heads(
            backbone,
            reply_tokens(
                backbone,
                [pair.prompt for pair in pairs],
                [pair.response for pair in pairs],
                "last",
            ),
        )
        scores = probe_heads(states, harmful, held_out)
        chosen = choose_heads(scores, config.n_heads)
        shift = torch.where(chosen[..., None], safe_shifts(states, harmful), 0.0)
        counts = {"n_fitted": int((~held_out).sum()), "n_chosen_by": int(held_out.sum())}
        return cls(config, shift, scores.accuracy, counts)

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write configuration and shifts; see :func:`workbench.guidance.artifact.save_artifact`."""
        save_artifact(
            folder,
            NAME,
            self.config,
            {"shift": self.shift, "accuracy": self.accuracy},
            backbone=backbone,
            about={**self.about, **(about or {})},
        )

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> "ITI":
        """Read it back.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`.
        """
        artifact = load_artifact(folder, NAME, backbone)
        config = read_config(artifact, ITIConfig, folder)
        heads = (backbone.n_layers, backbone.n_heads)
        shapes = {"shift": (*heads, backbone.d_head), "accuracy": heads}
        tensors = take_tensors(artifact, shapes, folder)
        return cls(config, tensors["shift"], tensors["accuracy"], artifact.record.about)


def _labelled_replies(data: ValueData, examples: ITIExamples) -> Sequence[LabelledPair]:
    if examples == "pairs":
        return data.pairs
    return [
        LabelledPair(target.prompt, reply, harmful, target.group or f"target {number}")
        for number, target in enumerate(data.targets)
        if target.harmful_response is not None
        for reply, harmful in ((target.safe_response, False), (target.harmful_response, True))
    ]


def _adds(step: Float[Tensor, "head d_head_v"]) -> Change:
    """To every position of (batch, head, query, d_head_v) the step of its head."""
    return step[:, None, :].expand_as


def hold_out_groups(groups: Sequence[str], share: float, *, seed: int) -> Bool[Tensor, " n"]:
    """Which examples are held out: a share of the groups, each whole.

    An example with an empty group stands for itself.

    Raises:
        DataError: Fewer than two groups.
    """
    names = [group or f"example {number}" for number, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(numbers) < 2:
        raise DataError("the pairs form one group: give some of another to choose heads by")
    count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    out = torch.zeros(len(numbers), dtype=torch.bool)
    out[order[:count]] = True
    return out[torch.tensor([numbers[name] for name in names])]


def probe_heads(
    states: Float[Tensor, "n layer head d_head_v"],
    harmful: Bool[Tensor, " n"],
    held_out: Bool[Tensor, " n"],
) -> ProbeScores:
    """Fit a logistic probe for every head, and score it on the examples that are held out.

    States are standardised by the fitted examples; a block's heads are fitted together.
    """
    label = harmful.double()
    logits = torch.stack(
        [_probe_logits(states[:, layer], label, held_out) for layer in range(states.shape[1])]
    )
    wanted = label[held_out].expand_as(logits)
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    right = (logits > 0) == (wanted > 0.5)
    return ProbeScores(right.double().mean(dim=-1).float(), loss.mean(dim=-1).float())


def _probe_logits(
    states: Float[Tensor, "n head d_head_v"],
    label: Float[Tensor, " n"],
    held_out: Bool[Tensor, " n"],
) -> Float[Tensor, "head row"]:
    """Logits of the held-out examples under probes fitted on the others."""
    by_head = states.double().transpose(0, 1)
    fitted = by_head[:, ~held_out]
    mean, std = fitted.mean(dim=1, keepdim=True), fitted.std(dim=1, keepdim=True)
    std = torch.where(std > 0, std, 1.0)
    slopes = fit_logistic((fitted - mean) / std, label[~held_out])
    return _with_one((by_head[:, held_out] - mean) / std).matmul(slopes[..., None]).squeeze(-1)


def fit_logistic(
    states: Float[Tensor, "head n width"], label: Float[Tensor, " n"], ridge: float = _RIDGE
) -> Float[Tensor, "head coefficient"]:
    """Logistic regressions, one a head, by Newton's method with step halving.

    Minimises  sum of cross-entropies + ridge/2 |w|^2  (the intercept, last, is free).
    """
    rows = _with_one(states.double())
    label = label.double()
    penalty = torch.full((rows.shape[-1],), ridge, dtype=rows.dtype)
    penalty[-1] = 0.0
    sizes = torch.tensor(_STEP_SIZES, dtype=rows.dtype)[:, None, None]

    def loss(slopes: Tensor) -> Tensor:
        logits = torch.einsum("hnd,...hd->...hn", rows, slopes)
        entropy = functional.softplus(logits) - label * logits
        return entropy.sum(dim=-1) + (penalty * slopes.square()).sum(dim=-1) / 2

    slopes = rows.new_zeros(len(rows), rows.shape[-1])
    for _ in range(_NEWTON_STEPS):
        chance = torch.sigmoid(torch.einsum("hnd,hd->hn", rows, slopes))
        gradient = torch.einsum("hnd,hn->hd", rows, chance - label) + penalty * slopes
        if float(gradient.abs().max()) < _CONVERGED * len(label):
            break
        weighted = rows * (chance * (1 - chance))[..., None]
        curvature = rows.transpose(1, 2) @ weighted + torch.diag(penalty + 1e-9)
        step = torch.linalg.solve(curvature, gradient)
        candidates = slopes - sizes * step
        best = loss(candidates).argmin(dim=0)
        slopes = candidates[best, torch.arange(len(rows))]
    return slopes


def _with_one(states: Float[Tensor, "head n width"]) -> Float[Tensor, "head n coefficient"]:
    return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1)


def choose_heads(scores: ProbeScores, n_heads: int) -> Bool[Tensor, "layer head"]:
    """The heads of highest accuracy; among equals those of lower loss."""
    accuracy, loss = scores.accuracy.flatten(), scores.loss.flatten()
    by_loss = loss.argsort(stable=True)
    order = by_loss[accuracy[by_loss].argsort(descending=True, stable=True)]
    chosen = torch.zeros_like(accuracy, dtype=torch.bool)
    chosen[order[:n_heads]] = True
    return chosen.reshape(scores.accuracy.shape)


def safe_shifts(
    states: Float[Tensor, "n layer head d_head_v"], harmful: Bool[Tensor, " n"]
) -> Float[Tensor, "layer head d_head_v"]:
    """The step of every head: one standard deviation along the mass-mean direction, to safe.

    A head with the same mean in both classes has no direction and gets 0.
    """
    gap = class_means_apart(states, ~harmful)
    theta = functional.normalize(gap, dim=-1)
    sigma = torch.einsum("nlhd,lhd->nlh", states, theta).std(dim=0)
    return sigma[..., None] * theta


def grid(backbone: Backbone) -> tuple[ITIConfig, ...]:
    """Both kinds of examples, a twentieth (as in the paper) or a fifth of all heads, to its 15."""
    total = backbone.n_layers * backbone.n_heads
    return tuple(
        ITIConfig(max(1, round(share * total)), strength, examples)
        for examples in _EXAMPLES
        for share in (0.05, 0.2)
        for strength in (1.0, 2.0, 5.0, 15.0)
    )


_EXAMPLES: tuple[ITIExamples, ...] = ("pairs", "targets")

FITTED = (
    Method(
        name=NAME,
        title="Inference-time intervention (ITI)",
        source="Li et al., arXiv 2306.03341",
        config_type=ITIConfig,
        grid=grid,
        fit=ITI.fit,
        load=ITI.load,
    ),
)
