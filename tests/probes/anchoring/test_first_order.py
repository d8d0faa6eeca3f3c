"""First order is exact for a tiny step, and its statistics are the libraries'."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

if TYPE_CHECKING:
    from probes.anchoring.scene import Scene
    from workbench.svgt import ValueModule


def test_the_prediction_is_exact_for_a_tiny_step(scene: "Scene") -> None:
    from probes.anchoring.first_order import first_order

    found = first_order(scene, (0.003, 0.01, 1.0))
    tiny, small, whole = found.predicted
    assert whole.abs().min() > 1e-3
    # A step of 1% leaves a relative error of about 1% (the second order); float32 margins of
    # order 1 resolve 1e-6.
    error = (found.measured - found.predicted).abs()
    assert error[1].max() < 0.03 * small.abs().max()
    assert error[0].max() < 0.03 * tiny.abs().max() + 3e-6
    assert error[2].max() > 0.03 * whole.abs().max(), "the whole step is beyond first order"


def test_slope_and_correlation_are_the_libraries() -> None:
    from probes.anchoring.first_order import correlation, slope

    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = 1.7 * x + 0.3 * rng.normal(size=50)
    assert correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    expected = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    assert slope(x, y) == pytest.approx(float(expected), abs=1e-12)
    assert np.isnan(correlation(x, np.ones(50)))
    assert np.isnan(slope(np.zeros(50), y))


def test_records_at_a_tiny_step_have_slope_and_correlation_one(scene: "Scene") -> None:
    from probes.anchoring.estimates import Estimates
    from probes.anchoring.first_order import CORRELATION, SLOPE, first_order_records
    from probes.records import Record

    base = Record("anchoring", "tiny", "", float("nan"))
    records = first_order_records(scene, (0.01,), Estimates(base, tuple("abcdef"), 200))
    found = {record.metric: record for record in records}
    assert len(found) == 4
    assert all(record.x == 0.01 and record.n == 6 for record in records)
    assert found[SLOPE].estimate == pytest.approx(1, abs=0.03)
    assert found[SLOPE].low <= found[SLOPE].estimate <= found[SLOPE].high
    assert found[CORRELATION].estimate > 0.99


def test_a_writer_that_adds_nothing_is_not_measured(scene: "Scene", module: "ValueModule") -> None:
    from probes.anchoring.edits import EditedWriter, unchanged
    from probes.anchoring.estimates import Estimates
    from probes.anchoring.first_order import NO_SIGNAL, first_order_records
    from probes.records import Record

    class AtRest(EditedWriter):
        def write_bridge(self, *args: object, **options: object) -> object:  # type: ignore[override]
            return module.write_bridge(*args, **{**options, "gate_scale": 0.0})  # type: ignore[arg-type]

    from probes.anchoring.scene import set_scene

    guidance = replace(scene.guidance, writer=AtRest(module, unchanged, 3))
    resting = set_scene(scene.backbone, guidance, scene.pairs)
    base = Record("anchoring", "tiny", "", float("nan"))
    records = first_order_records(resting, (0.5,), Estimates(base, scene.pairs.groups, 50))
    assert len(records) == 4
    assert all(np.isnan(r.estimate) and r.note == NO_SIGNAL for r in records)
