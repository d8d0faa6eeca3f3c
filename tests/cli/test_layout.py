"""Tables in any width: labels and numbers are never lost."""

import io

import pytest
from rich.console import Console

from workbench.cli._layout import new_table, print_table

LABELS = ("svgt: the recipe of this workbench, trained on all contexts", "none")


def printed(width: int) -> str:
    table = new_table("What was found")
    table.add_column("method", overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True)
    for number in range(6):
        table.add_column(f"rate {number}\nin %", justify="right", no_wrap=True)
    for row, label in enumerate(LABELS):
        rates = [f"+{row}{n}.5\n[dim]-{row}{n}.25 to +{row}{n}.75[/dim]" for n in range(6)]
        table.add_row(label, str(row + 7), *rates)
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table)
    assert console.width == width
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "n_tables"), [(20, 7), (50, 6), (80, 2), (100, 2), (140, 1), (400, 1)]
)
def test_every_part_has_the_labels_and_no_number_is_cut(width: int, n_tables: int) -> None:
    said = printed(width)
    assert said.count("What was found") == n_tables
    assert said.count("(continued)") == n_tables - 1
    for label in LABELS:
        for word in label.split():
            assert said.count(word) >= n_tables
    for row in range(2):
        for number in range(6):
            assert said.count(f"-{row}{number}.25 to +{row}{number}.75") == 1
            assert said.count(f"+{row}{number}.5 ") == 1
    if width >= 50:
        assert max(map(len, said.splitlines())) <= width
