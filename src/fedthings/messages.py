"""The typed messages of the conversation; `wire` turns them into CBOR bytes and back.

Every message travels with the protocol version and the federation's id (see `wire.pack`).
Large `bodies` (task, model, report) are moved by Offer, Want and Chunk (docs/wire.md).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from fedthings.protocol.events import Ticket


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="t", tag=str.lower):
    """Root of all messages; `t` on the wire is the class name in small letters."""


# ------------------------------------------------------- moving a body


class Offer(Message, frozen=True):
    """A body can be had: `count` chunks of `chunk` bytes, `size` bytes in all, SHA-256 `digest`.

    `retained`: its chunks lie at the broker (topics.blob). `first` may carry chunk 0 at once.
    `http`, "http:PORT" or "https:PORT", says that it can be had there too, at the broker's host, with `token`.
    `what` is "task", "model", "report", "subtotal", "batch" or "share"; a report names its ticket.
    """

    what: str
    digest: bytes
    size: int
    count: int
    chunk: int
    retained: bool = False
    ticket: Ticket | None = None
    first: bytes | None = None
    http: str = ""
    token: str = ""


class Want(Message, frozen=True):
    """Send what begins at the bytes `starts` of the body `digest`, each time `length` bytes or what is left.

    The sender may cut it into smaller chunks.
    """

    digest: bytes
    starts: tuple[int, ...]
    length: int = 1 << 16


class Chunk(Message, frozen=True):
    """Bytes of the body `digest`, from `start` on."""

    digest: bytes
    start: int
    data: bytes


# ------------------------------------------------- coordinator to device


class Announce(Message, frozen=True):
    """Retained: who coordinates. A new `boot` (random per start) asks every device to say Hello.

    `state` is one of "running", "paused", "finished". `edges`: those who take part are gateways that make edge rounds.
    """

    boot: str
    name: str
    state: str
    phase: int
    version: int
    edges: bool = False


class Assignment(Message, frozen=True):
    """Do this once: `task` and `model` are pulled where the device lacks them.

    `seconds` are left until the deadline; `kept` is the last of the device's tickets that was kept. `delta` is what
    the model differs in from that ticket's: who does not hold it pulls `model`.
    """

    ticket: Ticket
    task: Offer
    model: Offer
    seconds: float
    kept: Ticket | None
    delta: Offer | None = None


class Pause(Message, frozen=True):
    """Nothing to do now; `reason` says why. The device stays quiet until it is assigned.

    One that sleeps stays away for `seconds` at least (pace steering, Bonawitz et al. 2019, section 2.3).
    """

    reason: str
    seconds: float = 0.0


class Receipt(Message, frozen=True):
    """The report of `ticket` is dealt with; do not send it again.

    It is safe and counts toward the version (`kept`), or not. `reason`, where there is one, says why it is
    left out of the sum: by its values, which are looked at when it is kept, or because it was not kept.
    A device that sleeps is told with it to stay away for `seconds`, as by a Pause.
    """

    ticket: Ticket
    kept: bool
    reason: str = ""
    seconds: float | None = None


class Farewell(Message, frozen=True):
    """The federation has ended; `model` is its last version, to keep for predictions; `delta` as in an assignment."""

    reason: str
    task: Offer | None
    model: Offer | None
    kept: Ticket | None = None
    delta: Offer | None = None


class Refusal(Message, frozen=True):
    """A message was not understood or not allowed; counted, answered and otherwise ignored."""

    reason: str
    detail: str = ""


# ------------------------------------------------- device to coordinator


class Hello(Message, frozen=True):
    """A device is here and asks what to do. `boot` is random per start of the agent.

    `every`: it sleeps, and wakes every so many seconds (0: it stays linked).
    """

    boot: str
    every: float = 0.0


class Bye(Message, frozen=True):
    """A device is gone; also its last will, which the broker sends for it."""


class Decline(Message, frozen=True):
    """A device will not do `ticket`."""

    ticket: Ticket
    reason: str


# ------------------------------------------------- secure aggregation (SecAgg+)


class Keys(Message, frozen=True):
    """A device takes `ticket` on, and has made two keys for it (X25519): for `seal`, shares of secrets, and for `mask`.

    `signature` over both, the ticket, the task and the federation is by its identity, the Ed25519 key `identity`.
    """

    ticket: Ticket
    seal: bytes
    mask: bytes
    identity: bytes
    signature: bytes


class Neighbours(Message, frozen=True):
    """The set that `ticket` is in has so many `members`; these are the `keys` of the device's neighbours in it."""

    ticket: Ticket
    members: int
    keys: tuple[Keys, ...]


class Shares(Message, frozen=True):
    """Shares of the secrets of `ticket`, `sealed` for each neighbour in order; from the coordinator, by each of them.

    A neighbour that has sent none has b"".
    """

    ticket: Ticket
    sealed: tuple[bytes, ...]


class Unmask(Message, frozen=True):
    """The set has `reports` reports, those of the neighbours with the numbers `alive`, and not those of `gone`.

    Of the former the device is asked for its share of their own mask, of the latter for that of their key `mask`.
    """

    ticket: Ticket
    reports: int
    alive: tuple[int, ...]
    gone: tuple[int, ...]


class Unmasked(Message, frozen=True):
    """The answer to Unmask: a share for each neighbour in order, b"" where there is none; last that of its own mask."""

    ticket: Ticket
    shares: tuple[bytes, ...]


# ---------------------------------------------------------------------- enrolment


class Enrol(Message, frozen=True):
    """Whoever has the token of this id shows the public `key` that `name` will sign with; `proof` is the token's.

    `password` is the hash of what the broker is to ask `name` for.
    """

    token: str
    name: str
    key: bytes
    password: str
    proof: bytes


class Enrolled(Message, frozen=True):
    """The answer to Enrol: `standing` is "enrolled" with this key, "waiting" for approval, or "refused"; and why."""

    name: str
    key: bytes
    standing: str
    reason: str = ""


# ------------------------------------------------------ gateway and coordinator


class Relay(Message, frozen=True):
    """What `device` says, or is told, by way of a gateway; `data` is that message, packed."""

    device: str
    data: bytes


class Verdict(Message, frozen=True):
    """The answer to a subtotal, after which it is not sent again.

    `merged`: it is safe, and each of its tickets is kept. Otherwise none of it is: sum again without those in
    `out`, which are dealt with already, and of no more than `most` tickets (0: any number).
    A helper answers a batch with it that it gives no share for: without those in `out`, or for the `reason` at all.
    """

    digest: bytes
    merged: bool
    out: tuple[Receipt, ...] = ()
    most: int = 0
    reason: str = ""


# --------------------------------------------------- operator and coordinator


class Ask(Message, frozen=True):
    """An operator's command: "status", "pause", "resume", "cancel", "reload"."""

    verb: str


class Status(Message, frozen=True):
    """The answer to Ask: what is running, and what is waited for (law 11)."""

    facts: dict[str, Any]


Envelope: TypeAlias = (
    Offer
    | Want
    | Chunk
    | Announce
    | Assignment
    | Pause
    | Receipt
    | Farewell
    | Refusal
    | Hello
    | Bye
    | Decline
    | Keys
    | Neighbours
    | Shares
    | Unmask
    | Unmasked
    | Enrol
    | Enrolled
    | Relay
    | Verdict
    | Ask
    | Status
)
