"""Who masks with whom: how many neighbours are enough, and a random graph in which each device has so many.

Bell et al. 2020, section 3: the devices of a set lie on a circle in random order, and each has the k / 2 next to it on
either side for neighbours (a Harary graph). All bounds are exact tails of the hypergeometric distribution.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from math import comb, inf, log2
from typing import NamedTuple, TypeVar

from fedthings.errors import SpecError

SECRECY, COMPLETION = 40, 20
"""Bits: what a stated rate of corrupt devices may learn, and that a stated rate of drop-outs stops a version, have a
probability of at most 2^-SECRECY and 2^-COMPLETION."""
MOST = 512
"""Neighbours at the most, of one device."""

T = TypeVar("T")


class Degree(NamedTuple):
    """Each device has `neighbours`; of its secrets, which they and it hold shares of, `threshold` shares give one."""

    neighbours: int
    threshold: int


@lru_cache(maxsize=64)
def degree(n: int, corrupt: float, dropout: float, neighbours: int = 0) -> Degree:
    """Return the degree of a set of `n` devices, the same for all that ask.

    The `corrupt` share of them works with the coordinator, `dropout` does not stay to the end. With k neighbours, and
    the threshold t of k + 1 holders: the corrupt ones among a device's holders, told one thing, and an honest part of
    them, told another, must not both be t, so c + k + 1 < 2t; t must stay to the end; and among any k / 2 in a row on
    the circle one must be honest and there, so that the graph stays in one piece. `neighbours` (0: as few as do)
    is taken as it is given, with most of them as the threshold where none is safe. With few devices all are neighbours.
    Raises SpecError where no number does.
    """
    if n < 2:
        raise SpecError(f"a set of {n} devices hides nothing: there must be at least 2")
    if neighbours:
        k = min(neighbours + neighbours % 2, n - 1)
        return Degree(k, _threshold(n, k, corrupt, dropout) or (k + 1) // 2 + 1)

    def enough(half: int) -> bool:
        broken = log2(corrupt + dropout) * half if corrupt + dropout else -inf
        return log2(n) + broken <= -SECRECY and _threshold(n, 2 * half, corrupt, dropout) > 0

    halves = range(1, min(n - 2, MOST) // 2 + 1)
    found = bisect_left(halves, True, key=enough)  # whole thresholds make it waver by a step or two
    if found < len(halves):
        k = 2 * halves[found]
        return Degree(k, _threshold(n, k, corrupt, dropout))
    if n - 1 > MOST:
        raise SpecError(
            f"secure.corrupt {corrupt} and secure.dropout {dropout} leave no number of neighbours up to {MOST} for "
            f"{n} devices: state lower rates, or the number of neighbours"
        )
    least = (int(corrupt * (n - 1)) + n) // 2 + 1
    if least > n - int(dropout * (n - 1)):
        raise SpecError(
            f"secure.corrupt {corrupt} and secure.dropout {dropout} leave no threshold for {n} devices: lower them"
        )
    return Degree(n - 1, least)


def _threshold(n: int, k: int, corrupt: float, dropout: float) -> int:
    """Return the least threshold at which both kinds of shares are safe, 0 where too many may drop out for it."""
    of, bad = comb(n - 1, k), int(corrupt * (n - 1))
    there = n - 1 - int(dropout * (n - 1))

    def safe(t: int) -> bool:
        return _ways(n - 1, bad, k, range(2 * t - k - 1, k + 1)) * n << SECRECY <= of

    found = bisect_left(range((k + 1) // 2 + 1, k + 2), True, key=safe) + (k + 1) // 2 + 1
    fewer = range(found - 1)  # a device that is there holds a share of its own
    return found if found <= k + 1 and _ways(n - 1, there, k, fewer) * n << COMPLETION <= of else 0


def _ways(of: int, marked: int, drawn: int, hits: range) -> int:
    """Return in how many of the ways to draw so many of so many a number of `hits` is marked (hypergeometric)."""
    return sum(comb(marked, hit) * comb(of - marked, drawn - hit) for hit in hits if hit <= marked)


def circle(names: Sequence[T], keys: Sequence[bytes], seed: bytes, neighbours: int) -> dict[T, tuple[T, ...]]:
    """Return the neighbours of each of `names`, in the order given; `seed` and the `keys` decide who they are."""
    around = sorted(range(len(names)), key=lambda i: sha256(seed + keys[i]).digest())
    half, n = neighbours // 2, len(names)
    if neighbours >= n - 1:
        return {name: tuple(other for other in names if other != name) for name in names}
    found = {}
    for at, i in enumerate(around):
        near = sorted(around[(at + step) % n] for step in range(-half, half + 1) if step)
        found[names[i]] = tuple(names[j] for j in near)
    return found
