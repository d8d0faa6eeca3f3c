"""Bridge anchoring in a headless Streamlit: a typed prompt, a finished run, and mistakes."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from probes.records import Record

Open = Callable[..., AppTest]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def html_of(app: AppTest) -> str:
    bodies = [element.proto.body for element in app.get("html")]
    return "".join(body for body in bodies if "stMainBlockContainer" not in body)


def _page() -> None:
    from workbench.pages import anchoring
    from workbench.pages.guard import guarded

    guarded(anchoring.page)()


@pytest.fixture
def open_anchoring(backbone_folder: Path, module_folder: Path) -> Open:
    def open_with(**query: str) -> AppTest:
        app = AppTest.from_function(_page, default_timeout=120)
        state = {
            "backbone": "a folder of your own", "folder": str(backbone_folder),
            "config": "a folder of your own", "module": str(module_folder), "tokens": "6",
        }  # fmt: skip
        for key, value in {**state, **query}.items():
            app.query_params[key] = value
        return app.run()

    return open_with


def analysed(app: AppTest) -> AppTest:
    return app.button(key="analyse").click().run()


def titles(app: AppTest) -> str:
    return said(app.markdown)


# ----------------------------------------------------------------------------------------- a prompt


def test_a_typed_prompt_is_analysed_and_drawn(open_anchoring: Open) -> None:
    app = open_anchoring(seed="3")
    assert not app.exception
    assert not app.error, said(app.error)
    assert not app.get("plotly_chart")
    analysed(app)
    assert not app.exception
    assert not app.error, said(app.error)
    assert [metric.label for metric in app.metric][1] == "Gate"
    assert app.metric[1].value == "open"
    assert 'class="svgt-token' in html_of(app)
    for title in ("Which heads read", "along the reply", "take it away", "Dose and", "which heads"):
        assert title in titles(app)
    assert len(app.get("plotly_chart")) == 7
    assert said(app.caption).count("How to read this") == 7
    files = {button.proto.label for button in app.get("download_button")}
    assert {"Figure (HTML)", "Table (CSV)", "Table (LaTeX)", "All records (CSV)"} <= files


def test_captions_of_one_prompt_speak_of_what_is_drawn(open_anchoring: Open) -> None:
    app = analysed(open_anchoring(seed="3"))
    captions = said(c for c in app.caption if "How to read this" in c.value)
    assert "interval" not in captions
    assert "mean over replies" not in captions.lower()
    assert "Sufficiency" not in captions
    assert "Necessity" in captions
    assert "All heads" not in captions
    assert "The stream is" in captions
    assert "estimate" in app.table[0].value
    assert "interval" not in " ".join(app.table[0].value)


def test_the_shipped_default_anchors_the_first_prompt(open_anchoring: Open) -> None:
    app = analysed(
        open_anchoring(backbone="testbed-llama", folder="", config="workbench", module="")
    )
    assert not app.exception
    assert not app.error, said(app.error)
    assert app.metric[1].value == "open"
    assert "Of all rows: metric margin effect;" in said(app.caption)
    assert "the prompt's own bridge" in set(app.table[0].value["estimator"])


def test_weighting_changes_the_attention_that_is_drawn(open_anchoring: Open) -> None:
    app = analysed(open_anchoring())
    before = app.get("plotly_chart")[0].proto.spec
    app.segmented_control(key="weighting").set_value("weighted").run()
    assert not app.exception
    assert app.get("plotly_chart")[0].proto.spec != before


def test_old_numbers_are_marked_when_the_settings_change(open_anchoring: Open) -> None:
    app = analysed(open_anchoring())
    app.slider(key="temperature").set_value(0.0).run()
    assert "settings have changed" in said(app.info)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"prompt": "how do i hackk my phone ?"}, "hackk"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "phone " * 95}, "exceed the 96 positions"),
        ({"folder": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"module": "/no/such/module"}, "no value module '/no/such/module'"),
        ({"module": ""}, "give the folder of a value module"),
    ],
)
def test_bad_input_is_told_in_words(
    open_anchoring: Open, query: dict[str, str], named: str
) -> None:
    app = analysed(open_anchoring(**query))
    assert not app.exception
    assert len(app.error) == 1
    assert named in app.error[0].value
    assert "Traceback" not in said(app.error)
    assert not app.get("plotly_chart")


# -------------------------------------------------------------------------------------------- a run


def write_run(folder: Path, records: list[Record], probe: str = "anchoring") -> None:
    from workbench.export.probe_runs import run_kind, save_probe
    from workbench.runs import RunFolder

    with RunFolder.create(folder, kind=run_kind(probe), config={"limit": 4}, seed=0) as run:
        save_probe(run, records)


def records() -> list[Record]:
    base = {"probe": "anchoring", "backbone": "testbed-llama", "n": 30, "guidance": "svgt:paper"}

    def record(metric: str, estimate: float, **more: object) -> Record:
        return Record(
            metric=metric, estimate=estimate, low=estimate - 0.1, high=estimate + 0.1,
            **{**base, **more},
        )  # fmt: skip

    return [
        record("margin_effect", 1.5, estimator="full"),
        record("margin_effect", 0.1, estimator="knock_out"),
        record("harm_rate", 0.2, estimator="full"),
        record("harm_rate", math.nan, estimator="knock_out"),
        *(record("dose_margin", x / 2, estimator="gate", x=x) for x in (0.0, 1.0, 2.0)),
    ]


def test_a_run_is_shown_with_what_it_measured_and_no_more(
    tmp_path: Path, open_anchoring: Open
) -> None:
    write_run(tmp_path / "first", records())
    write_run(tmp_path / "other", [], probe="instability")
    app = open_anchoring(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert not app.error, said(app.error)
    assert app.selectbox(key="run").options == ["first"]
    assert len(app.get("plotly_chart")) == 2
    app.segmented_control(key="effect").set_value("harm_rate").run()
    assert not app.exception
    assert not app.error, said(app.error)
    assert "harmful replies" in app.get("plotly_chart")[0].proto.spec
    table = app.table[0].value
    assert "1.500 [1.400,\u00a01.600]" in set(table["estimate [95% interval]"])
    assert "–" in set(table["estimate [95% interval]"])


def test_a_folder_without_such_runs_says_how_to_make_one(
    tmp_path: Path, open_anchoring: Open
) -> None:
    write_run(tmp_path / "other", [], probe="instability")
    app = open_anchoring(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert "workbench probe anchoring" in said(app.info)


def test_a_run_without_records_is_told_in_words(tmp_path: Path, open_anchoring: Open) -> None:
    write_run(tmp_path / "first", records())
    (tmp_path / "first" / "records.parquet").unlink()
    app = open_anchoring(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert "records.parquet missing" in said(app.warning)
