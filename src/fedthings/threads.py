"""One BLAS thread a process: fastest for small arrays, and the number of threads decides the bits (law 2)."""

from __future__ import annotations

import os

ONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def one_thread() -> None:
    """Ask for one thread; to be called before NumPy is imported."""
    for name, value in ONE.items():
        os.environ.setdefault(name, value)
