"""Partial work: the share of the local work that a deadline leaves time for, on devices and in simulated worlds."""

from __future__ import annotations

HASTE = 0.8
"""The part of the time left that training may take; the rest is for the report."""
LEAST = 0.01
"""The least share: a device that is asked does something."""


def effort(seconds: float, left: float, most: float = 1.0) -> float:
    """Return the share of the local work to do: all of it takes `seconds`, the deadline is `left` seconds away.

    At most `most`, the owner's rule; 0 `seconds` are not known yet. See Li et al. 2020, Alg. 2: each does what it can.
    """
    fits = HASTE * left / seconds if seconds else 1.0
    return max(LEAST, min(most, fits))
