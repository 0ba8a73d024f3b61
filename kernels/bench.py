"""How fast the kernels train: the five workloads of the project, whole calls of `train`, on two threads.

    python kernels/bench.py [--threads 2] [--seconds 3] [--only W2] [--sets avx512,generic] [--outputs] [--epochs 1]

Prints client-updates a second (median, and the best call), GFLOP/s, and the share of what this machine's matrix
product of 2048 x 2048 reaches meanwhile with as many threads (PyTorch where it is installed, otherwise NumPy). With
several epochs the operations counted are those of the plain form: a layer in dual form (`dual.h`) needs fewer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--seconds", type=float, default=3.0, help="for each workload")
arguments.add_argument("--only", default="", help="workloads, such as W2,W4")
arguments.add_argument("--sets", default="", help="instruction sets one after the other, such as avx2,generic, or all")
arguments.add_argument("--plain", action="store_true", help="samples in their own order")
arguments.add_argument("--outputs", action="store_true", help="the forward pass of each sample, nothing is trained")
arguments.add_argument("--epochs", type=int, default=1)
arguments.add_argument("--momentum", type=float, default=-1.0)
arguments.add_argument("--mu", type=float, default=0.0)
options = arguments.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import fedthings_kernels as kernels  # noqa: E402
import numpy as np  # noqa: E402  # the threads of its products are set above


class Workload(NamedTuple):
    """`devices` with `samples` each; `products` are the multiply-adds of a sample in each layer with parameters."""

    title: str
    input: tuple[int, ...]
    layers: list[tuple[Any, ...]]
    loss: str
    devices: int
    samples: int
    batch: int
    lr: float
    products: list[int]


def convolutions(axes: int) -> list[tuple[Any, ...]]:
    """Return two convolutions with pooling, and what makes their output flat."""
    found: list[tuple[Any, ...]] = []
    for filters in (32, 64):
        found += [(f"conv{axes}d", filters, 5, 1, "same", "relu"), ("max_pool", 2, 2)]
    return [*found, ("flatten",)]


def dense(*units: int) -> list[tuple[Any, ...]]:
    """Return dense layers with relu between."""
    return [("dense", n, "linear" if i == len(units) - 1 else "relu") for i, n in enumerate(units)]


LINE, IMAGE = (128, 9), (28, 28, 1)
SIGNAL = [*convolutions(1), *dense(128, 6)]
PICTURE = [*convolutions(2), *dense(512, 62)]
WORKLOADS = {
    "W1": Workload(
        "MLP 784-10-1", (784,), dense(10, 1), "binary_cross_entropy", 10, 100, 32, 0.1,
        [7840, 10],
    ),
    "W2": Workload(
        "MLP 784-200-200-10", (784,), dense(200, 200, 10), "cross_entropy", 100, 60, 10, 0.05,
        [156800, 40000, 2000],
    ),
    "W3": Workload(
        "1-D CNN, 128 x 9", LINE, SIGNAL, "cross_entropy", 30, 100, 20, 0.1,
        [128 * 9 * 5 * 32, 64 * 32 * 5 * 64, 2048 * 128, 128 * 6],
    ),
    "W4": Workload(
        "CNN, 28 x 28", IMAGE, PICTURE, "cross_entropy", 10, 100, 20, 0.1,
        [784 * 25 * 32, 196 * 25 * 32 * 64, 3136 * 512, 512 * 62],
    ),
    "W5": Workload(
        "logistic 64-10", (64,), dense(10), "cross_entropy", 10000, 20, 20, 0.1,
        [640],
    ),
}  # fmt: skip


def call(workload: Workload) -> tuple[Callable[[], None], float]:
    """Return one call of the kernels, and its GFLOP."""
    n, size = workload.devices, workload.samples
    rng = np.random.default_rng(1)
    program = kernels.Program(workload.input, workload.layers, workload.loss)
    X = rng.standard_normal((n, size, *workload.input), dtype=np.float32)
    binary = workload.loss == "binary_cross_entropy"
    y = rng.integers(0, 2 if binary else program.outputs, (n, size)).astype(np.float32 if binary else np.int64)
    out = np.empty((n, size, program.outputs), np.float32)
    places = [np.arange(n, dtype=np.uint64) * np.uint64(a.strides[0]) + np.uint64(a.ctypes.data) for a in (X, y, out)]
    sizes, steps = np.full(n, size), np.full(n, options.epochs * ceil(size / workload.batch))
    received = (rng.standard_normal(program.dim) * 0.03).astype(np.float32)
    keys = None if options.plain else rng.integers(0, 2**63, n).astype(np.uint64)
    change, seen = np.zeros((n, program.dim), np.float32), np.zeros((n, 2), np.int64)

    def run() -> None:
        if options.outputs:
            kernels.outputs(program, places[0], sizes, received, places[2], options.threads)
        else:
            kernels.train(
                program, *places[:2], sizes, received, keys=keys, steps=steps, batch=workload.batch,
                epochs=options.epochs, lr=workload.lr, momentum=options.momentum, decay=0.0, mu=options.mu,
                change=change, seen=seen, threads=options.threads,
            )  # fmt: skip
        assert X.size and y.size and out.size

    # Forward and the slope by the weights for all layers, the slope by the input for all but the first.
    products = workload.products
    passes = sum(products) if options.outputs else 2 * sum(products) + sum(products[1:])
    return run, n * size * 2 * passes * (1 if options.outputs else options.epochs) / 1e9


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


def rounded(rate: float) -> str:
    """Return `rate` with three digits or all before the point."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def main() -> None:
    """Print the table."""
    if options.sets:
        mine = [name for name in sys.argv[1:] if not name.startswith("--sets") and name != options.sets]
        for name in kernels.sets() if options.sets == "all" else options.sets.split(","):
            environment = {**os.environ, "FEDTHINGS_KERNELS_SET": name}
            subprocess.run([sys.executable, __file__, *mine], env=environment, check=True)
        return
    peak = product()
    print(f"\nkernels {kernels.version} {kernels.instructions()}, {options.threads} threads\n")
    print("| workload | model | updates/s (best) | GFLOP/s | of the product's GFLOP/s |")
    print("|---|---|---|---|---|")
    for name, workload in WORKLOADS.items():
        if options.only and name not in options.only.split(","):
            continue
        run, gflop = call(workload)
        run()
        seconds: list[float] = []
        peaks: list[float] = []
        while sum(seconds) < options.seconds:
            peaks.append(timed(peak))
            seconds += [timed(run) for _ in range(max(1, int(0.1 / timed(run))))]
        middle, rate = float(np.median(seconds)), 2 * 2048**3 / 1e9 / float(np.median(peaks))
        print(
            f"| {name} | {workload.title} | {rounded(workload.devices / middle)} "
            f"({rounded(workload.devices / min(seconds))}) | {gflop / middle:.1f} | "
            f"{gflop / middle / rate:.0%} of {rate:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
