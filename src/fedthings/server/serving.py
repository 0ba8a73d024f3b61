"""One of the federations that a process serves: what is to be made of it, and its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from fedthings import run
from fedthings.federation import Federation
from fedthings.history import Line
from fedthings.run import Run
from fedthings.server.service import Service
from fedthings.vector import Array, Vector

LINGER = 10.0
"""Seconds that devices have at the end to fetch the last model and say Bye."""


class Terms(NamedTuple):
    """What is to be made of a federation: `rounds` versions, from the row `init` `(dim,)`, or fewer.

    `stop`: the metrics that end it; `test`: the samples and labels of a central test set; `on_version` hears of each.
    """

    federation: Federation
    rounds: int
    init: Vector | None = None
    test: tuple[Array, Array] | None = None
    stop: Mapping[str, float] | None = None
    on_version: Callable[[Line], None] | None = None


class Serving:
    """`see` to its end as long as it is not `over`; times are in seconds of the process."""

    def __init__(self, service: Service, on_news: Callable[[str], None]) -> None:
        self.service = service
        self.result: Run | None = None
        self.over = False
        self.alarm = inf
        self._on_news = on_news
        self._staying: set[str] = set()  # who has not said that it has the last model
        self._ended_before = service.done and (service.directory / run.SUMMARY).exists()

    def see(self, now: float, stay: bool) -> None:
        """Where it has ended, write the run, and let the devices that are present fetch the last model.

        Each says Bye when it has it. `stay`: go on for those that come late.
        """
        if self.over or not self.service.done:
            return
        if self.result is None:
            self._finish(now)
        self._staying -= self.service.gone
        if not stay and (not self._staying or now >= self.alarm):
            if self._staying:
                self._on_news(f"gone without the last model: {', '.join(sorted(self._staying))}")
            self.part()

    def part(self) -> None:
        """Leave nothing at the broker, which may not be ours."""
        if self.result is not None and not self.over:
            self.service.bodies.keep_only(-1, ())
            self.service.transport.retract()
            self.over, self.alarm = True, inf

    def _finish(self, now: float) -> None:
        service = self.service
        service.announce()
        facts = {
            "devices": len(service.coordinator.last),
            "seconds": service.now,
            "reason": service.reason,
        }
        self.result = run.result(service.engine, service.history, facts)
        run.finish(service.directory, self.result)
        self._staying = set() if self._ended_before else set(service.coordinator.present)
        self.alarm = now + LINGER + service.coordinator.sleepers.longest()  # each may wake once more
        service.gone.clear()
