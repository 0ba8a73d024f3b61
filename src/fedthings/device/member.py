"""The device's side of SecAgg+: it agrees with its neighbours on masks before it trains, and helps to take them off.

What it knows of a set is on the disk before it says anything that follows from it, so that a device that was down goes
on where it was, and never gives a second answer.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

import msgspec

from fedthings.errors import StoreError
from fedthings.identity.files import private
from fedthings.messages import Neighbours, Shares, Unmask
from fedthings.privacy import secagg, signing
from fedthings.privacy.secagg import Scope, Seat, SecAgg
from fedthings.privacy.signing import Signing
from fedthings.protocol.events import Ticket
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Transport
from fedthings.vector import Payload

SEAT = "secagg.seat"
RETRY = 5.0
"""Seconds without an answer after which it says again what it has said."""


class Member:
    """`join` a set, `take` what is said of it, `hide` the report; `wake` at `alarm`.

    `signing` is by the device's identity (None: it has none, and signs with a key made now).
    Raises StoreError where `directory` cannot be used.
    """

    def __init__(self, transport: Transport, directory: Path | None, signing: Signing | None = None) -> None:
        self._transport, self._signing = transport, signing
        self._path = None if directory is None else directory / SEAT
        self._seat: Seat | None = None
        self.alarm = inf
        if self._path is not None and self._path.exists():
            try:
                self._seat = msgspec.msgpack.decode(self._path.read_bytes(), type=Seat)
            except (OSError, msgspec.MsgspecError) as error:
                raise StoreError(f"{self._path} is damaged: remove it, and the device begins anew: {error}") from None

    @property
    def signing(self) -> Signing:
        """What it signs with, and knows others by."""
        if self._signing is None:
            self._signing = signing.own()
        return self._signing

    def join(self, spec: object, scope: Scope, ticket: Ticket, now: float) -> bool:
        """Take on `ticket`; return whether its report can be hidden as `spec` says: by SecAgg+ once all have agreed."""
        if not isinstance(spec, SecAgg):
            return True
        if self._seat is None or (self._seat.ticket, self._seat.scope) != (ticket, scope):
            self._keep(secagg.begin(spec, scope, ticket, self.signing))
        assert self._seat is not None
        if self._seat.received:
            return True
        self._say(now)
        return False

    def hide(self, ticket: Ticket, arrays: Payload) -> None:
        """Mask the report of `ticket`, in place."""
        assert self._seat is not None and self._seat.ticket == ticket
        secagg.hide(self._seat, arrays)

    def take(self, said: Neighbours | Shares | Unmask, now: float) -> bool:
        """Take what the coordinator says; return whether all is agreed on with it. Raises WireError."""
        seat = self._seat
        if seat is None or seat.ticket != said.ticket:
            return False  # of a set that is over
        match said:
            case Neighbours():
                self._keep(secagg.share(seat, said, self.signing))
                self._say(now)
            case Shares():
                self._keep(secagg.receive(seat, said))
                self.alarm = inf
                return not seat.received
            case Unmask():
                seat, answer = secagg.unmask(seat, said)
                self._keep(seat)
                self._transport.send(COORDINATOR, answer)
        return False

    def wake(self, now: float) -> None:
        """Say again what has not been answered."""
        if now >= self.alarm:
            self._say(now)

    def stop(self) -> None:
        """There is no task any more: say nothing more, but for what is asked in the end."""
        self.alarm = inf

    def relink(self, transport: Transport) -> None:
        """Go on with another link."""
        self._transport = transport

    def _say(self, now: float) -> None:
        seat = self._seat
        assert seat is not None
        self._transport.send(COORDINATOR, Shares(seat.ticket, seat.sealed) if seat.sealed else seat.keys)
        self.alarm = now + RETRY

    def _keep(self, seat: Seat) -> None:
        if seat == self._seat:
            return
        if self._path is not None:
            private(self._path, msgspec.msgpack.encode(seat), fsync=True)
        self._seat = seat
