"""Curves of a training: what each stage minimises, and what it reaches on the validation set."""

import pandas as pd
import plotly.graph_objects as go

from workbench.export.figures import dress
from workbench.export.palette import MARKERS, SERIES
from workbench.export.summaries import MetricText, metric_text

STAGE_NAMES: dict[str, str] = {
    "unconditional": "Stage 1: texts",
    "conditional": "Stage 2: pairs of prompt and response",
    "bridge": "Stage 3: the bridge",
}
LOSS_HELP = (
    "Means over a few steps, so the line trembles by the luck of the batch; it should fall and "
    "level off. One training has no interval: train other seeds and compare the runs."
)
SHARE_HELP = (
    "Each point scores the whole validation set. The stage keeps the state with the lowest "
    "validation loss, which need not be the last. 0.5 is chance for an AUROC."
)
_SHARES: dict[str, str] = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "f1": "F1",
    "ambiguous_auroc": "AUROC, ambiguous",
    "trigger_auroc": "AUROC, trigger",
    "harm_rate": "harmful replies",
    "degenerate_rate": "degenerate replies",
    "refusal_rate": "refusals",
}
_LOSSES: dict[str, str] = {
    "total": "total",
    "conditional": "pairs (BCE)",
    "trigger": "trigger (BCE)",
    "ce": "safe reply (CE)",
    "safety": "safety",
    "norm": "norm",
    "selection": "validation loss",
}
_SCORES = ("accuracy", "f1", "auroc", "bce")
_SCORED = {
    "": "", "trigger": " of the trigger", "response": " of responses alone",
    "ambiguous": " of ambiguous responses",
}  # fmt: skip
"""Whose scores these are, by what stands before the metric's name."""


def training_text(metric: str) -> MetricText:
    """How a validation metric of a training is written; a reply's rates as anywhere else."""
    prefix, _, score = metric.rpartition("_")
    if metric in _LOSSES:
        return MetricText(_LOSSES[metric], "nats", 1.0, "lower is better", 2)
    if score not in _SCORES or prefix not in _SCORED:
        return metric_text(metric)
    told = f"{_SCORED[prefix]} on the validation set"
    return {
        "accuracy": MetricText(f"accuracy{told}", "%", 100.0, "higher is better"),
        "f1": MetricText(f"F1{told}", "share", 1.0, "1 is perfect", 2),
        "auroc": MetricText(f"AUROC{told}", "0.5 is chance", 1.0, "1 is perfect", 2),
        "bce": MetricText(f"cross-entropy{told}", "nats", 1.0, "lower is better", 2),
    }[score]


def stages_in(curves: pd.DataFrame) -> list[str]:
    """The stages that have begun, in order."""
    return [stage for stage in STAGE_NAMES if (curves["stage"] == stage).any()]


def loss_figure(curves: pd.DataFrame, stage: str) -> go.Figure:
    """Training losses by step, and the validation loss that chooses the best state.

    Args:
        curves: Columns ``stage``, ``step``, ``kind``, ``metric``, ``value``.
        stage: Which stage.
    """
    rows = curves[curves["stage"] == stage]
    losses = rows[(rows["kind"] == "training") & rows["metric"].isin(list(_LOSSES))]
    if losses["metric"].nunique() == 2:  # the total and its only part
        losses = losses[losses["metric"] == "total"]
    figure = _lines(losses, _LOSSES, mode="lines")
    chosen = rows[(rows["kind"] == "validation") & (rows["metric"] == "selection")]
    for trace in _lines(chosen, _LOSSES, mode="lines+markers", first=len(figure.data)).data:
        figure.add_trace(trace)
    return dress(figure, x="step (optimiser updates)", y="loss (nats)", unified=True)


def share_figure(curves: pd.DataFrame, stage: str) -> go.Figure:
    """Validation metrics that are shares, by step."""
    rows = curves[(curves["stage"] == stage) & (curves["kind"] == "validation")]
    figure = _lines(rows[rows["metric"].isin(list(_SHARES))], _SHARES, mode="lines+markers")
    figure.update_yaxes(range=[-0.02, 1.02])
    return dress(
        figure, x="step (optimiser updates)", y="on the validation set (share)", unified=True
    )


def _lines(rows: pd.DataFrame, names: dict[str, str], *, mode: str, first: int = 0) -> go.Figure:
    figure = go.Figure()
    measured = [metric for metric in names if (rows["metric"] == metric).any()]
    for number, metric in enumerate(measured, start=first):
        own = rows[rows["metric"] == metric].sort_values("step")
        figure.add_trace(
            go.Scatter(
                x=own["step"].tolist(),
                y=own["value"].tolist(),
                name=names[metric],
                mode=mode,
                cliponaxis=False,
                line={"color": SERIES[number % len(SERIES)], "width": 2},
                marker={"symbol": MARKERS[number % len(MARKERS)], "size": 7},
                hovertemplate="%{y:.4f}",
            )
        )
    return figure
