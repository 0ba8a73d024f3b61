"""The words of the round logic: what happens (past participles) and what is to be done (imperatives).

Events and commands are values; times are seconds of federation time and travel beside them.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Ticket(NamedTuple):
    """What a device was asked to do once; it names the one report that may answer (law 8)."""

    phase: int
    version: int
    device: str
    attempt: int


# ---------------------------------------------------------------- events


class Joined(NamedTuple):
    """A device is present and may be given work.

    One that sleeps wakes `every` so many seconds and stays present in between: its work waits for it (0: it stays
    linked).
    """

    device: str
    every: float = 0.0


class Left(NamedTuple):
    """A device is gone; this changes presence only, its task runs until the deadline (law 10)."""

    device: str


class CheckedIn(NamedTuple):
    """A device asks what to do: it woke, as it does `every` so many seconds, or either side started anew."""

    device: str
    every: float = 0.0


class Declined(NamedTuple):
    """A device will not do its task, or its report could not be read."""

    ticket: Ticket
    reason: str


class Arrived(NamedTuple):
    """A report is here, whole and spooled."""

    ticket: Ticket


class Stepped(NamedTuple):
    """The engine has made `version` of the running phase; `stop` says why it is the last one of the training.

    It is "target" when a target is met, "privacy budget" when no more may be learned, and "" when it goes on.
    """

    version: int
    stop: str = ""


class Settled(NamedTuple):
    """The helper's share of the sum is here, whole and on the disk, with this SHA-256."""

    digest: bytes


class Excluded(NamedTuple):
    """The helper takes the report of the first of `tickets` into no sum; the others came summed with it."""

    tickets: tuple[Ticket, ...]
    reason: str


class Checked(NamedTuple):
    """The norms of the set are known: those of `out` are beyond the bound."""

    out: tuple[Ticket, ...]


class Overdue(NamedTuple):
    """The helper has had its time."""


class Said(NamedTuple):
    """A device of a committee has said `what` is waited for ("keys", "shares", "unmasked"): its message is `data`."""

    ticket: Ticket
    what: str
    data: bytes


class Lapsed(NamedTuple):
    """The devices of a committee have had their time."""


class Begun(NamedTuple):
    """An edge begins to work on `version` of `phase`, whatever it was doing; attempts count from `attempt` on."""

    phase: int
    version: int
    attempt: int = 0


class Woke(NamedTuple):
    """The alarm rang."""


class Granted(NamedTuple):
    """These devices, which several federations share, may be given work here (`lending`)."""

    devices: tuple[str, ...]


class Withdrawn(NamedTuple):
    """These devices work for another federation now, or are kept for one that has waited longer."""

    devices: tuple[str, ...]


class Paused(NamedTuple):
    """The operator wants no new work given out."""


class Resumed(NamedTuple):
    """The operator lets the federation go on."""


class Cancelled(NamedTuple):
    """The operator ends the federation with the model it has."""


Event: TypeAlias = (
    Joined
    | Left
    | CheckedIn
    | Declined
    | Arrived
    | Stepped
    | Begun
    | Woke
    | Granted
    | Withdrawn
    | Paused
    | Resumed
    | Cancelled
)
"""What a coordinator takes."""
Answered: TypeAlias = Settled | Excluded | Checked | Overdue
"""What a settlement takes, beside the commands of the coordinator."""
Conversed: TypeAlias = Said | Lapsed
"""What a committee takes, beside the commands of the coordinator."""

# -------------------------------------------------------------- commands


class Assign(NamedTuple):
    """Ask a device to work on `ticket`; `kept` is the last of its tickets whose report was kept.

    `again`: it was asked before, and may not have heard it.
    """

    ticket: Ticket
    deadline: float
    kept: Ticket | None
    again: bool = False


class Rest(NamedTuple):
    """Tell a device that there is nothing to do: it will hear when there is, or sleeps until `until` (pace steering).

    See Bonawitz et al. 2019, section 2.3. `until` is 0 for a device that stays linked.
    """

    device: str
    reason: str
    until: float = 0.0


class Keep(NamedTuple):
    """Fold this report; `lag` is how many versions it is behind."""

    ticket: Ticket
    lag: int


class Discard(NamedTuple):
    """Leave this task's report out, or stop waiting for it."""

    ticket: Ticket
    reason: str


class Advance(NamedTuple):
    """Make `version` of `phase` from the reports kept."""

    phase: int
    version: int


class Finish(NamedTuple):
    """The federation is over; `reason` is one of "done", "target", "privacy budget", "cancelled"."""

    reason: str


class Ask(NamedTuple):
    """Ask the helper for its share of the set that is fixed now: of its sum, or of its `norms`."""

    norms: bool = False


class Exclude(NamedTuple):
    """Take this report, and those that came summed with it, out of the set that is fixed."""

    tickets: tuple[Ticket, ...]
    lag: int
    reason: str


class Settle(NamedTuple):
    """Make the version from the set that is fixed; without any of its reports where there is a `reason`."""

    reason: str


class Open(NamedTuple):
    """A committee begins: what is known of the one before is over."""


class Introduce(NamedTuple):
    """The committee is these: tell each of them the keys of its neighbours."""

    tickets: tuple[Ticket, ...]


class Deliver(NamedTuple):
    """These mask their reports: give each of them the shares of its neighbours."""

    tickets: tuple[Ticket, ...]


class Leave(NamedTuple):
    """The committee goes on without the device of `ticket`: its task is over."""

    ticket: Ticket
    reason: str


Command: TypeAlias = Assign | Rest | Keep | Discard | Advance | Finish
"""What a coordinator gives."""
Settling: TypeAlias = Ask | Exclude | Settle
"""What a settlement gives."""
Seating: TypeAlias = Open | Introduce | Deliver | Leave
"""What a committee gives."""
