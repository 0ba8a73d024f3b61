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


def train(strategy: ft.Strategy, seed: int, share: float = 0.9) -> tuple[float, float, ft.Run]:
    """Return training loss and test accuracy over all 30 devices, means of the last versions, and the run."""
    fleet = ft.synthetic(1, 1, 30, seed)
    shards = [fleet.shard(name) for name in fleet.names]
    task = ft.Task(
        model=ft.sequential(60, ft.dense(10)),
        loss="cross_entropy",
        recipe=ft.Recipe(lr=0.01, batch=10, epochs=EPOCHS),
    )
    spec = ft.Federation(task, strategy, ft.Pace(goal=10, patience=SECONDS), seed=seed, devices=30)
    found = []
    for X, y in (("X", "y"), ("test_X", "test_y")):
        pooled = np.concatenate([getattr(s, X) for s in shards]), np.concatenate([getattr(s, y) for s in shards])
        found.append(ft.simulate(spec, fleet, ROUNDS, test=pooled, world=Stragglers(share, seed)))
    (loss, accuracy) = (
        fmean(line["test"][name] for line in run.history[-LAST:])
        for run, name in zip(found, ("loss", "accuracy"), strict=True)
    )
    return loss, accuracy, found[0]


@pytest.mark.long
def test_fedprox_with_partial_work_beside_fedavg_that_drops_stragglers() -> None:
    """Synthetic(1, 1), 30 devices, 10 a round, 90 % stragglers, E = 20, mu = 1, their learning rate and batch."""
    table = []
    for seed in range(3):
        average, average_accuracy, dropped = train(ft.fedavg(), seed)
        prox, prox_accuracy, kept = train(ft.fedprox(mu=1.0), seed)
        print(
            f"seed {seed}: loss {prox:.3f} of FedProx, {average:.3f} of FedAvg ({prox / average:.2f}); "
            f"accuracy {prox_accuracy:.3f}, {average_accuracy:.3f}"
        )
        assert fmean(line["updates"] for line in kept.history) == 10
        assert fmean(line["updates"] for line in dropped.history) < 2
        table.append((prox / average, prox_accuracy - average_accuracy))
    assert fmean(ratio for ratio, _ in table) <= 0.6
    assert fmean(gain for _, gain in table) >= 0.05
