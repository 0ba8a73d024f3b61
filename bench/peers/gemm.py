"""The machine's own peak: float32 products of 2048 x 2048 on all cores, by NumPy and by PyTorch where it is there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE, PRODUCTS = 2048, 9


def speed(multiply: Callable[[], Any]) -> float:
    """Return GFLOP/s of the median product."""
    multiply()
    spans = []
    for _ in range(PRODUCTS):
        begun = time.perf_counter()
        multiply()
        spans.append(time.perf_counter() - begun)
    return float(2 * SIZE**3 / np.median(spans) / 1e9)


def main() -> None:
    """Print the speeds as a line of JSON."""
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32)
    c = np.empty_like(a)
    found = {"numpy": speed(lambda: np.matmul(a, b, out=c))}
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        ours, theirs, product = (torch.from_numpy(array) for array in (a, b, c))
        found["torch"] = speed(lambda: torch.mm(ours, theirs, out=product))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
