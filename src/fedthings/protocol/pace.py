"""When a version is made: the numbers of a pace, a phase as the coordinator sees it, and what is waited for."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import msgspec
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.protocol.selection import Selection, Uniform


class Pace(Struct, frozen=True, forbid_unknown_fields=True):
    """When a version is made.

    `goal` reports make a version; `concurrency` devices work at once (more than `goal` is over-selection);
    a device has `patience` seconds; a report may lag `staleness` versions (0 is synchronous); with fewer
    than `quorum` reports at the deadline the version is tried again.

    `period`: a version is also made so many seconds after its start, of at least `quorum` reports (0: never).
    `slack`: a device's deadline is so many times the 0.9 quantile of its own times to report, at most `patience`
    (0: all have `patience`). `cap`: a device's reports count at most so often (0: always); after a report it sits
    out `separation` versions. `selection` is how those who are asked are chosen.
    """

    goal: int = 10
    concurrency: int = 0
    patience: float = 60.0
    staleness: int = 0
    quorum: int = 1
    period: float = 0.0
    slack: float = 0.0
    cap: int = 0
    separation: int = 0
    selection: Selection = Uniform()

    def __post_init__(self) -> None:
        if self.concurrency == 0:
            msgspec.structs.force_setattr(self, "concurrency", self.goal)
        for name in ("goal", "concurrency", "quorum", "staleness", "cap", "separation"):
            low = 1 if name in ("goal", "concurrency", "quorum") else 0
            if getattr(self, name) < low:
                raise SpecError(f"pace.{name} is {getattr(self, name)}: it must be at least {low}")
        if not 0 < self.patience < inf:
            raise SpecError(f"pace.patience is {self.patience}: give the seconds a device has, above 0")
        if not 0 <= self.period < inf:
            raise SpecError(f"pace.period is {self.period}: give seconds above 0, or 0 to wait for the goal")
        if self.slack and not 1 <= self.slack < inf:
            raise SpecError(
                f"pace.slack is {self.slack}: give at least 1 times a device's own time, or 0 for the same deadline"
            )
        if self.quorum > self.goal:
            raise SpecError(f"pace.quorum is {self.quorum}, above pace.goal {self.goal}: it could never be met")
        if self.concurrency < self.goal and self.staleness == 0:
            raise SpecError(
                f"pace.concurrency is {self.concurrency}, below pace.goal {self.goal}: "
                "a synchronous version needs as many devices at work as reports"
            )


DEVICES = 1024
"""Devices of one edge that work at once, at the most: it bounds the sum of their reports."""


class Edge(Struct, frozen=True, forbid_unknown_fields=True):
    """Participants are edges: each makes `rounds` versions with its own devices before it reports (kappa_2).

    HierFAVG (Liu et al. 2020, Alg. 1), whose kappa_1 is the recipe. In an edge round all of the edge's devices that are
    there work once, or `goal` of them (0: all, up to 1,024). A device has `patience` seconds; with fewer than `quorum`
    reports at the deadline the edge round is tried again.
    """

    rounds: int = 1
    goal: int = 0
    patience: float = 60.0
    quorum: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= 1 << 16:
            raise SpecError(f"edge.rounds is {self.rounds}: give how often an edge averages before it reports, from 1")
        if not 0 <= self.goal <= DEVICES:
            raise SpecError(f"edge.goal is {self.goal}: give how many devices work in an edge round, 0 for all")
        if not 0 < self.patience < inf:
            raise SpecError(f"edge.patience is {self.patience}: give the seconds a device has, above 0")
        if not 1 <= self.quorum <= (self.goal or DEVICES):
            raise SpecError(f"edge.quorum is {self.quorum}: give 1 up to edge.goal")

    @property
    def most(self) -> int:
        """How many devices work in an edge round at the most."""
        return self.goal or DEVICES

    @property
    def plan(self) -> Plan:
        """An edge's rounds as its own coordinator sees them: as many as it is told to begin."""
        pace = Pace(goal=self.quorum, patience=self.patience, quorum=self.quorum)
        return Plan(pace, 1 << 62, everyone=True, most=self.most)


class Plan(NamedTuple):
    """One phase as the coordinator sees it: `versions` to make at `pace`; `everyone` asks all, up to `most`.

    `optional`: the federation ends without it where no device is there within the patience. `closed`: who works on a
    version is settled when it begins, and nobody comes in for those who drop out.
    """

    pace: Pace
    versions: int
    everyone: bool = False
    most: int = 1 << 31
    optional: bool = False
    closed: bool = False


class Wait(NamedTuple):
    """What is waited for, and until when at the latest (seconds of federation time; law 11)."""

    reason: str
    until: float
