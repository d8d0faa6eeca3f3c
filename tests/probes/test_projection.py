"""Projections agree with scikit-learn, keep a planted plane, and say how much they leave out."""

import numpy as np
import pytest
import torch

from probes.contrasts import ContrastSet
from probes.projection import project
from workbench.errors import DataError


def planted(states: torch.Tensor, positive: torch.Tensor) -> ContrastSet:
    n = states.shape[1]
    return ContrastSet(
        states=states.float(),
        layers=(0, 3)[: states.shape[0]],
        positive=positive,
        context=tuple("direct" if i % 2 else "fiction" for i in range(n)),
        group=tuple(f"g{i}" for i in range(n)),
        pair=torch.full((n,), -1),
        site="prompt_last",
        contrast="prompt",
        lengths=torch.ones(n, dtype=torch.long),
    )


@pytest.fixture
def sample(rng: np.random.Generator) -> ContrastSet:
    positive = torch.arange(60) % 3 == 0
    states = torch.tensor(rng.normal(size=(2, 60, 9)) * np.arange(1, 10))
    states[1, positive] += 5.0
    return planted(states, positive)


def test_it_is_the_principal_component_analysis_of_scikit_learn(sample: ContrastSet) -> None:
    from sklearn.decomposition import PCA

    reference = PCA(3, svd_solver="full").fit(sample.states[1].double().numpy())
    found = project(sample, 3)
    expected = reference.transform(sample.states[1].double().numpy())
    # float32 states, float64 arithmetic on both sides: rounding alone
    np.testing.assert_allclose(np.abs(found.points.numpy()), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(
        found.explained.numpy(), reference.explained_variance_ratio_, atol=1e-12
    )


def test_harmful_states_lie_on_the_positive_side(sample: ContrastSet) -> None:
    points = project(sample, 3).points
    gap = points[sample.positive].mean(dim=0) - points[~sample.positive].mean(dim=0)
    assert bool((gap >= 0).all())


def test_a_planted_plane_is_explained_whole_and_distances_survive() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(40, 2, generator=generator).double()
    axes, _ = torch.linalg.qr(torch.randn(8, 2, generator=generator).double())
    states = planted((plane @ axes.T)[None], torch.arange(40) < 20)
    found = project(states, 0)
    assert float(found.explained[:2].sum()) == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(
        torch.cdist(found.points[:, :2], found.points[:, :2]), torch.cdist(plane, plane),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip  # float32 states


def test_the_table_says_where_every_point_comes_from(sample: ContrastSet) -> None:
    frame = project(sample, 0).frame()
    assert list(frame["context"]) == list(sample.context)
    assert frame["harmful"].tolist() == sample.positive.tolist()
    assert set(frame["layer"]) == {0}
    assert frame["explained1"].nunique() == 1
    assert {"pc1", "pc2", "pc3", "site", "contrast", "group"} <= set(frame.columns)


def test_narrow_states_have_fewer_axes_and_equal_states_none_to_speak_of() -> None:
    narrow = planted(torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1)),
                     torch.arange(5) < 2)  # fmt: skip
    assert project(narrow, 0).points.shape == (5, 2)
    equal = planted(torch.ones(1, 5, 4), torch.arange(5) < 2)
    assert bool(project(equal, 0).explained.isnan().all())


def test_a_layer_that_is_not_there_is_named(sample: ContrastSet) -> None:
    with pytest.raises(DataError, match=r"layer 7 is not among the layers of prompt_last \(0, 3\)"):
        project(sample, 7)
