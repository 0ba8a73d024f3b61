"""What coordinates the devices of an edge: the service, in rounds that begin when the edge is given a task."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from fedthings import run
from fedthings.edge import EdgeEngine, begun, coordinator, federation
from fedthings.federation import load
from fedthings.phase import Phase
from fedthings.protocol import events
from fedthings.protocol.events import Ticket
from fedthings.server import recovery
from fedthings.server.models import Models
from fedthings.server.service import Service
from fedthings.transport.transport import Transport
from fedthings.vector import Payload


class Rounds(Service):
    """`begin` with a task, and when `made` the engine has the report; `end` when it is over above.

    `phase` is one of those above, and `devices` how many are waited for before the first round; a restart in the same
    `directory` goes on. Raises StoreError.
    """

    def __init__(
        self,
        phase: Phase,
        name: str,
        directory: Path,
        transport: Transport,
        *,
        devices: int,
        allowed: Callable[[str], bool],
        held: Callable[[str], bool],
        gateways: Collection[str],
        chunk: int,
    ) -> None:
        assert phase.edge is not None
        known = directory / run.FEDERATION
        own = load(known) if known.exists() else federation(phase, name)
        self.edge = EdgeEngine(own, Models(directory / "models"))
        pair = self.edge, coordinator(phase.edge, phase.seed, devices)
        super().__init__(
            own, 1, directory, transport, allowed=allowed, held=held, gateways=gateways, chunk=chunk, edge=pair
        )

    def made(self, ticket: Ticket) -> bool:
        """Return whether all rounds of `ticket` are over."""
        return self.edge.ticket == ticket and self.edge.finished

    def begin(self, phase: Phase, ticket: Ticket, model: Payload, now: float) -> None:
        """Begin the rounds of `ticket` from the `model` received, unless that is done already."""
        if self.edge.ticket == ticket:
            return
        assert phase.edge is not None
        self.now = now
        self.edge.begin(phase, ticket, model)
        self.act(begun(phase.edge, ticket))
        self.bodies.keep_only(self.coordinator.phase, [self.coordinator.version])
        recovery.checkpoint(self)
        self.flush()

    def end(self, reason: str, last: tuple[Phase, Ticket, Payload] | None, now: float) -> None:
        """End for `reason`: the devices hear that it is over, and of the last model."""
        if self.done:
            return
        self.now = now
        if last is not None:
            self.edge.begin(*last)
            self.coordinator.phase, self.coordinator.version = self.edge.phase, self.edge.version
        self.act(events.Cancelled())
        self.reason = reason
        recovery.checkpoint(self)
        self.announce()
        self.flush()
