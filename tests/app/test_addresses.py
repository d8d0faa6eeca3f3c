"""What an address asks for in vain is told by name, with what is used in its place."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from workbench.pages import directions
from workbench.testbed import frames

Open = Callable[..., AppTest]

FRAMES = f"`{', '.join(frames.FRAMES).replace('_', ' ')}`"
SITES = "`value states z, corrections Δz, bridge tokens B, untrained module`"

UNKNOWN = [
    ("benchmark", "view", "leaderboard"),
    ("directions", "source", "here and now"),
    ("directions", "contrast", "harmful vs. harmless prompts"),
    ("directions", "estimator", "difference of means"),
    ("playground", "refresh", "5"),
    ("train", "data", "the embedded world"),
    ("train", "size", "all"),
]
OUTSIDE = [
    ("directions", "intents", "7", "whole number from 8 to 60", "20"),
    ("directions", "intents", "8.5", "whole number from 8 to 60", "8"),
    ("anchoring", "tokens", "121", "whole number from 1 to 120", "40"),
    ("anchoring", "temperature", "nan", "number from 0 to 2", "0.7"),
    ("playground", "temperature", "2.1", "number from 0 to 2", "0.7"),
    ("playground", "top_p", "high", "number from 0.05 to 1", "0.9"),
    ("playground", "strength", "-1", "number from 0 to 3", "1"),
]


@pytest.fixture(autouse=True)
def _no_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(app: AppTest) -> list[str]:
    assert not app.exception
    return [warning.value for warning in app.warning]


@pytest.mark.parametrize(("page", "key", "used"), UNKNOWN)
def test_a_choice_that_is_not_here(open_page: Open, page: str, key: str, used: str) -> None:
    app = open_page(page, **{key: "non*sense"})
    assert told(app) == [
        f"The address asks for `{key}=non*sense`, which is not here. Used instead: `{used}`."
    ]
    assert not told(app.run()), "said once"


@pytest.mark.parametrize(("page", "key", "asked", "wanted", "used"), OUTSIDE)
def test_a_number_out_of_range(
    open_page: Open, page: str, key: str, asked: str, wanted: str, used: str
) -> None:
    app = open_page(page, **{key: asked})
    assert told(app) == [
        f"The address asks for `{key}={asked}`, which is no {wanted}. Used instead: `{used}`."
    ]
    assert app.slider(key=key).value == float(used)


@pytest.mark.parametrize(
    ("key", "asked", "missing", "used", "chosen"),
    [
        ("contexts", ["nowhere"], "`contexts=nowhere`", FRAMES, list(frames.FRAMES)),
        (
            "contexts", ["nowhere", "fiction", "role play"], "`contexts=nowhere`",
            "`fiction`, `role play`", ["fiction", "role_play"],
        ),
        ("sites", ["a", "b"], "`sites=a`, `sites=b`", SITES, list(directions.SITES)),
    ],
)  # fmt: skip
def test_several_choices(
    open_page: Open, key: str, asked: list[str], missing: str, used: str, chosen: list[str]
) -> None:
    app = open_page("directions", **{key: asked})
    assert told(app) == [
        f"The address asks for {missing}, which is not here. Used instead: {used}."
    ]
    assert app.session_state[key] == chosen


@pytest.mark.parametrize(
    ("page", "query"),
    [
        ("benchmark", {"view": "ablations"}),
        ("directions", {"source": "a finished run"}),
        ("directions", {"estimator": "LDA", "contexts": ["fiction", "polite"], "intents": "8"}),
        ("directions", {"sites": ["bridge tokens B"], "contrast": ""}),
        ("playground", {"temperature": "0", "top_p": "1.0", "tokens": "60", "refresh": "never"}),
    ],
)
def test_what_is_here_is_taken_without_a_word(
    open_page: Open, page: str, query: dict[str, str | list[str]]
) -> None:
    assert not told(open_page(page, **query))
