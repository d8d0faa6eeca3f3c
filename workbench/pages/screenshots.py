"""Pictures of every page: ``python -m workbench.pages.screenshots --out DIR``.

Every page is opened in a headless Chromium at each width and in both themes, used once (the
Playground generates), and photographed whole. Needs Playwright (extra ``dev``) and a Chromium.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlencode

import typer
from playwright.sync_api import Browser, Page, sync_playwright

from workbench.errors import WorkbenchError
from workbench.pages.serving import CHROMIUM_OPTIONS, find_chromium, running_app

Theme = Literal["light", "dark"]
WIDTHS = (1280, 1920)
THEMES: tuple[Theme, ...] = ("light", "dark")
_PATIENCE = 120_000  # milliseconds: the first load of a model on a busy machine
_MOST_HEIGHT, _MOST_LOOKS = 12000, 4


def wait_until_idle(page: Page) -> None:
    """Wait until the script has run to its end and figures have been drawn."""
    page.get_by_role("heading", level=1).first.wait_for(timeout=_PATIENCE)
    page.wait_for_selector(
        ".stApp[data-test-script-state='notRunning']", timeout=_PATIENCE, state="attached"
    )
    page.wait_for_function(  # the browser still loads what draws figures and tables
        "!document.querySelector('[data-testid=stSkeleton]')", timeout=_PATIENCE
    )
    page.wait_for_timeout(1200)  # plotly draws after the script has ended


def generate(page: Page) -> None:
    """Press the Playground's button and wait for both answers and their figures."""
    page.get_by_role("button", name="Generate").click(timeout=_PATIENCE)
    page.locator(".js-plotly-plot").nth(0).wait_for(timeout=_PATIENCE)
    wait_until_idle(page)


def analyse(page: Page) -> None:
    """Press the button of a probe's page, where it has one, and wait for its figures."""
    button = page.get_by_role("button", name="Analyse")
    if button.count():
        button.click(timeout=_PATIENCE)
    page.locator(".js-plotly-plot").nth(0).wait_for(timeout=_PATIENCE)
    wait_until_idle(page)


def reply(page: Page) -> None:
    """Press the button of two replies side by side and wait for them."""
    page.get_by_role("button", name="Generate both").click(timeout=_PATIENCE)
    page.locator(".svgt-tokens").nth(1).wait_for(timeout=_PATIENCE)
    wait_until_idle(page)


def open_expanders(page: Page) -> None:
    """Open everything that is folded."""
    folded = page.locator("[data-testid=stExpander] details:not([open]) summary")
    for summary in folded.element_handles():
        summary.click(timeout=_PATIENCE)
    wait_until_idle(page)


def generate_and_open(page: Page) -> None:
    """Both answers of the Playground, with what is folded below them."""
    generate(page)
    open_expanders(page)


def _only_look(page: Page) -> None:
    """Pages that show something by themselves."""


def _finished(probe: str) -> str:
    return f"/{probe}?{urlencode({'source': 'a finished run', 'root': 'docs/results'})}"


PAGES: dict[str, tuple[str, Callable[[Page], None]]] = {
    "home": ("/", _only_look),
    "playground": ("/playground", generate_and_open),
    "train": ("/train", _only_look),
    "directions": ("/directions", analyse),
    "directions-run": (_finished("directions"), _only_look),
    "anchoring": ("/anchoring", analyse),
    "anchoring-run": (_finished("anchoring"), _only_look),
    "benchmark": ("/benchmark", _only_look),
    "benchmark-ablations": ("/benchmark?view=ablations", _only_look),
    "benchmark-replies": ("/benchmark?view=side+by+side", reply),
    "runs": ("/runs", _only_look),
    "runs-compared": ("/runs?root=docs%2Fresults&view=compare", _only_look),
    "export": ("/export?root=docs%2Fresults", _only_look),
}
"""By name: the page's path and what to do on it before the picture is taken."""


def photograph(
    browser: Browser,
    address: str,
    out: Path,
    query: Sequence[tuple[str, str]],
    pages: Sequence[str],
) -> None:
    """Take every picture of some pages."""
    for theme in THEMES:
        for width in WIDTHS:
            context = browser.new_context(
                viewport={"width": width, "height": 1000}, color_scheme=theme
            )
            for name in pages:
                path, use = PAGES[name]
                page = context.new_page()
                page.goto(f"{address}{path}{'&' if '?' in path else '?'}{urlencode(query)}")
                wait_until_idle(page)
                use(page)
                _show_whole(page, width)
                page.screenshot(path=out / f"{name}-{width}-{theme}.png")
                page.close()
            context.close()


def _show_whole(page: Page, width: int) -> None:
    """Make the window as high as the page, which scrolls inside itself."""
    height = 0
    for _ in range(_MOST_LOOKS):  # tables are drawn, and grow, when they come into sight
        needed = page.evaluate(
            "Math.max(...[...document.querySelectorAll('[data-testid=stMain],"
            "[data-testid=stSidebarContent]')].map(e => e.scrollHeight))"
        )
        if needed <= height:
            return
        height = min(int(needed) + 40, _MOST_HEIGHT)
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(800)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    query: Annotated[
        list[str] | None,
        typer.Option(help="State for the address, as KEY=VALUE; may be given several times."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Names of pages; all by default.")] = None,
) -> None:
    """Photograph every page at 1280 and 1920 pixels, light and dark."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = [(key, value) for key, _, value in (item.partition("=") for item in query or [])]
    try:
        with running_app() as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find_chromium(), args=list(CHROMIUM_OPTIONS)
            )
            photograph(browser, address, out, pairs, only or list(PAGES))
            browser.close()
    except WorkbenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
