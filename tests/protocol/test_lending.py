"""Lending: one task at a time, no federation starves, and a restart lends as before."""

from __future__ import annotations

import heapq
from math import inf

import pytest

from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    Discard,
    Granted,
    Joined,
    Left,
    Paused,
    Resumed,
    Stepped,
    Ticket,
    Withdrawn,
    Woke,
)
from fedthings.protocol.lending import Lending
from fedthings.protocol.pace import Pace, Plan
from fedthings.vector import keyed

DEVICES = [f"d{n}" for n in range(6)]


class Fleet:
    """Coordinators in virtual time that share devices; a task takes `seconds(place, ticket)`, inf: no answer."""

    def __init__(self, *plans: Plan, devices=DEVICES, seconds=lambda place, ticket: 1.0, enough: int = 0) -> None:
        self.coordinators = [Coordinator((plan,), seed, enough, shared=True) for seed, plan in enumerate(plans)]
        self.lending = Lending(self.coordinators)
        self.seconds, self.now = seconds, 0.0
        self.agenda: list[tuple[float, int, Ticket]] = []
        self.working: dict[str, tuple[int, Ticket]] = {}
        self.told: list[tuple[int, object]] = []
        self.given = [0 for _ in plans]
        self.begun: list[tuple[float, int]] = []  # when which federation got its first task of a version
        for device in devices:
            for place in range(len(plans)):
                self.on(place, Joined(device))

    def on(self, place: int, event) -> None:
        self._on(place, event)
        while (due := self.lending.due([self.now] * len(self.coordinators))) is not None:
            self.told.append(due)
            assert len(self.told) < 100_000
            self._on(*due)

    def _on(self, place: int, event) -> None:
        coordinator = self.coordinators[place]
        commands = coordinator.on(event, self.now)
        self.lending.note(place, event, commands)
        for command in commands:
            match command:
                case Assign(ticket=ticket, again=False):
                    assert ticket.device not in self.working, f"{ticket.device} is lent twice"
                    self.working[ticket.device] = place, ticket
                    self.given[place] += 1
                    at = self.now + self.seconds(place, ticket)
                    if at < inf:
                        heapq.heappush(self.agenda, (at, place, ticket))
                case Discard(ticket=ticket) if self.working.get(ticket.device) == (place, ticket):
                    del self.working[ticket.device]
                case Advance(version=version):
                    self.begun.append((self.now, place))
                    self._on(place, Stepped(version))

    def step(self) -> bool:
        """Let the next report arrive, or the next alarm ring; False when nothing can happen any more."""
        alarm = min(c.alarm for c in self.coordinators)
        if self.agenda and self.agenda[0][0] <= alarm:
            self.now, place, ticket = heapq.heappop(self.agenda)
            if self.working.get(ticket.device) == (place, ticket):
                del self.working[ticket.device]
            self.on(place, Arrived(ticket))
            return True
        if alarm == inf:
            return False
        self.now = alarm
        for place, coordinator in enumerate(self.coordinators):
            if coordinator.alarm <= alarm:
                self.on(place, Woke())
        return True

    def until(self, seconds: float) -> list[int]:
        """Go on for so long, and return how many versions each has made."""
        while self.now < seconds and self.step():
            pass
        return [coordinator.version for coordinator in self.coordinators]


def plan(goal: int, versions: int = 1000, **pace) -> Plan:
    return Plan(Pace(goal=goal, **{"patience": 30.0} | pace), versions)


def test_two_that_need_every_device_take_turns():
    fleet = Fleet(plan(6), plan(6))
    assert fleet.until(40.5) == [20, 20]
    assert [place for _, place in fleet.begun] == [0, 1] * 20
    assert not any(isinstance(event, Withdrawn) for _, event in fleet.told)


@pytest.mark.parametrize(
    "plans",
    [
        (plan(6), plan(1, concurrency=6, staleness=20)),
        (plan(6), plan(2, concurrency=6, staleness=20), plan(3)),
        (plan(1, concurrency=6, staleness=20), plan(1, concurrency=1, staleness=20)),
        (plan(1), plan(1), plan(1)),
        (plan(4, concurrency=5), plan(5)),
    ],
    ids=["all and async", "three", "two async", "three of one", "over-selected"],
)
def test_nobody_starves(plans):
    """However long tasks take, each federation gets its share: at least a quarter of what it would have alone."""
    rng = keyed("lending")
    durations = [float(x) for x in rng.exponential(1.0, 997) + 0.1]
    for alone in range(len(plans)):
        count = iter(range(10**9))
        single = Fleet(plans[alone], seconds=lambda place, ticket, count=count: durations[next(count) % 997])
        (most,) = single.until(300.0)
        count = iter(range(10**9))
        shared = Fleet(*plans, seconds=lambda place, ticket, count=count: durations[next(count) % 997])
        made = shared.until(300.0)[alone]
        assert made >= most / (2 * len(plans)), f"federation {alone} made {made} versions, alone {most}"


def test_few_devices_that_two_need_are_not_held_by_halves():
    """A device comes free for each of two that need both: neither waits for the other for ever."""
    fleet = Fleet(plan(2), plan(2), devices=["a", "b"], seconds=lambda place, ticket: 1.0 + (ticket.device == "b"))
    assert fleet.until(80.5) == [20, 20]


def test_a_federation_that_lacks_devices_does_not_hold_those_there_are():
    """It needs eight, six are there: the other goes on meanwhile, and within its patience it starts with six."""
    fleet = Fleet(plan(8), plan(6, versions=60), seconds=lambda place, ticket: 1.0)
    while fleet.now < 29.5:
        fleet.step()
    assert fleet.coordinators[0].version == 0 and fleet.coordinators[1].version >= 28
    assert "devices: " in fleet.coordinators[0].waits[0].reason and fleet.coordinators[0].waits[0].until == 30.0
    while not fleet.coordinators[0].tasks:
        fleet.step()
    assert fleet.given[0] == 6 and fleet.now < 32.0
    (reason, until), *_ = fleet.lending.waits(1, [fleet.now] * 2, ["big", "small"])
    assert reason == "big: 6 devices at work there" and until > fleet.now


def test_a_device_that_never_answers_is_waited_for_until_its_deadline():
    fleet = Fleet(plan(2), plan(2), devices=["a", "b"], seconds=lambda place, t: inf if t[1:3] == (1, "a") else 1.0)
    made = fleet.until(200.0)
    assert min(made) > 3
    assert max(at for at, _ in fleet.begun) > 100.0


def test_a_pause_or_an_end_lets_go_of_the_devices():
    fleet = Fleet(plan(6), plan(6, versions=3))
    fleet.until(4.5)
    fleet.on(0, Paused())
    made = fleet.coordinators[0].version
    fleet.until(8.0)
    assert fleet.coordinators[1].done and fleet.coordinators[0].version <= made + 1
    fleet.on(0, Resumed())
    fleet.until(20.0)
    assert fleet.coordinators[0].version > made + 8  # alone by now


def test_a_device_that_leaves_and_comes_back_is_lent_again():
    fleet = Fleet(plan(3), plan(3), devices=["a", "b", "c"])
    fleet.until(4.5)
    for place in (0, 1):
        fleet.on(place, Left("b"))
    at = fleet.now
    fleet.until(at + 20)
    waiting = [wait for c in fleet.coordinators for wait in c.waits]
    assert all(wait.until < inf for c in fleet.coordinators for wait in c.waits[:1]) or fleet.working, waiting
    for place in (0, 1):
        fleet.on(place, Joined("b"))
    before = [c.version for c in fleet.coordinators]
    fleet.until(fleet.now + 10)
    assert all(c.version >= b + 4 for c, b in zip(fleet.coordinators, before, strict=True))


def test_of_free_devices_the_coordinator_chooses_among_all():
    """A draw does not depend on who else shares the fleet, where nobody else wants the devices."""
    fleet = Fleet(plan(2), plan(2))
    fleet.on(1, Paused())
    alone = Coordinator((plan(2),), 0)
    for device in DEVICES:
        alone.on(Joined(device), 0.0)
    while fleet.coordinators[0].version < 5:
        fleet.step()
    while alone.version < fleet.coordinators[0].version:
        for ticket, _ in list(alone.tasks.values()):
            for command in alone.on(Arrived(ticket), 0.0):
                if isinstance(command, Advance):
                    drawn = alone.on(Stepped(command.version), 0.0)
    assert {c.ticket.device for c in drawn if isinstance(c, Assign)} == set(fleet.coordinators[0].tasks)


def test_a_restart_lends_as_before():
    """Again and again the coordinators are restored from their snapshots, and the lending made anew."""

    def run(restarts: bool) -> list:
        fleet = Fleet(
            plan(4), plan(1, concurrency=4, staleness=9), plan(6), seconds=lambda p, t: 0.5 + len(t.device) * 0.1 * p
        )
        for step in range(100):
            fleet.step()
            if restarts and step % 7 == 0:  # a roster takes long to make
                for place, coordinator in enumerate(fleet.coordinators):
                    again = Coordinator(coordinator.plans, coordinator.seed, coordinator.devices, shared=True)
                    again.restore(coordinator.snapshot())
                    fleet.coordinators[place] = again
                fleet.lending = Lending(fleet.coordinators)
                assert fleet.lending.due([fleet.now] * 3) is None
        return fleet.begun

    assert run(True) == run(False)


def test_a_kill_between_two_journals_is_made_good():
    """One federation has written down that it gave a device work, another not yet that it lost it."""
    one, other = (Coordinator((plan(1),), seed, shared=True) for seed in (0, 1))
    for coordinator in (one, other):
        coordinator.on(Joined("a"), 0.0)
    other.on(Paused(), 0.0)
    other.on(Granted(("a",)), 0.0)
    one.on(Granted(("a",)), 0.0)
    assert "a" in one.tasks and "a" in other.granted
    lending = Lending([one, other])
    assert lending.due([0.0, 0.0]) == (1, Withdrawn(("a",)))
