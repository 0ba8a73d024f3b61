"""What a task asks of its device: bytes, operations and memory, from the engine and the fleet."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from fedthings import down
from fedthings.engine import Engine
from fedthings.learn.effort import effort
from fedthings.learn.fleet import Fleet
from fedthings.protocol.events import Ticket
from fedthings.simulation.links import OFFERED

STATISTICS = 3
"""Operations on each number, and numbers kept of each feature, where a fleet learns its scaling."""


class Counted:
    """The work of a federation's tasks, counted when a world asks for it.

    `kept` names the last ticket of a device that was kept: it holds the model of that, where models differ from others.
    """

    def __init__(
        self, engine: Engine, fleet: Fleet, kept: Callable[[str], Ticket | None] = lambda device: None
    ) -> None:
        self.engine, self.fleet, self.kept = engine, fleet, kept

    def down(self, ticket: Ticket) -> int:
        """Return the bytes of the model body that goes down, and of its offer where it is told by what differs."""
        kept = self.kept(ticket.device)
        offered = 0 if down.base(self.engine, ticket.version, kept) is None else OFFERED
        return down.model_bytes(self.engine, ticket, kept) + offered

    def up(self, ticket: Ticket) -> int:
        """Return the bytes of the report body that goes up."""
        return self.engine.report_bytes(ticket)

    def effort(self, ticket: Ticket, seconds: float, left: float, most: float = 1.0) -> float:
        """Return the share of the local work that a device does, by the rule that it has itself."""
        return effort(seconds, left, most)

    def flops(self, ticket: Ticket, now: float, effort: float = 1.0) -> float:
        """Return the floating-point operations of `effort` of the task on the samples that the device has at `now`."""
        phase = self.engine.phases[ticket.phase]
        task, method = phase.task, phase.strategy.method
        rows, test_rows = self.fleet.counts(ticket.device, now)
        samples, tested = task.window.count(rows), task.window.count(test_rows)
        if phase.kind == "normalise":
            return float(STATISTICS * samples * prod(task.model.input))
        if (found := self.engine.statistic) is not None:
            return float((samples + tested) * sum(f.dim for f in found.fields))  # each sum takes in each sample
        if phase.kind == "evaluate":
            measured = 1 + (phase.kind in method.measures)  # the model received, and the device's own
            return float(measured * tested * task.model.flops + method.closing(task, rows))
        return float(method.flops(task, rows, test_rows, effort))

    def memory(self, ticket: Ticket, now: float) -> int:
        """Return the bytes that the task holds at least with the samples that the device has at `now`.

        To scale is to hold sums, and to evaluate is to hold the parameters and a sample.
        """
        phase = self.engine.phases[ticket.phase]
        model = phase.task.model
        if phase.kind == "normalise":
            return 8 * STATISTICS * prod(model.input)
        if (found := self.engine.statistic) is not None:
            return 8 * sum(f.dim for f in found.fields)
        if phase.kind == "evaluate":
            return 4 * (model.layout.dim + 2 * model.work)
        return phase.task.memory(self.fleet.size(ticket.device, now))
