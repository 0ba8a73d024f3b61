"""The workloads that every system trains: model, data, devices of a round, work, and what a result is judged by.

NumPy only, since each system runs in an environment of its own. Samples are channels last; parameters are a list
`[weight, bias, weight, bias, ...]`, weights `(*window, inputs, units)`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parameters = list[Array]

BEGAN = "FEDTHINGS_BENCH_BEGAN"
"""The variable of the environment with the time at which the driver started the system's first process."""
EXAMINED = 2000
"""Samples of the central test set."""


@dataclass(frozen=True)
class Workload:
    """`devices` with `samples` each, of which `cohort` train a round: one epoch of SGD in batches of `batch`.

    `filters` are convolutions of window 5 with "same" padding, relu and a max-pool of 2; `units` are dense layers,
    relu between. One output is a logit of two classes.
    """

    name: str
    title: str
    input: tuple[int, ...]
    filters: tuple[int, ...]
    units: tuple[int, ...]
    devices: int
    samples: int
    cohort: int
    batch: int
    lr: float
    contrast: float
    """How far the classes' prototypes lie from each other, in deviations of the noise."""
    rounds: int
    """Rounds of a run, enough for a median."""

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return max(2, self.units[-1])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each parameter."""
        found: list[tuple[int, ...]] = []
        size, axes = self.input, len(self.input) - 1
        for filters in self.filters:
            found += [((5,) * axes + (size[-1], filters)), (filters,)]
            size = (*(n // 2 for n in size[:-1]), filters)
        inputs = prod(size)
        for units in self.units:
            found += [(inputs, units), (units,)]
            inputs = units
        return found

    @property
    def flops(self) -> int:
        """What a device computes in a round: forward, the weights' gradients, and from layer 2 on the inputs'."""
        places, size = [], self.input
        for filters in self.filters:
            places.append(prod(size[:-1]))
            size = (*(n // 2 for n in size[:-1]), filters)
        places += [1] * len(self.units)
        products = [n * prod(shape) for n, shape in zip(places, self.shapes[::2], strict=True)]
        return 2 * self.samples * (2 * sum(products) + sum(products[1:]))

    def parameters(self) -> Parameters:
        """Return the model that every system begins with: uniform within 1 / sqrt(inputs), biases 0."""
        random = np.random.default_rng(11)
        limits = [1 / sqrt(prod(shape[:-1])) if len(shape) > 1 else 0.0 for shape in self.shapes]
        pairs = zip(limits, self.shapes, strict=True)
        return [random.uniform(-limit, limit, shape).astype(np.float32) for limit, shape in pairs]

    def draw(self, count: int, seed: int) -> tuple[Array, Array]:
        """Return samples `(count, *input)` float32 and labels `(count,)` int64: noise around the class' prototype."""
        prototypes = np.random.default_rng(17).standard_normal((self.classes, *self.input), np.float32)
        random = np.random.default_rng((29, seed))
        y = random.integers(0, self.classes, count)
        X = random.standard_normal((count, *self.input), np.float32)
        for label in range(self.classes):
            X[y == label] += np.float32(self.contrast) * prototypes[label]
        return X, y

    def data(self, directory: Path) -> tuple[Array, Array]:
        """Return X `(devices, samples, *input)` and y `(devices, samples)`, mapped from files that are made once."""
        paths = [directory / f"{self.name}-{self.devices}-{part}.npy" for part in "Xy"]
        if not all(path.exists() for path in paths):
            directory.mkdir(parents=True, exist_ok=True)
            X, y = self.draw(self.devices * self.samples, 1)
            X = X.reshape(self.devices, self.samples, *self.input)
            for path, array in zip(paths, (X, y.reshape(self.devices, -1)), strict=True):
                partial = path.with_name(f"{path.name}.{os.getpid()}.npy")
                np.save(partial, array)
                partial.replace(path)
        X, y = (np.load(path, mmap_mode="r") for path in paths)
        return X, y

    def sample(self, number: int) -> list[int]:
        """Return the devices of round `number`, drawn without replacement."""
        drawn = np.random.default_rng((31, number)).choice(self.devices, self.cohort, replace=False)
        return sorted(int(device) for device in drawn)

    def examine(self, parameters: Sequence[Array]) -> tuple[float, float]:
        """Return accuracy and loss of a model on the central test set."""
        X, y = self.draw(EXAMINED, 2)
        z = np.concatenate([self._outputs(parameters, X[i : i + 50]) for i in range(0, len(X), 50)])
        if z.shape[1] == 1:  # a logit: the other class has 0
            z = np.concatenate([np.zeros_like(z), z], 1)
        z = z.astype(np.float64) - z.max(1, keepdims=True)
        losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
        return float((z.argmax(1) == y).mean()), float(losses.mean())

    def _outputs(self, parameters: Sequence[Array], X: Array) -> Array:
        """Return the outputs `(n, units[-1])` for `X` `(n, *input)`."""
        pairs = [(np.asarray(W), np.asarray(b)) for W, b in zip(parameters[::2], parameters[1::2], strict=True)]
        axes = tuple(range(1, X.ndim - 1))
        for W, b in pairs[: len(self.filters)]:
            padded = np.pad(X, [(0, 0), *[(2, 2)] * len(axes), (0, 0)])
            windows = np.lib.stride_tricks.sliding_window_view(padded, (5,) * len(axes), axes)
            # (n, *places, channels, *window) with (*window, channels, filters)
            over = list(range(windows.ndim - len(axes), windows.ndim))
            X = np.tensordot(windows, W, ([*over, windows.ndim - len(axes) - 1], [*range(len(axes) + 1)])) + b
            for axis in axes:
                shape = (*X.shape[:axis], X.shape[axis] // 2, 2, *X.shape[axis + 1 :])
                X = X.reshape(shape).max(axis + 1)
            X = np.maximum(X, 0)
        X = X.reshape(len(X), -1)
        for i, (W, b) in enumerate(pairs[len(self.filters) :]):
            X = (np.maximum(X, 0) if i else X) @ W + b
        return X


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "MLP 784-10-1", (784,), (), (10, 1), 10, 100, 10, 32, 0.1, 0.25, 100),
        Workload("W2", "MLP 784-200-200-10", (784,), (), (200, 200, 10), 1000, 60, 100, 10, 0.05, 0.25, 8),
        Workload("W3", "1-D CNN, 128 x 9", (128, 9), (32, 64), (128, 6), 300, 100, 30, 20, 0.1, 1.0, 6),
        Workload("W4", "LEAF CNN, 28 x 28", (28, 28, 1), (32, 64), (512, 62), 100, 100, 10, 20, 0.1, 1.0, 8),
        Workload("W5", "logistic 64-10", (64,), (), (10,), 10_000, 20, 10_000, 20, 0.1, 1.2, 4),
    )
}


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that every system's script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=0, help="rounds to train; 0: the workload's own number")
    parser.add_argument("--cohort", type=int, default=0, help="devices of a round; 0: the workload's own number")
    parser.add_argument("--data", type=Path, default=Path(".bench/data"), help="where the data is kept")
    return parser


def chosen(given: argparse.Namespace) -> Workload:
    """Return the workload that a command line asks for."""
    workload = WORKLOADS[given.workload]
    cohort = given.cohort or workload.cohort
    return replace(workload, cohort=cohort, rounds=given.rounds or workload.rounds)


class Watch:
    """The times of a run's rounds; `first` is the time of day at which the first one was complete."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self.first = 0.0
        self._begun = time.perf_counter()

    def begin(self) -> None:
        """Begin a round."""
        self._begun = time.perf_counter()

    def end(self) -> None:
        """End a round, and begin the next."""
        now = time.perf_counter()
        self.rounds.append(now - self._begun)
        self._begun = now
        self.first = self.first or time.time()


def tell(system: str, workload: Workload, watch: Watch, parameters: Sequence[Array], **more: Any) -> None:
    """Print the one line of JSON that the driver reads.

    The first round, which warms up, is not in `rate`, updates a second by the median round; `start` is the seconds
    from the first process to the end of the first round, less a median one.
    """
    accuracy, loss = workload.examine(parameters)
    steady = watch.rounds[1:] or watch.rounds
    median = float(np.median(steady))
    line = {
        "system": system,
        "workload": workload.name,
        "cohort": workload.cohort,
        "rounds": len(watch.rounds),
        "rate": workload.cohort / median,
        "start": watch.first - began() - median,
        "accuracy": accuracy,
        "loss": loss,
        "seconds": [round(seconds, 6) for seconds in watch.rounds],
        **more,
    }
    print(json.dumps(line), flush=True)


def began() -> float:
    """Return the time of day at which the driver, or else the system, started this process."""
    if BEGAN in os.environ:
        return float(os.environ[BEGAN])
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
