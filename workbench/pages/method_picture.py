"""The method as one drawing (light): an SVG for a light or a dark page, and the app's icon."""

from dataclasses import dataclass

from workbench.export.palette import GUIDED, SERIES, UNGUIDED

METHOD_TEXT = (
    "The method. A prompt runs through the frozen blocks of the model. At block L the value module "
    "reads the states, finds a harm score, corrects it in its value space, and writes bridge "
    "tokens into slots behind the prompt. The blocks above L see them, and the reply changes."
)
_BRIDGE = SERIES[2]
_FAINT = "#7d8899"
"""Seen on light and on dark tabs."""
_VIEW = "0 56 1160 332"


@dataclass(frozen=True)
class _Ink:
    text: str
    faint: str
    fill: str


def method_picture(*, dark: bool) -> str:
    """The drawing as SVG text.

    Args:
        dark: For a dark page.
    """
    ink = _Ink("#e8eaed", "#9aa4b2", "#262b36") if dark else _Ink("#1b1f27", "#5b6573", "#eef1f5")
    parts = [
        _prompt(ink), _block(ink, 230, "blocks 0 to L", "frozen"), _slots(ink),
        _block(ink, 730, "blocks above L", "frozen"), _module(ink), _reply(ink), _arrows(ink),
    ]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_VIEW}" '
        f'font-family="Source Sans Pro, Source Sans, Helvetica, Arial, sans-serif">'
        f"<title>{METHOD_TEXT}</title>{_heads(ink)}{''.join(parts)}</svg>"
    )


def app_icon() -> str:
    """The icon of the browser's tab as SVG text: states of a prompt, and bridge tokens behind.

    Streamlit's own icons would be fetched from a server of fonts, which an offline machine lacks.
    """
    fills = (_FAINT, _FAINT, _FAINT, _BRIDGE, _BRIDGE)
    bars = "".join(
        f'<rect x="3" y="{2 + 6 * row}" width="26" height="4.5" rx="1.5" fill="{fill}"/>'
        for row, fill in enumerate(fills)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{bars}</svg>'


def _prompt(ink: _Ink) -> str:
    words = ("write a", "scene …", "how do i", "burn …")
    return _label(ink, 95, 88, "Prompt") + "".join(
        _chip(ink, 30, 104 + 34 * row, 130, word) for row, word in enumerate(words)
    )


def _slots(ink: _Ink) -> str:
    """The residual stream after block L: the prompt's states, and the slots behind them."""
    states = "".join(_cell(500, 104 + 22 * row, ink.faint) for row in range(4))
    bridge = "".join(_cell(500, 196 + 22 * row, _BRIDGE) for row in range(3))
    return (
        _label(ink, 590, 88, "States at block L")
        + states
        + bridge
        + _note(ink, 692, 155, "prompt", "end")
        + _note(ink, 692, 230, "bridge", "end")
    )


def _module(ink: _Ink) -> str:
    box = _box(ink, 300, 300, 460, 76, GUIDED)
    return (
        box
        + _text(ink, 530, 328, "Value module", bold=True)
        + _note(ink, 530, 354, "value state z  →  harm score s  →  correction Δz  →  bridge B")
    )


def _reply(ink: _Ink) -> str:
    return (
        _label(ink, 1060, 88, "Reply")
        + _chip(ink, 985, 118, 150, "sure . first …", edge=UNGUIDED, crossed=True)
        + _chip(ink, 985, 180, 150, "i can 't help …", edge=_BRIDGE)
        + _note(ink, 1060, 164, "without the bridge")
        + _note(ink, 1060, 226, "with it")
    )


def _arrows(ink: _Ink) -> str:
    return (
        _arrow(ink, "M 165 170 H 222")
        + _arrow(ink, "M 432 170 H 492")
        + _arrow(ink, "M 700 170 H 722")
        + _arrow(ink, "M 932 170 H 977")
        + _arrow(ink, "M 462 172 V 292", GUIDED)
        + _arrow(ink, "M 590 300 V 270", _BRIDGE)
        + _note(ink, 452, 286, "reads", "end")
        + _note(ink, 604, 286, "writes if s &gt; 0", "start")
        + _note(ink, 840, 276, "blocks above L see the bridge")
    )


def _block(ink: _Ink, x: int, name: str, state: str) -> str:
    layers = "".join(
        f'<rect x="{x + 10 * i}" y="{104 + 8 * i}" width="170" height="130" rx="10" '
        f'fill="{ink.fill}" stroke="{ink.faint}" stroke-width="1.5"/>'
        for i in (2, 1, 0)
    )
    return (
        _label(ink, x + 95, 88, "Language model")
        + layers
        + _text(ink, x + 85, 166, name, bold=True)
        + _note(ink, x + 85, 190, state)
    )


def _chip(
    ink: _Ink, x: int, y: int, width: int, text: str, *, edge: str = "", crossed: bool = False
) -> str:
    style = ' text-decoration="line-through"' if crossed else ""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="28" rx="6" fill="{ink.fill}" '
        f'stroke="{edge or ink.faint}" stroke-width="{2.5 if edge else 1}"/>'
        f'<text x="{x + width / 2}" y="{y + 19}" text-anchor="middle" font-size="15" '
        f'fill="{ink.text}"{style}>{text}</text>'
    )


def _cell(x: int, y: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="130" height="16" rx="3" fill="{colour}"/>'


def _box(ink: _Ink, x: int, y: int, width: int, height: int, edge: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{ink.fill}" '
        f'stroke="{edge}" stroke-width="3"/>'
    )


def _label(ink: _Ink, x: int, y: int, text: str) -> str:
    return _text(ink, x, y, text, size=19, bold=True)


def _text(ink: _Ink, x: int, y: int, text: str, *, size: int = 17, bold: bool = False) -> str:
    weight = "600" if bold else "400"
    return (
        f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{size}" font-weight="{weight}" '
        f'fill="{ink.text}">{text}</text>'
    )


def _note(ink: _Ink, x: int, y: int, text: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="15" fill="{ink.faint}">'
        f"{text}</text>"
    )


def _arrow(ink: _Ink, path: str, colour: str = "") -> str:
    return (
        f'<path d="{path}" fill="none" stroke="{colour or ink.faint}" stroke-width="2.5" '
        f'marker-end="url(#{_head_name(colour)})"/>'
    )


def _heads(ink: _Ink) -> str:
    heads = "".join(
        f'<marker id="{_head_name(colour)}" viewBox="0 0 10 10" refX="8" refY="5" '
        f'markerWidth="5.5" markerHeight="5.5" orient="auto"><path d="M 0 0 L 10 5 L 0 10 z" '
        f'fill="{colour or ink.faint}"/></marker>'
        for colour in ("", GUIDED, _BRIDGE)
    )
    return f"<defs>{heads}</defs>"


def _head_name(colour: str) -> str:
    return f"head-{colour.removeprefix('#') or 'plain'}"
