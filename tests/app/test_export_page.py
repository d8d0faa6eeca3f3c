"""The Export page: what is chosen is made, previewed and offered."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from workbench.export.bundling import FORMATS
from workbench.pages import export
from workbench.pages.export_output import _Archive
from workbench.runs import RunFolder

Open = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_run(name: str) -> None:
    with RunFolder.create(f"runs/{name}", kind="evaluate", config={}, seed=0) as run:
        run.write_summary(
            [
                {
                    "backbone": "testbed-llama", "guidance": guidance, "config": "",
                    "split": "heldout_intents", "frame": "all", "metric": "harm_rate",
                    "estimate": 0.5, "low": 0.4, "high": 0.6, "n": 40, "seed": 0,
                }
                for guidance in ("none", "svgt")
            ]
        )  # fmt: skip


def test_the_page_offers_what_the_command_can_write() -> None:
    assert set(export.FORMATS) == set(FORMATS)


def test_files_are_made_previewed_and_offered(open_page: Open) -> None:
    write_run("first")
    app = open_page("export", formats="csv")
    assert not app.exception
    assert not app.error
    assert len(app.get("plotly_chart")) == 1
    assert "toprule" in app.code[0].value
    app.button(key="make").click().run()
    assert not app.exception
    assert not app.error
    made = app.session_state["export-made"]
    assert isinstance(made, _Archive)
    names = zipfile.ZipFile(io.BytesIO(made.content)).namelist()
    assert "first/records/summary.csv" in names
    assert any(b.proto.label.startswith("Download (") for b in app.get("download_button"))
    app.multiselect(key="formats").set_value(["csv", "json"]).run()
    labels = [b.proto.label for b in app.get("download_button")]
    assert not any(label.startswith("Download (") for label in labels), "made from other choices"


def test_a_damaged_run_and_an_empty_choice_are_told(open_page: Open) -> None:
    write_run("first")
    app = open_page("export")
    assert app.query_params["runs"] == "first"
    app.multiselect(key="runs").set_value([]).run()
    assert "at least one run" in app.info[0].value
    assert app.button(key="make").disabled
    Path("runs/first/summary.json").write_text("{")
    app = open_page("export")
    assert not app.exception
    assert "not valid JSON" in app.warning[0].value


def test_a_figure_is_printed_as_svg_and_png() -> None:
    import plotly.graph_objects as go

    from workbench.pages.widgets import _printed

    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name="line"))
    assert b"<svg" in _printed(figure, "svg")
    assert _printed(figure, "png").startswith(b"\x89PNG")
