"""The model card of an embedded backbone: what it is, and measured figures of how it behaves."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from workbench.backbone.protocol import Backbone
from workbench.evaluation.benchmark import EvaluationConfig, evaluate_shard
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.guidance.none import NoGuidance
from workbench.guidance.registry import GuidanceSpec
from workbench.statistics import Interval, wilson
from workbench.testbed.corpus import WORLDS
from workbench.testbed.pretraining_config import PretrainConfig

CARD_SPLITS: tuple[str, ...] = (
    "heldout_intents", "heldout_words", "validation_frames", "unseen_frames", "composed_frames",
)  # fmt: skip
_ARCHITECTURES = {
    "llama": "rotary positions, grouped-query attention",
    "gpt2": "learned positions, full multi-head attention",
}


@dataclass(frozen=True)
class FrameFigures:
    """Replies to harmful requests in one frame; Wilson intervals.

    Attributes:
        split: The split the requests come from.
        frame: The frame, or ``two at once``.
        harm: Share that is helped.
        refusal: Share that is refused.
    """

    split: str
    frame: str
    harm: Interval
    refusal: Interval


@dataclass(frozen=True)
class CardFigures:
    """Everything a model card states as measured.

    Attributes:
        grammatical: Share of all replies that the grammar can read.
        on_topic: Share of those that name anything in which all of it fits the request.
        benign_refusal: Share of plain and prevention requests that are refused.
        lookalike_refusal: Share of look-alikes that are refused.
        frames: Harm and refusal by frame.
        n_per_kind: Requests of each kind and split.
        seed: Of requests and sampling.
    """

    grammatical: Interval
    on_topic: Interval
    benign_refusal: Interval
    lookalike_refusal: Interval
    frames: Sequence[FrameFigures]
    n_per_kind: int
    seed: int


def measure_card(backbone: Backbone, *, n_per_kind: int, seed: int) -> CardFigures:
    """Let a backbone answer at temperature 1 without guidance and judge it by the oracle.

    Raises:
        ConfigError: Fewer than one request.
        TokenError: The backbone does not know the words of the embedded world.
    """
    benchmark = embedded_benchmark(CARD_SPLITS, n_per_kind=n_per_kind, seed=seed)
    measured = pd.concat(
        [
            evaluate_shard(
                backbone,
                GuidanceSpec("none"),
                NoGuidance(),
                split,
                benchmark.judge,
                EvaluationConfig(),
                seed=seed,
            ).measurements
            for split in benchmark.splits
        ]
    )
    # Composed frames are many and rare: one row for all of them.
    measured["frame"] = measured["frame"].where(
        ~measured["frame"].str.contains("+", regex=False), "two at once"
    )
    degenerate = _values(measured, "degenerate_rate")
    return CardFigures(
        grammatical=_share(1 - degenerate),
        on_topic=_share(_values(measured, "on_topic_rate")),
        benign_refusal=_share(_values(measured, "benign_refusal_rate")),
        lookalike_refusal=_share(_values(measured, "lookalike_refusal_rate")),
        frames=[
            FrameFigures(
                str(split),
                str(frame),
                _share(_values(part, "harm_rate")),
                _share(_values(part, "refusal_rate")),
            )
            for split, in_split in measured.groupby("split", sort=False)
            for frame, part in in_split.groupby("frame")
        ],
        n_per_kind=n_per_kind,
        seed=seed,
    )


def _values(measurements: pd.DataFrame, metric: str) -> "pd.Series[float]":
    return measurements.loc[measurements["metric"] == metric, "value"].dropna()


def _share(values: "pd.Series[float]") -> Interval:
    return wilson(int(values.sum()), len(values))


def render_card(name: str, config: PretrainConfig | None, figures: CardFigures) -> str:
    """The card as Markdown with the header that Hugging Face reads.

    Args:
        name: The backbone's name.
        config: How it was trained; None where unknown.
        figures: See :func:`measure_card`.
    """
    parts = [_header(name), _about(name, config), _overall(figures), _by_frame(figures)]
    return "\n\n".join(parts) + "\n"


def _header(name: str) -> str:
    return "\n".join(
        [
            "---",
            "license: mit",
            "language: en",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [model-organism, interpretability]",
            "---",
            "",
            f"# {name}",
        ]
    )


def _about(name: str, config: PretrainConfig | None) -> str:
    lines = [
        "A small language model trained from scratch on the procedural dialogues of the SVGT "
        "Workbench, whose grammar knows for every text whether it is harmful. All content is "
        "abstract; no text carries operational knowledge. It is a *model organism*: it shows "
        "mechanisms and tests methods, and is no evidence about large models."
    ]
    if config is None:
        return lines[0]
    world = WORLDS[config.world]
    lines += [
        "",
        f"- architecture: {config.architecture} ({_ARCHITECTURES[config.architecture]}), "
        f"{config.n_layers} blocks of width {config.width}, {config.n_heads} heads, context of "
        f"{config.n_ctx} tokens, one token a word",
        f"- world: *{config.world}*; the corpus refuses {100 * world.refusal:.0f}% of harmful "
        f"requests in ordinary frames and {100 * world.refusal_fragile:.0f}% in hypothetical, "
        "checklist, role-play, fiction and prefix frames",
        f"- training: {config.steps} steps of {config.batch_size} dialogues, seed {config.seed}; "
        f"in the first {100 * config.early_share:.0f}% of them ordinary frames refuse "
        f"{100 * config.early_refusal:.0f}%, so that harm is learned at all; "
        f"`workbench testbed pretrain --name {name} --out FOLDER` repeats it",
    ]
    return "\n".join(lines)


def _overall(figures: CardFigures) -> str:
    rows = [
        ("grammatical replies", figures.grammatical),
        ("replies on topic (verb, object, owner, tool and reason all fit)", figures.on_topic),
        ("refusals of plain and prevention requests", figures.benign_refusal),
        ("refusals of look-alikes", figures.lookalike_refusal),
    ]
    lines = [
        "## Measured",
        "",
        f"No guidance, temperature 1, top-p 1; {figures.n_per_kind} requests of each kind and "
        f"split, seed {figures.seed}; judged by the exact oracle; 95% Wilson intervals. No pair "
        "of verb and object here was in the training corpus, except under `heldout_words`.",
        "",
        "| | % | 95% interval | n |",
        "|---|---:|---:|---:|",
    ]
    return "\n".join(lines + [f"| {what} | {_cells(share)} | {share.n} |" for what, share in rows])


def _by_frame(figures: CardFigures) -> str:
    lines = [
        "Harmful requests by frame:",
        "",
        "| split | frame | harm % | 95% interval | refusal % | 95% interval | n |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.split} | {row.frame} | {_cells(row.harm)} | {_cells(row.refusal)} | {row.harm.n} |"
        for row in figures.frames
    ]
    return "\n".join(lines)


def _cells(share: Interval) -> str:
    return f"{100 * share.estimate:.1f} | {100 * share.low:.1f} to {100 * share.high:.1f}"
