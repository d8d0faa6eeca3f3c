"""The budgets of a leaderboard's methods as a table: what stands beside every comparison."""

from collections.abc import Iterable, Mapping, Sequence

from workbench.evaluation.leaderboard.budgets import Budget
from workbench.svgt.curriculum.recipe import DataConfig

_HEADER = (
    "method",
    "prompts / pairs / targets",
    "filler, composed",
    "candidates",
    "validation prompts each",
    "chosen",
    "at an edge of its grid",
)
_UNKNOWN, _NONE = "not recorded", "–"


def budgets_markdown(budgets: Sequence[Budget]) -> str:
    """A table with one row a method, and the rules by which candidates were chosen."""
    lines = [_line(_HEADER), "|" + "---|" * len(_HEADER)]
    lines += [_line(_cells(budget)) for budget in budgets]
    return "\n".join([*lines, "", *_rules(budgets)]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(budget: Budget) -> tuple[str, ...]:
    amounts, frames = _data(budget.data)
    if budget.module_data is not None:
        module_amounts, module_frames = _data(budget.module_data)
        amounts += f"; its value module {module_amounts}"
        frames += f"; its value module {module_frames}"
    if budget.fixed:
        return (budget.method, amounts, frames, "not tuned", _NONE, "fixed beforehand", _NONE)
    choice = budget.choice
    return (
        budget.method,
        amounts,
        frames,
        _UNKNOWN if choice is None else str(choice.candidates),
        _UNKNOWN if choice is None else str(choice.prompts),
        _settings(budget.config or {}),
        ", ".join(budget.edges) or "no",
    )


def _data(data: DataConfig | None) -> tuple[str, str]:
    if data is None:
        return _UNKNOWN, _UNKNOWN
    amounts = f"{data.n_prompts:,} / {data.n_pairs:,} / {data.n_targets:,}"
    parts = ["half between filler words"] * data.filler
    parts += [f"{data.composed:.0%} composed"] * (data.composed > 0)
    return amounts, ", ".join(parts) or _NONE


def _settings(config: Mapping[str, object]) -> str:
    parts = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts.append(f"{name} ({_settings(value)})")
        else:
            said = "null" if value is None else str(value)
            parts.append(f"{name} {said}")
    return ", ".join(parts)


def _rules(budgets: Sequence[Budget]) -> list[str]:
    """Every rule once, with the methods that it chose for."""
    chosen: dict[str, list[str]] = {}
    for budget in budgets:
        if budget.choice is not None:
            chosen.setdefault(budget.choice.rule, []).append(f"`{budget.method}`")
    return [f"Chosen by {rule}: {', '.join(names)}." for rule, names in chosen.items()]
