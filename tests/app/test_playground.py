"""The Playground in a headless Streamlit: it loads, generates, and tells mistakes in words."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def html_of(app: AppTest) -> str:
    bodies = [element.proto.body for element in app.get("html")]
    return "".join(body for body in bodies if "stMainBlockContainer" not in body)


def test_the_default_page_generates_on_the_shipped_default_backbone(open_playground: Open) -> None:
    app = open_playground(backbone="testbed-llama", folder="", guidance="SVGT, workbench", own="")
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
    app = open_playground(guidance="none: the model alone")
    app.button(key="generate").click().run()
    assert not app.error, said(app.error)
    titles = [title.value for title in app.subheader]
    assert "Unguided" in titles
    assert "With SVGT" not in titles
    assert not app.get("plotly_chart")


def test_an_address_that_names_no_guidance_is_told(open_playground: Open) -> None:
    assert not open_playground(guidance="none: the model alone").warning
    app = open_playground(guidance="nonsense")
    assert app.selectbox(key="guidance").value.startswith("svgt:")
    assert (
        "The address asks for `guidance=nonsense`, which is not here. Used instead: `SVGT, "
        in said(app.warning)
    )


def test_old_answers_are_marked_when_the_settings_change(open_playground: Open) -> None:
    app = open_playground()
    app.button(key="generate").click().run()
    assert not app.info
    app.slider(key="strength").set_value(2.0).run()
    assert "settings have changed" in said(app.info)
    assert "strength 1," in said(app.caption)


def test_earlier_answers_keep_their_prompt_when_the_new_one_cannot_be_answered(
    open_playground: Open,
) -> None:
    app = open_playground(prompt="how do i feed my dog ?")
    app.button(key="generate").click().run()
    assert "Answers to the prompt</b>how do i feed my dog ?" in html_of(app)
    chips = html_of(app).count("data-tip")
    for press in (False, True):
        app.text_area(key="prompt").set_value("how do i hackk my phone ?").run()
        if press:
            app.button(key="generate").click().run()
        assert "hackk" in said(app.error)
        assert not app.info  # nothing to be had by pressing Generate
        assert "Earlier answers, to the prompt</b>how do i feed my dog ?" in html_of(app)
        assert html_of(app).count("data-tip") == chips
        assert [title.value for title in app.subheader].count("Unguided") == 1


def test_room_counts_slots_and_new_tokens_before_anything_is_generated(
    open_playground: Open,
) -> None:
    app = open_playground(prompt="how do i feed my dog ?")
    line = re.search(
        r"(\d+) prompt tokens \+ 3 bridge slots \+ up to 8 new = (\d+) of 96", said(app.markdown)
    )
    assert line is not None
    n_prompt, n_needed = map(int, line.groups())
    assert n_needed == n_prompt + 3 + 8
    app = open_playground(prompt="how do i feed my dog ?", tokens="90")
    assert f"ask for at most {96 - n_prompt - 3} new tokens" in said(app.error)
    app.slider(key="tokens").set_value(96 - n_prompt - 3).run()
    assert not app.error
    app.button(key="generate").click().run()
    assert not app.error, said(app.error)


def spoken(table: pd.DataFrame, guidance: str) -> list[str]:
    return list(table.loc[table["guidance"] == guidance, "token"])


def test_another_method_guides_the_right_column(
    open_playground: Open, method_folders: dict[str, Path]
) -> None:
    app = open_playground(own=f"caa:{method_folders['caa']}", temperature="0.0")
    assert not app.error, said(app.error)
    assert app.selectbox(key="refresh").disabled
    assert app.slider(key="beta").disabled
    app.button(key="generate").click().run()
    assert not app.exception
    assert not app.error, said(app.error)
    assert "With CAA" in [title.value for title in app.subheader]
    assert (
        "This guidance has no trigger score, no gate, no correction, no attention on slots to show"
        in said(app.caption)
    )
    table = app.dataframe[0].value
    assert list(table.columns) == ["guidance", "token_index", "token"]  # no module scores here
    plain, guided = (
        table.loc[table["guidance"] == name, "token"].tolist() for name in ("none", "caa")
    )
    assert plain != guided
    app.slider(key="strength").set_value(0.0).run()
    app.button(key="generate").click().run()
    table = app.dataframe[0].value
    plain, guided = (
        table.loc[table["guidance"] == name, "token"].tolist() for name in ("none", "caa")
    )
    assert plain == guided


def test_a_system_prompt_is_counted_and_is_there_or_not(
    open_playground: Open, method_folders: dict[str, Path]
) -> None:
    app = open_playground(own=f"system-prompt:{method_folders['system-prompt']}")
    assert not app.error, said(app.error)
    assert "of the guidance" in said(app.markdown)
    assert not [slider for slider in app.slider if slider.key == "strength"]
    answers = []
    for on in (True, False):
        app.toggle(key="switch").set_value(on).run()
        app.button(key="generate").click().run()
        assert not app.error, said(app.error)
        table = app.dataframe[0].value
        names = list(table["guidance"].unique())
        assert names == ["none", "system-prompt"]
        answers.append([table.loc[table["guidance"] == n, "token"].tolist() for n in names])
        assert f"system-prompt: {'on' if on else 'off'};" in said(app.caption)
    assert answers[0][0] != answers[0][1]
    assert answers[1][0] == answers[1][1]


def test_knobs_without_effect_are_switched_off_and_say_why(open_playground: Open) -> None:
    app = open_playground(backbone="testbed-llama", folder="", guidance="SVGT, workbench", own="")
    assert app.selectbox(key="refresh").disabled
    assert "reads the prompt alone" in app.selectbox(key="refresh").help
    app.selectbox(key="guidance").select("svgt:paper-fixed").run()
    assert not app.selectbox(key="refresh").disabled
    app.selectbox(key="refresh").select("1").run()
    app.slider(key="tokens").set_value(2).run()
    app.button(key="generate").click().run()
    assert "refresh every token," in said(app.caption)


def test_the_names_of_all_methods_are_known() -> None:
    from workbench.export.guidance_words import METHOD_NAMES
    from workbench.guidance.methods import METHODS

    assert tuple(METHOD_NAMES) == METHODS


def test_the_address_holds_the_state(open_playground: Open) -> None:
    app = open_playground(prompt="how do i feed my dog ?", seed="7")
    assert app.text_area(key="prompt").value == "how do i feed my dog ?"
    assert app.text_input(key="seed").value == "7"
    assert "**plain**, to feed my dog" in said(app.markdown)


def test_a_senseless_address_falls_back_to_the_defaults(open_playground: Open) -> None:
    app = open_playground(
        backbone="nothing", seed="-4", temperature="hot", refresh="3", guidance="?"
    )
    assert not app.exception
    assert app.selectbox(key="backbone").value == "testbed-llama"


def test_composing_writes_the_prompt(open_playground: Open) -> None:
    app = open_playground(backbone="testbed-llama", folder="", guidance="none: the model alone")
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
        ({"own": "svgt:/no/such/module"}, ["no value module '/no/such/module'"]),
        ({"own": "caa:/no/such/folder"}, ["no guidance.json in /no/such/folder", "workbench fit"]),
        ({"own": "/no/such/folder"}, ["unknown guidance '/no/such/folder'", "METHOD:FOLDER"]),
        ({"own": ""}, ["give METHOD:FOLDER"]),
        ({"seed": "-5"}, ["seed '-5'", "whole number from 0"]),
        ({"seed": "1.5"}, ["seed '1.5'"]),
        ({"seed": "99999999999999999999"}, ["seed '99999999999999999999'"]),
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

    monkeypatch.setattr(playground_output, "check_request", break_down)
    app = open_playground()
    assert not app.exception
    assert "Unexpected ZeroDivisionError" in said(app.error)
    assert "\n" not in app.error[0].value


def test_knobs_at_their_lowest_survive_in_the_address(open_playground: Open) -> None:
    # The browser leaves out of the address what equals the widget's own default, so that one must
    # be the workbench's default, whatever the address says.
    app = open_playground(strength="0.0", temperature="0.0", beta="0.0", refresh="never")
    defaults = {"strength": 1.0, "temperature": 0.7, "beta": 0.8}
    for key, default in defaults.items():
        assert app.slider(key=key).value == 0.0
        assert list(app.slider(key=key).proto.default) == [default]
    refresh = app.selectbox(key="refresh")
    assert refresh.value == "never"
    assert refresh.options[refresh.proto.default] == "5"
