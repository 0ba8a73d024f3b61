"""The committee alone: who is heard, who is left out, and when it goes on."""

from __future__ import annotations

from math import inf

from fedthings.protocol.committee import KEYS, REPORTS, SHARES, Committee
from fedthings.protocol.events import (
    Assign,
    Deliver,
    Discard,
    Introduce,
    Lapsed,
    Leave,
    Open,
    Said,
    Seating,
    Ticket,
)


def ticket(name: str, version: int = 0) -> Ticket:
    return Ticket(0, version, name, 0)


def begun(names: str = "abcd", least: int = 3) -> Committee:
    committee = Committee(least, 60.0)
    out: list[Seating] = []
    for name in names:
        out += committee.on(Assign(ticket(name), inf, None), 1.0)
    assert out == [Open()]
    return committee


def say(committee: Committee, names: str, now: float = 2.0) -> list[Seating]:
    out: list[Seating] = []
    for name in names:
        out += committee.on(Said(ticket(name), committee.stage, b""), now)
    return out


def test_it_goes_on_when_all_have_said() -> None:
    committee = begun()
    assert (committee.stage, committee.alarm) == (KEYS, 61.0)
    assert say(committee, "abc") == []
    assert committee.waits[0].reason == "keys of 1 of 4 devices of version 1" and committee.waits[0].until == 61.0
    assert say(committee, "d") == [Introduce(tuple(map(ticket, "abcd")))]
    assert (committee.stage, committee.alarm) == (SHARES, 62.0)
    assert say(committee, "dcba", 3.0) == [Deliver(tuple(map(ticket, "abcd")))]
    assert (committee.stage, committee.alarm, committee.waits) == (REPORTS, inf, [])


def test_who_has_not_said_in_time_is_left_out() -> None:
    committee = begun()
    say(committee, "abd")
    assert committee.on(Lapsed(), 60.0) == []  # not yet
    assert committee.on(Lapsed(), 61.0) == [
        Leave(ticket("c"), "no keys in time"),
        Introduce((ticket("a"), ticket("b"), ticket("d"))),
    ]
    assert committee.on(Said(ticket("c"), SHARES, b""), 62.0) == []


def test_with_too_few_it_is_over() -> None:
    committee = begun()
    say(committee, "ab")
    left = [(event.ticket.device, event.reason) for event in committee.on(Lapsed(), 61.0) if isinstance(event, Leave)]
    assert left == [(name, "no keys in time") for name in "cd"] + [(name, "batch below the minimum") for name in "ab"]
    assert committee.alarm == inf and not committee.members


def test_a_task_that_is_over_is_waited_for_no_more() -> None:
    committee = begun()
    say(committee, "abc")
    assert committee.on(Discard(ticket("d"), "declined"), 2.0) == [Introduce(tuple(map(ticket, "abc")))]
    assert committee.on(Discard(ticket("d"), "declined"), 2.0) == []
    say(committee, "abc")
    assert committee.on(Discard(ticket("a"), "deadline"), 9.0) == []  # of whom the reports are waited for


def test_work_that_is_told_again_changes_nothing() -> None:
    committee = begun()
    say(committee, "abc")
    assert committee.on(Assign(ticket("a"), inf, None, True), 3.0) == []
    assert committee.heard == set(map(ticket, "abc"))


def test_the_next_version_has_the_next_committee() -> None:
    committee = begun()
    say(committee, "abcd")
    assert committee.on(Assign(ticket("a", 1), inf, None), 9.0) == [Open()]
    assert (committee.stage, committee.alarm, list(committee.members)) == (KEYS, 69.0, [ticket("a", 1)])
