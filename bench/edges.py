"""Edge rounds beside plain averaging: what it costs until MNIST reaches a target, by k1 and k2 (HierFAVG).

As in Liu et al. 2020, section IV: 50 devices under 5 edges, each device with images of one digit; edges with all ten
digits ("edge IID") or with five ("edge non-IID"); batches of 20 at rate 0.01. A device has 120 images, so a local epoch
is 6 steps; the model is a small MLP instead of their CNN. Two parts: k2 edge rounds of one local epoch, and the same
local work between two versions, k1 x k2 = 10 epochs. A local epoch, and an exchange between device and edge, take a
second each, an exchange with the coordinator ten (the ratio in the paper). The tables have the medians of the seeds.

python bench/edges.py [--seeds 3] [--images 6000] [--target 0.85] [--data DIR]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.learn.mnist import mnist
from fedthings.simulation.world import Outcome, always
from table import table

DEVICES, EDGES = 50, 5
VERSIONS = 400
"""Versions after which a run has not reached the target."""
EPOCH, NEAR, FAR = 1.0, 1.0, 10.0
"""Seconds of a local epoch, of an exchange between device and edge, and between edge and coordinator."""


class Distances(NamedTuple):
    """The seconds of a task: those of an edge are on the way to the coordinator, those of a device near it or far."""

    epochs: int
    flat: bool

    def outcome(self, ticket: Any, now: float, work: Any) -> Outcome:
        if ticket.device.startswith("edge"):
            return Outcome(now + FAR)
        return Outcome(now + self.epochs * EPOCH + (FAR if self.flat else NEAR))

    def changes(self, names: Any) -> Any:
        return always(names)


def fleet(data: tuple[Any, ...], images: int, iid: bool, seed: int) -> ft.Fleet:
    """Return 50 devices with one digit each, five for each digit, under edges of ten or of five digits."""
    X, y = data[0], data[1]
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(X))[:images]
    chosen = chosen[np.argsort(y[chosen], kind="stable")]
    device = np.empty(len(chosen), np.int64)
    for digit in range(10):
        mine = np.flatnonzero(y[chosen] == digit)
        device[mine] = digit * 5 + np.arange(len(mine)) * 5 // len(mine)
    # Device 5 * digit + i is the i-th of its digit.
    if iid:
        homes = {f"device-{d}": f"edge-{d % 5}" for d in range(DEVICES)}
    else:
        free = {digit: [f"device-{5 * digit + i}" for i in range(5)] for digit in range(10)}
        homes = {
            free[(2 * edge + place) % 10].pop(): f"edge-{edge}"
            for edge in range(EDGES)
            for place, count in enumerate((2, 3, 2, 2, 1))  # of each digit all five are given away
            for _ in range(count)
        }
    return ft.Fleet.from_arrays(X[chosen], y[chosen], device).under(homes)


def reach(k1: int, k2: int, data: ft.Fleet, test: tuple[Any, Any], target: float, seed: int) -> ft.Run:
    """Return the run until the target, of `k1` local epochs and `k2` edge rounds; `k2` 0 is without edges."""
    recipe = ft.Recipe(lr=0.01, batch=20, epochs=k1)
    task = ft.Task(model=ft.mlp(784, 64, 10), loss="cross_entropy", recipe=recipe)
    edge, goal = (ft.Edge(k2, patience=1e5), EDGES) if k2 else (None, DEVICES)
    pace = ft.Pace(goal=goal, patience=1e6)
    federation = ft.Federation(task, ft.fedavg(), pace, seed=seed, edge=edge)
    return ft.simulate(federation, data, VERSIONS, test=test, stop={"accuracy": target}, world=Distances(k1, not k2))


def row(name: str, k1: int, k2: int, fleets: list[ft.Fleet], test: tuple[Any, Any], target: float) -> list[str]:
    """Return a line of the table: medians over the seeds."""
    found = []
    for seed, data in enumerate(fleets):
        history = reach(k1, k2, data, test, target, seed).history
        line = history[-1]
        reached = line["test"]["accuracy"] >= target
        moved = sum(one["bytes_up"] + one["bytes_down"] for one in history) / 1e6
        found.append((len(history), line["time"], moved, len(history) * max(k2, 1) * k1) if reached else None)
    good = [one for one in found if one is not None]
    if len(good) < len(found):
        return [name, str(k1), str(k2 or "-"), f"not in {VERSIONS}", "", "", ""]
    versions, seconds, moved, epochs = (median(column) for column in zip(*good, strict=True))
    return [name, str(k1), str(k2 or "-"), f"{versions:g}", f"{seconds:,.0f}", f"{moved:,.1f}", f"{epochs:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--target", type=float, default=0.85)
    default = os.environ.get("FEDTHINGS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default)
    options = parser.parse_args()
    X, y, test_X, test_y = mnist(Path(options.data) / "mnist")
    data, test = (X.reshape(-1, 784), y), (test_X.reshape(-1, 784), test_y)
    head = [
        "devices under an edge",
        "k1, epochs",
        "k2",
        "versions",
        "seconds",
        "MB at the coordinator",
        "epochs a device",
    ]
    parts = {
        "k2 edge rounds of one local epoch": [(1, 0), (1, 1), (1, 2), (1, 5), (1, 10)],
        "as much local work between two versions, k1 x k2 = 10": [(10, 0), (10, 1), (5, 2), (2, 5), (1, 10)],
    }
    for title, pairs in parts.items():
        rows = []
        for name, iid in (("all ten digits", True), ("five digits", False)):
            fleets = [fleet(data, options.images, iid, seed) for seed in range(options.seeds)]
            rows += [row(name, k1, k2, fleets, test, options.target) for k1, k2 in pairs]
        print(f"\n{title}; to {options.target:.0%}, {options.images} images, {options.seeds} seeds\n")
        table(head, rows)


if __name__ == "__main__":
    main()
