"""Two servers, one message: a report is split into two shares, and neither server can read anything from its own.

The device sends its report, less a mask, to the coordinator (the leader); and the 16 bytes from which the mask comes,
sealed for the helper. Leader and helper add up what they have, and only both sums together say anything. Names follow
the IETF's Distributed Aggregation Protocol (leader, helper, report, batch), without claiming to be it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Literal, NamedTuple

import cbor2
import numpy as np
from msgspec import Struct

from fedthings.aggregate.ring import EXACT, Ring, X
from fedthings.errors import SpecError, WireError
from fedthings.identity.keys import KEY
from fedthings.learn.task import within
from fedthings.privacy import distributed, masks
from fedthings.privacy.central import Claim
from fedthings.privacy.keys import agreed, derived, private, public, public_of
from fedthings.protocol.events import Ticket
from fedthings.vector import Array, Payload
from fedthings.wire import NAME

SEED, SEALED = 16, 64
"""Bytes of a seed; and of a sealed one: the sender's key of the moment, the seed, the tag."""
SEALED_SEED = "seed"
"""The array of a report that holds the sealed seed."""
SHA = 32
"""Bytes of a SHA-256."""
LABEL = "fedthings two servers 1"


class TwoServers(Struct, frozen=True, tag="two_servers", forbid_unknown_fields=True):
    """Hide each report from the coordinator: it learns sums of at least `min_batch` reports, with the helper's leave.

    `helper` is the helper's public key, which `fedthings helper` prints, and `name` its name at the broker. Numbers
    travel with `bits` 32 or 16. A report's weight counts up to `heaviest` (McMahan et al. 2018, section 3.1), and is
    hidden too. A version for which the helper does not answer within `patience` seconds is made without its reports.
    With `norms` both servers see 1,024 projections of each report, and leave out those longer than the clip allows.
    """

    helper: str
    min_batch: int = 3
    bits: Literal[16, 32] = 32
    heaviest: int = 1024
    name: str = "helper"
    patience: float = 3600.0
    norms: bool = False

    def __post_init__(self) -> None:
        public(self.helper, "secure.helper")
        within("secure.min_batch", self.min_batch, 2, 1 << 20)
        within("secure.heaviest", self.heaviest, 1, 1 << 16)
        within("secure.patience", self.patience, 1, 30 * 86400)
        if self.bits not in (16, 32):
            raise SpecError(f"secure.bits is {self.bits}: it must be 32 or 16")
        if not NAME.fullmatch(self.name):
            raise SpecError(f"secure.name is {self.name!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")


# ---------------------------------------------------------------------- the report


class Scope(NamedTuple):
    """What a sealed seed is good for, and for nothing else: the helper opens it for no other report, set or shape.

    `task` is the SHA-256 of the task body. The report has `dim` numbers of `bits`, and `exact` of 64 bits; `norms`: its
    projections may be seen, and must be before it is summed; `claim`: the SHA-256 of what is claimed of a sum that it
    is in, whose noise it must have, "" for nothing.
    """

    federation: str
    task: bytes
    min_batch: int
    norms: bool
    bits: int
    dim: int
    exact: int
    claim: bytes = b""

    def of(self, ticket: Ticket, share: bytes) -> bytes:
        """Return the HPKE info of the report of `ticket` whose leader's share has the SHA-256 `share`."""
        return cbor2.dumps([LABEL, *self, list(ticket), share])


class Hidden(NamedTuple):
    """What the helper must know of a report: the SHA-256 of the leader's share, and the sealed seed."""

    share: bytes
    seed: bytes


def hidden(arrays: Payload) -> Hidden:
    """Return it of the report that has the `arrays` which `split` gave."""
    return Hidden(digest(arrays), arrays[SEALED_SEED].tobytes())


def joined(reports: Sequence[Hidden]) -> dict[str, Array]:
    """Return `reports` as arrays, "shares" and "seeds", one behind the other."""
    shares, seeds = (b"".join(column) for column in zip(*reports, strict=True))
    return {"shares": np.frombuffer(shares, np.uint8), "seeds": np.frombuffer(seeds, np.uint8)}


def parted(arrays: Payload, n: int) -> list[Hidden]:
    """Return the `n` reports of which `joined` made the `arrays`. Raises WireError where they are not of so many."""
    columns = []
    for name, size in (("shares", SHA), ("seeds", SEALED)):
        row = arrays.get(name)
        if row is None or row.dtype != np.uint8 or len(row) != n * size:
            raise WireError("malformed", f"{name} of {n} reports are {n * size} bytes")
        data = row.tobytes()
        columns.append([data[start : start + size] for start in range(0, len(data), size)])
    return [Hidden(*row) for row in zip(*columns, strict=True)]


def scope_of(spec: TwoServers, ring: Ring, federation: str, task: bytes, claim: Claim | None = None) -> Scope:
    """Return what the seeds of one phase are good for."""
    claimed = b"" if claim is None else sha256(distributed.written(claim)).digest()
    return Scope(federation, task, spec.min_batch, ring.longest > 0, ring.bits, ring.dim, ring.exact, claimed)


def split(
    arrays: Payload, helper: bytes, scope: Scope, ticket: Ticket, draw: Callable[[int], bytes] = os.urandom
) -> dict[str, Array]:
    """Turn the report `arrays`, in place, into the leader's share, and return it with the sealed seed beside it.

    The seed is of the operating system's generator, and is used this once.
    """
    seed = draw(SEED)
    masks.apply(arrays, [(seed, np.subtract)])
    sealed = seal(seed, helper, scope.of(ticket, digest(arrays)))
    return {**arrays, SEALED_SEED: np.frombuffer(sealed, np.uint8)}


def digest(arrays: Payload) -> bytes:
    """Return the SHA-256 of a share."""
    found = sha256()
    for name in (X, EXACT):
        if name in arrays:
            found.update(np.ascontiguousarray(arrays[name]).data)
    return found.digest()


def seal(seed: bytes, helper: bytes, info: bytes) -> bytes:
    """Return `seed` as only the holder of the key `helper` can read it, and only with the same `info`.

    HPKE in base mode (RFC 9180): X25519, HKDF-SHA256, AES-128-GCM.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return bytes(_suite().encrypt(seed, X25519PublicKey.from_public_bytes(helper), info))


def unseal(sealed: bytes, key: bytes, info: bytes) -> bytes:
    """Return the seed, by the private `key`.

    Raises WireError where it was sealed for another key or another report, or is damaged.
    """
    from cryptography.exceptions import InvalidTag

    try:
        seed = bytes(_suite().decrypt(sealed, private(key), info))
    except (InvalidTag, ValueError) as error:
        raise WireError("malformed seed", "it was not sealed for this helper and this report") from error
    if len(seed) != SEED:
        raise WireError("malformed seed", f"it has {len(seed)} bytes, not {SEED}")
    return seed


def _suite() -> Any:
    from cryptography.hazmat.primitives import hpke

    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)


# --------------------------------------------------------------------------- a batch


def commitment(
    scope: Scope,
    tickets: Sequence[Ticket],
    shares: Sequence[bytes],
    seeds: Sequence[bytes],
    draw: bytes = b"",
    sums: Sequence[int] = (),
) -> bytes:
    """Return the SHA-256 that stands for exactly this set of reports, in these `sums`, whatever the order in each.

    `draw` is what the leader adds to the draw where it asks for norms, "" where it asks for the sum.
    """
    rows = iter(zip(map(list, tickets), shares, seeds, strict=True))
    parts = [sorted(islice(rows, size)) for size in sums or (len(tickets),)]
    return sha256(cbor2.dumps([LABEL, *scope, draw, parts])).digest()


def about(what: str, federation: str) -> bytes:
    """Return what the channel's messages are tied to: what they are, and for which federation."""
    return cbor2.dumps([LABEL, what, federation])


class Channel:
    """What leader and helper say to each other, so that nobody else reads or writes it: not the broker either.

    The key is that of their two X25519 keys, by HKDF-SHA256 (RFC 5869); each message has a nonce of its own and
    ChaCha20-Poly1305 (RFC 8439).
    """

    def __init__(self, key: bytes, other: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        both = b"".join(sorted((public_of(key), other)))
        self._cipher = ChaCha20Poly1305(derived(agreed(private(key), other), LABEL.encode() + both, KEY))

    def close(self, data: bytes, about: bytes) -> bytes:
        """Return `data` as the other end alone can read it; `about` says what it is and for which federation."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, data, about)

    def open(self, data: bytes, about: bytes) -> bytes:
        """Return what the other end has closed. Raises WireError where it was somebody else."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:12], data[12:], about)
        except (InvalidTag, ValueError):
            raise WireError("wrong key", "it was not written by the other of the two servers, for this one") from None
