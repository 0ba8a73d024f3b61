"""Memory that stays: large arrays come and go with every part of a cohort, and the system clears each page it gives."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGEST, MOST = 32 << 20, 256 << 20
"""Bytes of the largest array whose memory stays, the most that glibc allows; bytes that stay in all."""


def keep_memory() -> None:
    """Have this process keep the memory of arrays that have gone, for those to come; elsewhere than glibc, nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, MOST)
