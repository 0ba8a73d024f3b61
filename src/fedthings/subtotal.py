"""Subtotals: what the reports of several tickets of one version come to, as exact sums that travel (law 7).

A gateway makes them; who takes one in checks that it can be a sum of so many reports, and merges it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fedthings.aggregate import fold
from fedthings.errors import WireError
from fedthings.history import Tally
from fedthings.learn.metrics import MANY, MOST, judging
from fedthings.messages import Report, Subtotal
from fedthings.partial import Partial, alike
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
    for part in parts:
        if isinstance(part, Subtotal):
            merge(partial, part, 0)
            reasons |= zip(part.tickets, part.reasons, strict=True)
        else:
            arrays = {name: row[None] for name, row in part.arrays.items()}
            metrics = {name: stats[None] for name, stats in part.metrics.items()}
            (reasons[part.ticket],) = partial.keep(arrays, np.asarray(part.weight), metrics, [0])
    sums, tally = partial.take()
    tickets = tuple(sorted(reasons))
    return Subtotal(
        tickets,
        tuple(reasons[ticket] for ticket in tickets),
        {name: np.concatenate(limbs) for name, limbs in sums.limbs.items()},
        np.array([sums.weight], np.int64),
        tally.sums,
        {name: np.sort(np.array(values, np.float64)) for name, values in tally.values.items()},
    )


def merge(partial: Partial, subtotal: Subtotal, lag: int) -> None:
    """Add `subtotal`, which `verify` let through, as so many reports that are `lag` versions behind."""
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


def most_bytes(partial: Partial, template: Report) -> int:
    """Return the most bytes of a subtotal of reports like `template`."""
    arrays = sum(8 * fold.limbs(f) * f.dim for f in partial.fields)
    metrics = sum(stats.nbytes for stats in template.metrics.values())
    return arrays + metrics + TICKETS * (_TICKET_BYTES + 8 * len(template.metrics)) + _SLACK


def _within(row: np.ndarray, bound: int) -> bool:
    """Return whether no number of `row` is beyond `bound`; the lowest int64 has no absolute value."""
    return int(row.max(initial=0)) <= bound and int(row.min(initial=0)) >= -bound
