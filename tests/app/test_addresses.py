"""What an address asks for in vain is told by name, with what is used in its place."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from workbench.pages import directions
from workbench.pages.address import NAMES
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


def test_a_misspelt_name_is_told_once(open_page: Open) -> None:
    app = open_page("train", recip="paper", zzz="1", view="compare")
    assert told(app) == [
        "The address holds `recip`, which no page knows: it changes nothing. "
        "Did you mean `recipe`?",
        "The address holds `zzz`, which no page knows: it changes nothing.",
    ]
    assert not told(app.run())


def test_every_name_that_a_page_reads_is_known() -> None:
    pages = Path(directions.__file__).parent
    named = {name for path in pages.glob("*.py") for name in _names_in(path)}
    passed_on = {f"{key}{end}" for key in ("left", "right") for end in ("", "_own")}
    assert named | passed_on == NAMES


def _names_in(page: Path) -> Iterator[str]:
    """Names of bound widgets, as far as they are written out where the widget is drawn."""
    constants = {
        target.id: node.value.value
        for node in ast.walk(ast.parse(page.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(ast.parse(page.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        given = {word.arg: word.value for word in call.keywords}
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        bound = "bind" in given or name in ("bound_slider", "lasting_choice", "lasting_choices")
        key = call.args[2] if name == "choice" else given.get("key") if bound else None
        if isinstance(key, ast.Constant):
            yield str(key.value)
        elif isinstance(key, ast.Name) and key.id in constants:
            yield str(constants[key.id])
