"""A table whose cells wrap says what its frame holds, and reads nothing in it as Markdown."""

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from workbench.pages.widgets import counted, made_text


def _table() -> None:
    import pandas as pd

    from workbench.pages.widgets import wrapped_table

    wrapped_table(
        pd.DataFrame({"a*b*": ["x_1_", ":red[no]"], "harm %": ["63.7 [59.2, 68.2]***", "–"]})
    )


def test_intervals_stay_in_one_piece_and_nothing_is_markdown() -> None:
    app = AppTest.from_function(_table, default_timeout=60).run()
    assert not app.exception
    frame: pd.DataFrame = app.table[0].value
    assert list(frame) == ["a\\*b\\*", "harm %"]
    assert frame["a\\*b\\*"].tolist() == ["x\\_1\\_", "\\:red[no]"]
    assert frame["harm %"].tolist() == ["63.7 [59.2,\u00a068.2]\\*\\*\\*", "–"]


@pytest.mark.parametrize(
    ("provenance", "said"),
    [({"time": "2026-11-27T17:51:35+00:00"}, "2026-11-27 17:51 UTC"), ({}, "at an unknown time")],
)
def test_a_time_is_said_to_the_minute(provenance: dict[str, object], said: str) -> None:
    assert made_text(provenance) == said


def test_one_thing_has_no_plural() -> None:
    assert [counted(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
