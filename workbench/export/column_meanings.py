"""What the columns of all record tables mean, for those who get them without the workbench."""

from collections.abc import Mapping

UNKNOWN = "see the documentation of the command that wrote the run"
"""Said of a column that nothing is known of, such as one of a newer version."""

_EVERYWHERE: Mapping[str, str] = {
    "backbone": "name of the frozen model",
    "guidance": "what steered the model, by its kind; none: nothing",
    "config": "named configuration of the guidance, or the settings of a candidate",
    "method": "what steered the model, as the command named it",
    "split": "which set of prompts; all, test and validation stand for several together",
    "frame": "context frame of the prompts; all: every frame",
    "metric": "the quantity",
    "estimate": "its estimate; empty: not measured",
    "low": "lower end of the 95% interval; empty: none",
    "high": "upper end of the 95% interval; empty: none",
    "n": "values (probes: independent groups) behind the estimate",
    "n_groups": "independent groups behind the estimate",
    "n_seeds": "seeds of training and sampling behind the estimate",
    "seed": "seed of everything random behind it; empty or -1: all seeds together",
    "value": "the measured value; for shares 1 is yes and 0 is no",
    "weight": "how much the value counts: tokens, or 1",
    "prompt": "identifier of the prompt",
    "group": "prompts that belong together; intervals and tests draw them together",
    "kind": "kind of the prompt, or training against validation",
    "stage": "stage of the training",
    "step": "optimiser step, counted from 1; 0 is before the first",
    "context": "context frame",
    "harmful": "whether it is harmful; as a judgement 1 is yes, 0 no, empty undecided",
    "refused": "whether the reply refuses: 1 yes, 0 no",
    "degenerate": "whether the reply is broken text: 1 yes, 0 no",
    "on_topic": "whether the reply is about the prompt: 1 yes, 0 no",
    "prompt_text": "the prompt as the model read it",
    "reply": "the reply as the model wrote it",
    "tokens": "tokens of the reply",
    "finish": "stop: at a stop token; length: at the limit",
    "judge": "who judged",
    "against": "with whom the judge is compared; people: the set's own labels",
    "property": "what was judged; empty where the judge scored nothing at all",
    "partial": "how partial refusals were counted",
    "unscored": "replies that the judge left undecided",
    "unscored_against": "replies that the other side left undecided",
    "example": "identifier of the judged reply",
    "source": "data set of the example",
    "reason": "why the judge scored nothing at all; empty where it did",
    "candidate": "number of the candidate",
    "selected": "whether this candidate was chosen",
    "reference": "what it is compared with",
    "difference": "estimate minus that of the reference",
    "difference_low": "lower end of the difference's 95% interval",
    "difference_high": "upper end of the difference's 95% interval",
    "p": "two-sided p-value of the difference, before correction",
    "p_value": "two-sided p-value, before correction",
    "p_holm": "p-value after Holm's correction over its family",
    "test": "the test behind the p-value",
    "ablation": "which part was taken away or varied",
    "variant": "what stands in its place; none: no guidance",
    "text": "the variant in words",
    "x": "the number on the horizontal axis: a varied setting, a dose, a step, a distance",
    "probe": "which probe",
    "contrast": "which two classes a direction tells apart",
    "site": "where states were read",
    "layer": "block, counted from 0; -1: the embeddings; empty: no layer",
    "head": "attention head; empty: none",
    "context_a": "context frame; empty: all together",
    "context_b": "the other context frame of a pair",
    "estimator": "how a direction was fitted, or which intervention was made",
    "ceiling": "what a perfectly stable quantity would reach with this much noise",
    "null": "what no effect gives, by a control or by definition",
    "ci_method": "how the interval, and the test after a semicolon, were made",
    "note": "why something was not measured, or what to mind",
    "pc1": "coordinate on the first principal axis",
    "pc2": "coordinate on the second principal axis",
    "pc3": "coordinate on the third principal axis",
    "explained1": "share of the variance on the first principal axis",
    "explained2": "share of the variance on the second principal axis",
    "explained3": "share of the variance on the third principal axis",
}
_IN_TABLE: Mapping[tuple[str, str, str], str] = {
    ("benchmark", "comparisons", "low"): "lower end of the difference's 95% interval",
    ("benchmark", "comparisons", "high"): "upper end of the difference's 95% interval",
    ("benchmark", "comparisons", "n"): "prompts times seeds that both were measured on",
    ("benchmark", "comparisons", "reference"): "method that is compared with",
    ("ablations", "records", "reference"): "named configuration that the ablation starts from",
    ("fit", "tuning", "estimate"): "change against no guidance in points; utility: gain less costs",
    ("train", "metrics", "kind"): "training: losses of a step; validation: held-out metrics",
}
"""Kind of run, table and column, where a column means something of its own."""


def meaning_of(kind: str, table: str, column: str) -> str:
    """What a column of a table means.

    Args:
        kind: Of the run.
        table: Name of the table.
        column: Name of the column.
    """
    return _IN_TABLE.get((kind, table, column)) or _EVERYWHERE.get(column, UNKNOWN)
