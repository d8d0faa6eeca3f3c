"""Two people at once: each session has its own state; models in memory are shared and only read."""

import threading
from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from workbench.pages.composing import FIRST_PROMPT, surprise
from workbench.pages.playground_output import _Result
from workbench.testbed.splits import TEST_SPLITS

Open = Callable[..., AppTest]
PROMPTS = (FIRST_PROMPT, surprise(TEST_SPLITS[0], "plain", seed=3)[1])


def test_two_sessions_generate_at_once_and_keep_apart(open_playground: Open) -> None:
    apps = [
        open_playground(prompt=prompt, seed=str(seed)) for seed, prompt in enumerate(PROMPTS, 1)
    ]
    alone = []
    for app in apps:
        app.button(key="generate").click().run()
        assert not app.error, [error.value for error in app.error]
        alone.append(_replies(app))
    assert alone[0] != alone[1]
    pressed = [
        threading.Thread(target=app.button(key="generate").click().run, kwargs={"timeout": 120})
        for app in apps
    ]
    for thread in pressed:
        thread.start()
    for thread in pressed:
        thread.join()
    for app, prompt, expected in zip(apps, PROMPTS, alone, strict=True):
        assert not app.exception
        assert not app.error
        assert app.text_area(key="prompt").value == prompt
        assert _replies(app) == expected, "the other session's random numbers or hooks came in"


def _replies(app: AppTest) -> list[str]:
    result = app.session_state["playground-result"]
    assert isinstance(result, _Result)
    return [record.text for record in result.pair.records]
