"""SecAgg+ (Bell et al. 2020, Alg. 2): a device hides its report behind masks that cancel in the sum, as pure functions.

Each pair of neighbours has a mask that one adds and the other subtracts, and each device one of its own, whose seed it
shares among its neighbours as it shares the key of the pairs' masks. At the end they give shares of the seed of those
whose reports are in the sum, and of the key of those whose are not, and of nobody both. `unmasking` is the
coordinator's side.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import cbor2
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from fedthings.errors import SpecError, WireError
from fedthings.identity.keys import KEY
from fedthings.learn.task import within
from fedthings.messages import Keys, Neighbours, Shares, Unmask, Unmasked
from fedthings.privacy import masks
from fedthings.privacy.graph import Degree, degree
from fedthings.privacy.keys import agreed, derived, private, public_of
from fedthings.privacy.shamir import SECRET, SHARE, Draw, split
from fedthings.privacy.signing import SIGNATURE, Signing
from fedthings.protocol.events import Ticket
from fedthings.vector import Payload

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

LABEL = "fedthings secagg 1"
SEALED = 2 * SHARE + 16
"""Bytes of the two shares for one neighbour, sealed."""
SEED = 16
"""Bytes of the seed of a mask."""


class SecAgg(Struct, frozen=True, tag="secagg", forbid_unknown_fields=True):
    """Hide each report from the coordinator without a second server: for devices that stay linked.

    Numbers travel with `bits` 32 or 16. A report's weight counts up to `heaviest`, and is hidden too. Each device has
    so many `neighbours` (0: as few as are safe where the share `corrupt` of the devices works with the coordinator, and
    `dropout` leaves in mid-version). Devices have `patience` seconds for each answer that the coordinator waits for.
    """

    min_batch: int = 3
    bits: Literal[16, 32] = 32
    heaviest: int = 1024
    neighbours: int = 0
    corrupt: float = 0.05
    dropout: float = 0.1
    patience: float = 60.0

    def __post_init__(self) -> None:
        within("secure.min_batch", self.min_batch, 2, 1 << 20)
        within("secure.heaviest", self.heaviest, 1, 1 << 16)
        within("secure.patience", self.patience, 1, 30 * 86400)
        within("secure.neighbours", self.neighbours, 0, 1 << 10)
        within("secure.corrupt", self.corrupt, 0.001, 0.5)
        within("secure.dropout", self.dropout, 0.001, 0.5)
        if self.bits not in (16, 32):
            raise SpecError(f"secure.bits is {self.bits}: it must be 32 or 16")

    @property
    def norms(self) -> bool:
        """Whether reports are measured: nobody else is there who could."""
        return False

    def degree(self, members: int) -> Degree:
        """Return how many neighbours, and shares that give a secret, a set of so many `members` has."""
        return degree(members, self.corrupt, self.dropout, self.neighbours)


def said(the: Degree) -> tuple[int, int]:
    """Return the bytes of keys, signatures and shares that a device sends in one version, and receives."""
    keys = 2 * KEY + KEY + SIGNATURE
    return keys + the.neighbours * SEALED + (the.neighbours + 1) * SHARE, the.neighbours * (keys + SEALED)


class Scope(Struct, frozen=True):
    """What keys and shares are good for, and for nothing else: the federation's id, the SHA-256 of the task body."""

    federation: str
    task: bytes

    def of(self, role: str, *tickets: Ticket) -> bytes:
        """Return the words that a key for `role` between devices, in no order, is bound to."""
        return cbor2.dumps([LABEL, role, self.federation, self.task, sorted(map(list, tickets))])


class Seat(Struct, frozen=True):
    """All that a device knows of one set that it is in: it is kept until the next, also while the device is down.

    `keys` is what it has told; `seal`, `mask` are the keys behind them, `own` is the seed of its own mask. It comes to
    know its `neighbours`, what is `sealed` for them and what it has `received`. It answers one `unmask`.
    """

    spec: SecAgg
    scope: Scope
    keys: Keys
    seal: bytes
    mask: bytes
    own: bytes
    members: int = 0
    threshold: int = 0
    neighbours: tuple[Keys, ...] = ()
    sealed: tuple[bytes, ...] = ()
    kept: bytes = b""
    received: tuple[bytes, ...] = ()
    unmask: Unmask | None = None

    @property
    def ticket(self) -> Ticket:
        """What it was asked to do."""
        return self.keys.ticket


def begin(spec: SecAgg, scope: Scope, ticket: Ticket, signing: Signing, draw: Draw = os.urandom) -> Seat:
    """Take on `ticket`, with keys and a seed that are new."""
    seal, mask, own = draw(KEY), draw(SECRET), draw(SECRET)
    pair = public_of(seal), public_of(mask)
    signature = signing.sign(_claim(scope, ticket, *pair))
    return Seat(spec, scope, Keys(ticket, *pair, signing.public, signature), seal, mask, own)


def check(scope: Scope, keys: Keys, signing: Signing) -> None:
    """Raise WireError unless the device itself says that these are its keys."""
    claim = _claim(scope, keys.ticket, keys.seal, keys.mask)
    if not signing.verify(keys.ticket.device, keys.identity, claim, keys.signature):
        raise WireError("wrong signature", f"the keys of {keys.ticket.device} are not signed by its identity")


def _claim(scope: Scope, ticket: Ticket, seal: bytes, mask: bytes) -> bytes:
    return scope.of("keys", ticket) + seal + mask


# --------------------------------------------------------------------------- shares


def share(seat: Seat, said: Neighbours, signing: Signing, draw: Draw = os.urandom) -> Seat:
    """Return the seat with both secrets split among the neighbours, which happens once: `sealed` is to be sent.

    Raises WireError where a set so small, or so put together, would hide too little.
    """
    if seat.neighbours:
        if said.keys != seat.neighbours or said.members != seat.members:
            raise WireError("second set", "other neighbours than those that have its shares")
        return seat
    if said.members < seat.spec.min_batch:
        raise WireError("batch below the minimum", f"a set of {said.members} devices, and not {seat.spec.min_batch}")
    wanted, threshold = seat.spec.degree(said.members)
    names = {keys.ticket.device for keys in said.keys}
    if len(said.keys) != wanted or len(names) != wanted or seat.ticket.device in names:
        raise WireError("malformed", f"a set of {said.members} has {wanted} neighbours that differ: {len(names)} came")
    for keys in said.keys:
        if keys.ticket[:2] != seat.ticket[:2]:
            raise WireError("malformed", f"the keys of {keys.ticket.device} are of another version")
        check(seat.scope, keys, signing)
    pairs = [split(secret, threshold, wanted + 1, draw) for secret in (seat.own, seat.mask)]
    seal = private(seat.seal)
    sealed = tuple(
        _cipher(seat, seal, keys, True).encrypt(bytes(12), own + mask, None)
        for keys, own, mask in zip(said.keys, *pairs, strict=False)  # the last two shares are its own
    )
    return replace(
        seat, members=said.members, threshold=threshold, neighbours=said.keys, sealed=sealed, kept=pairs[0][wanted]
    )


def receive(seat: Seat, said: Shares) -> Seat:
    """Return the seat with the sealed shares of the neighbours; who has sent none masks nothing.

    Raises WireError where fewer are left than give a secret back.
    """
    if seat.received:
        if said.sealed != seat.received:
            raise WireError("second set", "other shares than those it masks by")
        return seat
    if not seat.neighbours or len(said.sealed) != len(seat.neighbours):
        raise WireError("malformed", f"shares of {len(said.sealed)} neighbours, where {len(seat.neighbours)} are known")
    there = 1 + sum(bool(sealed) for sealed in said.sealed)
    if there < seat.threshold:
        raise WireError("set below the threshold", f"{there} hold shares, and {seat.threshold} give a secret")
    return replace(seat, received=said.sealed)


def hide(seat: Seat, arrays: Payload) -> None:
    """Add to the rows of `arrays`, in place, the device's own mask and those with neighbours that have sent shares."""
    mask = private(seat.mask)
    pairs = [
        (pair_seed(seat.scope, mask, seat.ticket, keys), sign(seat.ticket, keys.ticket))
        for keys, sealed in zip(seat.neighbours, seat.received, strict=True)
        if sealed
    ]
    masks.apply(arrays, [(own_seed(seat.scope, seat.own, seat.ticket), np.add), *pairs])


def sign(device: Ticket, other: Ticket) -> np.ufunc:
    """Return what `device` does with the mask that it has with `other`: one of the two adds it, one subtracts it."""
    return np.add if device < other else np.subtract


def own_seed(scope: Scope, secret: bytes, ticket: Ticket) -> bytes:
    """Return the seed of the own mask of `ticket`."""
    return derived(secret, scope.of("own mask", ticket), SEED)


def pair_seed(scope: Scope, mask: X25519PrivateKey, ticket: Ticket, other: Keys) -> bytes:
    """Return the seed of the mask between `ticket`, whose private key is `mask`, and `other`. Raises WireError."""
    return derived(agreed(mask, other.mask), scope.of("mask", ticket, other.ticket), SEED)


# ----------------------------------------------------------------------- unmasking


def unmask(seat: Seat, said: Unmask) -> tuple[Seat, Unmasked]:
    """Return the answer to the one request for shares that is answered, and the seat that knows of it.

    The same request has the same answer. Raises WireError where both kinds of share of one device are asked for, at
    once or one after the other, and where the set is too small.
    """
    if seat.unmask not in (None, said):
        raise WireError("second unmasking", "shares were given for another set of reports already")
    alive, gone, least = set(said.alive), set(said.gone), seat.spec.min_batch
    if alive & gone:
        raise WireError("both shares", f"of {len(alive & gone)} devices both are asked for, which would read reports")
    there = {number for number, sealed in enumerate(seat.received) if sealed}
    if alive | gone != there or len(alive) + len(gone) != len(said.alive) + len(said.gone):
        raise WireError("malformed", "an unmasking names each neighbour that has sent shares, once")
    if len(alive) + 1 < seat.threshold:
        raise WireError("set below the threshold", f"{len(alive) + 1} reports near it, and not {seat.threshold}")
    if min(said.reports, seat.members) < max(least, len(alive) + 1) or (
        len(seat.neighbours) + 1 == seat.members and len(alive) + 1 < least
    ):
        raise WireError("batch below the minimum", f"a set of {said.reports} reports, and not {least}")
    shares = [b""] * len(seat.received) + [seat.kept]
    seal = private(seat.seal)
    for number in there:
        own, mask = _opened(seat, seal, number)
        shares[number] = own if number in alive else mask
    return replace(seat, unmask=said), Unmasked(said.ticket, tuple(shares))


def _opened(seat: Seat, seal: X25519PrivateKey, number: int) -> tuple[bytes, bytes]:
    """Return the shares from the neighbour with this number, of its own mask and of its key; b"" where none are."""
    from cryptography.exceptions import InvalidTag

    try:
        both = _cipher(seat, seal, seat.neighbours[number], False).decrypt(bytes(12), seat.received[number], None)
    except InvalidTag:  # whoever has written it cannot be helped with it
        return b"", b""
    return both[:SHARE], both[SHARE:]


def _cipher(seat: Seat, seal: X25519PrivateKey, other: Keys, out: bool) -> Any:
    """Return what closes the shares for `other`, or opens those from it.

    ChaCha20-Poly1305 (RFC 8439), a key for each direction, which closes this once: so the nonce may be 0.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    keys = derived(agreed(seal, other.seal), seat.scope.of("shares", seat.ticket, other.ticket), 2 * KEY)
    first = (seat.ticket < other.ticket) == out
    return ChaCha20Poly1305(keys[:KEY] if first else keys[KEY:])
