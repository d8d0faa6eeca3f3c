"""Which pages there are (light). A new page is one more entry here."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from workbench.pages import anchoring, benchmark, directions, export, home, playground, runs, train
from workbench.pages.address import tell_unknown_names
from workbench.pages.guard import guarded
from workbench.pages.method_picture import app_icon


@dataclass(frozen=True)
class PageEntry:
    """One page.

    Attributes:
        draw: Draws it.
        path: In the address.
        title: In the menu.
        icon: Beside it.
        line: What it is for, on the page Home.
    """

    draw: Callable[[], None]
    path: str
    title: str
    icon: str
    line: str


PAGES: tuple[PageEntry, ...] = (
    PageEntry(home.page, "home", "Home", ":material/home:", ""),
    PageEntry(
        playground.page, "playground", "Playground", ":material/forum:",
        "Give a prompt, see the model answer without and with guidance, token by token.",
    ),
    PageEntry(
        train.page, "train", "Train", ":material/model_training:",
        "Train a value module and its bridge, and watch the three stages learn.",
    ),
    PageEntry(
        directions.page, "directions", "Value directions", ":material/explore:",
        "Does the direction of harm turn with the context, and does the value space?",
    ),
    PageEntry(
        anchoring.page, "anchoring", "Bridge anchoring", ":material/anchor:",
        "Are bridge tokens read, by which heads, and are they the cause?",
    ),
    PageEntry(
        benchmark.page, "benchmark", "Benchmark", ":material/leaderboard:",
        "Compare every method under one protocol, and take the method apart.",
    ),
    PageEntry(
        runs.page, "runs", "Runs", ":material/monitoring:",
        "Every run: its tables, figures and provenance; compare some, delete one.",
    ),
    PageEntry(
        export.page, "export", "Export", ":material/archive:",
        "Take tables, figures and records of runs into a paper.",
    ),
)  # fmt: skip


_STYLE = """<style>
[data-testid=stMainBlockContainer] { padding: 3.5rem 2.5rem 4rem; }
[data-testid=stCaptionContainer] code { color: inherit; font-size: inherit; }
</style>"""
"""Streamlit leaves a narrow screen too little room, and code in captions too little ink."""


def run(first: str = "home") -> None:
    """Draw the page that the address names.

    Args:
        first: The page that a bare address opens.
    """
    st.set_page_config(page_title="SVGT Workbench", page_icon=app_icon(), layout="wide")
    st.html(_STYLE)
    pages = [_page(entry, default=entry.path == first) for entry in PAGES]
    chosen = st.navigation(pages)
    tell_unknown_names()
    chosen.run()


def page_link(path: str, *, label: str | None = None, query: dict[str, str] | None = None) -> None:
    """A link to another page of the app.

    Args:
        path: The page's.
        label: What the link says; the page's title by default.
        query: State that the page takes from its address.
    """
    entry = next(entry for entry in PAGES if entry.path == path)
    page = _page(entry, default=False)
    st.page_link(page, label=label or entry.title, icon=entry.icon, query_params=query)


def _page(entry: PageEntry, *, default: bool) -> StreamlitPage:
    return st.Page(
        guarded(entry.draw), title=entry.title, icon=entry.icon, url_path=entry.path,
        default=default,
    )  # fmt: skip
