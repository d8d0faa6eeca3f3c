"""The benchmark of the two backends compares equal things, and pairs its rounds."""

from types import ModuleType

import pytest
import torch
from scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/backends.py")


def test_both_backends_do_the_same_work(script: ModuleType) -> None:
    size = script.small_sizes()["small"]
    plain, backbones = script.build(size)
    lens, traced = (script.tasks(backbones[name], size) for name in (script.LENS, script.NNSIGHT))
    assert torch.equal(lens["forward"](), traced["forward"]())
    for task in ("decode", "decode, slots refreshed every token"):
        replies = [[reply.ids for reply in tasks[task]()] for tasks in (lens, traced)]
        assert replies[0] == replies[1]
        assert all(len(ids) == size.n_new for ids in replies[0])
    states = [tasks["states of the middle layer"]()[2] for tasks in (lens, traced)]
    assert torch.equal(*states)
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def test_ratios_are_taken_within_rounds(script: ModuleType) -> None:
    """A round twice as slow for both leaves the ratio alone."""
    ratio = script.Ratio.of([2.0, 4.0, 2.0], [1.0, 2.0, 1.0])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


def test_every_task_is_measured(script: ModuleType) -> None:
    found = script.measure(script.small_sizes()["small"], repeats=1)
    assert set(found["forward"]) >= {"nnsight_over_plain", "transformer_lens_over_plain"}
    for ratios in found.values():
        assert 0 < ratios["nnsight_over_transformer_lens"]["median"] < 100
