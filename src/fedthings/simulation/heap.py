"""Memory that stays: large arrays come and go with every part of a cohort, and the system clears each page it gives."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
MOST = 512 << 20
"""Bytes that stay where nothing else is in use behind them."""
LARGEST = 32 << 20
"""Bytes of the largest array whose memory stays otherwise: what glibc comes to by itself."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have this process keep the memory of arrays that have gone, for those to come; elsewhere than glibc, nothing."""
    libc = ctypes.CDLL(None)
    mallopt, trim = getattr(libc, "mallopt", None), getattr(libc, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)  # what is mapped goes back at once
    mallopt(_M_TRIM_THRESHOLD, MOST)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, 1 << 16)
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGEST)
        trim(0)
