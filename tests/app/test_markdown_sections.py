"""Measured text goes between its markers, and the rest of the page stays."""

from pathlib import Path

import pytest


def test_a_section_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    from workbench.export.markdown import fill_section

    page = tmp_path / "page.md"
    page.write_text("head\n<!-- x:begin -->\nold\n<!-- x:end -->\ntail\n", encoding="utf-8")
    fill_section(page, "x", "new")
    fill_section(page, "x", "newer")
    assert page.read_text(encoding="utf-8") == (
        "head\n<!-- x:begin -->\nnewer\n<!-- x:end -->\ntail\n"
    )


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    from workbench.errors import RunError
    from workbench.export.markdown import fill_section

    page = tmp_path / "page.md"
    page.write_text("<!-- x:begin --> and no end", encoding="utf-8")
    with pytest.raises(RunError, match=r"lacks the markers <!-- x:begin --> and <!-- x:end -->"):
        fill_section(page, "x", "new")
    assert page.read_text(encoding="utf-8") == "<!-- x:begin --> and no end"
