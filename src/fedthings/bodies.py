"""The typed bodies: what is too large for one message, and moved by Offer, Want and Chunk (docs/wire.md).

`wire` turns them into CBOR bytes and back; on the wire they are told apart as messages are.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from fedthings.messages import Message
from fedthings.protocol.events import Ticket
from fedthings.vector import Payload


class Work(Message, frozen=True):
    """The task body: all a device must know in one phase, as data (law 9). `spec` is phase.Phase."""

    phase: int
    spec: dict[str, Any]


class Model(Message, frozen=True):
    """The model body of one version: named float32 rows `(dim,)`."""

    phase: int
    version: int
    arrays: Payload


class Change(Message, frozen=True):
    """The body that stands for a model body: in which bytes it differs from one that the receiver has.

    `base` is that one's SHA-256, empty for none; `digest` and `size` (bytes) are of what comes out. `difference`
    is one byte less the other, modulo 256, where there are both; deflated (RFC 1951), uint8 `(n,)`.
    """

    base: bytes
    digest: bytes
    size: int
    difference: Any


class Report(Message, frozen=True):
    """The report body: what one device sends for one ticket.

    `arrays` as the phase's schema says; `weight` int64 `(1,)`; `metrics` int64 sums and histograms.
    """

    ticket: Ticket
    arrays: Payload
    weight: Any
    metrics: Payload


class Subtotal(Message, frozen=True):
    """The body that stands for the reports of several tickets of one version, summed by a gateway.

    `reasons`: for each ticket why its report is not in the sum, "" where it is. `arrays`: int64 sums in the fixed
    point of `Phase.reports`, the limbs of an array one behind the other; `weight`: theirs, int64 `(1,)`; `metrics`:
    int64 sums; `values`: what each device measured, float64 `(n,)`, in no order (for the worst tenth).
    """

    tickets: tuple[Ticket, ...]
    reasons: tuple[str, ...]
    arrays: Payload
    weight: Any
    metrics: Payload
    values: Payload


class Sealed(Message, frozen=True):
    """The body that only the other of two servers can read: `data` is a body, closed with the key of `sender`."""

    sender: bytes
    data: bytes


class Batch(Message, frozen=True):
    """The body that asks the helper for its share of a set of reports, for which `digest` stands.

    `arrays`: "shares", of each ticket the SHA-256 of the leader's share, and "seeds", its sealed seed, uint8, one
    behind the other. `task` is the SHA-256 of the task body. A report has `dim` numbers of `bits`, and `exact` of 64.
    With `norms` the federation checks norms; with a `draw` these are asked for, and not the sum. `sums`: the first so
    many tickets are summed, then the next so many, and so on; (): all together. Under a privacy claim `claim` is
    privacy.central.Claim, in JSON, and the sum is for `version`.
    """

    digest: bytes
    task: bytes
    tickets: tuple[Ticket, ...]
    arrays: Payload
    bits: int
    dim: int
    exact: int
    min_batch: int
    norms: bool = False
    draw: bytes = b""
    sums: tuple[int, ...] = ()
    version: int = 0
    claim: bytes = b""


class Share(Message, frozen=True):
    """The body that holds the helper's share of the set `digest`: the sum of its masks; "x" of each sum, one behind
    the other, with its noise where there is a claim.

    Of norms: "sketches", the projections of each mask in the order of the batch's tickets, and "draw".
    """

    digest: bytes
    arrays: Payload


Body: TypeAlias = Work | Model | Change | Report | Subtotal | Sealed | Batch | Share
