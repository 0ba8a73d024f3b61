"""How fast the kernels train: the five workloads of the project, whole calls of `train`, on two threads.

    python kernels/bench.py [--threads 2] [--seconds 3] [--only W2]

Prints client-updates a second (median, and the best call), GFLOP/s, and the share of what this machine's matrix
product of 2048 x 2048 reaches meanwhile with as many threads (PyTorch where it is installed, otherwise NumPy).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from math import ceil
from typing import Any

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--seconds", type=float, default=3.0, help="for each workload")
arguments.add_argument("--only", default="", help="workloads, such as W2,W4")
arguments.add_argument("--plain", action="store_true", help="samples in their own order")
arguments.add_argument("--momentum", type=float, default=-1.0)
arguments.add_argument("--mu", type=float, default=0.0)
options = arguments.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import fedthings_kernels as kernels  # noqa: E402
import numpy as np  # noqa: E402  # the threads of its products are set above

LINE, IMAGE = (128, 9), (28, 28, 1)
CNN = [
    ("conv2d", 32, 5, 1, "same", "relu"),
    ("max_pool", 2, 2),
    ("conv2d", 64, 5, 1, "same", "relu"),
    ("max_pool", 2, 2),
]
CNN1 = [
    ("conv1d", 32, 5, 1, "same", "relu"),
    ("max_pool", 2, 2),
    ("conv1d", 64, 5, 1, "same", "relu"),
    ("max_pool", 2, 2),
]
WORKLOADS: dict[str, tuple[str, tuple[int, ...], list[Any], str, int, int, int, float, list[int]]] = {
    # what, input, layers, loss, devices, samples, batch, multiply-adds of each layer with parameters
    "W1": ("MLP 784-10-1", (784,), [("dense", 10, "relu"), ("dense", 1, "linear")], "binary_cross_entropy", 10, 100, 32, 0.1,
           [7840, 10]),
    "W2": ("MLP 784-200-200-10", (784,), [("dense", 200, "relu"), ("dense", 200, "relu"), ("dense", 10, "linear")],
           "cross_entropy", 100, 60, 10, 0.05, [156800, 40000, 2000]),
    "W3": ("1-D CNN, 128 x 9", LINE, [*CNN1, ("flatten",), ("dense", 128, "relu"), ("dense", 6, "linear")], "cross_entropy",
           30, 100, 20, 0.1, [128 * 9 * 5 * 32, 64 * 32 * 5 * 64, 2048 * 128, 128 * 6]),
    "W4": ("CNN, 28 x 28", IMAGE, [*CNN, ("flatten",), ("dense", 512, "relu"), ("dense", 62, "linear")], "cross_entropy",
           10, 100, 20, 0.1, [784 * 25 * 32, 196 * 25 * 32 * 64, 3136 * 512, 512 * 62]),
    "W5": ("logistic 64-10", (64,), [("dense", 10, "linear")], "cross_entropy", 10000, 20, 20, 0.1, [640]),
}  # fmt: skip


def call(name: str) -> tuple[Callable[[], None], int, float]:
    """Return one call of `train`, its client-updates and its GFLOP."""
    _, shape, layers, loss, n, size, batch, lr, work = WORKLOADS[name]
    rng = np.random.default_rng(1)
    program = kernels.Program(shape, layers, loss)
    X = rng.standard_normal((n, size, *shape), dtype=np.float32)
    binary = loss == "binary_cross_entropy"
    y = rng.integers(0, 2 if binary else program.outputs, (n, size)).astype(np.float32 if binary else np.int64)
    places = [np.arange(n, dtype=np.uint64) * np.uint64(a.strides[0]) + np.uint64(a.ctypes.data) for a in (X, y)]
    sizes, steps = np.full(n, size), np.full(n, ceil(size / batch))
    received = (rng.standard_normal(program.dim) * 0.03).astype(np.float32)
    keys = None if options.plain else rng.integers(0, 2**63, n).astype(np.uint64)
    change, seen = np.zeros((n, program.dim), np.float32), np.zeros((n, 2), np.int64)

    def run() -> None:
        kernels.train(
            program, *places, sizes, received, keys=keys, steps=steps, batch=batch, epochs=1, lr=lr,
            momentum=options.momentum, decay=0.0, mu=options.mu, change=change, seen=seen, threads=options.threads,
        )  # fmt: skip
        assert X.size and y.size

    # Forward and the slope by the weights for all layers, the slope by the input for all but the first.
    return run, n, n * size * 2 * (2 * sum(work) + sum(work[1:])) / 1e9


def product() -> Callable[[], None]:
    """Return a product of matrices of 2048 x 2048."""
    try:
        import torch

        torch.set_num_threads(options.threads)
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        c = torch.empty(2048, 2048)
        return lambda: (torch.mm(a, b, out=c), None)[1]
    except ImportError:
        left, right = np.ones((2048, 2048), np.float32), np.ones((2048, 2048), np.float32)
        into = np.empty((2048, 2048), np.float32)
        return lambda: (np.matmul(left, right, out=into), None)[1]


def timed(run: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    peak = product()
    print(f"kernels {kernels.version} {kernels.instructions()}, {options.threads} threads")
    print("| workload | model | updates/s (best) | GFLOP/s | of the product's GFLOP/s |")
    print("|---|---|---|---|---|")
    for name, entry in WORKLOADS.items():
        if options.only and name not in options.only.split(","):
            continue
        run, n, gflop = call(name)
        run()
        seconds: list[float] = []
        peaks: list[float] = []
        while sum(seconds) < options.seconds:
            peaks.append(timed(peak))
            seconds += [timed(run) for _ in range(max(1, int(0.1 / timed(run))))]
        middle, rate = float(np.median(seconds)), 2 * 2048**3 / 1e9 / float(np.median(peaks))
        print(
            f"| {name} | {entry[0]} | {n / middle:,.4g} ({n / min(seconds):,.4g}) | {gflop / middle:.1f} "
            f"| {gflop / middle / rate:.0%} of {rate:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
