"""Worlds: when a report arrives in virtual time and what it costs, or that it never does.

When does not depend on what is in it (law 4). Devices, links and availability of real things are in `things.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, inf
from statistics import NormalDist
from typing import NamedTuple, Protocol

from fedthings.protocol.events import Ticket
from fedthings.vector import digest


class Work(Protocol):
    """What a task asks of its device, counted by the same code as in the field (law 12)."""

    def down(self, ticket: Ticket) -> int:
        """Return the bytes of the assignment and of the model body that go down."""

    def up(self, ticket: Ticket) -> int:
        """Return the bytes of the report that goes up."""

    def effort(self, ticket: Ticket, seconds: float, left: float, most: float = 1.0) -> float:
        """Return the share that a device does of local work that takes `seconds`, with `left` until its deadline.

        It is at most `most`, which its owner allows.
        """

    def flops(self, ticket: Ticket, now: float, effort: float = 1.0) -> float:
        """Return the operations of `effort` of the local training on the samples that the device has at `now`."""

    def memory(self, ticket: Ticket, now: float) -> int:
        """Return the bytes that training at `now` holds: parameters, gradients, moments, a batch in every layer."""


class Outcome(NamedTuple):
    """When the report is here (seconds; None: never), what the task cost the device, why the device declined then.

    `effort` is the share of the local work that the report is of.
    """

    at: float | None
    joules: float | None = None
    declined: str = ""
    effort: float = 1.0


class Change(NamedTuple):
    """A device comes (`present`) or goes at a time."""

    at: float
    device: str
    present: bool


class Waking(NamedTuple):
    """A device that sleeps is awake for a moment, as it is every `every` seconds; it is not gone in between."""

    at: float
    device: str
    every: float


class World(Protocol):
    """What the simulator asks of the outside."""

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        """Return what becomes of the task of `ticket`, given out at `now`; free of the order of asking (law 5).

        `until` is the deadline where the strategy takes a part of the local work, inf where all of it is to be done.
        """

    def changes(self, names: Sequence[str]) -> Iterator[Change | Waking]:
        """Yield when each device comes and goes, or wakes, in the order of time, those there at the start first."""


def always(names: Sequence[str]) -> Iterator[Change]:
    """Yield that all of `names` are there from the start."""
    return (Change(0.0, name, True) for name in names)


class Steady(NamedTuple):
    """Every report arrives `seconds` after its assignment."""

    seconds: float = 1.0

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        """Return `now + seconds`."""
        return Outcome(now + self.seconds)

    def changes(self, names: Sequence[str]) -> Iterator[Change]:
        """Yield that all are there."""
        return always(names)


class Uneven(NamedTuple):
    """Log-normal times around `median` seconds with standard deviation `spread` of the logarithm.

    A report is lost with probability `lost`. Keyed by `seed` and ticket: the same in every driver. Where partial work
    counts, these are the seconds of training, and less is done where they would be too many.
    """

    median: float = 1.0
    spread: float = 0.5
    lost: float = 0.0
    seed: int = 0

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        """Return when the report is here, or None where it is lost."""
        bits = digest(self.seed, *ticket)
        if (bits >> 64) / 2**64 < self.lost:
            return Outcome(None)
        normal = NormalDist().inv_cdf(((bits & (2**64 - 1)) + 0.5) / 2**64)
        seconds = self.median * exp(self.spread * normal)
        share = work.effort(ticket, seconds, until - now) if until < inf else 1.0
        return Outcome(now + share * seconds, effort=share)

    def changes(self, names: Sequence[str]) -> Iterator[Change]:
        """Yield that all are there."""
        return always(names)
