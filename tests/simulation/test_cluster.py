"""Workers on a Ray cluster of two nodes: the same model as on one machine, bit for bit, also when one dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.kernels import kernels
from fedthings.simulation.pool import Several
from fedthings.simulation.world import Uneven

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedthings[ray]'")
pytestmark = pytest.mark.filterwarnings("default")
TESTS = Path(__file__).parents[1]
ENGINES = ["numpy", *(["kernels"] if kernels() is not None else [])]


@pytest.fixture(scope="module")
def two_nodes():
    """Join this process to a cluster of two nodes with two workers each."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:  # `own_models` is installed on both
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster(initialize_head=True, head_node_args=small)
        cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
        ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


def federation(**pace) -> ft.Federation:
    task = ft.Task(
        model=ft.mlp(64, 8, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=7, keep=0.3), normalise="fleet"
    )
    return ft.Federation(task, ft.fedprox(mu=0.1), ft.Pace(**pace), stages=(ft.clip(0.5),))


def fleet() -> ft.Fleet:
    return ft.clusters(60, samples=11, tests=4)  # made by a function, which travels to the workers


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pace", [{"goal": 12, "concurrency": 15}, {"goal": 8, "concurrency": 20, "staleness": 3}])
def test_the_model_is_that_of_one_machine(two_nodes, engine, pace):
    world = Uneven(spread=1.0, lost=0.1)
    alone, spread = (
        ft.simulate(federation(**pace), fleet(), 4, world=world, engine=engine, workers=workers)
        for workers in (1, "ray")
    )
    np.testing.assert_array_equal(spread.row, alone.row)
    assert spread.history == alone.history


@pytest.mark.parametrize("model", ["by_hand", "normed"])
def test_models_that_are_python_code_too(two_nodes, model):
    """`ft.own` names them, `ft.lift` and `ft.with_torch` made them; they draw at random, and one keeps counts."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6)).astype("f4")
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
    things = ft.Fleet.from_arrays(X, y, np.sort(rng.integers(0, 24, 400)), (rng.random(400) < 0.2).astype(int))
    recipe = ft.Recipe(lr=0.1, batch=8, epochs=2, keep=0.3)
    task = ft.Task(model=ft.own(f"own_models:{model}"), loss="cross_entropy", recipe=recipe)
    pace = ft.Pace(goal=10, concurrency=14, patience=4.0, staleness=2)
    spec = ft.Federation(task, ft.Strategy(mu=0.1, partial=True), pace, stages=(ft.clip(0.5),), devices=24)
    world = Uneven(median=2.0, spread=1.0, lost=0.1)
    alone, spread = (ft.simulate(spec, things, 4, world=world, workers=workers) for workers in (1, "ray"))
    assert (alone.row != task.model.init(0)).any()
    np.testing.assert_array_equal(spread.row, alone.row)
    assert spread.history == alone.history


def test_a_model_that_the_other_machines_have_not_is_named(two_nodes, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("from own_models import by_hand")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = ft.Task(model=ft.own("only_here:by_hand"), loss="cross_entropy")
    things = ft.Fleet.from_arrays(np.zeros((8, 6), "f4"), np.zeros(8, int), np.arange(8) % 4)
    with pytest.raises(ft.SpecError, match="only_here"):
        ft.simulate(ft.Federation(task, pace=ft.Pace(goal=4)), things, 1, workers="ray")


def test_what_a_worker_had_done_that_dies_is_done_anew(two_nodes, monkeypatch):
    spec = federation(goal=12)
    alone = ft.simulate(spec, fleet(), 4, engine="numpy", workers=1)
    killed = []

    def train(self, jobs):
        done = real(self, jobs)
        if len(killed) < 2:
            victim = next(seat for seat in self.seats if seat.done)
            pid = ray.get(victim.link.actor.pid.remote())
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return done

    real = Several.train
    monkeypatch.setattr(Several, "train", train)
    run = ft.simulate(spec, fleet(), 4, engine="numpy", workers="ray")
    assert len(killed) == 2
    np.testing.assert_array_equal(run.row, alone.row)


def test_a_fleet_that_cannot_travel_is_refused(two_nodes):
    import threading

    lock = threading.Lock()

    def shard(name: str, at: float):
        with lock:
            return np.ones((3, 64), "f4"), np.array([0, 1, 2])

    with pytest.raises(ft.SpecError, match="the fleet cannot be sent to other machines"):
        ft.simulate(federation(goal=2), ft.Fleet.from_function(shard, 3), 1, workers="ray")
