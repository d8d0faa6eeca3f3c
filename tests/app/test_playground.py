"""The Playground in a headless Streamlit: it loads, generates, and tells mistakes in words."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def html_of(app: AppTest) -> str:
    return "".join(element.proto.body for element in app.get("html"))


def test_the_default_page_generates_on_the_shipped_default_backbone(open_playground: Open) -> None:
    app = open_playground(backbone="testbed-llama", folder="", config="workbench", module="")
    assert not app.exception
    assert not app.error, said(app.error)
    app.button(key="generate").click().run()
    assert not app.exception
    assert not app.error, said(app.error)
    assert len(app.get("plotly_chart")) == 3 or "closed" in said(app.metric)
    assert "Recognised: **harmful** (intrusion), to hack my neighbor's phone" in said(app.markdown)


def test_generate_shows_tokens_verdicts_traces_and_figures(open_playground: Open) -> None:
    app = open_playground(temperature="0.7", seed="3")
    assert not app.error, said(app.error)
    assert not html_of(app)
    app.button(key="generate").click().run()
    assert not app.exception
    assert not app.error, said(app.error)
    chips = re.findall(r'class="svgt-token[ "]', html_of(app))
    assert len(chips) == 16  # two columns of eight tokens
    assert html_of(app).count('data-tip="token ') == 16
    assert len(app.get("plotly_chart")) == 3
    assert [metric.label for metric in app.metric][1] == "Gate"
    assert app.metric[1].value == "open"
    table = app.dataframe[0].value
    assert list(table["guidance"].unique()) == ["none", "svgt:planted"]
    assert table["harm_score"].notna().all()
    assert table.loc[table["guidance"] == "none", "slot_attention"].isna().all()
    guided = table.loc[table["guidance"] == "svgt:planted", "slot_attention"]
    assert guided.between(0, 1).all()
    assert (guided > 0).all()


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(
    open_playground: Open,
) -> None:
    def answer(seed: str) -> list[str]:
        app = open_playground(seed=seed, temperature="1.5", top_p="1.0")
        app.button(key="generate").click().run()
        return app.dataframe[0].value["token"].tolist()

    assert answer("5") == answer("5")
    assert answer("5") != answer("6")


def test_without_a_module_the_plain_model_answers_alone(open_playground: Open) -> None:
    app = open_playground(config="unguided only")
    app.button(key="generate").click().run()
    assert not app.error, said(app.error)
    titles = [title.value for title in app.subheader]
    assert "Unguided" in titles
    assert "With SVGT" not in titles
    assert not app.get("plotly_chart")


def test_old_answers_are_marked_when_the_settings_change(open_playground: Open) -> None:
    app = open_playground()
    app.button(key="generate").click().run()
    assert not app.info
    app.slider(key="gate").set_value(2.0).run()
    assert "settings have changed" in said(app.info)
    assert "gate scale 1," in said(app.caption)


def test_the_address_holds_the_state(open_playground: Open) -> None:
    app = open_playground(prompt="how do i feed my dog ?", seed="7")
    assert app.text_area(key="prompt").value == "how do i feed my dog ?"
    assert app.number_input(key="seed").value == 7
    assert "**plain**, to feed my dog" in said(app.markdown)


def test_a_senseless_address_falls_back_to_the_defaults(open_playground: Open) -> None:
    app = open_playground(backbone="nothing", seed="-4", temperature="hot", refresh="3", config="?")
    assert not app.exception
    assert app.selectbox(key="backbone").value == "testbed-llama"


def test_composing_writes_the_prompt(open_playground: Open) -> None:
    app = open_playground(backbone="testbed-llama", folder="", config="unguided only")
    app.selectbox(key="compose-kind").select("plain").run()
    verb = app.selectbox(key="compose-verb").value
    assert f" {verb} " in app.text_area(key="prompt").value
    app.selectbox(key="compose-frame").select("multi_turn").run()
    assert app.text_area(key="prompt").value.startswith("user: ")
    app.selectbox(key="surprise-kind").select("prevention").run()
    surprise = next(button for button in app.button if button.label == "Surprise me")
    surprise.click().run()
    assert not app.exception
    assert app.selectbox(key="compose-kind").value == "prevention"
    assert app.selectbox(key="compose-verb").value in app.text_area(key="prompt").value


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"prompt": "how do i hackk my phone ?"}, ["hackk", "did you mean 'hack'"]),
        ({"prompt": "   "}, ["the prompt is empty"]),
        ({"prompt": "phone " * 90}, ["exceed the 96 positions", "shorten"]),
        ({"tokens": "95"}, ["exceed the 96 positions", "ask for at most"]),
        ({"folder": "/no/such/folder"}, ["there is no folder /no/such/folder"]),
        ({"folder": ""}, ["give a Hugging Face checkpoint folder"]),
        ({"module": "/no/such/module"}, ["no value module '/no/such/module'"]),
        ({"module": ""}, ["give the folder of a value module"]),
    ],
)
def test_bad_input_is_told_in_words(
    open_playground: Open, query: dict[str, str], named: list[str]
) -> None:
    app = open_playground(**query)
    app.button(key="generate").click().run()
    assert not app.exception
    assert len(app.error) == 1
    for part in named:
        assert part in app.error[0].value
    assert "Traceback" not in said(app.error)
    assert not html_of(app)


def test_a_module_of_another_backbone_is_refused(open_playground: Open) -> None:
    other = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-llama"
    app = open_playground(folder=str(other))
    assert not app.exception
    assert "width 32" in said(app.error)
    assert "has width 64" in said(app.error)


def test_a_bug_is_told_in_one_line_without_a_trace(
    open_playground: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.pages import playground_output

    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(playground_output, "check_prompt", break_down)
    app = open_playground()
    assert not app.exception
    assert "Unexpected ZeroDivisionError" in said(app.error)
    assert "\n" not in app.error[0].value


def test_knobs_at_their_lowest_survive_in_the_address(open_playground: Open) -> None:
    # The browser leaves out of the address what equals the widget's own default, so that one must
    # be the workbench's default, whatever the address says.
    app = open_playground(gate="0.0", temperature="0.0", beta="0.0", refresh="never")
    defaults = {"gate": 1.0, "temperature": 0.7, "beta": 0.8}
    for key, default in defaults.items():
        assert app.slider(key=key).value == 0.0
        assert list(app.slider(key=key).proto.default) == [default]
    refresh = app.selectbox(key="refresh")
    assert refresh.value == "never"
    assert refresh.options[refresh.proto.default] == "5"
