"""Memory that stays: large arrays come and go with every part of a cohort, and the system clears each page it gives."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
MOST = 512 << 20
"""Bytes that stay."""


def keep_memory() -> None:
    """Have this process keep the memory of arrays that have gone, for those to come; elsewhere than glibc, nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)  # what is mapped goes back at once
        mallopt(_M_TRIM_THRESHOLD, MOST)
