"""The service: one coordinator and one engine behind a transport. It is told what arrives and what time it is.

What happens is journaled, with the reports that are small, and others are spooled: both before anybody is told, and
before a model is written. The state between two versions is a checkpoint. Killed at any point, it ends in the model
that would have been (law 8).
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TextIO

import numpy as np

from fedthings import down, hidden, run
from fedthings.bodies import Report
from fedthings.engine import Engine
from fedthings.errors import SpecError, WireError
from fedthings.federation import Federation, plans
from fedthings.history import Line
from fedthings.messages import Announce, Assignment, Envelope, Farewell, Hello, Pause, Receipt, Refusal, Relay
from fedthings.privacy import shares
from fedthings.privacy.central import Source
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers
from fedthings.privacy.signing import Verify, verified
from fedthings.protocol import events
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import Answered, Command, Conversed, Event, Settling, Ticket
from fedthings.protocol.pace import Wait
from fedthings.protocol.trace import traced
from fedthings.server import gateways, operators, reception, recovery
from fedthings.server.bodies import Bodies
from fedthings.server.gateways import Inbound
from fedthings.server.leader import Leader, settlement
from fedthings.server.members import Members
from fedthings.server.models import Models
from fedthings.server.outbox import Outbox
from fedthings.server.spool import Spool
from fedthings.server.store import Store
from fedthings.server.turns import Turns
from fedthings.transport.chunks import CHUNK
from fedthings.transport.topics import COORDINATOR, OPERATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport
from fedthings.vector import Array, Vector, mark

log = logging.getLogger("fedthings.server")

JOURNALED = 1 << 14
"""Bytes: a report of at most so many lies in the journal, a longer one in a file. SQLite writes a row of this size
faster than the system makes a file (sqlite.org/intern-v-extern-blob.html)."""


class Service:
    """`receive` an arrival, `wake` at `alarm`; `done` when the federation has ended.

    `directory` is the run directory; `allowed` says who may join, `held` who of them gets no work, `verify` whose a
    signature is, `gateways` who may speak for others; a restart in the same directory goes on. `edge` are the engine
    and the coordinator of an edge. `shared`: other federations are served beside it (`services`). Under a privacy claim
    every write is on the disk before it counts, since two releases with the same noise would tell their difference;
    `noise` "keyed" is that of the simulator, for tests.
    Raises StoreError where the directory is another's or cannot be written, SpecError for gateways that cannot sum.
    """

    def __init__(
        self,
        federation: Federation,
        rounds: int,
        directory: Path,
        transport: Transport,
        *,
        init: Vector | None = None,
        test: tuple[Array, Array] | None = None,
        stop: Mapping[str, float] | None = None,
        allowed: Callable[[str], bool] = lambda name: True,
        held: Callable[[str], bool] = lambda name: False,
        verify: Verify = verified,
        gateways: Collection[str] = (),
        on_version: Callable[[Line], None] | None = None,
        fsync: bool = False,
        trace: TextIO | None = None,
        chunk: int = CHUNK,
        edge: tuple[Engine, Coordinator] | None = None,
        shared: bool = False,
        noise: Source = "secure",
    ) -> None:
        hidden.check_gateways(federation.secure, gateways)
        self.directory = run.prepare(directory, federation)
        fsync = fsync or federation.privacy is not None
        self.transport, self.allowed, self.held = transport, allowed, held
        self.gateways, self.trace = gateways, trace
        self.on_version, self.fsync = on_version, fsync
        self.store = Store(directory, fsync)
        self.boot = secrets.token_hex(8)
        self.engine, self.coordinator = edge or (
            Engine(federation, rounds, init, test, stop, Models(directory / "models", fsync), noise),
            Coordinator(plans(federation, rounds), federation.seed, federation.devices, shared=shared),
        )
        # Where others share the fleet: who hears what was done, who is told then, and whom it waits for (`services`).
        self.on_act: Callable[[Event, Sequence[Command]], None] = lambda event, commands: None
        self.settle: Callable[[], None] = lambda: None
        self.lent: Callable[[], Sequence[Wait]] = tuple
        self.bodies = Bodies(directory / "bodies", transport, chunk)
        self.turns = Turns()
        secure = federation.secure  # its reports are read again when a set is settled, so they lie in files
        self.spool = Spool(directory / "spool", self.turns, fsync, JOURNALED if secure is None else 0)
        self.inbound = Inbound(directory / "subtotals", self.turns, fsync)
        self.members = Members(secure, directory, verify) if isinstance(secure, SecAgg) else None
        self.leader = Leader(secure, directory, fsync) if isinstance(secure, TwoServers) else None
        self.settler = self.leader or self.members  # who gets what a settlement asks others for
        self.settlement = settlement(self.engine)
        self.terms = {"rounds": rounds, "stop": dict(stop or {}), "init": mark(init), "test": mark(*(test or ()))}
        self.reason = self.failure = ""  # why the federation has ended; why it cannot be done
        self.refusals: Counter[str] = Counter()
        self.heard: set[str] = set()  # who has spoken since the last boot
        self.gone: set[str] = set()  # who has said Bye
        self.resting: dict[str, Hello] = {}  # who is in quarantine, and has said Hello
        self.routes: dict[str, str] = {}  # device -> the gateway it came by last
        self.merged: dict[str, bytes] = {}  # gateway -> the last of its subtotals that was merged
        self.history: list[Line] = []
        self.fresh: list[Line] = []  # lines that the next checkpoint writes
        self.usage: dict[str, list[int]] = {}
        self.reports: dict[Ticket, Report] = {}  # read for checking, about to be kept
        self.folded: list[Ticket] = []  # spooled until the checkpoint
        self.summed: list[bytes] = []  # subtotals that are
        self.parts: list[Ticket] = []  # whose reports are in the sums of the next version
        self.merging = False  # whether the tickets that arrive are those of a subtotal
        self.outbox = Outbox()
        self._traced: list[str] = []  # lines that are written when what they tell is durable
        self.replaying = False
        self.now = 0.0
        recovery.resume(self)

    @property
    def done(self) -> bool:
        """Whether the federation has ended."""
        return self.coordinator.done

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds of federation time."""
        asks = inf if self.settler is None else self.settler.alarm
        return min(self.coordinator.alarm, self.turns.alarm, self.settlement.alarm, asks)

    # ------------------------------------------------------------- arrivals

    def receive(self, arrival: Arrival, now: float, more: bool = False) -> None:
        """Take one arrival at `now` seconds of federation time.

        Where `more` are here, what follows from it becomes durable, and is said, with the last of them.
        """
        if isinstance(arrival, Linked):
            self.boot = secrets.token_hex(8)  # what was said before may be lost: every device says Hello again
            self.heard.clear()
            self.bodies.publish()
            self.announce()
        elif isinstance(arrival, Refused):
            self._refuse(arrival.sender, arrival.error)
        elif isinstance(arrival, Delivery):
            try:
                self._take(arrival.sender, arrival.message, arrival.federation, now)
            except WireError as error:
                self._refuse(arrival.sender, error)
        self.settle()
        if not more:
            self.flush()

    def wake(self, now: float) -> None:
        """Let the alarm ring."""
        if now >= self.turns.alarm:
            reception.take_turns(self, now)
        if now >= self.settlement.alarm:
            self.on(events.Overdue(), now)
        if self.settler is not None and now >= self.settler.alarm:
            self.settler.wake(self, now)
        if now >= self.coordinator.alarm:
            for ticket, deadline in list(self.coordinator.tasks.values()):
                device = ticket.device
                if deadline <= now and device in self.coordinator.present and device not in self.heard:
                    self.on(events.Left(device), now)  # its will was lost, with the broker or while we were down
            self.on(events.Woke(), now)
        self.settle()
        self.flush()

    def announce(self) -> None:
        """Say who coordinates and what is going on; retained at the broker."""
        coordinator = self.coordinator
        state = "finished" if coordinator.done else "paused" if coordinator.paused else "running"
        federation = self.engine.federation
        edges = federation.edge is not None
        self.transport.announce(
            Announce(self.boot, federation.name, state, coordinator.phase, coordinator.version, edges)
        )

    def _take(self, sender: str, message: Envelope, federation: str, now: float) -> None:
        if sender.startswith(OPERATOR):
            operators.take(self, sender, message, federation, now)
        elif self.leader is not None and sender == self.leader.sender:
            self.leader.take(self, message, federation, now)
        elif sender in self.gateways or isinstance(message, Relay):
            gateways.take(self, sender, message, federation, now)
        else:
            reception.take(self, sender, message, federation, now)

    def _refuse(self, sender: str, error: WireError) -> None:
        self.refusals[error.reason] += 1
        count = self.refusals[error.reason]
        if count & (count - 1) == 0:  # a flood of garbage is not to become a flood of lines
            log.warning("refused a message from %s: %s (the %d. of its kind)", sender, error, count)
        if sender not in ("", COORDINATOR):  # what bears our own name is not answered: it would come again
            self.send(sender, Refusal(error.reason, str(error)[:200]))

    # --------------------------------------------------------------- events

    def on(self, event: Event | Answered | Conversed, now: float, body: bytes | None = None) -> None:
        """Journal `event`, with the `body` of a report that lies in no file, then act on it."""
        self.now = now
        self.store.journal(now, [type(event).__name__, *event], body)
        self.act(event)

    def act(self, event: Event | Answered | Conversed) -> None:
        """Do what follows from an event that is journaled."""
        if isinstance(event, Conversed):
            if self.members is not None:
                self.members.on(self, event)
            return
        if isinstance(event, Answered):
            if isinstance(event, events.Settled) and self.settler is not None:
                self.settler.answer = event.digest
            self._settle(self.settlement.on(event, self.now))
            return
        commands = self.coordinator.on(event, self.now)
        self.engine.enter(self.coordinator.phase)
        if self.trace is not None and not self.replaying:
            self._traced.append(traced(self.now, event, commands))
        if isinstance(event, events.Arrived):
            self._used(event.ticket.device)[1] += self.engine.arrived(event.ticket)
        self.on_act(event, commands)
        for command in commands:
            self.engine.obey(command)
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case events.Assign(ticket=ticket, deadline=deadline, kept=kept, again=again):
                task, engine = self.bodies.task(self.engine), self.engine
                model, delta = self.bodies.model(engine, ticket.version, kept)
                self._used(ticket.device)[2] += 0 if again else down.model_bytes(engine, ticket, kept)
                self._next(ticket.device, Assignment(ticket, task, model, max(0.0, deadline - self.now), kept, delta))
                if self.members is not None:
                    self.members.obey(self, command)
            case events.Rest(device=device, reason=reason, until=until):
                self._next(device, Pause(reason, max(0.0, until - self.now)))
            case events.Keep(ticket=ticket, lag=lag):
                self._keep(ticket, lag)
            case events.Discard(ticket=ticket, reason=reason):
                self.spool.forget(ticket.device)
                self.reports.pop(ticket, None)
                self.spool.remove(ticket)
                self.send(ticket.device, Receipt(ticket, False, reason))
                if self.members is not None:
                    self.members.obey(self, command)
            case events.Advance():
                if self.members is not None:
                    self.engine.conversed(self.members.size)
                if self.settler is not None:
                    self.engine.close()
                self._settle(self.settlement.on(command, self.now))
            case events.Finish(reason=reason):
                self.reason = reason
                self.settlement.on(command, self.now)
                if self.settler is not None:
                    self.settler.over()
                self._add(self.engine.finish())

    def _settle(self, commands: Sequence[Settling]) -> None:
        """Do what the settlement says."""
        for command in commands:
            match command:
                case events.Ask(norms=norms) if self.settler is not None:
                    self.settler.ask(self, norms)
                case events.Exclude(tickets=tickets, lag=lag, reason=reason) if self.leader is not None:
                    self.engine.leave_out(self.leader.summed(self, tickets[0]), lag, reason, len(tickets))
                    self.parts = [ticket for ticket in self.parts if ticket not in tickets]
                case events.Settle(reason=reason):
                    self._advance(reason)

    def _keep(self, ticket: Ticket, lag: int) -> None:
        self._used(ticket.device)[0] += 1
        if self.merging:
            return  # the sum it is in has been added; its gateway has the receipt
        report = self.reports.pop(ticket, None) or self.spool.read(ticket)  # read again where it is replayed
        self.send(ticket.device, Receipt(ticket, True, self.fold(ticket, lag, report)))

    def fold(self, ticket: Ticket, lag: int, report: Report) -> str:
        """Add `report` to the sums, and return why it is left out of them, "" where it is not."""
        reasons = self.engine.keep(
            {name: row[None] for name, row in report.arrays.items()},
            np.asarray(report.weight),
            {name: stats[None] for name, stats in report.metrics.items()},
            [lag],
        )
        if self.leader is not None:
            self.leader.keep(ticket, shares.hidden(report.arrays))
        self.settlement.on(events.Keep(ticket, lag), self.now)
        self.folded.append(ticket)
        if not reasons[0]:
            self.parts.append(ticket)
        return str(reasons[0])

    def _advance(self, lost: str) -> None:
        if not self.replaying:
            self.store.commit()  # a model that is written must come about again
        share = None
        if self.settler is not None:
            share = self.settler.share(self) if self.settler.answer and not lost else None
            self.settler.over()
        trains = self.engine.spec.kind == "train" and not lost
        try:
            made = self.engine.advance(self.now, share, lost)
        except SpecError as error:  # it would come again with every restart: the federation ends here
            self.failure = str(error)
            self.act(events.Cancelled())
            recovery.checkpoint(self)
            return
        self._add(made.lines)
        if not made.held:
            self.act(events.Stepped(self.engine.version, made.stop))
        if not self.done:
            open_versions = {ticket.version for ticket, _ in self.coordinator.tasks.values()}
            self.bodies.keep_only(self.coordinator.phase, {*open_versions, self.coordinator.version})
        recovery.checkpoint(self, self.engine.trained if trains else None)

    def _add(self, lines: list[Line]) -> None:
        self.fresh += lines
        self.history += lines
        if self.on_version is not None:
            for line in lines:
                self.on_version(line)

    # ---------------------------------------------------------------- parts

    def _used(self, device: str) -> list[int]:
        return self.usage.setdefault(device, [0, 0, 0])

    def farewell(self, device: str) -> None:
        """Tell `device` that it is over, and where the last model is."""
        engine = self.engine
        kept = self.coordinator.last.get(device)
        model, delta = self.bodies.model(engine, self.coordinator.version, kept)
        self.send(device, Farewell(self.reason, self.bodies.task(engine), model, kept, delta))

    def send(self, to: str, message: Envelope) -> None:
        """Send `message` once what is being done is durable."""
        self.outbox.put(to, message)

    def _next(self, device: str, message: Assignment | Pause) -> None:
        """Tell `device` what it is to do next; a gateway is told one thing at a time."""
        sleeps = device in self.coordinator.sleepers.seen and device not in self.routes
        (self.outbox.follow if sleeps else self.outbox.put)(device, message)

    def flush(self) -> None:
        """Make durable what has happened, and say what follows from it."""
        self.store.commit()
        if self.trace is not None and self._traced:
            self.trace.writelines(self._traced)
            self._traced = []
        for to, message in self.outbox.take():
            self.transport.send(*gateways.wrapped(self, to, message))

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()
