"""The report that a device sends: what came of its work, through the stages, in secure mode as two shares."""

from __future__ import annotations

from typing import NamedTuple

from fedthings.aggregate.fold import refused
from fedthings.bodies import Report
from fedthings.device.member import Member
from fedthings.learn.learner import Fit, cohort
from fedthings.outgoing import Outgoing
from fedthings.phase import Phase, schema
from fedthings.privacy.keys import public
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import TwoServers, scope_of, split
from fedthings.protocol.events import Ticket
from fedthings.stage import State
from fedthings.vector import Key


class Made(NamedTuple):
    """A report, and what its stages keep.

    Unless it `counts` it is left out by its values, so training goes on from the state before it; `unseen` says why,
    where only the device can see that.
    """

    report: Report
    state: State
    counts: bool
    unseen: str


def made(phase: Phase, ticket: Ticket, fit: Fit, before: State, federation: str, task: bytes, member: Member) -> Made:
    """Return the report of `fit`, the stages' state being `before` (None: of no report yet).

    `federation` is its id and `task` the digest of the task body: secure mode binds a report to both. With SecAgg+ the
    `member` has agreed on masks.
    """
    outgoing = Outgoing(phase)
    state = outgoing.stage.init() if before is None else before
    key = Key(phase.seed, ticket.device, ticket.version, ticket.attempt)
    sent, (after,), (unseen,) = outgoing.encode(cohort(fit), [state], [key])
    arrays = {name: rows[0] for name, rows in sent.report.items()}
    metrics = {name: rows[0] for name, rows in sent.metrics.items()}
    counts = not unseen
    if isinstance(phase.secure, SecAgg):
        member.hide(ticket, arrays)
    elif isinstance(phase.secure, TwoServers) and outgoing.ring is not None:
        scope = scope_of(phase.secure, outgoing.ring, federation, task, phase.claim)
        arrays = split(arrays, public(phase.secure.helper, "secure.helper"), scope, ticket)
    elif refused(schema(phase), outgoing.stage.decode(sent.report), sent.weight)[0]:
        counts = False
    return Made(Report(ticket, arrays, sent.weight, metrics), after, counts, unseen)
