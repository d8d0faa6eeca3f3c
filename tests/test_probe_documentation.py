"""The Python code in docs/probes.md runs as it stands, block after block, and finds things."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the blocks leave behind, run one after the other in an empty folder."""
    folder = tmp_path_factory.mktemp("documentation")
    (folder / "runs").mkdir()
    finished = ROOT / "docs" / "results" / "findings" / "testbed-llama" / "instability"
    (folder / "runs" / "instability").symlink_to(finished)
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, block in enumerate(blocks("python")):
            exec(compile(block, f"docs/probes.md, Python block {number}", "exec"), found)
    return found


def test_the_way_from_states_to_directions(names: dict[str, object]) -> None:
    import torch

    states, directions = names["states"], names["directions"]
    assert tuple(states.states.shape) == (3, 96, 96)  # type: ignore[attr-defined]
    assert tuple(directions.shape) == (3, 1, 96)  # type: ignore[attr-defined]
    assert torch.allclose(directions.norm(dim=-1), torch.ones(3, 1))  # type: ignore[attr-defined]


def test_the_instability_of_residual_stream_and_value_space(names: dict[str, object]) -> None:
    index = names["index"]
    sites = set(index.site)  # type: ignore[attr-defined]
    assert sites >= {"prompt_last", "z:workbench", "z:untrained", "bridge:workbench"}
    turned = index[(index.site == "prompt_last") & (index.layer == 5)]  # type: ignore[index, attr-defined]
    assert 0 < float(turned.low.iloc[0]) < float(turned.estimate.iloc[0])


def test_the_bridge_raises_the_margin_and_the_knock_out_takes_it_away(
    names: dict[str, object],
) -> None:
    gain = (names["guided"] - names["plain"])[names["harmful"]]  # type: ignore[operator, index]
    assert float(gain.mean()) > 0.1
    lost = {record.estimator: record.estimate for record in names["lost"]}  # type: ignore[attr-defined]
    assert lost["full"] == 0
    assert abs(lost["knock_out"] - 1) < 0.1


def test_own_prompts_on_another_backbone_are_measured_with_pairs(names: dict[str, object]) -> None:
    measured = {r.estimator for r in names["records"] if r.metric == "cosine" and r.n == 8}  # type: ignore[attr-defined]
    assert measured >= {"mean_difference", "lat"}


def test_the_lines_of_a_file_are_read(tmp_path: Path) -> None:
    from workbench.data.files import read_examples

    [lines] = blocks("json")
    path = tmp_path / "mine.jsonl"
    path.write_text(lines, encoding="utf-8")
    read = read_examples(path)
    assert [json.loads(line)["pair"] for line in lines.splitlines()] == [
        example.labels["pair"] for example in read
    ]
    assert len({example.group for example in read}) == 1
