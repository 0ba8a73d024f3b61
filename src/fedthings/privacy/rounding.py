"""How long a report is once its numbers are rounded at random to whole steps (Kairouz, Liu, Steinke 2021).

A device that has rounded to more than `longest` rounds anew ("conditional rounding", ibid., algorithm 1), so that the
bound holds of every report of an honest device, and not only of nearly all.
"""

from __future__ import annotations

from math import sqrt

TAIL = 40.0
"""2 ln(1 / beta): a device rounds anew with a chance of beta, 2e-9 (ibid., proposition 22)."""


def longest(length: float, dim: int) -> float:
    """Return what a row `(dim,)` of norm `length`, in steps, is not longer than once it is rounded."""
    likely = length**2 + dim / 4 + sqrt(TAIL) * (length + sqrt(dim) / 2)
    return min(length + sqrt(dim), sqrt(likely))


def shortest(most: float, dim: int) -> float:
    """Return the largest norm, in steps, of which `longest` is at most `most`; below 0 where there is none."""
    half = sqrt(TAIL) / 2
    square = half**2 + most**2 - dim / 4 - half * sqrt(dim)
    return max(most - sqrt(dim), sqrt(square) - half if square > 0 else -1.0)
