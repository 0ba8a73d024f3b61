"""Every method on three splits of MNIST, each tuned alike: nine settings with one seed, then five seeds of the best.

6,000 images on 50 devices, 10 a round, 50 rounds, E = 1, B = 20, a model of one hidden layer. A figure is the accuracy
on 2,000 test images, the mean of the last five rounds, and its standard deviation over seeds, which draw split, model
and devices. A setting is a rate of the devices and one of what the method has: its own parameter, or the server's rate.

python bench/algorithms.py [--data ../shared/data] [--only scaffold,fedavg]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands

import numpy as np

import fedthings as ft
from fedthings.learn.mnist import mnist
from table import table

DEVICES, IMAGES, TESTED, ROUNDS, LAST = 50, 6000, 2000, 50, 5
RATES, SEEDS = (0.1, 0.3, 0.6), range(1, 6)
SPLITS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "IID": lambda y, seed: ft.partition.iid(y, DEVICES, seed),
    "two shards": lambda y, seed: ft.partition.shards(y, DEVICES, 2, seed),
    "Dirichlet(0.1)": lambda y, seed: ft.partition.dirichlet(y, DEVICES, 0.1, seed),
}
METHODS: dict[str, tuple[str, tuple[float, ...], Callable[[float], ft.Strategy]]] = {
    "fedavg": ("server lr", (0.5, 1.0, 1.5), lambda v: ft.fedavg(step=ft.sgd(v))),
    "fedsgd": ("server lr", (0.3, 1.0, 3.0), lambda v: ft.fedsgd(v)),
    "fedavgm": ("momentum", (0.5, 0.7, 0.9), lambda v: ft.fedavgm(momentum=v)),
    "fedadagrad": ("server lr", (0.01, 0.03, 0.1), lambda v: ft.fedadagrad(v)),
    "fedadam": ("server lr", (0.003, 0.01, 0.03), lambda v: ft.fedadam(v)),
    "fedyogi": ("server lr", (0.003, 0.01, 0.03), lambda v: ft.fedyogi(v)),
    "fedprox": ("mu", (0.01, 0.1, 1.0), lambda v: ft.fedprox(v)),
    "fednova": ("server lr", (0.5, 1.0, 1.5), lambda v: ft.fednova(step=ft.sgd(v))),
    "scaffold": ("server lr", (0.5, 1.0, 1.5), lambda v: ft.scaffold(DEVICES, ft.sgd(v))),
    "feddyn": ("alpha", (0.01, 0.1, 1.0), lambda v: ft.feddyn(DEVICES, v)),
    "qffl": ("q", (0.1, 0.5, 2.0), lambda v: ft.qffl(v)),
    "mixing": ("alpha", (0.1, 0.3, 0.5), lambda v: ft.mixing(v)),
}


def main() -> None:
    """Print a table of accuracies, and one of the settings that were best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDTHINGS_DATA", beside)))
    parser.add_argument("--only", default=",".join(METHODS), help="methods, such as fedavg,scaffold")
    options = parser.parse_args()
    X, y, test_X, test_y = mnist(options.data / "mnist")
    X, y = X[:IMAGES].reshape(-1, 784), y[:IMAGES]
    test = test_X[:TESTED].reshape(-1, 784), test_y[:TESTED]

    def accuracy(strategy: ft.Strategy, split: str, lr: float, seed: int) -> float:
        fleet = ft.Fleet.from_arrays(X, y, SPLITS[split](y, seed))
        recipe = ft.Recipe(lr=lr, batch=20, epochs=1)
        task = ft.Task(model=ft.mlp(784, 50, 10), loss="cross_entropy", recipe=recipe)
        spec = ft.Federation(task, strategy, ft.Pace(goal=10), seed=seed)
        run = ft.simulate(spec, fleet, ROUNDS, test=test)
        return fmean(line["test"]["accuracy"] for line in run.history[-LAST:])

    began, lines, settings = time.monotonic(), [], []
    for name in options.only.split(","):
        what, values, build = METHODS[name]
        grid = list(product(RATES, values))
        if name == "fedsgd":  # the devices' rate plays no part: nine of the server's
            grid = [(0.1, v) for v in (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0)]
        cells, chosen = [], []
        for split in SPLITS:
            lr, value = max(grid, key=lambda one: accuracy(build(one[1]), split, one[0], 0))
            found = [accuracy(build(value), split, lr, seed) for seed in SEEDS]
            cells.append(f"{100 * fmean(found):.1f} ± {100 * stdev(found):.1f}")
            chosen.append(f"{what} {value:g}" + ("" if name == "fedsgd" else f", lr {lr:g}"))
        lines.append([f"`{name}`", *cells])
        settings.append([f"`{name}`", *chosen])
        print(f"{name}: {cells} {chosen}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    table(["method", *SPLITS], lines)
    print()
    table(["settings", *SPLITS], settings)


if __name__ == "__main__":
    main()
