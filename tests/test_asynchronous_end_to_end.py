"""FedAsync and FedBuff as whole runs with stale reports, against their papers' formulas as plain loops: to 1e-6."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn.local import trainer
from fedthings.simulation.world import Uneven
from fedthings.vector import Key, keyed
from virtual import Virtual

VERSIONS, SEED = 25, 9
SLOW = Uneven(median=2.0, spread=1.2, lost=0.1, seed=4)
TASK = ft.Task(model=ft.mlp(5, 6, 3), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=8, epochs=2))


def fleet() -> ft.Fleet:
    rng = keyed("asynchronous end to end")
    X = rng.normal(0, 1, (240, 5)).astype(np.float32)
    y = (X @ rng.normal(0, 1, (5, 3))).argmax(1)
    return ft.Fleet.from_arrays(X, y, rng.choice(8, 240))


def kept(trace: Path) -> Iterator[list[tuple[int, str, int, int]]]:
    """Yield (version trained from, device, attempt, lag) of the reports that made each version."""
    reports = []
    for line in trace.read_text().splitlines():
        for kind, *fields in json.loads(line)[2:]:
            if kind == "keep" and fields[0][0] == 0:
                (_, version, device, attempt), lag = fields
                reports.append((version, device, attempt, lag))
            elif kind == "advance" and fields[0] == 0:
                yield reports
                reports = []


def delta(theta, things, version, device, attempt, mu=0.0):
    """Return what the device's own work adds to `theta`, in float64."""
    local, key = trainer(TASK, mu), Key(SEED, device, version, attempt)
    fit, _ = local.one({"x": theta}, local.init(), things.shard(device), key, 1.0)
    return fit.report["x"]


SCHEDULES = {
    "constant": (ft.constant(), lambda lag: 1.0),
    "polynomial": (ft.polynomial(0.5), lambda lag: (1 + lag) ** -0.5),
    "hinge": (ft.hinge(10, 2), lambda lag: 1.0 if lag <= 2 else 1 / (10 * (lag - 2) + 1)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_fedasync_is_the_mixing_rule(name, tmp_path):
    """x_t = (1 - alpha_t) x_{t-1} + alpha_t x_new, alpha_t = alpha s(t - tau) (Xie et al. 2019, Alg. 1)."""
    schedule, s = SCHEDULES[name]
    alpha, mu, things = 0.6, 0.05, fleet()
    pace = ft.Pace(goal=1, concurrency=6, patience=30.0, staleness=12)
    federation = ft.Federation(TASK, ft.fedasync(alpha, schedule, mu), pace, seed=SEED)
    run = ft.simulate(federation, things, VERSIONS, world=SLOW, out=tmp_path, trace=True)
    thetas, lags = [TASK.model.init(SEED).astype(np.float64)], set()
    for ((version, device, attempt, lag),) in kept(tmp_path / "trace.jsonl"):
        assert lag == len(thetas) - 1 - version
        new = thetas[version] + delta(thetas[version], things, version, device, attempt, mu)
        share = alpha * s(lag)
        thetas.append((1 - share) * thetas[-1] + share * new)
        lags.add(lag)
    assert len(thetas) == VERSIONS + 1
    assert len(lags) > 4
    assert np.abs(run.row - thetas[-1]).max() / np.abs(thetas[-1]).max() < 1e-6


def buffered(momentum: float = 0.0) -> ft.Federation:
    pace = ft.Pace(goal=3, concurrency=7, patience=30.0, staleness=9)
    return ft.Federation(TASK, ft.fedbuff(lr=0.9, momentum=momentum), pace, seed=SEED)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fedbuff_is_its_algorithm(momentum, tmp_path):
    """w <- w + lr / K sum of s(lag) delta, s(lag) = 1 / sqrt(1 + lag) (Nguyen et al. 2022, Alg. 1 and section 5)."""
    things = fleet()
    run = ft.simulate(buffered(momentum), things, VERSIONS, world=SLOW, out=tmp_path, trace=True)
    thetas, lags, v = [TASK.model.init(SEED).astype(np.float64)], set(), 0.0
    for reports in kept(tmp_path / "trace.jsonl"):
        assert len(reports) == 3
        total = 0.0
        for version, device, attempt, lag in reports:
            assert lag == len(thetas) - 1 - version
            total = total + delta(thetas[version], things, version, device, attempt) / np.sqrt(1 + lag)
            lags.add(lag)
        v = momentum * v + total / 3
        thetas.append(thetas[-1] + 0.9 * v)
    assert len(thetas) == VERSIONS + 1
    assert len(lags) > 2
    # A share is rounded to a 65,536th: 7.6e-6 of one device's delta, far below the model itself.
    assert np.abs(run.row - thetas[-1]).max() / np.abs(thetas[-1]).max() < 2e-5


def test_fedbuff_is_the_same_in_both_worlds(tmp_path):
    simulated = ft.simulate(buffered(), fleet(), VERSIONS, world=SLOW)
    served = Virtual(buffered(), fleet(), VERSIONS, tmp_path, SLOW).run()
    assert np.array_equal(simulated.row, served.row)
    assert simulated.history == served.history


def test_fedbuff_does_not_depend_on_workers():
    one = ft.simulate(buffered(), fleet(), 6, world=SLOW)
    assert np.array_equal(one.row, ft.simulate(buffered(), fleet(), 6, world=SLOW, workers=2).row)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ft.Strategy(staleness=ft.polynomial()), 'strategy.weight is "samples" beside strategy.staleness'),
        (
            lambda: ft.Strategy(weight="equal", staleness=ft.hinge(), step=ft.mixing(0.5).step),
            "beside mixing, which has a schedule",
        ),
        (lambda: ft.fedasync(alpha=1.5), "alpha is 1.5"),
    ],
)
def test_what_cannot_be_right_is_refused(make, words):
    with pytest.raises(SpecError, match=words):
        make()
