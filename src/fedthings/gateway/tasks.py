"""The phases whose tasks a gateway has: how their reports are read and summed."""

from __future__ import annotations

import logging
from typing import NamedTuple

from fedthings.bodies import Report, Work
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.partial import Partial, template
from fedthings.phase import Phase
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode
from fedthings.wire import size, ticket_size, unpack_body

log = logging.getLogger("fedthings.gateway")


class Known(NamedTuple):
    """One phase: its sums, and a report as every device must send it."""

    partial: Partial
    template: Report

    def bytes_of(self, ticket: Ticket) -> int:
        """Return the bytes of the report body of `ticket`."""
        return size(self.template) - ticket_size(self.template.ticket) + ticket_size(ticket)


class Tasks:
    """What the task bodies say of the phases of the federation called `name`, as far as the owner's `rules` let it."""

    def __init__(self, name: str = "", rules: Rules | None = None) -> None:
        self._name, self._rules = name, rules or Rules()
        self._refusals: dict[bytes, str] = {}  # digest of a task body -> why it cannot be summed here, or ""
        self._phases: dict[int, Known] = {}

    @property
    def digests(self) -> set[bytes]:
        """The task bodies that were read."""
        return set(self._refusals)

    @property
    def all(self) -> list[Known]:
        """The phases whose reports can be summed here."""
        return list(self._phases.values())

    def known(self, phase: int) -> Known | None:
        """Return what is known of a phase whose reports can be summed here."""
        return self._phases.get(phase)

    def learn(self, digest: bytes, body: bytes) -> str:
        """Take in a task body, and return why its reports cannot be summed here, "" where they can.

        Raises WireError where it cannot be read.
        """
        if digest not in self._refusals:
            work = unpack_body(body, Work)
            try:
                spec = decode(work.spec, Phase)
                refusal = self._rules.refusal(self._name, spec)  # first: what it does not allow is not imported
                if not refusal:
                    partial = Partial(spec)
                    if partial.ring is not None and partial.ring.longest:
                        raise SpecError("norms of reports are checked by each share, and a gateway sends their sum")
                    self._phases[work.phase] = Known(partial, template(spec, partial))
            except SpecError as error:
                log.warning("the task cannot be summed here: %s", error)
                refusal = "does not fit"
            self._refusals[digest] = refusal
        return self._refusals[digest]
