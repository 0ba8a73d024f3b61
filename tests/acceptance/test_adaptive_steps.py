"""Adaptive server steps beside averaging where every device has few classes (Reddi et al. 2021, section 5)."""

from __future__ import annotations

from statistics import fmean

import pytest

import fedthings as ft
from fedthings.learn.mnist import mnist

SEEDS = range(3)


@pytest.mark.long
def test_adam_and_yogi_beside_averaging_on_dirichlet_mnist(data) -> None:
    """100 devices with Dirichlet(0.1) of the classes, 10 a round, the same rate 0.05 on the devices, rounds 46-50."""
    X, y, test_X, test_y = mnist(data / "mnist")
    test = test_X.reshape(-1, 784), test_y
    recipe = ft.Recipe(lr=0.05, batch=32, epochs=1)
    task = ft.Task(model=ft.mlp(784, 200, 200, 10), loss="cross_entropy", recipe=recipe)

    def accuracy(strategy: ft.Strategy) -> float:
        found = []
        for seed in SEEDS:
            fleet = ft.Fleet.from_arrays(X.reshape(-1, 784), y, ft.partition.dirichlet(y, 100, 0.1, seed))
            spec = ft.Federation(task, strategy, ft.Pace(goal=10), seed=seed)
            run = ft.simulate(spec, fleet, 50, test=test)
            found.append(fmean(line["test"]["accuracy"] for line in run.history[45:50]))
        return fmean(found)

    average, adam, yogi = (accuracy(strategy) for strategy in (ft.fedavg(), ft.fedadam(0.01), ft.fedyogi(0.01)))
    print(f"Dirichlet(0.1) MNIST, rounds 46-50: FedAvg {average:.4f}, FedAdam {adam:.4f}, FedYogi {yogi:.4f}")
    assert adam >= average + 0.01
    assert yogi >= average + 0.01
