"""An operator's question to a running coordinator, and what a run directory itself knows when none answers."""

from __future__ import annotations

import secrets
import ssl
import time
from pathlib import Path
from typing import Any, NamedTuple

from fedthings.errors import SpecError, StoreError, TransportError
from fedthings.federation import load, phases
from fedthings.messages import Ask, Refusal, Status
from fedthings.run import FEDERATION
from fedthings.server import place
from fedthings.server.access import Access
from fedthings.server.store import FILE, Store
from fedthings.server.tls import own_trust
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR, OPERATOR, ROOT
from fedthings.transport.transport import Delivery, Inbox

PATIENCE = 3.0
"""Seconds within which a coordinator that runs answers."""


def ask(
    verb: str,
    directory: Path | None,
    broker: str = "",
    root: str = "",
    federation: str = "",
    tls: ssl.SSLContext | None = None,
) -> dict[str, Any]:
    """Ask the coordinator `verb` and return its status; that of several federations is `{"federations": [...]}`.

    It is found by the URL `broker`, or by what it left in its run `directory`; `federation` names one of several.
    Raises TransportError where none answers, StoreError where the directory was never served, and SpecError where
    `federation` is none of those served, or is to be named.
    """
    if directory is not None and federation:
        directory = place.one_of(directory, federation)
    served = place.read(directory) if directory is not None else None
    if not broker and served is None:
        raise StoreError(f"{directory} was never served: name a run directory, or the broker with --broker URL")
    url, at = broker or (served.broker if served else ""), root or (served.root if served else ROOT)
    link = _Asking(url, at, directory, tls or (_trust(directory) if directory is not None else None))
    if served is not None:
        return link.ask(verb, served.federation)
    return link.ask(verb, link.known_as(federation) if federation else "")


def _trust(directory: Path) -> ssl.SSLContext | None:
    """Return how the broker's certificate is checked; one of several federations has its files above."""
    return own_trust(Access(directory).home) or own_trust(Access(directory.resolve().parent).home)


class _Asking(NamedTuple):
    """Where the coordinator is asked: at the broker `url`; `directory` is for messages."""

    url: str
    root: str
    directory: Path | None
    tls: ssl.SSLContext | None

    def ask(self, verb: str, federation: str) -> dict[str, Any]:
        """Ask about the federation of this id; "" where there is one, or about all."""
        asking = f"no coordinator answers for {self.directory or 'this broker'}: is `fedthings serve` running?"
        name = f"{OPERATOR}cli-{secrets.token_hex(4)}"
        try:
            transport = MqttTransport(self.url, name, federation, root=self.root, timeout=PATIENCE, tls=self.tls)
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

    def known_as(self, name: str) -> str:
        """Return the id of the federation called `name`. Raises SpecError where it is not served."""
        facts = self.ask("status", "")
        there = {one["federation"]: one.get("id", "") for one in facts.get("federations", [facts])}
        if name not in there:
            raise SpecError(f"there is no federation {name!r} at this broker: there is {', '.join(sorted(there))}")
        return str(there[name])


def _answer(inbox: Inbox, federation: str) -> dict[str, Any] | None:
    """Return the facts of the first Status of `federation` ("": any), or None after the patience. Raises SpecError."""
    end = time.monotonic() + PATIENCE
    while (left := end - time.monotonic()) > 0:
        arrival = inbox.get(left)
        if not isinstance(arrival, Delivery):
            continue
        message = arrival.message
        if isinstance(message, Refusal):
            raise SpecError(f"the coordinator refuses: {message.detail or message.reason}")
        if isinstance(message, Status) and federation in ("", arrival.federation):
            return dict(message.facts)
    return None


def remembered(directory: Path, federation: str = "") -> dict[str, Any]:
    """Return the status that the state in `directory` tells, where no coordinator runs; `federation` as in `ask`.

    Raises StoreError, SpecError.
    """
    if federation:
        directory = place.one_of(directory, federation)
    if there := place.several(directory):
        return {"federations": [remembered(run) for run in there.values()]}
    if not (directory / FILE).is_file():
        raise StoreError(f"{directory} holds no state of a federation: `fedthings serve` makes one")
    store = Store(directory)
    try:
        saved, history = store.saved(), store.history()
    finally:
        store.close()
    if saved is None:
        raise StoreError(f"{directory} has devices, but was never served: start `fedthings serve`")
    spec = load(directory / FEDERATION)
    coordinator = saved.state["coordinator"]
    done = coordinator["flags"][2]
    return {
        "federation": spec.name,
        "phase": phases(spec)[coordinator["phase"]].kind,
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
