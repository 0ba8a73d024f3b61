"""Whether devices with a PyTorch module train faster at once (torch.func.vmap) than one by one, and our engine beside.

Cohorts of 64 devices with 60 samples each, batch 16, one epoch, one thread; the median of several, by turns. With
--simulate N it simulates N devices instead, all of them in each version: as a list of layers with the engine and the
threads that are chosen where nothing is said, then as a module.

python bench/torch_at_once.py [--devices 64] [--repeats 7] [--device cpu|cuda] [--simulate 1024]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

os.environ.update({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import numpy as np
from torch import nn

import fedthings as ft
from fedthings.learn import local, own_learner
from fedthings.learn.data import Shard
from fedthings.learn.learner import Learner
from fedthings.learn.lift import Lifted
from fedthings.vector import Array, Key

sys.path.insert(0, str(Path(__file__).parent))  # where the models are found by their names
RECIPE = ft.Recipe(lr=0.1, batch=16)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def images8() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))


def images28() -> nn.Module:
    first = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10))


def leaf() -> nn.Module:
    """LEAF's network for FEMNIST (Caldas et al. 2018): workload W4 of bench/simulator.py."""
    first = nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 62))


def cnn(side: int, *filters: int) -> ft.Sequential:  # type: ignore[name-defined]
    layers = [layer for n in filters for layer in (ft.conv2d(n, 3, activation="relu"), ft.max_pool(2))]
    return ft.sequential((side, side, 1), *layers, ft.flatten(), ft.dense(10))


def wide_cnn() -> ft.Sequential:  # type: ignore[name-defined]
    layers = [layer for n in (32, 64) for layer in (ft.conv2d(n, 5, padding="same", activation="relu"), ft.max_pool(2))]
    return ft.sequential((28, 28, 1), *layers, ft.flatten(), ft.dense(512, "relu"), ft.dense(62))


MODELS = {
    "mlp 64-32-10": (small, (64,), ft.mlp(64, 32, 10)),
    "mlp 784-200-10": (wide, (784,), ft.mlp(784, 200, 10)),
    "CNN 8x8, 8 filters": (images8, (1, 8, 8), cnn(8, 8)),
    "CNN 28x28, 8 and 16 filters": (images28, (1, 28, 28), cnn(28, 8, 16)),
    "CNN 28x28, 32 and 64 filters, 512": (leaf, (1, 28, 28), wide_cnn()),
}


def net(number: int, at_once: bool, cuda: bool) -> Lifted:
    """Return one of the models as a module of PyTorch."""
    build, shape, _ = list(MODELS.values())[number]
    return ft.with_torch(build, input=shape, at_once=at_once, device="cuda" if cuda else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--simulate", type=int, default=0, metavar="N", help="simulate N devices instead")
    chosen = parser.parse_args()
    if chosen.simulate:
        simulated(chosen.simulate, chosen.device == "cuda", chosen.repeats)
        return
    print(f"{chosen.devices} devices, {chosen.device}, load {os.getloadavg()[0]:.1f}; updates a second\n")
    print("| model | one by one | at once | ratio | NumPy engine |")
    print("|---|---|---|---|---|")
    for number, (name, (_, shape, portable)) in enumerate(MODELS.items()):
        X, y = samples(chosen.devices, shape)
        works = [cohort(portable, X.reshape(*X.shape[:2], *portable.input), y)]
        for at_once in (False, True):
            own = ft.own("torch_at_once:net", number=number, at_once=at_once, cuda=chosen.device == "cuda")
            works.append(cohort(own, X, y))
        medians = [median(times) for times in zip(*by_turns(works, chosen.repeats), strict=True)]
        ours, single, together = (chosen.devices / seconds for seconds in medians)
        print(f"| {name} | {single:,.0f} | {together:,.0f} | {together / single:.1f} | {ours:,.0f} |", flush=True)


def samples(devices: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return X `(devices, 60, *shape)` and y `(devices, 60)`."""
    X = np.random.default_rng(0).normal(size=(devices, 60, *shape)).astype("f4")
    return X, np.random.default_rng(1).integers(0, 10, (devices, 60))


def simulated(devices: int, cuda: bool, repeats: int) -> None:
    """Print the updates a second of simulations, by the median version, the first left out."""
    print(f"{'GPU' if cuda else 'CPU'}, load {os.getloadavg()[0]:.1f}; updates a second in a simulation\n")
    print("| model | devices | list of layers | engine | module | engine |")
    print("|---|---|---|---|---|---|")
    for number, (name, (_, shape, portable)) in enumerate(MODELS.items()):
        count = min(devices, max(1, (1 << 26) // portable.layout.dim))  # what a version's reports take in memory
        X, y = samples(count, shape)
        cells = []
        for model in (portable, ft.own("torch_at_once:net", number=number, at_once=True, cuda=cuda)):
            owners = np.repeat(np.arange(count), 60)
            fleet = ft.Fleet.from_arrays(X.reshape(-1, *model.input), y.reshape(-1), owners)
            task, times = ft.Task(model=model, loss="cross_entropy", recipe=RECIPE), list[float]()
            spec = ft.Federation(task, pace=ft.Pace(goal=count, concurrency=count))
            # A line is told when the next version is made, the last one at once: so there are two times more.
            run = ft.simulate(spec, fleet, repeats + 2, on_version=_noting(times))
            cells.append(f"{count / median(np.diff(times)[:-1]):,.0f} | {run.summary['engine']['trains']}")
        print(f"| {name} | {count} | {' | '.join(cells)} |", flush=True)


def _noting(times: list[float]) -> Callable[[object], None]:
    return lambda line: times.append(time.perf_counter())


def cohort(model: object, X: Array, y: Array) -> Callable[[], object]:
    """Return the training of `model` on all devices from one row."""
    task = ft.Task(model=model, loss="cross_entropy", recipe=RECIPE)  # type: ignore[arg-type]
    learner: Learner = own_learner.trainer(task) if hasattr(model, "made") else local.trainer(task, engine="numpy")
    shards = [Shard(X[i], y[i], X[i, :0], y[i, :0]) for i in range(len(X))]
    keys = [Key(0, f"device-{i}", 0, 0) for i in range(len(X))]
    row = {"x": task.model.init(0)}
    return lambda: learner.many(row, [None] * len(X), shards, keys, [1.0] * len(X))


def by_turns(works: Sequence[Callable[[], object]], repeats: int) -> Iterator[list[float]]:
    """Yield the seconds of each of `works`, done by turns, after one turn that does not count."""
    for turn in range(repeats + 1):
        seconds = []
        for work in works:
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        if turn:
            yield seconds


if __name__ == "__main__":
    main()
