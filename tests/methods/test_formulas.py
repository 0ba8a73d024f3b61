"""Each method against its paper's algorithm, written out as plain loops over devices and steps, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import fedthings as ft
from fedthings.federation import phases
from fedthings.learn import local
from fedthings.learn.data import Shard, sizes
from fedthings.methods.clustered import Clustered
from fedthings.methods.method import Local
from fedthings.methods.nova import weighed
from fedthings.phase import learner
from fedthings.vector import Key
from quadratics import DEVICES, FEATURES, shards, trained

LR, EPOCHS, VERSIONS = 0.05, 4, 5
EFFORTS = [0.25, 0.5, 0.75, 1.0, 0.25, 0.5, 0.75, 1.0]
STEPS = [1, 2, 3, 4, 1, 2, 3, 4]
DATA = [(np.c_[s.X, np.ones(len(s.X))], s.y[:, 0]) for s in shards()]


def loss(w: np.ndarray, i: int) -> float:
    A, b = DATA[i]
    return float(((A @ w - b) ** 2).mean())


def gradient(w: np.ndarray, i: int) -> np.ndarray:
    A, b = DATA[i]
    return 2 * A.T @ (A @ w - b) / len(b)


def descended(x: np.ndarray, i: int, slope: Callable[[np.ndarray], np.ndarray], steps: int) -> np.ndarray:
    for _ in range(steps):
        x = x - LR * slope(x)
    return x


def scaffold() -> np.ndarray:
    """Karimireddy et al. 2020, Alg. 1, option II, eta_g = 1."""
    x, c, own = np.zeros(FEATURES + 1), 0, [0] * DEVICES
    for _ in range(VERSIONS):
        ys, after = [], []
        for i, K in enumerate(STEPS):
            y = descended(x, i, lambda w, i=i, add=c - own[i]: gradient(w, i) + add, K)
            ys.append(y)
            after.append(own[i] - c + (x - y) / (K * LR))
        c = c + sum(new - old for new, old in zip(after, own, strict=True)) / DEVICES
        x, own = x + sum(y - x for y in ys) / DEVICES, after
    return x


def feddyn() -> np.ndarray:
    """Acar et al. 2021, Alg. 1."""
    alpha, m = 0.5, DEVICES
    x, h, learned = np.zeros(FEATURES + 1), 0, [0] * m
    for _ in range(VERSIONS):
        thetas = [
            descended(x, i, lambda w, i=i, h=learned[i], x=x: gradient(w, i) - h + alpha * (w - x), STEPS[i])
            for i in range(m)
        ]
        learned = [old - alpha * (theta - x) for old, theta in zip(learned, thetas, strict=True)]
        h = h - alpha / m * sum(theta - x for theta in thetas)
        x = sum(thetas) / m - h / alpha
    return x


def fednova() -> np.ndarray:
    """Wang et al. 2020, section 4: d_i is the mean of the gradients, tau_eff the mean of the steps."""
    x = np.zeros(FEATURES + 1)
    for _ in range(VERSIONS):
        d = [(x - descended(x, i, lambda w, i=i: gradient(w, i), STEPS[i])) / (LR * STEPS[i]) for i in range(DEVICES)]
        x = x - np.mean(STEPS) * LR * sum(d) / DEVICES
    return x


def qffl() -> np.ndarray:
    """Li et al. 2020, Alg. 2 (q-FedAvg)."""
    q, L = 0.5, 1 / LR
    x = np.zeros(FEATURES + 1)
    for _ in range(VERSIONS):
        deltas, hs = [], []
        for i, steps in enumerate(STEPS):
            F = loss(x, i)
            dw = L * (x - descended(x, i, lambda w, i=i: gradient(w, i), steps))
            deltas.append(F**q * dw)
            hs.append(q * F ** (q - 1) * (dw**2).sum() + L * F**q)
        x = x - sum(deltas) / sum(hs)
    return x


def fedsgd() -> np.ndarray:
    """McMahan et al. 2017, section 2: w <- w - eta sum n_k / n g_k; all n_k are the same here."""
    x = np.zeros(FEATURES + 1)
    for _ in range(VERSIONS):
        x = x - 0.2 * sum(gradient(x, i) for i in range(DEVICES)) / DEVICES
    return x


CASES: dict[str, tuple[ft.Strategy, Callable[[], np.ndarray]]] = {
    "scaffold": (ft.scaffold(DEVICES), scaffold),
    "feddyn": (ft.feddyn(DEVICES, alpha=0.5), feddyn),
    "fednova": (ft.fednova(), fednova),
    "qffl": (ft.qffl(0.5), qffl),
    "fedsgd": (ft.fedsgd(0.2), fedsgd),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_its_papers_algorithm(name: str) -> None:
    """The sums round each report to 2**-36."""
    strategy, algorithm = CASES[name]
    row = trained(strategy, VERSIONS, EFFORTS, EPOCHS, LR)
    assert np.abs(row - algorithm()).max() < 1e-9
    assert np.abs(row - trained(ft.fedavg(), VERSIONS, EFFORTS, EPOCHS, LR)).max() > 1e-3


@pytest.mark.parametrize("recipe", [{"optimizer": "momentum", "momentum": 0.8}, {}], ids=["momentum", "proximal"])
def test_nova_weighs_the_gradients_as_they_stand_in_the_change(recipe: dict) -> None:
    """a_i is the change, over -lr, where every gradient is 1: which a straight loss has (Wang et al. 2020, eq. 4)."""
    lr, mu, steps = 0.1, 0.0 if recipe else 0.7, 5
    x = v = 0.0
    for _ in range(steps):
        v = recipe.get("momentum", 0.0) * v + 1 + mu * x
        x -= lr * v
    (a,) = weighed(np.array([steps]), ft.Recipe(lr=lr, **recipe), mu)
    assert a == pytest.approx(-x / lr, rel=1e-12)


def test_each_model_of_ifca_moves_by_those_who_chose_it() -> None:
    """Ghosh et al. 2020, Alg. 1, option II, on two camps; weights are the samples."""
    method, devices = Clustered(models=2), shards()
    x, others = np.zeros(4), np.ones(4)
    weights = sizes(devices)
    chosen = [int(loss(others, i) < loss(x, i)) for i in range(DEVICES)]
    assert 0 < sum(chosen) < DEVICES
    ends = [descended((x, others)[j], i, lambda w, i=i: gradient(w, i), 4) for i, j in enumerate(chosen)]
    want = [np.mean([end for end, j in zip(ends, chosen, strict=True) if j == k], axis=0) for k in (0, 1)]
    report, moved, state = _reports(method, devices, weights, {"x": x, "others": others})
    assert report["chosen"].argmax(1).tolist() == chosen
    np.testing.assert_allclose(moved, want[0], rtol=1e-12)
    np.testing.assert_allclose(state["others"], want[1], rtol=1e-12)


def test_a_model_is_chosen_once_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def costs(task: ft.Task, give: object, rows: np.ndarray, shards: Sequence[Shard]) -> np.ndarray:
        asked.append(len(shards))
        return local.costs(task, give, rows, shards)

    monkeypatch.setattr("fedthings.methods.method.costs", costs)
    task = ft.Task(model=ft.sequential(FEATURES, ft.dense(1)), loss="mse")
    phase = phases(ft.Federation(task, ft.ifca(3), ft.Pace(goal=8)))[0]
    fit, state = learner(phase).one(
        {"x": np.zeros(4, "f4"), "others": np.ones(8, "f4")}, None, shards()[0], Key(0, "0", 0, 0), 1.0
    )
    assert asked == [1] * 3
    assert fit.report["chosen"].argmax() == state["chosen"] and "personal.loss" in fit.metrics


def test_a_model_is_chosen_where_nothing_is_measured() -> None:
    task = ft.Task(model=ft.sequential(FEATURES, ft.dense(1)), loss="mse")
    method, (shard, key) = Clustered(models=2), (shards()[0], Key(0, "0", 0, 0))
    models, device = {"x": np.zeros(4, "f4"), "others": np.ones(4, "f4")}, Local(task, 0.0, "numpy", 1)
    does = [
        local.trainer(task, silent=silent, work=method.work(device), personal=method.personal(device))
        for silent in (False, True)
    ]
    (loud, chosen), (fit, state) = (learner.one(models, None, shard, key, 1.0) for learner in does)
    assert fit.metrics == {} and state == chosen
    assert all(np.array_equal(rows, loud.report[name]) for name, rows in fit.report.items())


def _reports(method, devices: Sequence[Shard], weights: np.ndarray, models: dict[str, np.ndarray]):
    """Return the reports, and what the first model and the state come to from their exact sums."""
    recipe = ft.Recipe(lr=LR, batch=0, epochs=4)
    task = ft.Task(model=ft.sequential(FEATURES, ft.dense(1)), loss="mse", recipe=recipe)
    keys = [Key(0, str(i), 0, 0) for i in range(DEVICES)]
    device, states = Local(task, 0.0, "numpy", 1), [None] * DEVICES
    if "train" in method.measures:
        _, states = method.personal(device)(models, states, devices, keys)
    report, _, _ = method.work(device)(models, states, devices, keys, [1.0] * DEVICES, weights)
    total = {name: (weights[:, None] * rows).sum(0) / weights.sum() for name, rows in report.items()}
    total["chosen"] = report["chosen"].sum(0)
    state = {"others": models["others"].copy()}
    return report, models["x"] + method.delta(total, int(weights.sum()), state), state
