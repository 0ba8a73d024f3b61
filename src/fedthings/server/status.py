"""What an operator is told of a running federation: what is going on, and what is waited for (law 11)."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any

from fedthings.protocol.pace import Wait

if TYPE_CHECKING:
    from fedthings.server.service import Service


def status(service: Service, now: float) -> dict[str, Any]:
    """Return the state of `service` at `now` seconds of federation time, as plain data."""
    coordinator, engine = service.coordinator, service.engine
    return {
        "federation": engine.federation.name,
        "id": service.transport.federation,
        "phase": engine.spec.kind,
        "version": engine.trained,
        "rounds": service.terms["rounds"],
        "state": "finished" if coordinator.done else "paused" if coordinator.paused else "running",
        "reason": service.reason,
        "time": now,
        "present": len(coordinator.present),
        "at_work": sorted(coordinator.tasks),
        "kept": coordinator.kept,
        "goal": coordinator.goal,
        "waiting": [
            {"for": wait.reason, "seconds": None if wait.until == inf else max(0.0, wait.until - now)}
            for wait in (*_settling(service), *coordinator.waits, *service.lent())
        ],
        "last": service.history[-1] if service.history else None,
        "bytes_up": engine.tally.bytes_up,
        "bytes_down": engine.tally.bytes_down,
        "dropped": dict(engine.tally.dropped),
        "refused": dict(service.refusals),
        "helper": service.settler.facts if service.settler is not None else None,
        "gateways": dict(sorted(Counter(service.routes.values()).items())),
    }


def _settling(service: Service) -> list[Wait]:
    """Return what the settlement waits for, with what the helper has said instead of an answer."""
    said = service.settler.refusal if service.settler is not None else ""
    waits = (
        service.settlement.waits
        if service.members is None
        else [*service.members.committee.waits, *service.settlement.waits]
    )
    return [Wait(f"{reason}; it says: {said}" if said else reason, until) for reason, until in waits]
