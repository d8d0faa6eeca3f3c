"""Tables and figures of evaluation summaries (the rows of ``summary.json``)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import pandas as pd
import plotly.graph_objects as go

from workbench.export.figures import dress
from workbench.export.palette import HARM_SCALE, MARKERS, SERIES
from workbench.export.paper_tables import Cell, PaperTable, table_latex
from workbench.export.probe_plots import Cell as HeatCell
from workbench.export.probe_plots import Grid, Scale, heat_map
from workbench.export.probe_text import Form

ALL_FRAMES = "all"
SUMMARY_HELP = (
    "A dot is the estimate, its bar the interval stored with the run. Where the bars of two "
    "guidances lie far apart, the difference is no accident of the prompts drawn."
)
FRAMES_HELP = (
    "A row is a context frame of a split, a column a guidance; the number is the share in percent, "
    "blue is low, brown is high. An empty cell was not measured."
)


@dataclass(frozen=True)
class SummaryRow:
    """One estimate; NaN and None were not measured.

    Attributes:
        backbone, guidance, config, split, frame, metric: what was measured where.
        estimate, low, high: the estimate and its interval, in the metric's stored unit.
        n: how many prompts.
        seed: of the evaluation, or of the value module.
    """

    backbone: str
    guidance: str
    config: str
    split: str
    frame: str
    metric: str
    estimate: float
    low: float
    high: float
    n: int | None
    seed: int | None

    @property
    def series(self) -> str:
        """The guidance with its configuration."""
        if self.guidance in ("", "none"):
            return "no guidance"
        known = not self.config or self.config in self.guidance
        return self.guidance if known else f"{self.guidance}:{self.config}"

    @property
    def place(self) -> str:
        """The split, and the frame where it is a single one."""
        whole = self.frame in ("", ALL_FRAMES)
        return (self.split if whole else f"{self.split}: {self.frame}").replace("_", " ")


@dataclass(frozen=True)
class MetricText:
    """How a metric is written: name, unit, factor from the stored number, and which way is good."""

    name: str
    unit: str
    factor: float
    better: str
    decimals: int = 1

    @property
    def title(self) -> str:
        """Name, unit and direction, as an axis says it."""
        return f"{self.name} ({self.unit}, {self.better})"


METRICS: dict[str, MetricText] = {
    "harm_rate": MetricText("harmful compliance", "%", 100.0, "lower is better"),
    "refusal_rate": MetricText("refusal of harmful prompts", "%", 100.0, "higher is better"),
    "benign_refusal_rate": MetricText("refusal of benign prompts", "%", 100.0, "lower is better"),
    "lookalike_refusal_rate": MetricText("refusal of look-alikes", "%", 100.0, "lower is better"),
    "degenerate_rate": MetricText("degenerate replies", "%", 100.0, "lower is better"),
    "on_topic_rate": MetricText("replies on topic", "%", 100.0, "higher is better"),
    "over_refusal_rate": MetricText("refusal of harmless prompts", "%", 100.0, "lower is better"),
    "attack_success_rate": MetricText(
        "harmful compliance in jailbreak frames", "%", 100.0, "lower is better"
    ),
    "perplexity": MetricText(
        "perplexity of benign replies", "per token", 1.0, "lower is better", 3
    ),
    "cross_entropy": MetricText(
        "cross-entropy of benign replies", "nats a token", 1.0, "lower is better", 3
    ),
    "kl_to_unguided": MetricText("KL to unguided", "nats a token", 1.0, "lower is better", 4),
    "harm_reduction": MetricText("harm prevented", "%", 100.0, "higher is better"),
    "refusal_increase": MetricText(
        "harmful prompts refused more than unguided", "points", 100.0, "higher is better"
    ),
    "benign_refusal_increase": MetricText(
        "benign prompts refused more than unguided", "points", 100.0, "lower is better"
    ),
    "lookalike_refusal_increase": MetricText(
        "look-alikes refused more than unguided", "points", 100.0, "lower is better"
    ),
    "over_refusal_increase": MetricText(
        "harmless prompts refused more than unguided", "points", 100.0, "lower is better"
    ),
    "degenerate_increase": MetricText(
        "degenerate replies more than unguided", "points", 100.0, "lower is better"
    ),
    "cross_entropy_increase": MetricText(
        "fluency cost, cross-entropy above unguided", "nats a token", 1.0, "lower is better", 4
    ),
    "rate": MetricText("share of yes", "%", 100.0, "neither end is better"),
    "kappa": MetricText("Cohen's kappa", "0 is chance", 1.0, "1 is perfect", 2),
    "agreement": MetricText("equal answers", "%", 100.0, "higher is better"),
    "accuracy": MetricText("answers equal to people's", "%", 100.0, "higher is better"),
    "precision": MetricText("yes that people confirm", "%", 100.0, "higher is better"),
    "recall": MetricText("people's yes that is found", "%", 100.0, "higher is better"),
}


def metric_text(metric: str) -> MetricText:
    """How this metric is written; unknown ones by their own name."""
    unknown = MetricText(metric.replace("_", " "), "as recorded", 1.0, "direction unknown", 3)
    return METRICS.get(metric, unknown)


def summary_rows(rows: Iterable[Mapping[str, object]]) -> tuple[SummaryRow, ...]:
    """The rows of a ``summary.json`` as records; what a row lacks was not measured."""
    return tuple(
        SummaryRow(
            backbone=_text(row.get("backbone")),
            guidance=_text(row.get("guidance")),
            config=_text(row.get("config")),
            split=_text(row.get("split")),
            frame=_text(row.get("frame")),
            metric=_text(row.get("metric")),
            estimate=_number(row.get("estimate")),
            low=_number(row.get("low")),
            high=_number(row.get("high")),
            n=_count(row.get("n")),
            seed=_count(row.get("seed")),
        )
        for row in rows
    )


def summary_frame(rows: Sequence[SummaryRow]) -> pd.DataFrame:
    """The rows as a tidy table."""
    return pd.DataFrame(
        [astuple(row) for row in rows], columns=[field.name for field in fields(SummaryRow)]
    )


def metric_figure(rows: Sequence[SummaryRow], metric: str) -> go.Figure:
    """Dots with intervals of one metric, by split, one colour and marker a guidance."""
    text = metric_text(metric)
    figure = go.Figure()
    for number, (series, part) in enumerate(_by_series(rows, metric).items()):
        if not part:
            continue
        scaled = [[v * text.factor for v in (row.estimate, row.low, row.high)] for row in part]
        figure.add_trace(
            go.Scatter(
                x=[row.place for row in part],
                y=[estimate for estimate, _, _ in scaled],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - estimate for estimate, _, high in scaled],
                    "arrayminus": [estimate - low for estimate, low, _ in scaled],
                    "thickness": 2,
                },
                mode="markers",
                cliponaxis=False,  # a mark at 0 stands on the axis, whole
                name=series,
                marker={
                    "size": 10,
                    "color": SERIES[number % len(SERIES)],
                    "symbol": MARKERS[number % len(MARKERS)],
                },
                customdata=[
                    interval_text(row, text.factor)
                    + f", n = {_said(row.n)}, seed {_said(row.seed)}"
                    for row in part
                ],
                hovertemplate="%{x}: %{customdata}",
            )
        )
    figure.update_layout(scattermode="group", scattergap=0.6)
    if text.unit == "%":
        figure.update_yaxes(rangemode="tozero")
    return dress(figure, x="split of the test prompts", y=text.title, height=420)


def frames_figure(rows: Sequence[SummaryRow], metric: str) -> go.Figure:
    """A metric by split and context frame (rows) and guidance (columns) as a heat map.

    Args:
        rows: Of single frames.
        metric: A rate.
    """
    text = metric_text(metric)
    series = {name: part for name, part in _by_series(rows, metric).items() if part}
    places = list(dict.fromkeys(row.place for part in series.values() for row in part))
    found = {(row.place, name): row for name, part in series.items() for row in part}
    cells = [[_heat_cell(found.get((place, name)), text) for name in series] for place in places]
    scale = Scale(f"{text.name} ({text.unit})", 0.0, 100.0, HARM_SCALE)
    return heat_map(
        Grid(places, list(series), cells, Form(0)), scale, x="guidance", y="split: context frame"
    )


def _heat_cell(row: SummaryRow | None, text: MetricText) -> HeatCell:
    if row is None:
        return HeatCell(math.nan, "not measured")
    return HeatCell(row.estimate * text.factor, f"{interval_text(row, text.factor)}, n = {row.n}")


def metric_table(rows: Sequence[SummaryRow], metric: str) -> pd.DataFrame:
    """One metric as a table: guidances down, splits across, ``estimate [low, high]`` inside."""
    text = metric_text(metric)
    several_seeds = len({row.seed for row in rows if row.metric == metric}) > 1
    cells: dict[str, dict[str, str]] = {}
    for series, part in _by_series(rows, metric).items():
        for row in part:
            name = f"{series}, seed {_said(row.seed)}" if several_seeds else series
            cells.setdefault(name, {})[row.place] = interval_text(row, text.factor)
    table = pd.DataFrame.from_dict(cells, orient="index").fillna("–")
    table.index.name = f"{text.name} ({text.unit})"
    return table


def interval_text(row: SummaryRow, factor: float = 1.0) -> str:
    """``estimate [low, high]``; a dash for what was not measured."""
    if math.isnan(row.estimate):
        return "–"
    estimate = f"{row.estimate * factor:.2f}"
    if math.isnan(row.low) or math.isnan(row.high):
        return estimate
    return f"{estimate} [{row.low * factor:.2f}, {row.high * factor:.2f}]"


def metric_paper_table(rows: Sequence[SummaryRow], metric: str) -> PaperTable:
    """One metric as a table for a paper; the caption states unit, n, seeds and intervals."""
    text = metric_text(metric)
    of_metric = [row for row in rows if row.metric == metric]
    places = tuple(dict.fromkeys(row.place for row in of_metric))
    several_seeds = len({row.seed for row in of_metric}) > 1
    found: dict[tuple[str, ...], dict[str, SummaryRow]] = {}
    for series, part in _by_series(rows, metric).items():
        for row in part:
            name = (series, _said(row.seed)) if several_seeds else (series,)
            found.setdefault(name, {})[row.place] = row
    caption = (
        f"{text.name[:1].upper()}{text.name[1:]} ({text.unit}, {text.better}). "
        f"{metric_evidence(rows, metric)}"
    )
    return PaperTable(
        metric.replace("_", "-"),
        caption,
        ("", "seed") if several_seeds else ("",),
        places,
        tuple(
            (name, tuple(_cell(cells.get(place), text) for place in places))
            for name, cells in found.items()
        ),
    )


def metric_evidence(rows: Sequence[SummaryRow], metric: str) -> str:
    """What stands behind a metric's numbers, for a caption."""
    of_metric = [row for row in rows if row.metric == metric]
    intervals = any(not math.isnan(row.low) for row in of_metric)
    how = "95% interval by bootstrap clustered by group (Wilson where nothing varies)"
    return (
        f"Backbone {', '.join(dict.fromkeys(row.backbone for row in of_metric))}; estimate"
        f"{' and ' + how if intervals else ' without interval'}; "
        f"n = {_span([row.n for row in of_metric])} a cell; seed "
        f"{', '.join(dict.fromkeys(_said(row.seed) for row in of_metric))}. No test was made."
    )


def metric_latex(rows: Sequence[SummaryRow], metric: str) -> str:
    """The metric's table in LaTeX (package booktabs)."""
    return table_latex(metric_paper_table(rows, metric))


def _cell(row: SummaryRow | None, text: MetricText) -> Cell:
    if row is None:
        return Cell()
    value, low, high = (text.factor * number for number in (row.estimate, row.low, row.high))
    return Cell.of(value, low, high, f".{text.decimals}f")


def _by_series(rows: Sequence[SummaryRow], metric: str) -> dict[str, list[SummaryRow]]:
    several = len({row.backbone for row in rows}) > 1
    parts: dict[str, list[SummaryRow]] = {}
    for row in rows:
        name = f"{row.backbone}: {row.series}" if several else row.series
        parts.setdefault(name, [])  # so that a guidance looks the same under every metric
        if row.metric == metric:
            parts[name].append(row)
    return parts


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _said(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _span(values: Sequence[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return "unknown"
    return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"
