"""Subtotals: what the reports of several tickets of one version come to, as exact sums that travel (law 7).

A gateway makes them; who takes one in checks that it can be a sum of so many reports, and merges it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fedthings.aggregate import fold
from fedthings.aggregate.ring import Ring
from fedthings.bodies import Report, Subtotal
from fedthings.errors import WireError
from fedthings.history import Tally
from fedthings.learn.metrics import MANY, MOST, judging
from fedthings.partial import Partial, alike
from fedthings.privacy import shares
from fedthings.privacy.shares import SEALED, SHA, Hidden
from fedthings.protocol.events import Ticket

TICKETS = 4096
"""The most tickets of one subtotal: the receipts of all of them fit into one message."""
_TICKET_BYTES = 192  # of the longest ticket, and its reason
_SLACK = 4096


def sum_up(partial: Partial, parts: Iterable[Report | Subtotal]) -> Subtotal:
    """Return the sum of reports and subtotals of one version; `partial`, of their phase, is used and left empty.

    It holds one of `parts` at a time, and the result is free of their order, byte for byte.
    """
    partial.take()
    reasons: dict[Ticket, str] = {}
    sealed: dict[Ticket, Hidden] = {}  # of secure mode
    for part in parts:
        if isinstance(part, Subtotal):
            merge(partial, part, 0)
            reasons |= zip(part.tickets, part.reasons, strict=True)
            sealed |= hidden(partial, part)
        else:
            if partial.ring is not None:
                sealed[part.ticket] = shares.hidden(part.arrays)
            arrays = {name: row[None] for name, row in part.arrays.items()}
            metrics = {name: stats[None] for name, stats in part.metrics.items()}
            (reasons[part.ticket],) = partial.keep(arrays, np.asarray(part.weight), metrics, [0])
    sums, tally = partial.take()
    tickets = tuple(sorted(reasons))
    arrays = {name: np.concatenate(limbs) for name, limbs in sums.limbs.items()}
    return Subtotal(
        tickets,
        tuple(reasons[ticket] for ticket in tickets),
        {**arrays, **(shares.joined([sealed[ticket] for ticket in tickets]) if sealed else {})},
        np.array([sums.count if sealed else sums.weight], np.int64),
        tally.sums,
        {name: np.sort(np.array(values, np.float64)) for name, values in tally.values.items()},
    )


def hidden(partial: Partial, subtotal: Subtotal) -> dict[Ticket, Hidden]:
    """Return what the helper must know of each report in `subtotal`; {} outside secure mode. Raises WireError."""
    if partial.ring is None:
        return {}
    return dict(zip(subtotal.tickets, shares.parted(subtotal.arrays, len(subtotal.tickets)), strict=True))


def merge(partial: Partial, subtotal: Subtotal, lag: int) -> None:
    """Add `subtotal`, which `verify` let through, as so many reports that are `lag` versions behind."""
    if partial.ring is not None:
        partial.gather(subtotal.arrays, len(subtotal.tickets), lag)
        return
    summed = subtotal.reasons.count("")
    limbs = {f.name: np.split(partial.stale_by(lag, subtotal.arrays[f.name]), fold.limbs(f)) for f in partial.fields}
    tally = Tally()
    tally.updates = len(subtotal.tickets) if partial.private else summed
    tally.dropped = Counter() if partial.private else Counter(reason for reason in subtotal.reasons if reason)
    tally.sums = dict(subtotal.metrics)
    tally.values = {name: row.tolist() for name, row in subtotal.values.items()}
    weights, counts = ({lag: int(subtotal.weight[0])}, {lag: summed}) if summed else ({}, {})
    partial.merge(fold.Sums(limbs, weights, counts), tally)


def verify(subtotal: Subtotal, partial: Partial, template: Report) -> None:
    """Raise WireError unless `subtotal` can be the sum of reports like `template`, for `partial`."""
    tickets, summed = subtotal.tickets, subtotal.reasons.count("")
    if not 0 < len(tickets) <= TICKETS or len(tickets) != len(subtotal.reasons):
        raise WireError("malformed", f"a subtotal of {len(tickets)} tickets, {len(subtotal.reasons)} reasons")
    if len({ticket.device for ticket in tickets}) != len(tickets):
        raise WireError("malformed", "a subtotal in which a device stands twice")
    if len({ticket[:2] for ticket in tickets}) != 1:
        raise WireError("malformed", "a subtotal of several versions")
    if partial.ring is not None:
        _verify_hidden(subtotal, partial.ring)
        return
    due = {f.name: np.empty(fold.limbs(f) * f.dim, np.int64) for f in partial.fields}
    alike("array", subtotal.arrays, due)
    alike("metric", subtotal.metrics, template.metrics)
    if subtotal.weight.shape != (1,) or subtotal.weight.dtype != np.int64:
        raise WireError("wrong type", "weight is one int64")
    weight = int(subtotal.weight[0])
    if not summed <= weight <= summed * fold.heaviest(partial.fields):
        raise WireError("out of range", f"{summed} reports do not weigh {weight}")
    for f in partial.fields:
        if not _within(
            subtotal.arrays[f.name], fold.largest(f) * partial.whole * (weight if f.per == "weight" else summed)
        ):
            raise WireError("out of range", f"array {f.name} is beyond what {summed} reports can come to")
    for name, total in subtotal.metrics.items():
        if not _within(total, summed * MOST) or (judging(name) is not None and not 0 <= total[0] <= summed * MANY):
            raise WireError("out of range", f"metric {name} is beyond what {summed} reports can come to")
    for name, values in subtotal.values.items():
        if judging(name) is None or name not in template.metrics or values.dtype != np.float64 or len(values) > summed:
            raise WireError("wrong arrays", f"{len(values)} values of {name:.80}, measured by {summed} devices")


def _verify_hidden(subtotal: Subtotal, ring: Ring) -> None:
    """Raise WireError unless `subtotal` can be a sum of shares, of which nothing else can be told."""
    n = len(subtotal.tickets)
    due = {name: row[0] for name, row in ring.zeros(1).items()}
    sealed = {"shares": np.empty(n * SHA, np.uint8), "seeds": np.empty(n * SEALED, np.uint8)}
    alike("array", subtotal.arrays, {**due, **sealed})
    if any(subtotal.reasons) or subtotal.metrics or subtotal.values or subtotal.weight.tolist() != [n]:
        raise WireError("out of range", f"a sum of {n} shares counts as so many, and says nothing else")


def most_bytes(partial: Partial, template: Report) -> int:
    """Return the most bytes of a subtotal of reports like `template`."""
    if partial.ring is not None:
        rows = sum(row.nbytes for row in partial.ring.zeros(1).values())
        return rows + TICKETS * (_TICKET_BYTES + SHA + SEALED) + _SLACK
    arrays = sum(8 * fold.limbs(f) * f.dim for f in partial.fields)
    metrics = sum(stats.nbytes for stats in template.metrics.values())
    return arrays + metrics + TICKETS * (_TICKET_BYTES + 8 * len(template.metrics)) + _SLACK


def _within(row: np.ndarray, bound: int) -> bool:
    """Return whether no number of `row` is beyond `bound`; the lowest int64 has no absolute value."""
    return int(row.max(initial=0)) <= bound and int(row.min(initial=0)) >= -bound
