"""FedProx, which takes what stragglers have done, beside FedAvg, which drops them (Li et al. 2020, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pytest

import fedthings as ft
from fedthings.protocol.events import Ticket
from fedthings.simulation.world import Change, Outcome, Work, always
from fedthings.vector import digest

EPOCHS, ROUNDS, LAST, SECONDS = 20, 200, 20, 60.0


class Stragglers(NamedTuple):
    """With probability `share` a task gets through 1 to 19 of its 20 epochs before the deadline (section 5.2)."""

    share: float
    seed: int = 0

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        bits = digest(self.seed, *ticket)
        if (bits >> 64) / 2**64 >= self.share:
            return Outcome(now + SECONDS / 2)
        if until == inf:  # it is to do all of the work
            return Outcome(now + 2 * SECONDS)
        return Outcome(now + 0.9 * SECONDS, effort=(1 + bits % (EPOCHS - 1)) / EPOCHS)

    def changes(self, names: Sequence[str]) -> Iterator[Change]:
        return always(names)


def synthetic(devices: int = 30) -> ft.Fleet:
    """Return Synthetic(1, 1) as the authors' own code draws it, with its seed and in its order (section 5.1)."""
    draw = np.random.RandomState(0)
    sizes = draw.lognormal(4, 2, devices).astype(int) + 50
    models, middles = draw.normal(0, 1, devices), draw.normal(0, 1, devices)
    centers = [draw.normal(middle, 1, 60) for middle in middles]
    X, y = [], []
    for size, model, center in zip(sizes, models, centers, strict=True):
        W, b = draw.normal(model, 1, (60, 10)), draw.normal(model, 1, 10)
        x = draw.multivariate_normal(center, np.diag(np.arange(1, 61) ** -1.2), size)
        X.append(x.astype(np.float32))
        y.append((x @ W + b).argmax(1))
    split = np.concatenate([np.arange(size) >= int(0.9 * size) for size in sizes])
    return ft.Fleet.from_arrays(np.concatenate(X), np.concatenate(y), np.repeat(np.arange(devices), sizes), split)


def train(strategy: ft.Strategy, pace: ft.Pace, seed: int) -> tuple[float, float, ft.Run]:
    """Return training loss and test accuracy over all 30 devices, means of the last versions, and the run."""
    fleet = synthetic()
    shards = [fleet.shard(name) for name in fleet.names]
    recipe = ft.Recipe(lr=0.01, batch=10, epochs=EPOCHS)
    task = ft.Task(model=ft.sequential(60, ft.dense(10)), loss="cross_entropy", recipe=recipe)
    spec = ft.Federation(task, strategy, pace, seed=seed, devices=30)
    found, runs = [], []
    for X, y, name in (("X", "y", "loss"), ("test_X", "test_y", "accuracy")):
        pooled = np.concatenate([getattr(s, X) for s in shards]), np.concatenate([getattr(s, y) for s in shards])
        runs.append(ft.simulate(spec, fleet, ROUNDS, test=pooled, world=Stragglers(0.9, seed)))
        found.append(fmean(line["test"][name] for line in runs[-1].history[-LAST:]))
    return found[0], found[1], runs[0]


@pytest.mark.long
def test_fedprox_with_partial_work_beside_fedavg_that_drops_stragglers() -> None:
    """30 devices, 10 asked a round, 90 % of them stragglers, E = 20, mu = 1, their learning rate and batch.

    Of FedAvg's ten one counts, as in the authors' code: the first that is not a straggler.
    """
    dropped, kept = ft.Pace(goal=1, concurrency=10, patience=SECONDS), ft.Pace(goal=10, patience=SECONDS)
    average = [train(ft.fedavg(), dropped, seed) for seed in range(3)]
    prox = [train(ft.fedprox(mu=1.0), kept, seed) for seed in range(3)]
    for name, runs in (("FedAvg", average), ("FedProx", prox)):
        print(name, ", ".join(f"loss {loss:.3f} accuracy {accuracy:.3f}" for loss, accuracy, _ in runs))
    assert all(line["updates"] == 1 for _, _, run in average for line in run.history)
    assert all(line["updates"] == 10 for _, _, run in prox for line in run.history)
    assert fmean(loss for loss, _, _ in prox) <= 0.6 * fmean(loss for loss, _, _ in average)
    assert fmean(right for _, right, _ in prox) >= 0.05 + fmean(right for _, right, _ in average)
