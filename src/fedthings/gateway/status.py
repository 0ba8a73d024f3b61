"""What an operator is told of a gateway: what it holds, and what is waited for (law 11)."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedthings.gateway.gateway import Gateway


def status(gateway: Gateway) -> dict[str, Any]:
    """Return the state of `gateway` as plain data."""
    message, up, down = gateway.announced, gateway.up, gateway.down
    waits: list[tuple[str, float]] = []
    held = 0
    if message is None:
        waits.append(("the coordinator's announcement", inf))
    if not up.linked:
        waits.append(("the link upward", inf))
    if gateway.bound:
        held = sum(len(gateway.hold.tickets(version)) for version in gateway.hold.since)
        if gateway.cache.fetching:
            waits.append((f"{gateway.cache.fetching} bodies from above", gateway.ask_at))
        if gateway.hold.out is not None:
            waits.append((f"the verdict on a sum of {len(gateway.hold.out.reasons)} reports", gateway.upload.alarm))
        elif held:
            waits.append(("more reports, before a sum goes up", gateway.alarm))
    return {
        "federation": message.name if message else "none",
        "state": message.state if message else "waiting",
        "phase": f"phase {message.phase}" if message else "none",
        "version": message.version if message else 0,
        "time": gateway.now - gateway.began,
        "gateway": True,
        "linked": up.linked,
        "present": len(gateway.present),
        "at_work": sorted(gateway.assigned),
        "held": held,
        "merged": gateway.merged,
        "sums": gateway.sums,
        "waiting": [
            {"for": reason, "seconds": None if until == inf else max(0.0, until - gateway.now)}
            for reason, until in waits
        ],
        "gateways": dict(sorted(Counter(gateway.routes.values()).items())),
        "bytes": {"up": [up.bytes_sent, up.bytes_received], "down": [down.bytes_sent, down.bytes_received]},
        "refused": dict(gateway.refusals),
    }
