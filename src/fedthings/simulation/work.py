"""What a task asks of its device: bytes, operations and memory, from the engine and the fleet."""

from __future__ import annotations

from fedthings.engine import Engine
from fedthings.learn.fleet import Fleet
from fedthings.protocol.events import Ticket


class Counted:
    """The work of a federation's tasks, counted when a world asks for it."""

    def __init__(self, engine: Engine, fleet: Fleet) -> None:
        self.engine, self.fleet = engine, fleet

    def down(self, ticket: Ticket) -> int:
        """Return the bytes of the model body that goes down."""
        return self.engine.model_bytes(ticket)

    def up(self, ticket: Ticket) -> int:
        """Return the bytes of the report body that goes up."""
        return self.engine.report_bytes(ticket)

    def flops(self, ticket: Ticket, now: float) -> float:
        """Return the floating-point operations of the task on the samples that the device has at `now`."""
        return 0.0

    def memory(self, ticket: Ticket) -> int:
        """Return the bytes that training holds at least."""
        return 0
