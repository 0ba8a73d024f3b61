"""Accuracies that were promised, on real data: MNIST as in McMahan et al. 2017, the textbook case, WISDM's 36 users."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.learn.mnist import mnist
from fedthings.run import read
from processes import Processes

CLASSIC = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "classic.py"))


@pytest.mark.parametrize(("images", "least"), [(6000, 0.95), (100, 0.80)])
def test_odd_against_even_on_mnist(data, images, least):
    run = CLASSIC["train"](str(data / "mnist"), images)
    print(f"classic, {images} images a participant: {run.summary['test']['accuracy']:.4f} after 10 rounds")
    assert run.summary["rounds"] == 10
    assert run.summary["test"]["accuracy"] >= least


@pytest.mark.long
def test_mnist_2nn_reaches_97_percent_within_the_published_rounds(data):
    """IID, 100 participants x 600 images, 10 a round, E=1, B=10: 87 rounds (McMahan et al. 2017, table 1)."""
    X, y, test_X, test_y = mnist(data / "mnist")
    fleet = ft.Fleet.from_arrays(X.reshape(-1, 784), y, ft.partition.iid(y, 100, seed=0))
    recipe = ft.Recipe(lr=0.1, batch=10, epochs=1)
    task = ft.Task(model=ft.mlp(784, 200, 200, 10), loss="cross_entropy", recipe=recipe)
    spec = ft.Federation(task, ft.fedavg(), ft.Pace(goal=10))
    run = ft.simulate(spec, fleet, 87, test=(test_X.reshape(-1, 784), test_y), stop={"accuracy": 0.97})
    print(f"MNIST 2NN: {run.summary['test']['accuracy']:.4f} after {run.summary['rounds']} rounds")
    assert run.summary["test"]["accuracy"] >= 0.97
    assert run.summary["rounds"] <= 87


@pytest.mark.long
def test_mnist_2nn_reaches_97_percent_where_each_has_two_shards(data):
    """100 participants with 2 of 200 shards sorted by class, 10 a round, E=1, B=10: 664 rounds (ibid., table 1)."""
    X, y, test_X, test_y = mnist(data / "mnist")
    fleet = ft.Fleet.from_arrays(X.reshape(-1, 784), y, ft.partition.shards(y, 100, 2, seed=0))
    recipe = ft.Recipe(lr=0.05, batch=10, epochs=1)
    task = ft.Task(model=ft.mlp(784, 200, 200, 10), loss="cross_entropy", recipe=recipe)
    spec = ft.Federation(task, ft.fedavg(), ft.Pace(goal=10))
    run = ft.simulate(spec, fleet, 664, test=(test_X.reshape(-1, 784), test_y), stop={"accuracy": 0.97})
    print(f"MNIST 2NN, two shards: {run.summary['test']['accuracy']:.4f} after {run.summary['rounds']} rounds")
    assert run.summary["test"]["accuracy"] >= 0.97
    assert run.summary["rounds"] <= 664


def wisdm(strategy: ft.Recipe, lr: float) -> ft.Federation:
    recipe = ft.Recipe(lr=lr, batch=32, epochs=1)
    task = ft.Task(model=ft.mlp(43, 64, 6), loss="cross_entropy", normalise="fleet", recipe=recipe)
    return ft.Federation(task, strategy, ft.Pace(goal=36, patience=120.0), devices=36)


CASES = [pytest.param(ft.fedavg(), 0.5, 0.76, id="fedavg"), pytest.param(ft.fedavgm(), 0.2, 0.80, id="momentum")]


@pytest.mark.parametrize(("strategy", "lr", "least"), CASES)
def test_wisdm_simulated(data, strategy, lr, least):
    run = ft.simulate(wisdm(strategy, lr), ft.Fleet.from_npz(data / "wisdm_v11.npz"), 100)
    print(f"WISDM simulated: {run.summary['metrics']['accuracy']:.4f} after {run.summary['rounds']} rounds")
    assert run.summary["metrics"]["accuracy"] >= least


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "lr", "least"), CASES)
def test_wisdm_as_36_processes(data, strategy, lr, least, tmp_path):
    spec, fleet = wisdm(strategy, lr), ft.Fleet.from_npz(data / "wisdm_v11.npz")
    with Processes(spec, fleet, 100, tmp_path, "mosquitto") as world:
        world.start()
        world.wait(900)
        run = read(world.out)
    print(f"WISDM as 36 processes: {run.summary['metrics']['accuracy']:.4f} in {run.summary['seconds']:.0f} s")
    assert run.summary["metrics"]["accuracy"] >= least
    assert len(run.history) == 100
    assert np.array_equal(run.row, ft.simulate(spec, fleet, 100).row)
