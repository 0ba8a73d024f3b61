"""What signs and checks every message of one end: put into its transport, which else knows nothing of keys.

A message is signed as number `link << 32 | n`: the n-th of this end's link. It also says which link of the other end
it answers. An end takes only what answers the link that it has now, and of each key only numbers that grow. So
nothing can be replayed:

- within a link, since each number is taken once, in order;
- after either end has started anew, however it was killed, since its link then has a number that was never used
  (`links`), which nothing said before can answer. So no end has to remember numbers on its disk.

What cannot answer a link: an announcement, which is kept for those who come later (an old one is refused while a
newer is known, and else only makes a device say hello, to nobody); a refusal (a line in a log); enrolment (the same
once more); the offer of a batch to a helper, which says nothing before (it answers the same, and once a report). A bye
must be of the link that the coordinator knows. A will is signed when the link is made, as its message 0, and counts
once: its link is over then. Chunks are not signed: they are pieces of the body whose SHA-256 a signed offer names. Nor
are a coordinator's wants: who forges one makes a device say again what it says anyway, and a want comes so often.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedthings.errors import WireError
from fedthings.identity import cose
from fedthings.identity.cose import Signed
from fedthings.identity.keys import fingerprint, key_id, public_of, spelled
from fedthings.identity.links import Links
from fedthings.messages import Announce, Bye, Chunk, Enrol, Enrolled, Envelope, Offer, Refusal, Want
from fedthings.wire import pack, unpack

_BITS = 32
_LAST = (1 << _BITS) - 1


def bound(federation: str, topic: str) -> bytes:
    """Return what a signature is bound to beside the message: the federation's id, and the topic with its root."""
    data: bytes = cbor2.dumps([federation, topic])
    return data


def _is_operators(topic: str) -> bool:
    """Return whether an operator asks or is answered on `topic`, whom the broker's login makes known."""
    return topic.split("/")[-2] in ("ask", "answer")


def _is_free(message: Envelope) -> bool:
    """Return whether `message` need not answer a link."""
    if isinstance(message, Offer):
        return message.what == "batch"
    return isinstance(message, Announce | Refusal | Enrol | Enrolled)


class Seal:
    """What both ends do alike; `link` begins a new link. `key` is private; `links` are this key's."""

    says: tuple[type, ...] = (Chunk,)
    """What it does not sign."""
    hears: tuple[type, ...] = (Chunk,)
    """What it takes without a signature."""

    def __init__(self, key: bytes, links: Links) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(key)
        self.public = public_of(key)
        self._kid = key_id(self.public)
        self._links = links
        self._link = self._count = 0
        self._heard: dict[bytes, int] = {}  # of each key the last number that was taken
        self._lock = threading.Lock()

    def link(self) -> None:
        """A new link is made: what follows is said on it, and must answer it. Raises StoreError."""
        number = self._links.new()
        with self._lock:
            self._link, self._count = number, 0

    def close(self, topic: str, message: Envelope, federation: str, will: bool = False) -> bytes:
        """Return `message` packed and, but for what it `says` without, signed; `will`: as the last of this link."""
        payload = pack(message, federation)
        if isinstance(message, self.says) or _is_operators(topic):
            return payload
        answers = 0 if _is_free(message) or isinstance(message, Bye) else self._answers(topic, federation)
        with self._lock:
            self._count += not will
            number = self._link << _BITS | (0 if will else self._count)
        return cose.sign(payload, self._key, self._kid, number, answers, bound(federation, topic))

    def open(self, topic: str, data: bytes) -> tuple[str, Envelope]:
        """Return the federation's id and the message in `data`, which came on `topic` and is what it seems.

        Raises WireError with the reason why it is not.
        """
        if not cose.is_signed(data):
            federation, message = unpack(data)
            if not isinstance(message, self.hears) and not _is_operators(topic):
                raise WireError("not signed", f"a {type(message).__name__.lower()} that nobody has signed")
            return federation, message
        signed = cose.parse(data)
        federation, message = unpack(signed.payload)
        public = self._public(topic, signed.kid, message)
        self._fresh(signed, message)
        cose.verify(signed, public, bound(federation, topic))
        self._took(signed, federation, message)
        return federation, message

    def _answers(self, topic: str, federation: str) -> int:
        raise NotImplementedError

    def _public(self, topic: str, kid: bytes, message: Envelope) -> bytes:
        """Return the key that must have signed what came on `topic`. Raises WireError."""
        raise NotImplementedError

    def _fresh(self, signed: Signed, message: Envelope) -> None:
        """Raise WireError unless the message was not said before, nor to a link that was before."""
        last = self._heard.get(signed.kid, 0)
        if isinstance(message, Enrol | Enrolled):
            return
        if isinstance(message, Announce):
            if signed.number >> _BITS < last >> _BITS:
                raise WireError("replayed message", "an announcement of an earlier start of the coordinator")
            return
        if isinstance(message, Bye):  # it may be for all coordinators, so it answers none; a will is message 0
            good = signed.number >> _BITS == last >> _BITS and last & _LAST != _LAST
            good = good and (signed.number > last or not signed.number & _LAST)
        else:
            good = signed.number > last and (signed.answers == self._link or _is_free(message))
        if not good:
            raise WireError("replayed message", f"number {signed.number} to link {signed.answers} is old")

    def _took(self, signed: Signed, federation: str, message: Envelope) -> None:
        number = signed.number if signed.number & _LAST else signed.number | _LAST  # after its will a link is over
        if not isinstance(message, Enrol | Enrolled):
            self._heard[signed.kid] = max(number, self._heard.get(signed.kid, 0))


class DeviceSeal(Seal):
    """Of a device, gateway or helper: it believes the coordinators whose public keys are `pinned`, by `key_id`."""

    hears = (Chunk, Want)

    def __init__(self, key: bytes, links: Links, pinned: Mapping[bytes, bytes]) -> None:
        super().__init__(key, links)
        self._pinned = pinned
        self._leads: dict[str, bytes] = {}  # federation -> the key that has announced it
        self._said: dict[tuple[bytes, str], int] = {}  # by key and federation: the number of the last announcement

    def _answers(self, topic: str, federation: str) -> int:
        return self._heard.get(self._leads.get(federation, b""), 0) >> _BITS

    def _public(self, topic: str, kid: bytes, message: Envelope) -> bytes:
        public = self._pinned.get(kid)
        if public is None:
            shown = ", ".join(fingerprint(key) for key in self._pinned.values()) or "none"
            raise WireError("wrong coordinator key", f"{kid.hex()} has signed it, and pinned here is {shown}")
        return public

    def _took(self, signed: Signed, federation: str, message: Envelope) -> None:
        if isinstance(message, Announce):
            if signed.number < self._said.get((signed.kid, federation), 0):
                raise WireError("replayed message", "an announcement that another has replaced")
            self._said[signed.kid, federation] = signed.number
            self._leads[federation] = signed.kid
        super()._took(signed, federation, message)


@dataclass(frozen=True)
class Known:
    """Whose keys a coordinator believes: of each name its public key; `revoked` are the ids of those that were."""

    keys: Mapping[str, bytes]
    revoked: frozenset[bytes] = frozenset()


class CoordinatorSeal(Seal):
    """Of a coordinator, or of a gateway toward those below it: it believes those who are `known`, each on its topic."""

    says = (Chunk, Want)

    def __init__(self, key: bytes, links: Links, known: Known | None = None) -> None:
        super().__init__(key, links)
        self.known = known or Known({})

    def _answers(self, topic: str, federation: str) -> int:
        public = self.known.keys.get(topic.rpartition("/")[2])
        return 0 if public is None else self._heard.get(key_id(public), 0) >> _BITS

    def _public(self, topic: str, kid: bytes, message: Envelope) -> bytes:
        if isinstance(message, Enrol):  # it shows by this that it has the key
            if key_id(message.key) != kid:
                raise WireError("wrong signature", "an enrolment is signed with the key that it brings")
            return message.key
        name = topic.rpartition("/")[2]
        public = self.known.keys.get(name)
        if kid in self.known.revoked:
            raise WireError("revoked key", f"{kid.hex()} of {name}: enrol it anew with a new token")
        if public is None:
            raise WireError("unknown device", f"{name} is not enrolled: give it a token, by `fedthings enrol {name}`")
        if key_id(public) != kid:
            raise WireError("wrong key", f"{kid.hex()} has signed as {name}, whose key is {spelled(public)[:8]}...")
        return public
