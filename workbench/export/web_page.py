"""All figures of a run as one web page that needs no network."""

import html

from plotly.offline import get_plotlyjs

from workbench.export.run_contents import RunContents

_STYLE = (
    "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "figure{margin:2rem 0}figcaption{color:#444;line-height:1.4}"
)


def figures_page(run: RunContents) -> str:
    """The page: every figure with its caption, interactive; the same text every time."""
    parts = [
        f"<figure id='{html.escape(figure.name, quote=True)}'>"
        + figure.figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"plot-{figure.name}"
        )
        + f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
        for figure in run.exhibits.figures
    ]
    title = html.escape(f"{run.name} ({run.record.kind})")
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
