"""What a service keeps, and how one that was killed goes on: from its last checkpoint, and the events after it.

A checkpoint is the state between two versions; then what made it is thrown away. Acting on the journaled events once
more ends in the state that was (law 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedthings import run
from fedthings.bodies import Report, Subtotal
from fedthings.errors import StoreError, WireError
from fedthings.history import Tally
from fedthings.protocol import events
from fedthings.protocol.events import Answered, Conversed, Event, Ticket
from fedthings.server import gateways
from fedthings.server.store import Saved, Usage
from fedthings.wire import unpack_body

if TYPE_CHECKING:
    from fedthings.server.service import Service


def checkpoint(service: Service, made: int | None = None) -> None:
    """Write the state down, and whose reports `made` this version; only then are they thrown away.

    Those that came while the helper was asked are for the next version, and stay.
    """
    phase = service.coordinator.phase
    filling = {ticket: lag for ticket, lag in service.settlement.filling.items() if ticket.phase == phase}
    within = {} if service.leader is None else service.leader.within
    sums = {within[ticket]: lag for ticket, lag in filling.items() if ticket in within}
    state = {
        "terms": service.terms,
        "coordinator": service.coordinator.snapshot(),
        "engine": service.engine.snapshot(),
        "published": [[digest, count] for digest, count in service.bodies.published.items()],
        "reason": service.reason,
        "failure": service.failure,
        "filling": [[list(ticket), lag] for ticket, lag in filling.items() if ticket not in within],
        "sums": [[digest, lag] for digest, lag in sums.items()],
    }
    usage = {device: Usage(*numbers) for device, numbers in service.usage.items()}
    parts = {ticket.device for ticket in service.parts if ticket not in service.settlement.filling}
    service.store.checkpoint(service.now, state, service.fresh, usage, made, sorted(parts))
    run.account(service.directory, service.engine)
    run.append(service.directory, service.fresh)
    service.fresh, service.usage = [], {}
    for ticket in service.folded:
        if ticket not in filling:
            service.spool.remove(ticket)
    for digest in service.summed:
        if digest not in sums:
            service.inbound.remove(digest)
    if service.settler is not None:
        service.settler.tidy(filling)
    service.folded, service.summed = [t for t in filling if t not in within], [*sums]
    service.parts = [ticket for ticket in service.parts if ticket in filling]


def resume(service: Service) -> None:
    """Go on from the last checkpoint and the events after it, or write the first one."""
    saved = service.store.saved()
    history = service.directory / run.HISTORY
    if saved is None:
        if history.exists() and history.stat().st_size:
            raise StoreError(f"{service.directory} holds a run that was simulated: name another directory")
        history.touch()
        checkpoint(service)
        return
    for name, value in saved.state["terms"].items():
        given = service.terms[name]
        if value != given:
            raise StoreError(
                f"{service.directory} holds a run with --{name} {value or 'left out'}, not {given or 'left out'}: "
                "give the same, or name another directory"
            )
    service.history = service.store.history()
    run.replace(history, "".join(map(run.written_line, service.history)))
    try:
        _replay(service, saved)
    except (WireError, LookupError, ValueError, TypeError, AttributeError, FileNotFoundError) as error:
        raise StoreError(
            f"the state in {service.directory} is damaged ({type(error).__name__}: {error}): "
            "bring it back from a copy, or begin anew in another directory"
        ) from error
    service.spool.tidy([*(ticket for ticket, _ in service.coordinator.tasks.values()), *service.folded])
    service.inbound.tidy(service.summed)
    if service.settler is not None:
        service.settler.tidy([*service.settlement.filling, *service.settlement.fixed])


def _replay(service: Service, saved: Saved) -> None:
    """Take up a checkpoint, and go through the events after it once more."""
    service.now = saved.now
    service.coordinator.restore(saved.state["coordinator"])
    if saved.state["coordinator"]["shared"] != service.coordinator.shared:
        how = "alone, with it as --out" if service.coordinator.shared else "with the others, from the directory above"
        raise StoreError(f"{service.directory} was served in another way: serve it {how}")
    service.engine.restore(saved.state["engine"])
    service.reason, service.failure = saved.state["reason"], saved.state["failure"]
    service.replaying = True
    if service.members is not None:
        service.members.restore(service)
    tally, service.engine.partial.tally = service.engine.partial.tally, Tally()
    for ticket, lag in saved.state["filling"]:  # the tally has them already
        service.fold(Ticket(*ticket), lag, service.spool.read(Ticket(*ticket)))
    for digest, lag in saved.state["sums"]:
        gateways.add(service, digest, service.inbound.read(digest), lag)
    service.engine.partial.tally = tally
    for at, (kind, *fields), body in saved.events:
        service.now = at
        if kind == Subtotal.__name__:
            gateways.count(service, fields[0], service.inbound.read(fields[0]))
            continue
        event = _event(kind, fields)
        if isinstance(event, events.Arrived) and body is not None:
            service.reports[event.ticket] = unpack_body(body, Report)
        service.act(event)
    service.replaying = False
    service.outbox.take()  # said before, or asked for again by the Hello of each device
    for digest, count in saved.state["published"]:
        service.bodies.published.setdefault(digest, count)
    if service.done and service.fresh:
        checkpoint(service)


def _event(kind: str, fields: list[Any]) -> Event | Answered | Conversed:
    """Return the event that the journal holds."""
    made: type[Any] = getattr(events, kind)
    if made in (events.Granted, events.Withdrawn):
        return made(tuple(fields[0]))  # type: ignore[no-any-return]
    event: Event | Answered | Conversed = made(
        *(_tickets(field) if isinstance(field, list) else field for field in fields)
    )
    return event


def _tickets(field: list[Any]) -> Ticket | tuple[Ticket, ...]:
    """Return the ticket that a field of the journal holds, or the tickets."""
    if field and not isinstance(field[0], list):
        return Ticket(*field)
    return tuple(Ticket(*ticket) for ticket in field)
