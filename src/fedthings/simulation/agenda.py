"""What will happen, by time: planned one by one or many at once, taken one after the other."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from fedthings.protocol.events import Ticket
from fedthings.simulation.world import Change, Waking


class Answer(NamedTuple):
    """The answer to `ticket`, given out at `began`: a report of `effort` of the work, or why the device declines."""

    ticket: Ticket
    began: float
    declined: str = ""
    effort: float = 1.0


class Agenda:
    """Answers by the time at which they come; of those at one time the one planned first is the first."""

    def __init__(self) -> None:
        self._order = 0
        self._sorted: list[tuple[float, int, Answer]] = []  # by minus time and order, so that the next is the last
        self._new: list[tuple[float, int, Answer]] = []

    def plan(self, at: float, answer: Answer) -> None:
        """Let `answer` come at time `at` (seconds)."""
        self._order -= 1
        self._new.append((-at, self._order, answer))

    @property
    def next(self) -> float:
        """When the next answer comes; inf if none does."""
        if self._new:
            self._sort()
        return -self._sorted[-1][0] if self._sorted else inf

    def take(self) -> Answer:
        """Take the next answer out."""
        if self._new:
            self._sort()
        return self._sorted.pop()[2]

    def all(self) -> list[tuple[float, Answer]]:
        """Return all that is planned, the next first."""
        self._sort()
        return [(-at, answer) for at, _, answer in reversed(self._sorted)]

    def _sort(self) -> None:
        if len(self._new) == 1:
            insort(self._sorted, self._new[0])
        else:
            self._sorted += self._new
            self._sorted.sort()
        self._new.clear()


class Changes:
    """Who comes and goes, read no further than is needed; `taken` counts what was read."""

    def __init__(self, changes: Iterator[Change | Waking]) -> None:
        self._changes = changes
        self._ahead = next(changes, None)
        self.taken = 0

    @property
    def next(self) -> float:
        """When the next change comes; inf if none does."""
        return inf if self._ahead is None else self._ahead.at

    def take(self) -> Change | Waking:
        """Take the next change out."""
        assert self._ahead is not None
        taken, self._ahead = self._ahead, next(self._changes, None)
        self.taken += 1
        return taken
