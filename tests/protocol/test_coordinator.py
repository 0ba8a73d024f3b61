"""The round logic: synchronous, over-selected and asynchronous versions, refusals, deadlines, phases."""

from __future__ import annotations

from math import inf

import pytest

from fedthings.errors import SpecError
from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Cancelled,
    CheckedIn,
    Declined,
    Discard,
    Finish,
    Joined,
    Keep,
    Left,
    Paused,
    Rest,
    Resumed,
    Stepped,
    Woke,
)
from fedthings.protocol.pace import Pace, Plan
from rounds import started, tickets


def test_a_synchronous_version_waits_for_enough_devices_and_makes_one_version_of_all_reports():
    coordinator, out = started(Pace(goal=3, patience=10.0), 2)
    assert out == []
    assert [(w.reason, w.until) for w in coordinator.waits] == [("devices: 2 of 3 are there", 10.0)]
    out = coordinator.on(Joined("d2"), 1.0)
    assert sorted(t.device for t in tickets(out)) == ["d0", "d1", "d2"]
    assert coordinator.alarm == 11.0
    first, second, third = tickets(out)
    assert coordinator.on(Arrived(first), 2.0) == [Keep(first, 0)]
    assert coordinator.on(Arrived(first), 2.0) == [Discard(first, "late")]  # never twice
    assert coordinator.on(Arrived(second), 2.0) == [Keep(second, 0)]
    assert coordinator.on(Arrived(third), 3.0) == [Keep(third, 0), Advance(0, 1)]
    out = coordinator.on(Stepped(1), 3.0)
    assert [t.version for t in tickets(out)] == [1, 1, 1]
    assert {c.kept for c in out} == {first, second, third}


def test_the_order_of_joining_decides_nothing():
    pace = Pace(goal=5, concurrency=5)
    names = [f"d{i}" for i in range(20)]
    drawn = []
    for order in (names, names[::-1]):
        coordinator = Coordinator([Plan(pace, 3)], seed=7, devices=20)
        out = [c for name in order for c in coordinator.on(Joined(name), 0.0)]
        drawn.append(tickets(out))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5


def test_over_selection_frees_the_stragglers():
    coordinator, out = started(Pace(goal=2, concurrency=3), 3)
    first, second, third = tickets(out)
    coordinator.on(Arrived(first), 1.0)
    assert coordinator.on(Arrived(second), 1.0)[-1] == Advance(0, 1)
    out = coordinator.on(Stepped(1), 1.0)
    assert Discard(third, "late") in out
    assert len(tickets(out)) == 3
    assert coordinator.on(Arrived(third), 2.0) == [Discard(third, "late")]


def test_the_deadline_ends_a_version_with_a_quorum_and_tries_again_without():
    coordinator, out = started(Pace(goal=3, patience=10.0, quorum=2), 3)
    first, second, third = tickets(out)
    coordinator.on(Arrived(first), 1.0)
    out = coordinator.on(Woke(), 10.0)
    assert Discard(second, "deadline") in out
    again = tickets(out)  # one report of two: the other two are asked again, the kept one is not
    assert sorted(t.device for t in again) == sorted([second.device, third.device])
    assert {t.attempt for t in again} == {1}
    coordinator.on(Arrived(again[0]), 11.0)
    out = coordinator.on(Woke(), 20.0)
    assert Discard(again[1], "deadline") in out
    assert Advance(0, 1) in out


def test_a_refusal_is_replaced_and_not_asked_again_in_the_version():
    coordinator, out = started(Pace(goal=2, concurrency=2), 3, versions=2)
    first, second = tickets(out)
    out = coordinator.on(Declined(first, "on battery"), 1.0)
    assert out[0] == Discard(first, "on battery")
    (third,) = tickets(out)
    assert third.device not in (first.device, second.device)
    coordinator.on(Arrived(second), 2.0)
    assert coordinator.on(Arrived(third), 2.0)[-1] == Advance(0, 1)
    assert len(tickets(coordinator.on(Stepped(1), 2.0))) == 2


def test_too_few_devices_start_after_the_patience_and_later_versions_do_not_wait_again():
    coordinator, out = started(Pace(goal=3, patience=10.0), 2)
    assert coordinator.alarm == 10.0
    out = coordinator.on(Woke(), 10.0)
    a, b = tickets(out)
    coordinator.on(Arrived(a), 11.0)
    assert coordinator.on(Arrived(b), 11.0)[-1] == Advance(0, 1)
    assert len(tickets(coordinator.on(Stepped(1), 11.0))) == 2


def test_a_device_that_dies_costs_one_patience():
    coordinator, out = started(Pace(goal=3, patience=10.0, quorum=2), 3)
    first, second, third = tickets(out)
    coordinator.on(Arrived(first), 1.0)
    coordinator.on(Arrived(second), 1.0)
    coordinator.on(Left(third.device), 2.0)
    assert coordinator.on(Woke(), 10.0) == [Discard(third, "deadline"), Advance(0, 1)]
    assert len(tickets(coordinator.on(Stepped(1), 10.0))) == 2  # at once: nobody is waited for again


def test_a_fleet_that_vanishes_is_waited_for_with_a_deadline_and_goes_on_when_it_is_back():
    coordinator, out = started(Pace(goal=2, patience=10.0), 2)
    for t in tickets(out):
        assert coordinator.on(Left(t.device), 1.0) == []
    out = coordinator.on(Woke(), 10.0)
    assert [c.reason for c in out] == ["deadline", "deadline"]
    assert coordinator.alarm < inf
    assert "devices: 0 of" in coordinator.waits[0].reason
    coordinator.on(Woke(), coordinator.alarm)
    out = coordinator.on(Joined("d0"), 50.0) + coordinator.on(Joined("d1"), 51.0)
    if not tickets(out):
        out = coordinator.on(Woke(), coordinator.alarm)
    assert tickets(out)


def test_asynchronous_work_is_given_out_at_once_and_lags_are_told():
    coordinator, out = started(Pace(goal=2, concurrency=3, staleness=1), 4)
    slow, b, c = tickets(out)
    out = coordinator.on(Arrived(b), 1.0)
    assert out[0] == Keep(b, 0)
    assert len(tickets(out)) == 1  # a freed place is filled at once
    out = coordinator.on(Arrived(c), 1.0)
    assert out[:2] == [Keep(c, 0), Advance(0, 1)]
    coordinator.on(Stepped(1), 1.0)
    assert coordinator.on(Arrived(slow), 2.0)[0] == Keep(slow, 1)


def test_a_stale_report_is_left_out():
    coordinator, out = started(Pace(goal=1, concurrency=2, staleness=1), 3, versions=9)
    slow, other = tickets(out)
    for version in (1, 2):
        out = coordinator.on(Arrived(other), float(version))
        assert Advance(0, version) in out
        out = coordinator.on(Stepped(version), float(version))
        assert (Discard(slow, "stale") in out) == (version == 2)  # as soon as it could not be kept any more
        other = tickets(out)[0]
    assert coordinator.on(Arrived(slow), 3.0)[0] == Discard(slow, "late")


def test_checking_in_repeats_the_assignment_or_says_rest():
    coordinator, out = started(Pace(goal=2), 3)
    (a, b) = tickets(out)
    idle = ({"d0", "d1", "d2"} - {a.device, b.device}).pop()
    assert tickets(coordinator.on(CheckedIn(a.device), 5.0)) == [a]
    assert coordinator.on(CheckedIn(idle), 5.0) == [Rest(idle, "not needed now")]


def test_phases_follow_each_other_and_everyone_is_asked():
    pace = Pace(goal=2)
    plans = [Plan(pace, 1, everyone=True), Plan(pace, 1), Plan(pace, 1, everyone=True, most=2)]
    coordinator = Coordinator(plans, devices=4)
    out = [c for i in range(4) for c in coordinator.on(Joined(f"d{i}"), 0.0)]
    sizes = []
    for phase in range(3):
        given = tickets(out)
        sizes.append(len(given))
        assert {t.phase for t in given} == {phase}
        for t in given:
            out = coordinator.on(Arrived(t), 1.0)
        assert out[-1] == Advance(phase, 1)
        out = coordinator.on(Stepped(1), 1.0)
    assert sizes == [4, 2, 2]
    assert out == [Finish("done")]
    assert coordinator.done
    assert coordinator.waits == []


def at_what_is_optional():
    """Return a coordinator whose closing phase is optional, and has begun with two devices."""
    pace = Pace(goal=2, concurrency=2, patience=10.0)
    coordinator = Coordinator([Plan(pace, 1), Plan(pace, 1, everyone=True, optional=True)], devices=2)
    out = [c for i in range(2) for c in coordinator.on(Joined(f"d{i}"), 0.0)]
    for t in tickets(out):
        out = coordinator.on(Arrived(t), 1.0)
    out = coordinator.on(Stepped(1), 1.0)
    return coordinator, out


def test_what_is_optional_and_takes_everybody_too_long_is_asked_three_times_and_then_given_up():
    coordinator, out = at_what_is_optional()
    for tried in range(3):
        assert [t.attempt for t in tickets(out)] == [tried, tried]
        out = coordinator.on(Woke(), coordinator.alarm)
    assert out[-1] == Finish("done") and not tickets(out) and coordinator.done


def test_what_is_optional_and_everybody_declines_is_given_up_too():
    coordinator, out = at_what_is_optional()
    for _ in range(10):
        for t in tickets(out):
            out = coordinator.on(Declined(t, "no"), coordinator.alarm - 1.0)
        if coordinator.done:
            break
        out = coordinator.on(Woke(), coordinator.alarm)
    assert out[-1] == Finish("done") and coordinator.done


def test_a_target_ends_the_phase():
    coordinator, out = started(Pace(goal=1), 1, versions=100)
    coordinator.on(Arrived(tickets(out)[0]), 1.0)
    assert coordinator.on(Stepped(1, stop="target"), 1.0) == [Finish("target")]


def test_pause_resume_cancel():
    coordinator, out = started(Pace(goal=1), 1)
    coordinator.on(Paused(), 0.0)
    coordinator.on(Arrived(tickets(out)[0]), 1.0)
    assert coordinator.on(Stepped(1), 1.0) == []
    assert coordinator.alarm == inf
    assert coordinator.waits[0].reason.startswith("the operator")
    (again,) = tickets(coordinator.on(Resumed(), 9.0))
    assert coordinator.on(Cancelled(), 9.5) == [Discard(again, "cancelled"), Finish("cancelled")]
    assert coordinator.on(Arrived(again), 10.0) == [Discard(again, "late")]


@pytest.mark.parametrize("pace", [Pace(goal=3, concurrency=4, patience=5.0), Pace(goal=3, concurrency=6, staleness=2)])
def test_restored_from_a_snapshot_it_says_the_same(pace):
    """At every event of a run with losses, a copy made from the snapshot gives the same commands."""
    coordinator, out = started(pace, 8, versions=6, seed=3)
    now, queue = 0.0, tickets(out)
    while not coordinator.done:
        now += 1.0
        copy = Coordinator(coordinator.plans, coordinator.seed, coordinator.devices)
        copy.restore(coordinator.snapshot())
        lost = queue and (queue[0].attempt + int(queue[0].device[1:]) + queue[0].version) % 5 == 0
        if queue and not lost:
            event = Arrived(queue.pop(0))
        else:
            queue = queue[1:]
            now = max(now, coordinator.alarm) if not queue else now
            event = Woke()
        if coordinator.stepping:
            event = Stepped(coordinator.version + 1)
        out = coordinator.on(event, now)
        assert copy.on(event, now) == out
        assert copy.snapshot() == coordinator.snapshot()
        queue += tickets(out)
        if any(isinstance(c, Advance) for c in out):
            queue += tickets(coordinator.on(Stepped(coordinator.version + 1), now))
    assert coordinator.version == 6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"goal": 0}, "pace.goal is 0"),
        ({"goal": 5, "concurrency": 3}, "pace.concurrency is 3, below pace.goal 5"),
        ({"patience": -1.0}, "pace.patience is -1.0"),
        ({"goal": 2, "quorum": 3}, "pace.quorum is 3, above pace.goal 2"),
        ({"staleness": -1}, "pace.staleness is -1"),
        ({"period": -1.0}, "pace.period is -1.0"),
        ({"slack": 0.5}, "pace.slack is 0.5"),
        ({"cap": -1}, "pace.cap is -1"),
        ({"separation": -1}, "pace.separation is -1"),
    ],
)
def test_a_pace_that_cannot_be_right_is_refused(fields, words):
    with pytest.raises(SpecError, match=words):
        Pace(**fields)
