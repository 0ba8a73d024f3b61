"""How many workers train, and whether one of them dies, never changes a result."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import fedthings as ft
from fedthings.kernels import kernels
from fedthings.simulation import pool
from fedthings.simulation.pool import Several
from fedthings.simulation.world import Uneven

ENGINES = ["numpy", *(["kernels"] if kernels() is not None else [])]


def fleet() -> ft.Fleet:
    rng = np.random.default_rng(0)
    device = np.sort(rng.integers(0, 40, 900))
    X = rng.normal(size=(900, 5)).astype("f4")
    return ft.Fleet.from_arrays(X, (X[:, 0] + X[:, 1] > 0).astype(int), device, rng.integers(0, 4, 900) == 0)


def federation(**pace) -> ft.Federation:
    recipe = ft.Recipe(lr=0.1, batch=7, epochs=2, keep=0.3)
    task = ft.Task(model=ft.mlp(5, 8, 2), loss="cross_entropy", recipe=recipe, normalise="fleet")
    return ft.Federation(task, ft.fedprox(mu=0.1), ft.Pace(**pace), stages=(ft.clip(0.5),))


PACES = {
    "synchronous": {"goal": 12, "concurrency": 15},
    "asynchronous": {"goal": 8, "concurrency": 20, "staleness": 3},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pace", PACES)
def test_the_number_of_workers_never_changes_the_result(engine, pace):
    world = Uneven(spread=1.0, lost=0.1)
    runs = [
        ft.simulate(federation(**PACES[pace]), fleet(), 8, world=world, engine=engine, workers=workers)
        for workers in (1, 2, 5)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.row, runs[0].row)
        assert run.history == runs[0].history


@pytest.mark.parametrize("moment", ["in the middle of a job", "with a sum that nobody has yet"])
def test_what_a_worker_had_done_that_dies_is_done_anew(monkeypatch, moment):
    spec = federation(goal=12)
    whole = ft.simulate(spec, fleet(), 6, engine="numpy", workers=1)
    killed = []

    def train(self, jobs):
        if moment == "in the middle of a job" and len(killed) < 3:
            os.kill(self.seats[len(killed) % 2].link.process.pid, signal.SIGKILL)
            killed.append(0)
        done = real(self, jobs)
        if moment != "in the middle of a job" and len(killed) < 3:
            victim = next(seat for seat in self.seats if seat.done)
            os.kill(victim.link.process.pid, signal.SIGKILL)
            victim.link.process.join()
            killed.append(0)
        return done

    real = Several.train
    monkeypatch.setattr(Several, "train", train)
    run = ft.simulate(spec, fleet(), 6, engine="numpy", workers=2)
    assert len(killed) == 3
    np.testing.assert_array_equal(run.row, whole.row)
    assert run.history == whole.history


def test_what_is_wrong_in_a_worker_is_said_here(monkeypatch):
    monkeypatch.setattr(pool.Worker, "train", lambda self, *job: (_ for _ in ()).throw(ft.DataError("device-3 is odd")))
    with pytest.raises(ft.DataError, match="device-3 is odd"):
        ft.simulate(federation(goal=12), fleet(), 6, engine="numpy", workers=2)
