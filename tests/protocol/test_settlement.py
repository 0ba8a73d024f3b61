"""The settlement: one set at a time, asked about until it has its sum, or its time is over."""

from __future__ import annotations

from math import inf

from fedthings.protocol.events import (
    Advance,
    Ask,
    Exclude,
    Excluded,
    Finish,
    Keep,
    Overdue,
    Settle,
    Settled,
    Ticket,
)
from fedthings.protocol.settlement import Settlement


def ticket(name: str, version: int = 0) -> Ticket:
    return Ticket(0, version, name, 0)


def fixed(names: str = "abcd", least: int = 3) -> Settlement:
    settlement = Settlement("helper", least, 60.0)
    for name in names:
        assert settlement.on(Keep(ticket(name), 0), 1.0) == []
    return settlement


def test_without_a_party_every_version_is_made_at_once() -> None:
    settlement = Settlement()
    settlement.on(Keep(ticket("a"), 0), 1.0)
    assert settlement.on(Advance(0, 1), 2.0) == [Settle("")]
    assert settlement.alarm == inf and settlement.waits == []


def test_the_party_is_asked_and_waited_for_by_name() -> None:
    settlement = fixed()
    assert settlement.on(Advance(0, 1), 2.0) == [Ask()]
    assert settlement.alarm == 62.0
    (wait,) = settlement.waits
    assert wait.reason == "helper: its share of 4 reports for version 1" and wait.until == 62.0
    assert settlement.on(Settled(b""), 3.0) == [Settle("")]
    assert settlement.alarm == inf and settlement.waits == []
    assert settlement.on(Settled(b""), 4.0) == []  # once more


def test_what_comes_meanwhile_is_of_the_next_set() -> None:
    settlement = fixed()
    settlement.on(Advance(0, 1), 2.0)
    settlement.on(Keep(ticket("e"), 1), 3.0)
    assert ticket("e") not in settlement.fixed
    settlement.on(Settled(b""), 4.0)
    for name in "fg":
        settlement.on(Keep(ticket(name, 1), 0), 5.0)
    assert settlement.on(Advance(0, 2), 6.0) == [Ask()]
    assert settlement.fixed == {ticket("e"): 1, ticket("f", 1): 0, ticket("g", 1): 0}


def test_a_report_is_excluded_and_the_rest_is_asked_for_within_the_same_time() -> None:
    settlement = fixed()
    settlement.on(Advance(0, 1), 2.0)
    assert settlement.on(Excluded((ticket("b"),), "used already"), 9.0) == [
        Exclude((ticket("b"),), 0, "used already"),
        Ask(),
    ]
    assert settlement.alarm == 62.0
    assert settlement.on(Excluded((ticket("b"),), "used already"), 9.0) == []
    assert settlement.on(Excluded((ticket("c"),), "malformed seed"), 9.0) == [
        Exclude((ticket("c"),), 0, "malformed seed"),
        Settle("batch below the minimum"),
    ]
    assert settlement.on(Excluded((ticket("d"),), "malformed seed"), 9.0) == []


def test_too_few_are_never_asked_about() -> None:
    assert fixed("ab").on(Advance(0, 1), 2.0) == [Settle("batch below the minimum")]
    assert fixed("").on(Advance(0, 1), 2.0) == [Settle("")]


def test_when_its_time_is_over_the_set_is_given_up() -> None:
    settlement = fixed()
    settlement.on(Advance(0, 1), 2.0)
    assert settlement.on(Overdue(), 62.0) == [Settle("no answer from the helper")]
    assert settlement.on(Settled(b""), 63.0) == []


def test_what_was_kept_in_another_phase_is_in_no_set() -> None:
    settlement = fixed()
    assert settlement.on(Advance(1, 1), 2.0) == [Settle("")]


def test_a_federation_that_ends_asks_no_more() -> None:
    settlement = fixed()
    settlement.on(Advance(0, 1), 2.0)
    assert settlement.on(Finish("cancelled"), 3.0) == []
    assert settlement.alarm == inf and settlement.on(Settled(b""), 4.0) == []


def test_reports_that_came_summed_are_excluded_together() -> None:
    settlement = fixed("abcdefg")
    settlement.on(Advance(0, 1), 2.0)
    together = ticket("c"), ticket("a"), ticket("b")
    assert settlement.on(Excluded(together, "malformed seed"), 9.0) == [Exclude(together, 0, "malformed seed"), Ask()]
    assert set(settlement.fixed) == {ticket(name) for name in "defg"}
    assert settlement.on(Excluded((ticket("a"),), "malformed seed"), 9.0) == []
