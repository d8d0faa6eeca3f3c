"""What many pages draw (light): a figure with its reading aid and files, a table with its files."""

import math
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from workbench.export.figures import figure_frame, standalone_html
from workbench.export.paper_tables import NOTHING

_Number = TypeVar("_Number", int, float)
_PRINTED = {"svg": "image/svg+xml", "png": "image/png"}
_HEADER, _ROW = 38, 35
"""Heights of a table's parts, in pixels."""

_MOST_WRAPPED, _WRAPPED_HEIGHT = 16, 620
_INTERVAL = re.compile(r"\[[^\]]*\]")
_MARKS = re.compile(r"[\\`*_~$:<>|#]")

_PRINTING = threading.Lock()
"""matplotlib's settings are those of the whole process, which serves several people."""


def start_with(key: str, value: object) -> None:
    """First value of a widget that callbacks write to, unless it or the address has one.

    Other widgets take their first value as an argument: the address leaves out what equals it.
    """
    if key not in st.session_state and key not in st.query_params:
        st.session_state[key] = value


def tell_unknown(key: str, options: Sequence[str], *, instead: str) -> None:
    """Say what an address asks of a box in vain: a bound widget drops it without a word.

    To be called before the box is first drawn.

    Args:
        key: Of the widget, and in the address.
        options: What there is, as a person reads it, which is how a bound widget writes it.
        instead: What the box says where nothing that is asked for is here.
    """
    asked = _asked(key)
    missing = [name for name in asked if name not in options]
    if missing:
        used = [name for name in asked if name in options] or [instead]
        _tell_unmet(key, missing, "which is not here", used)


def tell_no_truth(key: str, *, instead: bool) -> None:
    """The same for a toggle, which reads ``true`` and ``false``.

    Args:
        key: Of the widget, and in the address.
        instead: Whether it is on where nothing is asked for.
    """
    asked = _asked(key)[-1:]
    if asked and asked[0].lower() not in ("true", "false"):
        _tell_unmet(key, asked, "which is neither true nor false", [str(instead).lower()])


def bound_slider(
    label: str,
    lowest: _Number,
    highest: _Number,
    *,
    value: _Number,
    key: str,
    step: _Number | None = None,
    help_: str | None = None,
    disabled: bool = False,
) -> _Number:
    """A slider whose value stands in the address; what the address asks for in vain is told.

    Args:
        label: Above the slider.
        lowest: Its left end; whole ends and a whole value take whole numbers only.
        highest: Its right end.
        value: Where it stands first.
        key: Of the widget, and in the address.
        step: Between two places; 1 or a hundredth of the range by default.
        help_: What the number does.
        disabled: Whether it can be moved.
    """
    asked = _asked(key)[-1:]
    chosen = st.slider(
        label, lowest, highest, value=value, step=step, key=key, bind="query-params",
        help=help_, disabled=disabled,
    )  # fmt: skip
    if asked and _number(asked[0]) != chosen:
        kind = "whole number" if isinstance(value, int) else "number"
        _tell_unmet(
            key, asked, f"which is no {kind} from {lowest:g} to {highest:g}", [f"{chosen:g}"]
        )
    return chosen


def _asked(key: str) -> list[str]:
    """What an address asks of a widget that is not drawn yet; later, it has been read."""
    if key in st.session_state:
        return []
    return [text for text in st.query_params.get_all(key) if text]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _tell_unmet(key: str, asked: Sequence[str], why: str, used: Sequence[str]) -> None:
    # As code: an address may hold what Markdown would read as marks.
    said = ", ".join(f"`{key}={text}`" for text in asked)
    instead = ", ".join(f"`{text}`" for text in used)
    st.warning(
        f"The address asks for {said}, {why}. Used instead: {instead}.", icon=":material/link_off:"
    )


def lasting_choice(label: str, options: Sequence[str], *, first: str, key: str) -> str:
    """A box whose choice always stands in the address, whoever made it.

    A bound widget puts into the address what a person chose other than its default; but the newest
    run is another one tomorrow, and a button chooses too. What an address asks for in vain is told.

    Args:
        label: Above the box.
        options: What there is.
        first: Chosen where nothing else is.
        key: Of the widget, and in the address.
    """
    st.session_state[key] = (_wanted(options, [first], key) or [first])[0]
    chosen = str(st.selectbox(label, options, key=key))
    _keep_in_address(key, [chosen])
    return chosen


def lasting_choices(
    label: str, options: Sequence[str], *, first: Sequence[str], key: str, help_: str
) -> list[str]:
    """The same for several; none is a choice too.

    Args:
        label: Above the box.
        options: What there is.
        first: Chosen where the address asks for nothing.
        key: Of the widget, and in the address.
        help_: What to know before choosing.
    """
    st.session_state[key] = _wanted(options, first, key)
    chosen = st.multiselect(label, options, key=key, help=help_)
    _keep_in_address(key, chosen)
    return chosen


def _wanted(options: Sequence[str], first: Sequence[str], key: str) -> list[str]:
    """What was chosen, or is asked for in the address, as far as it exists."""
    if key in st.session_state:
        kept = st.session_state[key]
        kept = [kept] if isinstance(kept, str) else kept
        return [name for name in kept if name in options]
    tell_unknown(key, options, instead=", ".join(first))
    return [name for name in st.query_params.get_all(key) if name in options] or list(first)


def _keep_in_address(key: str, chosen: Sequence[str]) -> None:
    if st.query_params.get_all(key) != list(chosen):
        st.query_params[key] = chosen


def figure_block(
    figure: go.Figure | Callable[[], go.Figure],
    *,
    key: str,
    title: str,
    how_to_read: str | Callable[[go.Figure], str],
) -> None:
    """A figure, one line on how to read it, and the figure as a file.

    A callable figure is called below the title: what it asks for stands between title and figure.
    A callable reading aid speaks of what is drawn, and of nothing else.
    """
    st.markdown(f"**{title}**")
    drawn = figure() if callable(figure) else figure
    reading = how_to_read(drawn) if callable(how_to_read) else how_to_read
    st.plotly_chart(
        drawn,
        key=key,
        alt=f"{title}. {reading}",
        config={
            "displaylogo": False,
            "toImageButtonOptions": {"format": "svg", "filename": key},
        },
    )
    st.caption(f"How to read this: {reading}")
    with st.popover("Download", icon=":material/download:", key=f"take-{key}"):
        download(
            "Figure (HTML)", lambda: standalone_html(drawn), f"{key}.html", mime="text/html",
            help_="Interactive and self-contained.",
        )  # fmt: skip
        for kind, mime in _PRINTED.items():
            download(
                f"Figure ({kind.upper()})", partial(_printed, drawn, kind), f"{key}.{kind}",
                mime=mime, help_="As `workbench export` prints it for a paper.",
            )  # fmt: skip
        download(
            "Numbers (CSV)", lambda: figure_frame(drawn).to_csv(index=False), f"{key}-numbers.csv",
            mime="text/csv", help_="Every mark that is drawn, with the ends of its interval.",
        )  # fmt: skip


def _printed(figure: go.Figure, kind: str) -> bytes:
    """The figure as a file for print."""
    from workbench.export.printing import fitting_width, print_figure, write_print  # matplotlib

    with tempfile.TemporaryDirectory(prefix="svgt-figure-") as folder, _PRINTING:
        drawn = print_figure(figure, fitting_width(figure))
        return write_print(drawn, Path(folder) / f"figure.{kind}").read_bytes()


def table_block(
    frame: pd.DataFrame,
    *,
    key: str,
    short: Mapping[str, str] | None = None,
    most_rows: int | None = None,
    sent: int | None = None,
) -> None:
    """A table and its CSV file.

    Args:
        frame: The table.
        key: Of its elements and file.
        short: Narrow names for columns, on the screen alone.
        most_rows: That stand on the screen at once; the table scrolls.
        sent: Rows that go to the screen at all, where all may be too many; the file has every one.
    """
    height: int | Literal["auto"] = "auto"
    if most_rows is not None:
        height = _HEADER + _ROW * min(max(1, len(frame)), most_rows)
    columns = {
        name: st.column_config.Column(label, help=name) for name, label in (short or {}).items()
    }
    st.dataframe(
        frame.head(sent) if sent else frame, key=f"{key}-table", hide_index=True, width="stretch",
        height=height, column_config=columns, placeholder=NOTHING,
    )  # fmt: skip
    if sent and len(frame) > sent:
        st.caption(f"The first {sent} rows; the file has all {len(frame)}.")
    download("Table (CSV)", lambda: frame.to_csv(index=False), f"{key}.csv", mime="text/csv")


def wrapped_table(frame: pd.DataFrame) -> None:
    """A table whose cells wrap, an interval below its number where the line has no room for both.

    A data frame would cut the last columns off on a narrow screen.
    """
    shown = frame.map(_wrapping).rename(columns=_as_text)
    high = len(shown) > _MOST_WRAPPED
    st.table(
        shown, hide_index=True, border="horizontal", height=_WRAPPED_HEIGHT if high else "content"
    )


def _wrapping(cell: object) -> str:
    """The cell's text, unbroken within brackets."""
    return _INTERVAL.sub(lambda found: found[0].replace(" ", "\u00a0"), _as_text(str(cell)))


def _as_text(text: str) -> str:
    """Without what a table would read as Markdown."""
    return _MARKS.sub(r"\\\g<0>", text)


def counted(number: int, noun: str) -> str:
    """A number of things: *1 token*, *2 tokens*."""
    return f"{number} {noun}{'s' * (number != 1)}"


def made_text(provenance: Mapping[str, object]) -> str:
    """When something was made, to the minute; records are written in UTC."""
    time = str(provenance.get("time", ""))
    return f"{time[:10]} {time[11:16]} UTC" if time else "at an unknown time"


def download(
    label: str,
    content: Callable[[], str | bytes],
    file_name: str,
    *,
    mime: str,
    help_: str | None = None,
) -> None:
    """A button that makes the file only when it is pressed."""
    st.download_button(
        label,
        data=content,
        file_name=file_name,
        mime=mime,
        key=f"download-{file_name}",
        on_click="ignore",
        icon=":material/download:",
        help=help_,
    )
