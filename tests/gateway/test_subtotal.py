"""A sum of several reports is those reports, bit for bit, however many versions they are behind."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.bodies import Report
from fedthings.federation import phases
from fedthings.partial import Partial, template
from fedthings.protocol.events import Ticket
from fedthings.subtotal import merge, sum_up, verify

TASK = ft.Task(model=ft.mlp(5, 4, 3), loss="cross_entropy")
DIM = TASK.model.layout.dim


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("strategy", [ft.fedavg(), ft.fedbuff()], ids=["fedavg", "fedbuff"])
def test_a_subtotal_is_its_reports(strategy, lag) -> None:
    pace = ft.Pace(goal=3, concurrency=6, staleness=4)
    spec = phases(ft.Federation(TASK, strategy, pace))[0]
    one, other, below = (Partial(replace(spec, reports=8)) for _ in range(3))
    rng, due = np.random.default_rng(0), template(spec, one)
    weights = [1, 1, 1] if strategy.weight == "equal" else [3, 7, 40]
    reports = [
        Report(Ticket(0, 0, f"d{i}", 0), {"x": rng.normal(size=DIM).astype("f4")}, np.array([w]), due.metrics)
        for i, w in enumerate(weights)
    ]
    for report in reports:
        metrics = {name: stats[None] for name, stats in report.metrics.items()}
        assert one.keep({"x": report.arrays["x"][None]}, report.weight, metrics, [lag]).tolist() == [""]
    subtotal = sum_up(below, reports)
    verify(subtotal, other, due)
    merge(other, subtotal, lag)
    np.testing.assert_array_equal(other.sums.limbs["x"][0], one.sums.limbs["x"][0])
    assert (other.sums.weights, other.sums.counts) == (one.sums.weights, one.sums.counts)
