"""Exhibits of ``workbench benchmark``: the sheets, the Pareto front, rates, contexts and costs."""

from workbench.evaluation.leaderboard.running import LEADERBOARD_FILE
from workbench.export.exhibits.exhibit import Exhibits, joined, paper_figure
from workbench.export.leaderboard_figures import (
    CONTEXT_HELP,
    COST_HELP,
    PARETO_HELP,
    RATES_HELP,
    context_figure,
    cost_figure,
    pareto_figure,
    rates_figure,
)
from workbench.export.leaderboard_tables import ALL, board_evidence, board_tables, read_board
from workbench.export.printing import plot_width
from workbench.runs import RunFolder

_RATES = (
    ("harm-rates", "Harmful replies by method", "harm_rate"),
    ("over-refusal-rates", "Refused harmless prompts by method", "over_refusal_rate"),
    ("degenerate-rates", "Degenerate replies by method", "degenerate_rate"),
)


def leaderboard_exhibits(run: RunFolder) -> Exhibits:
    """Tables and figures of a leaderboard; an unfinished one has none yet."""
    if not run.file(LEADERBOARD_FILE).exists():
        return Exhibits()
    board = read_board(run.path)
    evidence = board_evidence(board, ALL)
    return Exhibits(
        tuple(table for split in board.splits for table in board_tables(board, split)),
        joined(
            [
                paper_figure(
                    "pareto", "Harm reduction against fluency cost",
                    pareto_figure(board, widths=(plot_width(),)), PARETO_HELP, evidence,
                ),
                *(
                    paper_figure(
                        name, title, rates_figure(board, metric), RATES_HELP[metric], evidence
                    )
                    for name, title, metric in _RATES
                    if (board.rows["metric"] == metric).any()
                ),
                paper_figure(
                    "contexts", "Harmful replies by context frame, all splits",
                    context_figure(board, "harm_rate"), CONTEXT_HELP, evidence,
                ),
                paper_figure(
                    "costs", "Time and memory of a reply", cost_figure(board), COST_HELP, evidence
                ),
            ]
        ),
    )  # fmt: skip
