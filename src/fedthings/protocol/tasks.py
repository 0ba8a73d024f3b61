"""The tasks that are open: which device works on what, and until when."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf
from typing import Any

from fedthings.protocol.deadlines import Deadlines
from fedthings.protocol.events import Ticket
from fedthings.protocol.pace import Pace


class Tasks(dict[str, tuple[Ticket, float]]):
    """Device -> what it works on, and its deadline, in the order of giving; `give` and `close` change it.

    A deadline costs O(log n) at the most, and `alarm` is the first of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = Deadlines()
        self._since: dict[str, float] = {}  # device -> when it was last given work, where the pace has slack
        self._due: deque[tuple[float, Ticket]] = deque()  # those with all of the patience, in order
        self._sooner: list[tuple[float, Ticket]] = []  # those with deadlines of their own, a heap

    def open(self, ticket: Ticket) -> bool:
        """Return whether its device still works on `ticket`."""
        entry = self.get(ticket.device)
        return entry is not None and entry[0] == ticket

    @property
    def alarm(self) -> float:
        """The first deadline, in seconds; inf where no task is open."""
        due, sooner = self._due, self._sooner
        while due and not self.open(due[0][1]):
            due.popleft()
        while sooner and not self.open(sooner[0][1]):
            heappop(sooner)
        deadline = due[0][0] if due else inf
        return min(deadline, sooner[0][0]) if sooner else deadline

    def give(self, ticket: Ticket, now: float, pace: Pace) -> float:
        """Note that a device is given `ticket`; return its deadline."""
        device = ticket.device
        if pace.slack:
            self._since[device] = now
            deadline = now + self.deadlines.seconds(device, pace)
            heappush(self._sooner, (deadline, ticket))
        else:
            deadline = now + pace.patience
            self._due.append((deadline, ticket))
        self[device] = (ticket, deadline)
        if len(self._due) + len(self._sooner) > 2 * len(self) + 64:  # a slow one must not keep all after it
            self._plan()
        return deadline

    def close(self, ticket: Ticket) -> None:
        """Note that nobody works on `ticket` any more."""
        del self[ticket.device]
        if self._since:
            self._since.pop(ticket.device, None)

    def since(self, device: str, pace: Pace) -> float:
        """Return when `device` was given what it works on."""
        return self._since.get(device, self[device][1] - pace.patience)

    def expired(self, now: float) -> list[Ticket]:
        """Return the open tickets whose deadline has passed, first the first."""
        found = []
        while self._due and self._due[0][0] <= now:
            found.append(self._due.popleft())
        while self._sooner and self._sooner[0][0] <= now:
            found.append(heappop(self._sooner))
        if len(found) > 1:
            found.sort()
        return [ticket for _, ticket in found if self.open(ticket)]

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "open": [[list(ticket), deadline] for ticket, deadline in self.values()],
            "since": dict(self._since),
            "deadlines": self.deadlines.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.clear()
        self.update({ticket[2]: (Ticket(*ticket), deadline) for ticket, deadline in state["open"]})
        self._since = dict(state["since"])
        self.deadlines.restore(state["deadlines"])
        self._plan()

    def _plan(self) -> None:
        """Put down when each open task ends, and nothing else."""
        self._due = deque(sorted((deadline, ticket) for ticket, deadline in self.values()))
        self._sooner = []
