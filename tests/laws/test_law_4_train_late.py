"""Law 4: the simulator trains exactly the kept tasks, at Advance; what a value decides is settled there."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.simulation.world import Uneven
from fedthings.vector import keyed
from virtual import Virtual

PACE = ft.Pace(goal=4, concurrency=7, patience=6.0, quorum=2, staleness=3)


def fleet(bad: int = -1) -> ft.Fleet:
    rng = keyed("law 4")
    X = rng.normal(0, 1, (240, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    device = np.arange(240) % 8
    X[device == bad] *= np.float32(1e37)
    return ft.Fleet.from_arrays(X, y, device, split=rng.random(240) < 0.2)


def federation(**more) -> ft.Federation:
    task = ft.Task(model=ft.mlp(3, 4, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=10, keep=0.5))
    return ft.Federation(task, devices=8, **{"pace": PACE, **more})


def test_late_is_eager(tmp_path):
    """Agents train when they are assigned, the simulator when the version is made: the same model."""
    world = Uneven(median=2.0, spread=1.2, lost=0.15)
    late = ft.simulate(federation(), fleet(), 10, world=world)
    eager = Virtual(federation(), fleet(), 10, tmp_path, world).run()
    assert np.array_equal(late.row, eager.row)


@pytest.mark.parametrize("pace", [PACE, ft.Pace(goal=6, concurrency=8, patience=3.0)])
def test_late_is_eager_where_a_part_of_the_work_is_done(pace, tmp_path):
    """How much a device does is known when it is asked, since it does not depend on what comes of it."""
    world, spec = Uneven(median=4.0, spread=1.5, lost=0.15), federation(pace=pace, strategy=ft.fedprox(0.1))
    late, eager = ft.simulate(spec, fleet(), 10, world=world), Virtual(spec, fleet(), 10, tmp_path, world).run()
    assert np.array_equal(late.row, eager.row)
    assert late.history == eager.history
    whole = ft.simulate(federation(pace=pace, strategy=ft.Strategy(mu=0.1)), fleet(), 10, world=world)
    seen = [sum(line["updates"] for line in run.history) for run in (late, whole)]
    assert seen[0] > seen[1] or late.summary["seconds"] < whole.summary["seconds"]
    assert not np.array_equal(late.row, whole.row)


def test_only_kept_tasks_are_trained(monkeypatch):
    from fedthings.simulation.cohort import Cohorts

    trained = []
    real = Cohorts.train
    monkeypatch.setattr(Cohorts, "train", lambda self, engine, kept: (trained.extend(kept), real(self, engine, kept)))
    run = ft.simulate(federation(), fleet(), 10, world=Uneven(median=2.0, spread=1.2, lost=0.15))
    closing = [kept for kept in trained if kept.ticket.phase == 1]
    assert len(trained) - len(closing) == sum(line["updates"] for line in run.history) == 40
    assert len({kept.ticket for kept in trained}) == len(trained)
    assert sum(sum(line["dropped"].values()) for line in run.history) > 0


@pytest.mark.parametrize("where", ["simulated", "served"])
def test_a_report_that_is_not_finite_counts_and_is_left_out(where, tmp_path):
    pace = ft.Pace(goal=8)
    spec = federation(pace=pace)
    things = fleet(bad=3)
    run = ft.simulate(spec, things, 4) if where == "simulated" else Virtual(spec, things, 4, tmp_path).run()
    assert [line["updates"] for line in run.history] == [7] * 4
    assert all(set(line["dropped"]) <= {"not finite", "out of range"} for line in run.history)
    assert [sum(line["dropped"].values()) for line in run.history] == [1] * 4
    assert np.isfinite(run.row).all()
    assert [line["time"] for line in run.history] == [1.0, 2.0, 3.0, 4.0]  # it frees no slot
