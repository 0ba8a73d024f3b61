"""Whole runs against the papers' formulas, written out as plain loops: float32 to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.learn.local import trainer
from fedthings.vector import Key, keyed

VERSIONS, SEED = 4, 9


def fleet() -> ft.Fleet:
    rng = keyed("end to end")
    X = rng.normal(0, 1, (150, 5)).astype(np.float32)
    y = (X @ rng.normal(0, 1, (5, 3))).argmax(1)
    device = rng.choice(4, 150, p=[0.1, 0.2, 0.3, 0.4])  # sizes differ, so that weights matter
    return ft.Fleet.from_arrays(X, y, device)


def average(theta, deltas, weights, state, t):
    """McMahan et al. 2017, Alg. 1."""
    return theta + sum(w * d for w, d in zip(weights, deltas, strict=True)) / sum(weights)


def equal(theta, deltas, weights, state, t):
    return theta + sum(deltas) / len(deltas)


def mixed(theta, deltas, weights, state, t):
    """theta_t = alpha theta_{t-1} + (1 - alpha) theta~_t, then the same with beta, in turn."""
    factor = 0.7 if t % 2 == 1 else 0.2
    return factor * theta + (1 - factor) * average(theta, deltas, weights, state, t)


def adam(theta, deltas, weights, state, t):
    """Reddi et al. 2021, Alg. 2."""
    delta = average(theta, deltas, weights, state, t) - theta
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * delta
    state["v"] = 0.99 * state.get("v", 1e-6) + 0.01 * delta**2
    return theta + 0.05 * state["m"] / (np.sqrt(state["v"]) + 1e-3)


CASES = {
    "fedavg": (ft.fedavg(), average, 0.0),
    "equal weights": (ft.fedavg(weight="equal"), equal, 0.0),
    "fedprox": (ft.fedprox(mu=0.5), average, 0.5),
    "mixing": (ft.mixing(0.7, 0.2), mixed, 0.0),
    "fedadam": (ft.fedadam(lr=0.05), adam, 0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_its_formula(name):
    strategy, formula, mu = CASES[name]
    task = ft.Task(model=ft.mlp(5, 6, 3), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=8, epochs=2))
    federation = ft.Federation(task, strategy, ft.Pace(goal=4), seed=SEED)
    things = fleet()
    run = ft.simulate(federation, things, VERSIONS)

    local = trainer(task, mu)
    theta, state = task.model.init(SEED).astype(np.float64), {}
    for t in range(1, VERSIONS + 1):
        deltas, weights = [], []
        for device in things.names:
            shard = things.shard(device)
            key = Key(SEED, device, t - 1, 0)
            fit, _ = local.one({"x": theta}, local.init(), shard, key, 1.0)  # the device's own work, in float64
            deltas.append(fit.report["x"])
            weights.append(len(shard.X))
        theta = formula(theta, deltas, weights, state, t)
    assert np.abs(run.row - theta).max() / np.abs(theta).max() < 1e-6


def test_devices_that_keep_a_share_of_their_own_model_start_from_the_mix():
    """With keep = 1 and full-batch gradient descent a device never leaves its own path."""
    recipe = ft.Recipe(lr=0.1, batch=0, epochs=1, keep=1.0)
    task = ft.Task(model=ft.mlp(5, 3), loss="cross_entropy", recipe=recipe)
    things = fleet()
    federation = ft.Federation(task, ft.fedavg(weight="equal"), ft.Pace(goal=4), seed=SEED)
    run = ft.simulate(federation, things, 3)
    local = trainer(ft.Task(model=task.model, loss=task.loss, recipe=ft.Recipe(lr=0.1, batch=0, epochs=3)))
    alone = []
    for device in things.names:
        start = task.model.init(SEED).astype(np.float64)
        fit, _ = local.one({"x": start}, local.init(), things.shard(device), Key(SEED, device, 0, 0), 1.0)
        alone.append(start + fit.report["x"])
    assert np.abs(run.row - sum(alone) / 4).max() < 1e-6


def test_several_things_may_be_one_participant():
    """Grouped by participant, two things count, weigh and train as one device with the rows of both."""
    rng = keyed("homes")
    X = rng.normal(0, 1, (80, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    sensor = np.repeat(["lamp", "door", "meter", "oven"], 20)
    homes = {"lamp": "home-1", "door": "home-1", "meter": "home-2", "oven": "home-2"}
    task = ft.Task(model=ft.mlp(3, 2), loss="cross_entropy")
    federation = ft.Federation(task, pace=ft.Pace(goal=2))
    grouped = ft.Fleet.from_arrays(X, y, sensor, participant=homes)
    assert grouped.names == ("home-1", "home-2")
    merged = ft.Fleet.from_arrays(X, y, np.repeat(["home-1", "home-2"], 40))
    assert np.array_equal(ft.simulate(federation, grouped, 3).row, ft.simulate(federation, merged, 3).row)
