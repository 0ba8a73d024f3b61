"""Who comes in: the roll as a running coordinator, or gateway, knows it, and the answers to those who enrol.

What changes on the roll is told to the seal of its transport, and to its own broker, before anybody is answered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import NamedTuple

from fedthings.errors import WireError
from fedthings.identity.keys import fingerprint, held
from fedthings.identity.links import Links
from fedthings.identity.seal import CoordinatorSeal
from fedthings.messages import Enrol, Enrolled
from fedthings.server.broker import Broker, Kind
from fedthings.server.devices import KEY_FILE, LINKS_FILE
from fedthings.server.roll import ENROLLED, INVITED, QUARANTINED, WAITING, Listed, Reading, Roll
from fedthings.server.store import Store
from fedthings.transport.transport import Transport

log = logging.getLogger("fedthings.server")


class Changed(NamedTuple):
    """Who is out, who gets no work any more, and who gets it again, since the roll was read last."""

    gone: set[str]
    quarantined: set[str]
    released: set[str]


class Admission:
    """The roll of `directory`. `names` are those on it, with the hash of each password; `seal` is for the transport.

    `broker` is the own one, which lets in whom the roll has. Raises StoreError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._store = directory, Store(directory)
        self.roll = Roll(self._store)
        self.seal = CoordinatorSeal(held(directory / KEY_FILE), Links(directory / LINKS_FILE))
        self.broker: Broker | None = None
        self.names: dict[str, str] = {}
        self._logins: dict[str, str] = {}
        self.quarantined: set[str] = set()
        self.alarm = inf  # when `flush` is due, in seconds
        self._free = 0.0  # from when on it may be
        self._waiting: dict[str, tuple[str, Enrol]] = {}  # name -> who has asked, and what
        self._answers: list[tuple[str, Enrolled]] = []
        self.read(self.roll.read())

    def close(self) -> None:
        """Let go of the files."""
        self._store.close()

    def allowed(self, name: str) -> bool:
        """Return whether `name` may be heard, by itself or by way of a gateway."""
        return name in self.names

    def held(self, name: str) -> bool:
        """Return whether `name` is to get no work."""
        return name in self.quarantined

    def key(self, name: str) -> bytes | None:
        """Return the public key that `name` has enrolled with, if any."""
        return self.seal.known.keys.get(name)

    def changed(self, found: Reading) -> Changed:
        """Return what is different on the roll as it is `found` from what was taken last."""
        listed = found.devices
        names, quarantined = _names(listed).keys(), _quarantined(listed)
        gone = self.names.keys() - names
        return Changed(gone, quarantined - self.quarantined, self.quarantined - quarantined - gone)

    def read(self, found: Reading) -> None:
        """Take the roll as it is `found`."""
        listed, self.seal.known, self._logins = found
        self.names, self.quarantined = _names(listed), _quarantined(listed)
        for name, (sender, enrol) in list(self._waiting.items()):
            device = listed.get(name)
            if device is None or device.state != WAITING:
                del self._waiting[name]
                good = device is not None and device.key == enrol.key
                self._answer(sender, enrol, ENROLLED if good else "refused", "" if good else "not approved")

    def take(self, sender: str, enrol: Enrol, now: float) -> None:
        """Take what `sender` shows; it is answered with `flush`. Raises WireError with the reason."""
        self.alarm = max(now, self._free)
        try:
            state = self.roll.enrol(sender, enrol)
        except WireError as error:
            self._answer(sender, enrol, "refused", str(error)[:200])
            raise
        if state == WAITING:
            log.warning("%s waits for `fedthings devices approve %s`", enrol.name, enrol.name)
            self._waiting[enrol.name] = sender, enrol
        self._answer(sender, enrol, ENROLLED if state == QUARANTINED else state)

    def _answer(self, sender: str, enrol: Enrol, standing: str, reason: str = "") -> None:
        to = f"{sender}/{fingerprint(enrol.key)}"  # many may show one token
        self._answers.append((to, Enrolled(enrol.name[:64], enrol.key, standing, reason)))

    def flush(self, transport: Transport, now: float) -> None:
        """Let in those on the roll as it was read last, and answer who has enrolled, many at once."""
        begun = time.monotonic()
        if self.broker is not None:
            self.broker.admit(self._logins)
        answers, self._answers = self._answers, []
        for to, answer in answers:
            transport.send(to, answer)
        self.alarm, self._free = inf, now + 4 * (time.monotonic() - begun)

    def start(
        self, directory: Path, port: int, kind: Kind | None, host: str, root: str, on_end: Callable[[], None]
    ) -> Broker:
        """Start the own broker, as `Broker.start` does, for those on the roll and nobody else."""
        home = None if self._directory == directory else self._directory  # whose authority the devices there trust
        self.broker = Broker.start(directory, port, self._logins, kind, host=host, root=root, home=home, on_end=on_end)
        return self.broker


def _names(listed: Mapping[str, Listed]) -> dict[str, str]:
    return {name: d.password for name, d in listed.items() if d.state in (INVITED, ENROLLED, QUARANTINED)}


def _quarantined(listed: Mapping[str, Listed]) -> set[str]:
    return {name for name, device in listed.items() if device.state == QUARANTINED}
