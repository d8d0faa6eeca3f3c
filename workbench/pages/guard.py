"""No stack trace ever (light): a user's mistake in its own words, anything else in one line."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import streamlit as st

from workbench.errors import WorkbenchError
from workbench.remedies import remedied_by

_log = logging.getLogger(__name__)
_LESS_MEMORY = (
    "ask for fewer new tokens or a shorter prompt, or hold the backbone in half the memory: number "
    "type bfloat16 in the sidebar, or SVGT_DTYPE=bfloat16 when the app is started"
)


@contextmanager
def told_in_words() -> Iterator[None]:
    """Show what goes wrong inside as an error box and go on after it."""
    try:
        yield
    except WorkbenchError as error:
        st.error(str(error), icon=":material/error:")
    except Exception as error:
        _log.exception("unexpected error in a page")
        st.error(
            f"Unexpected {type(error).__name__}. This is a bug of the workbench: the details are "
            "in the terminal that runs the app. Reload the page, or change the last setting.",
            icon=":material/bug_report:",
        )


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """The page, with whatever it raises told in words."""

    @wraps(page)
    def safe() -> None:
        with told_in_words(), remedied_by(_LESS_MEMORY):
            page()

    return safe
