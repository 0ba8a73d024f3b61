"""An operator's question to a running coordinator, and what a run directory itself knows when none answers."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from fedthings.errors import StoreError, TransportError
from fedthings.federation import load, phases
from fedthings.messages import Ask, Status
from fedthings.run import FEDERATION
from fedthings.server import place
from fedthings.server.store import FILE, Store
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR, OPERATOR, ROOT
from fedthings.transport.transport import Delivery, Inbox

PATIENCE = 3.0
"""Seconds within which a coordinator that runs answers."""


def ask(verb: str, directory: Path | None, broker: str = "", root: str = "") -> dict[str, Any]:
    """Ask the coordinator `verb` and return its status.

    It is found by the URL `broker`, or by what it left in its run `directory`. Raises TransportError where
    none answers, StoreError where the directory was never served.
    """
    served = place.read(directory) if directory is not None else None
    if not broker and served is None:
        raise StoreError(f"{directory} was never served: name a run directory, or the broker with --broker URL")
    url = broker or (served.broker if served else "")
    root = root or (served.root if served else ROOT)
    federation = served.federation if served else ""
    asking = f"no coordinator answers for {directory or 'this broker'}: is `fedthings serve` running?"
    try:
        transport = MqttTransport(url, f"{OPERATOR}cli-{secrets.token_hex(4)}", root=root, timeout=PATIENCE)
    except TransportError as error:
        raise TransportError(f"{asking} ({error})") from None
    try:
        transport.send(COORDINATOR, Ask(verb))
        facts = _answer(transport.inbox, federation)
    finally:
        transport.close()
    if facts is None:
        raise TransportError(f"{asking} (nothing came within {PATIENCE:g} seconds)")
    return facts


def _answer(inbox: Inbox, federation: str) -> dict[str, Any] | None:
    """Return the facts of the first Status of `federation` ("": any), or None after the patience."""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        arrival = inbox.get(left)
        if not isinstance(arrival, Delivery) or federation not in ("", arrival.federation):
            continue
        if isinstance(arrival.message, Status):
            return dict(arrival.message.facts)
    return None


def remembered(directory: Path) -> dict[str, Any]:
    """Return the status that the state in `directory` tells, where no coordinator runs. Raises StoreError."""
    if not (directory / FILE).is_file():
        raise StoreError(f"{directory} holds no state of a federation: `fedthings serve` makes one")
    store = Store(directory)
    try:
        saved, history = store.saved(), store.history()
    finally:
        store.close()
    if saved is None:
        raise StoreError(f"{directory} has devices, but was never served: start `fedthings serve`")
    federation = load(directory / FEDERATION)
    coordinator = saved.state["coordinator"]
    done = coordinator["flags"][2]
    return {
        "federation": federation.name,
        "phase": phases(federation)[coordinator["phase"]].kind,
        "version": saved.state["engine"]["trained"],
        "rounds": saved.state["terms"]["rounds"],
        "state": "finished" if done else "not running",
        "reason": saved.state["reason"],
        "time": saved.last,
        "present": 0,
        "at_work": [],
        "waiting": [] if done else [{"for": "the coordinator: start `fedthings serve` again", "seconds": None}],
        "last": history[-1] if history else None,
    }
