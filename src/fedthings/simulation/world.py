"""Worlds: when a report arrives in virtual time, or that it never does. When does not depend on what (law 4)."""

from __future__ import annotations

from math import exp
from statistics import NormalDist
from typing import NamedTuple, Protocol

from fedthings.protocol.events import Ticket
from fedthings.vector import digest


class World(Protocol):
    """What the simulator asks of the outside."""

    def arrival(self, ticket: Ticket, now: float, nbytes: int) -> float | None:
        """Return when the report of `ticket`, given out at `now`, is here (seconds); None: never."""


class Steady(NamedTuple):
    """Every report arrives `seconds` after its assignment."""

    seconds: float = 1.0

    def arrival(self, ticket: Ticket, now: float, nbytes: int) -> float | None:
        """Return `now + seconds`."""
        return now + self.seconds


class Uneven(NamedTuple):
    """Log-normal times around `median` seconds with standard deviation `spread` of the logarithm.

    A report is lost with probability `lost`. Keyed by `seed` and ticket: the same in every driver.
    """

    median: float = 1.0
    spread: float = 0.5
    lost: float = 0.0
    seed: int = 0

    def arrival(self, ticket: Ticket, now: float, nbytes: int) -> float | None:
        """Return when the report is here, or None where it is lost."""
        bits = digest(self.seed, *ticket)
        if (bits >> 64) / 2**64 < self.lost:
            return None
        normal = NormalDist().inv_cdf(((bits & (2**64 - 1)) + 0.5) / 2**64)
        return now + self.median * exp(self.spread * normal)
