"""The round logic by the numbers of a pace: periods, deadlines, limits, selection, sleepers."""

from __future__ import annotations

import pytest

from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    CheckedIn,
    Discard,
    Joined,
    Keep,
    Left,
    Rest,
    Stepped,
    Ticket,
    Woke,
)
from fedthings.protocol.pace import Pace, Plan
from fedthings.protocol.selection import Forecast
from rounds import started, tickets


def arrive(coordinator: Coordinator, given: list[Ticket], now: float) -> list:
    out = []
    for ticket in given:
        out += coordinator.on(Arrived(ticket), now)
    return out


def test_a_period_makes_a_version_of_what_is_there_and_the_late_count_toward_the_next():
    pace = Pace(goal=9, concurrency=3, patience=60.0, staleness=2, period=5.0, quorum=2)
    coordinator, out = started(pace, 3)
    a, b, c = tickets(out)
    assert coordinator.alarm == 5.0
    again = tickets(coordinator.on(Arrived(a), 1.0))
    assert coordinator.on(Woke(), 5.0) == []  # one of two that are needed
    assert coordinator.alarm == 60.0
    out = coordinator.on(Arrived(b), 6.0)
    assert out[:2] == [Keep(b, 0), Advance(0, 1)]
    coordinator.on(Stepped(1), 6.0)
    assert coordinator.alarm == 11.0
    assert coordinator.on(Arrived(c), 7.0)[0] == Keep(c, 1)
    assert coordinator.on(Arrived(again[0]), 8.0)[0] == Keep(again[0], 1)
    assert coordinator.on(Woke(), 11.0)[0] == Advance(0, 2)


def test_a_synchronous_version_ends_with_its_period_too():
    coordinator, out = started(Pace(goal=3, patience=60.0, period=5.0, quorum=2), 3)
    a, b, late = tickets(out)
    arrive(coordinator, [a, b], 1.0)
    assert coordinator.on(Woke(), 5.0) == [Advance(0, 1)]
    assert Discard(late, "late") in coordinator.on(Stepped(1), 5.0)


def test_deadlines_follow_each_devices_own_times():
    coordinator, out = started(Pace(goal=2, patience=100.0, slack=2.0, quorum=1), 2, versions=99)
    given, now, took = tickets(out), 0.0, {"d0": 1.0, "d1": 10.0}
    for version in range(1, 6):
        for ticket in sorted(given, key=lambda t: took[t.device]):
            seconds = coordinator.tasks[ticket.device][1] - now
            assert seconds == (100.0 if version <= 3 else 2 * took[ticket.device])
            coordinator.on(Arrived(ticket), now + took[ticket.device])
        now += 10.0
        given = tickets(coordinator.on(Stepped(version), now))
    assert coordinator.alarm == now + 2.0
    quick = next(t for t in given if t.device == "d0")
    for waited in (4.0, 8.0, 16.0):  # a miss doubles the next one, until it comes again
        now = coordinator.alarm
        assert Discard(quick, "deadline") in coordinator.on(Woke(), now)
        slow = next(t for t in given if t.device == "d1")
        coordinator.on(Arrived(slow), now)
        given = tickets(coordinator.on(Stepped(coordinator.version + 1), now))
        quick = next(t for t in given if t.device == "d0")
        assert coordinator.tasks["d0"][1] - now == waited
    coordinator.on(Arrived(quick), now + 1.0)
    coordinator.on(Arrived(next(t for t in given if t.device == "d1")), now + 10.0)
    coordinator.on(Stepped(coordinator.version + 1), now + 10.0)
    assert coordinator.tasks["d0"][1] - (now + 10.0) == 2.0


def contributions(pace: Pace, devices: int, versions: int) -> list[set[str]]:
    """Return who made each version, where all report at once; stops where nobody may be asked any more."""
    coordinator, out = started(pace, devices, versions)
    made, now = [], 0.0
    while not coordinator.done:
        given = tickets(out)
        if not given:
            now = coordinator.alarm
            given = tickets(coordinator.on(Woke(), now))
            if not given:
                return made
        now += 1.0
        out = arrive(coordinator, given, now)
        made.append({t.device for t in given})
        assert Advance(0, len(made)) in out
        out = coordinator.on(Stepped(len(made)), now)
    return made


def test_after_a_report_a_device_sits_out_some_versions():
    made = contributions(Pace(goal=2, separation=3), 8, 40)
    assert len(made) == 40
    for version, devices in enumerate(made):
        assert len(devices) == 2
        assert not devices & set().union(*made[version + 1 : version + 4])


def test_a_device_counts_at_most_so_often():
    made = contributions(Pace(goal=2, cap=3), 6, 40)
    counts = [sum(f"d{i}" in devices for devices in made) for i in range(6)]
    assert counts == [3] * 6
    coordinator, out = started(Pace(goal=1, cap=1), 1)
    arrive(coordinator, tickets(out), 1.0)
    coordinator.on(Stepped(1), 1.0)
    assert coordinator.waits[0].reason == "devices: 0 of 1 are there, 1 sit out (pace.cap, pace.separation)"


def test_who_sits_out_may_be_asked_in_the_next_phase():
    plans = [Plan(Pace(goal=2, cap=1), 1), Plan(Pace(goal=2), 1, everyone=True)]
    coordinator = Coordinator(plans, devices=2)
    out = [c for i in range(2) for c in coordinator.on(Joined(f"d{i}"), 0.0)]
    arrive(coordinator, tickets(out), 1.0)
    assert len(tickets(coordinator.on(Stepped(1), 1.0))) == 2


def flickering(order: list[str]) -> list[Ticket]:
    """Return who is asked of 20 devices, half of which have never stayed for more than 3 seconds."""
    pace = Pace(goal=4, patience=30.0, selection=Forecast(choices=4.0))
    coordinator = Coordinator([Plan(pace, 9)], devices=21)
    for turn in range(5):
        for name in order:
            coordinator.on(Joined(name), 100.0 * turn)
        for name in order:
            coordinator.on(Left(name), 100.0 * turn + (3.0 if int(name[1:]) % 2 else 90.0))
    for name in [*order, "last"]:
        out = coordinator.on(Joined(name), 1000.0)
    return tickets(out)


def test_a_forecast_prefers_those_who_stay_and_is_free_of_the_order_of_joining():
    names = [f"d{i}" for i in range(20)]
    drawn = flickering(names)
    assert len(drawn) == 4
    assert all(int(t.device[1:]) % 2 == 0 for t in drawn if t.device != "last")
    assert drawn == flickering(names[::-1])


def test_a_sleeper_keeps_its_work_and_is_told_when_to_come_back():
    coordinator, out = started(Pace(goal=1, patience=200.0), 0, versions=9)
    out = coordinator.on(Joined("s", 60.0), 3.0)
    (first,) = tickets(out)
    assert coordinator.on(CheckedIn("s", 60.0), 63.0) == [Assign(first, 203.0, None, True)]
    out = coordinator.on(Arrived(first), 65.0)
    assert out[-1] == Advance(0, 1)
    assert tickets(coordinator.on(Stepped(1), 65.0))  # its next work waits for it
    out = coordinator.on(Joined("other", 60.0), 70.0)
    (rest,) = out
    assert (rest.device, rest.reason) == ("other", "not needed now")
    assert rest.until == pytest.approx(70.0 + 60.0, abs=0.1)  # versions take 65 s: the next is due at 130
    out = coordinator.on(Woke(), 265.0)
    assert any(isinstance(c, Discard) and c.reason == "deadline" for c in out)
    assert "s" not in coordinator.present  # it has not woken once


def test_a_sleeper_that_sits_out_sleeps_through():
    coordinator = started(Pace(goal=1, patience=100.0, separation=5), 2, versions=9)[0]
    coordinator.on(Joined("s", 10.0), 0.0)
    now = 0.0
    while coordinator.last.get("s") is None:
        now += 40.0
        arrive(coordinator, [next(iter(coordinator.tasks.values()))[0]], now)
        coordinator.on(Stepped(coordinator.version + 1), now)
    (rest,) = [c for c in coordinator.on(CheckedIn("s", 10.0), now) if isinstance(c, Rest)]
    assert now + 5 * 40.0 - 10.0 <= rest.until <= now + 5 * 40.0 + 10.0


PACES = [
    Pace(goal=3, concurrency=4, patience=9.0, slack=1.5, quorum=2, separation=1, selection=Forecast()),
    Pace(goal=3, concurrency=5, patience=9.0, staleness=2, period=2.0, cap=9, selection=Forecast()),
]


@pytest.mark.parametrize("pace", PACES)
def test_restored_with_all_that_it_knows_it_says_the_same(pace):
    """At every event of a run with losses, with devices that come, go and sleep, a copy gives the same commands."""
    coordinator, out = started(pace, 8, versions=12, seed=3)
    now, queue, turn = 0.0, tickets(out), 0
    while not coordinator.done and turn < 500:
        turn += 1
        now += 0.5
        copy = Coordinator(coordinator.plans, coordinator.seed, coordinator.devices)
        copy.restore(coordinator.snapshot())
        name = f"d{turn % 8}"
        event = Woke()
        if coordinator.stepping:
            event = Stepped(coordinator.version + 1)
        elif turn % 7 == 0:
            event = Left(name)
        elif turn % 7 == 1:
            event = Joined(f"d{(turn - 1) % 8}", 20.0 if turn % 2 else 0.0)
        elif queue and (ticket := queue.pop(0)).attempt + int(ticket.device[1:]) + ticket.version % 5:
            event = Arrived(ticket)
        else:
            now = max(now, min(coordinator.alarm, now + 9.0))
        out = coordinator.on(event, now)
        assert copy.on(event, now) == out
        assert copy.snapshot() == coordinator.snapshot()
        assert [list(w) for w in copy.waits] == [list(w) for w in coordinator.waits]
        queue += tickets(out)
    assert coordinator.version >= 5


def test_a_buffered_fleet_that_vanishes_is_named_within_the_patience_and_goes_on_when_it_is_back():
    coordinator, out = started(Pace(goal=3, concurrency=3, patience=10.0, staleness=4), 3)
    given = tickets(out)
    coordinator.on(Arrived(given[0]), 1.0)
    for i in range(3):
        coordinator.on(Left(f"d{i}"), 2.0)
    (wait,) = coordinator.waits
    assert wait.reason == "reports: 1 of 3 are in, 3 devices at work, 3 of them gone"
    assert wait.until <= 11.0
    now = 2.0
    while coordinator.tasks:
        now = coordinator.alarm
        coordinator.on(Woke(), now)
    assert now <= 11.0
    for _ in range(5):  # however long it takes, there is a next deadline, and it is named
        (wait,) = coordinator.waits
        assert wait.reason == "devices: 0 of 3 are there"
        assert now < wait.until == coordinator.alarm <= now + 10.0
        now = coordinator.alarm
        coordinator.on(Woke(), now)
    out = [c for i in range(3) for c in coordinator.on(Joined(f"d{i}"), now + 1.0)]
    out = arrive(coordinator, tickets(out)[:2], now + 2.0)
    assert Advance(0, 1) in out  # what was in before still counts
