"""The coordinator's side of SecAgg+: it hands keys and shares from device to device, and asks for shares in the end.

What devices have said is journaled like reports (law 8): a restart goes on where it was.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import cbor2

from fedthings.errors import SpecError, WireError
from fedthings.identity.keys import held
from fedthings.messages import Keys, Neighbours, Receipt, Shares, Unmask, Unmasked
from fedthings.privacy import secagg, signing
from fedthings.privacy.graph import circle
from fedthings.privacy.secagg import SEALED, Scope, SecAgg
from fedthings.privacy.shamir import SHARE
from fedthings.privacy.signing import Signing, Verify
from fedthings.privacy.unmasking import Set, masking, secrets
from fedthings.protocol import events
from fedthings.protocol.committee import KEYS, SHARES, Committee
from fedthings.protocol.events import Assign, Conversed, Discard, Ticket
from fedthings.vector import Payload
from fedthings.wire import pack, unpack

if TYPE_CHECKING:
    from fedthings.server.service import Service

KEY_FILE = "secagg.key"
RETRY = (2.0, 30.0)
"""Seconds after which devices are asked again for shares: doubled from the first to the last while some are missing."""
UNMASKED = "unmasked"


class Members:
    """It knows one committee at a time; `verify` tells whose the signatures of keys are. Raises StoreError."""

    def __init__(self, spec: SecAgg, directory: Path, verify: Verify = signing.verified) -> None:
        self.spec = spec
        self._verify = verify
        self.refusal = ""
        self.answer = b""  # what stands for the set that is settled
        self.committee = Committee(max(2, spec.min_batch), spec.patience)
        self._key = held(directory / KEY_FILE)
        self._asks, self._pause = inf, RETRY[0]
        self._alive: tuple[Ticket, ...] = ()  # whose reports are in the set that is asked about
        self._open()

    def _open(self) -> None:
        self.keys: dict[Ticket, Keys] = {}
        self.size = 0  # of the committee, once it is introduced
        self._sealed: dict[Ticket, tuple[bytes, ...]] = {}
        self._answers: dict[Ticket, tuple[bytes, ...]] = {}
        self._set: Set | None = None

    @property
    def alarm(self) -> float:
        """When `wake` is due, in seconds of federation time."""
        return min(self._asks, self.committee.alarm)

    @property
    def facts(self) -> dict[str, str]:
        """What an operator is told."""
        return {"refusal": self.refusal}

    # ----------------------------------------------------------------------- the committee

    def obey(self, service: Service, command: Assign | Discard) -> None:
        """Take a command of the coordinator."""
        self._seat(service, self.committee.on(command, service.now))

    def on(self, service: Service, event: Conversed) -> None:
        """Take what is journaled."""
        if isinstance(event, events.Said):
            _, message = unpack(event.data)
            match message:
                case Keys():
                    self.keys[event.ticket] = message
                case Shares(sealed=sealed):
                    self._sealed[event.ticket] = sealed
                case Unmasked(shares=shares):
                    self._answers[event.ticket] = shares
        self._seat(service, self.committee.on(event, service.now))

    def restore(self, service: Service) -> None:
        """Begin again with those who were given work before the checkpoint; none has said anything yet."""
        for ticket, deadline in service.coordinator.tasks.values():
            self.obey(service, Assign(ticket, deadline, None))

    def _seat(self, service: Service, commands: list[events.Seating]) -> None:
        for command in commands:
            match command:
                case events.Open():
                    self._open()
                case events.Introduce(tickets=tickets):
                    self._introduce(service, tickets)
                case events.Deliver(tickets=tickets):
                    assert self._set is not None
                    self._set = self._set._replace(masked=dict.fromkeys(tickets))
                    for ticket in tickets:
                        self._tell(service, ticket)
                case events.Leave(ticket=ticket, reason=reason):
                    service.act(events.Declined(ticket, reason))

    def _introduce(self, service: Service, tickets: tuple[Ticket, ...]) -> None:
        try:
            neighbours, threshold = self.spec.degree(len(tickets))
        except SpecError as error:  # a phase that more take part in than train
            self.refusal = str(error)
            for ticket in tickets:
                service.act(events.Declined(ticket, "no number of neighbours is safe"))
            return
        seed = sha256(self._key + cbor2.dumps([list(ticket) for ticket in tickets])).digest()
        near = circle(tickets, [self.keys[ticket].mask for ticket in tickets], seed, neighbours)
        self._set = Set(self._scope(service), self.keys, near, threshold, ())
        self.size = len(tickets)
        for ticket in tickets:
            self._tell(service, ticket)

    def _scope(self, service: Service) -> Scope:
        return Scope(service.transport.federation, service.bodies.task(service.engine).digest)

    def _tell(self, service: Service, ticket: Ticket) -> None:
        """Tell a member what it is to do next, also where it may have been told before."""
        the = self._set
        if the is None or ticket not in the.neighbours:
            return
        near = the.neighbours[ticket]
        if ticket in the.masked:
            sealed = (
                self._sealed[other][the.neighbours[other].index(ticket)] if other in the.masked else b""
                for other in near
            )
            service.send(ticket.device, Shares(ticket, tuple(sealed)))
        elif ticket not in self._sealed:
            service.send(ticket.device, Neighbours(ticket, self.size, tuple(self.keys[other] for other in near)))

    def masks(self, ticket: Ticket) -> bool:
        """Return whether the others mask with the device of `ticket`, so that its report can be taken."""
        return self._set is not None and ticket in self._set.masked

    # ----------------------------------------------------------------------- what they say

    def heard(self, service: Service, message: Keys | Shares | Unmasked, now: float) -> None:
        """Take what a device says. Raises WireError with the reason that is counted and answered."""
        ticket = message.ticket
        match message:
            case Unmasked():
                self._unmasked(service, message, now)
                return
            case Keys() if not service.coordinator.open(ticket):
                service.refusals["late"] += 1
                service.send(ticket.device, Receipt(ticket, False, "late"))
                return
        said = self.keys.get(ticket) if isinstance(message, Keys) else self._sealed.get(ticket)
        if said is not None and said == (message if isinstance(message, Keys) else message.sealed):
            self._tell(service, ticket)  # it has not heard what followed
            return
        stage = KEYS if isinstance(message, Keys) else SHARES
        try:
            self._fits(service, message, stage, said is not None)
        except WireError as error:
            service.on(events.Declined(ticket, error.reason), now)
            raise
        self._note(service, ticket, stage, message, now)

    def _fits(self, service: Service, message: Keys | Shares, stage: str, before: bool) -> None:
        """Raise WireError where what a member says cannot be taken."""
        ticket = message.ticket
        if before:
            raise WireError("second set", f"{ticket.device} has said other {stage} already: it has lost its state")
        if ticket not in self.committee.members or self.committee.stage != stage:
            raise WireError("too late for the set", f"the {stage} of {ticket.device}")
        if isinstance(message, Keys):
            secagg.check(self._scope(service), message, Signing(b"", lambda data: b"", self._verify))
            return
        assert self._set is not None
        lengths = [len(sealed) for sealed in message.sealed]
        if lengths != [SEALED] * len(self._set.neighbours[ticket]):
            raise WireError("malformed", f"{len(lengths)} sealed shares, not {SEALED} bytes for each neighbour")

    def _note(self, service: Service, ticket: Ticket, what: str, message: Keys | Shares | Unmasked, now: float) -> None:
        service.on(events.Said(ticket, what, pack(message, service.transport.federation)), now)

    # -------------------------------------------------------------------------- unmasking

    def ask(self, service: Service, norms: bool) -> None:
        """Ask those whose reports are in the settlement's set for shares; they hear of it at `wake`."""
        self._alive = tuple(sorted(service.settlement.fixed))
        self._asks, self._pause, self.refusal = service.now, RETRY[0], ""

    def wake(self, service: Service, now: float) -> None:
        """Go on without those who had their time; ask, or ask again, for shares."""
        if now >= self.committee.alarm:
            service.on(events.Lapsed(), now)
        if now < self._asks or self._set is None:
            return
        self._asks, self._pause = now + self._pause, min(2 * self._pause, RETRY[1])
        if self._settled(service, now):
            return
        for ticket in self._alive:
            if ticket not in self._answers:
                asked = self._set.asked(ticket, set(self._alive))
                service.send(ticket.device, Unmask(ticket, len(self._alive), *asked))

    def _unmasked(self, service: Service, message: Unmasked, now: float) -> None:
        ticket = message.ticket
        if self._asks == inf or self._set is None or ticket not in self._alive or ticket in self._answers:
            return  # its answer was asked for twice, or comes when nobody waits for it
        lengths = {len(share) for share in message.shares}
        if len(message.shares) != len(self._set.neighbours[ticket]) + 1 or not lengths <= {0, SHARE}:
            raise WireError(
                "malformed", f"{len(message.shares)} shares, not {SHARE} bytes for each neighbour and itself"
            )
        self._note(service, ticket, UNMASKED, message, now)
        self._settled(service, now)

    def _settled(self, service: Service, now: float) -> bool:
        """Settle the set where the shares are enough; return whether they are."""
        assert self._set is not None
        if len(self._answers) < self._set.threshold:
            return False
        try:
            found = secrets(self._set, set(self._alive), self._answers)
        except WireError as error:  # shares of lower numbers, which are taken first, may still come
            self.refusal = error.reason
            return False
        if found:
            service.on(events.Settled(sha256(cbor2.dumps([list(ticket) for ticket in self._alive])).digest()), now)
        return bool(found)

    def share(self, service: Service) -> Payload:
        """Return what the masks in the sum of the set come to, taken off nothing."""
        ring = service.engine.partial.ring
        assert ring is not None and self._set is not None
        arrays = {name: rows[0] for name, rows in ring.zeros(1).items()}
        alive = set(self._alive)
        masking(self._set, alive, secrets(self._set, alive, self._answers), arrays)
        return arrays

    def over(self) -> None:
        """Ask no longer: the set has its sum, or never will."""
        self._asks, self.refusal, self.answer, self._alive = inf, "", b"", ()

    def tidy(self, tickets: Collection[Ticket]) -> None:
        """Keep all: what a committee knows is gone when the next begins."""
