"""Value directions in a headless Streamlit: a live analysis, a finished run, and mistakes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from probes.records import Record

Open = Callable[..., AppTest]


def said(elements: Iterable[Any]) -> str:
    return "\n".join(f"{getattr(e, 'label', '')} {e.value}" for e in elements)


def _page() -> None:
    from workbench.pages import directions
    from workbench.pages.guard import guarded

    guarded(directions.page)()


@pytest.fixture
def open_directions(backbone_folder: Path, module_folder: Path) -> Open:
    def open_with(*, contexts: tuple[str, ...] = ("direct", "fiction"), **query: str) -> AppTest:
        app = AppTest.from_function(_page, default_timeout=180)
        state: dict[str, Any] = {
            "backbone": "a folder of your own", "folder": str(backbone_folder),
            "config": "a folder of your own", "module": str(module_folder), "intents": "10",
            "contexts": list(contexts),
        }  # fmt: skip
        for key, value in {**state, **query}.items():
            app.query_params[key] = value
        return app.run()

    return open_with


def analysed(app: AppTest) -> AppTest:
    return app.button(key="analyse").click().run()


def first_spec(app: AppTest, title: str) -> str:
    """The figure below a title."""
    alternatives = [chart.proto.alt for chart in app.get("plotly_chart")]
    places = [i for i, alt in enumerate(alternatives) if alt.startswith(title)]
    return str(app.get("plotly_chart")[places[0]].proto.spec)


# ----------------------------------------------------------------------------------------- live


def test_a_live_analysis_is_drawn_with_all_its_files(open_directions: Open) -> None:
    app = open_directions()
    assert not app.exception
    assert not app.error, said(app.error)
    assert not app.get("plotly_chart")
    analysed(app)
    assert not app.exception
    assert not app.error, said(app.error)
    text = said(app.markdown)
    for title in (
        "Stability by layer", "Instability index", "Controls", "Cosines between contexts",
        "Transfer between contexts", "States in 2 dimensions", "States in 3 dimensions",
    ):  # fmt: skip
        assert title in text
    n_figures = len(app.get("plotly_chart"))
    assert said(app.caption).count("How to read this") == n_figures >= 8
    files = [button.proto.label for button in app.get("download_button")]
    assert files.count("Figure (HTML)") == n_figures
    assert {"Table (CSV)", "Table (LaTeX)", "All records (CSV)"} <= set(files)
    sites = set(app.selectbox(key="site").options)
    assert {"value state z, planted", "bridge tokens B, untrained"} <= sites
    assert set(app.table[0].value["metric"]) <= {"instability index", "instability difference"}


def test_another_place_is_shown_without_another_analysis(
    open_directions: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = analysed(open_directions(seed="5"))
    before = first_spec(app, "Cosines between contexts")
    from workbench.pages import directions_output

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("analysed again")

    monkeypatch.setattr(directions_output, "run_instability", refuse)
    app.select_slider(key="layer").set_value(0).run()
    assert not app.exception
    assert not app.error, said(app.error)
    assert first_spec(app, "Cosines between contexts") != before
    app.selectbox(key="site").select("z:planted").run()
    assert "value state z, planted" in said(app.markdown)
    analysed(app)  # the same settings: remembered
    assert not app.error, said(app.error)


def test_old_numbers_are_marked_when_the_settings_change(open_directions: Open) -> None:
    app = analysed(open_directions())
    app.slider(key="intents").set_value(11).run()
    assert "settings have changed" in said(app.info)


def test_the_reply_contrast_moves_along_the_reply(open_directions: Open) -> None:
    app = analysed(
        open_directions(contrast="harmful vs. safe replies", config="residual stream only")
    )
    assert not app.exception
    assert not app.error, said(app.error)
    assert "Along the reply" in said(app.markdown)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"contexts": ("direct",)}, "choose at least two contexts"),
        ({"folder": "/no/such/folder"}, "there is no folder /no/such/folder"),
        ({"module": "/no/such/module"}, "no value module '/no/such/module'"),
        ({"module": ""}, "give the folder of a value module"),
    ],
)
def test_bad_input_is_told_in_words(open_directions: Open, query: Any, named: str) -> None:  # noqa: ANN401
    app = analysed(open_directions(**query))
    assert not app.exception
    assert len(app.error) == 1
    assert named in app.error[0].value
    assert not app.get("plotly_chart")


def test_a_bug_is_told_in_one_line(open_directions: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.pages import directions_output

    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(directions_output, "require_classes", break_down)
    app = analysed(open_directions(seed="77"))
    assert not app.exception
    assert "Unexpected ZeroDivisionError" in said(app.error)


# ---------------------------------------------------------------------------------------- runs


def write_run(
    folder: Path, records: list[Record], probe: str, projection: pd.DataFrame | None = None
) -> None:
    from workbench.export.probe_runs import run_kind, save_probe
    from workbench.runs import RunFolder

    with RunFolder.create(folder, kind=run_kind(probe), config={"limit": 4}, seed=0) as run:
        save_probe(run, records, projection)


def instability() -> list[Record]:
    def record(metric: str, estimate: float, **more: object) -> Record:
        values: dict[str, Any] = {
            "probe": "instability", "backbone": "b", "contrast": "prompt", "site": "prompt_last",
            "estimator": "lda", "n": 20, "low": estimate - 0.1, "high": estimate + 0.1,
        }  # fmt: skip
        return Record(metric=metric, estimate=estimate, **{**values, **more})

    found = []
    for layer in (0, 1):
        found += [
            record("instability_index", 0.1 + 0.2 * layer, layer=layer),
            record("instability_difference", 0.1 * layer, layer=layer, site="z:workbench"),
            record("cosine_corrected", 0.8 - layer, layer=layer, context_a="a", context_b="b"),
            record("reliability", 0.9, layer=layer, context_a="a"),
            record("transfer_auroc", 0.7, layer=layer, context_a="a", context_b="b"),
        ]
    return found


def test_a_run_of_the_instability_probe(tmp_path: Path, open_directions: Open) -> None:
    states = pd.DataFrame(
        {
            "site": "prompt_last", "contrast": "prompt", "layer": pd.array([1, 1], "Int64"),
            "context": ["a", "b"], "group": ["g", "h"], "harmful": [True, False],
            "pc1": [1.0, 2.0], "pc2": [0.5, 0.5], "pc3": [0.0, 0.0],
            "explained1": 0.9, "explained2": 0.1, "explained3": 0.0,
        }
    )  # fmt: skip
    write_run(tmp_path / "first", instability(), "instability", states)
    write_run(tmp_path / "other", [], "anchoring")
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert not app.error, said(app.error)
    assert app.selectbox(key="run").options == ["first"]
    assert "-0.20" in first_spec(app, "Cosines between contexts")
    assert "90% of the variance" in first_spec(app, "States in 2 dimensions")
    app.select_slider(key="layer").set_value(0).run()
    assert not app.exception
    assert "0.80" in first_spec(app, "Cosines between contexts")
    assert "States in 2" not in said(app.markdown)  # no states of that layer


def test_the_default_backbones_instability_stands_first(
    tmp_path: Path, open_directions: Open
) -> None:
    from workbench.export.probe_runs import run_kind, save_probe
    from workbench.runs import RunFolder

    for name, probe, backbone in (
        ("old", "instability", "testbed-llama"),
        ("other", "instability", "testbed-gpt2"),
        ("newest", "reliability", "testbed-llama"),
    ):
        config = {"backbone": {"name": backbone}}
        with RunFolder.create(tmp_path / name, kind=run_kind(probe), config=config, seed=0) as run:
            save_probe(run, instability())
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert app.selectbox(key="run").value == "old"
    assert app.selectbox(key="run").options == ["old", "other", "newest"]


def test_a_run_of_the_reliability_probe(tmp_path: Path, open_directions: Open) -> None:
    records = [
        Record(
            probe="reliability", backbone="b", metric=metric, estimate=0.25, low=0.1, high=0.4,
            n=20, site="residual", layer=3, contrast="prompt", estimator=estimator,
        )
        for metric in ("steering_slope", "wrong_sign_share")
        for estimator in ("mean_difference", "random/mean_difference")
    ]  # fmt: skip
    write_run(tmp_path / "first", records, "reliability")
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert not app.error, said(app.error)
    assert "Prompts pushed the wrong way" in said(app.markdown)
    assert "random: difference of means" in first_spec(app, "Prompts pushed the wrong way")
    assert len(app.get("plotly_chart")) == 2


def test_a_folder_without_such_runs_says_how_to_make_one(
    tmp_path: Path, open_directions: Open
) -> None:
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert "workbench probe instability" in said(app.info)
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder="/no/such/root"
    )
    assert not app.exception
    assert "there is no folder /no/such/root" in said(app.error)


def test_an_unfinished_run_is_told_in_words(tmp_path: Path, open_directions: Open) -> None:
    from workbench.runs import RunFolder

    run = RunFolder.create(tmp_path / "first", kind="probe-instability", config={}, seed=0)
    run.close()
    app = open_directions(
        source="a finished run", root="a folder of your own", root_folder=str(tmp_path)
    )
    assert not app.exception
    assert "interrupted" in said(app.warning)
    assert "--resume" in said(app.warning)
