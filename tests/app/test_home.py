"""The first page: what this is, its picture, and a way to every other page."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from workbench.export.palette import DARK_BACKGROUND, LIGHT_BACKGROUND, contrast
from workbench.pages.method_picture import METHOD_TEXT, method_picture
from workbench.pages.navigation import PAGES

Open = Callable[..., AppTest]


def test_the_first_page_leads_to_every_other(open_page: Open) -> None:
    app = open_page("home")
    assert not app.exception
    assert not app.error
    [title] = app.title
    assert title.value == "SVGT Workbench"
    links = [link.proto.page for link in app.get("page_link")]
    assert links == [entry.path for entry in PAGES if entry.path != "home"]
    assert [caption.value for caption in app.caption][:-1] == [e.line for e in PAGES if e.line]
    assert len(app.get("image")) == 1


@pytest.mark.parametrize(("dark", "page"), [(False, LIGHT_BACKGROUND), (True, DARK_BACKGROUND)])
def test_the_picture_is_sound_and_can_be_read_on_its_page(dark: bool, page: str) -> None:
    drawing = ET.fromstring(method_picture(dark=dark))
    name = "{http://www.w3.org/2000/svg}"
    assert drawing.findtext(f"{name}title") == METHOD_TEXT
    inks = {str(text.get("fill")) for text in drawing.iter(f"{name}text")}
    assert all(contrast(ink, page) >= 4.5 for ink in inks)
    edges = {str(edge.get("stroke")) for edge in drawing.iter(f"{name}path") if edge.get("stroke")}
    assert all(contrast(edge, page) >= 3 for edge in edges)
