"""The roster: a uniform draw that depends on the set of devices alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fedthings.protocol.roster import Roster, place

NAMES = st.lists(st.integers(0, 5000).map(str), unique=True, min_size=1, max_size=40)


def _roster(names: list[str]) -> Roster:
    roster = Roster()
    for name in names:
        roster.add(name)
    return roster


@given(NAMES, st.randoms(), st.integers(0, 2**64 - 1))
def test_a_draw_is_free_of_the_order_of_joining(names, random, number):
    shuffled = list(names)
    random.shuffle(shuffled)
    assert _roster(names).draw(number) == _roster(shuffled).draw(number)


@settings(deadline=None)
@given(NAMES)
def test_every_rank_falls_on_another_device(names):
    assert {_roster(names).draw(rank) for rank in range(len(names))} == set(names)
    assert sorted(_roster(names)) == sorted(names)


def test_a_rank_counts_in_roster_order():
    """Few devices and many, added together and one by one, as they become fewer."""
    for names in (["a"], [str(i) for i in range(100)], [str(i) for i in range(9000)]):
        roster = Roster()
        roster.extend(names[::2])
        for name in names[1::2]:
            roster.add(name)
        order = sorted(names, key=lambda name: (place(name), name))
        assert list(roster) == order
        for n in range(min(len(names), 300)):
            rank = (0, len(order) - 1, n * 0x9E3779B1 % len(order))[n % 3]
            assert roster.draw(rank + n * len(order)) == order.pop(rank)
            assert len(roster) == len(order)
        assert roster.drain() == order and not len(roster)


def test_adding_twice_and_discarding_the_absent_change_nothing():
    roster = _roster(["a", "b"])
    roster.add("a")
    roster.discard("c")
    assert len(roster) == 2
    roster.discard("a")
    assert "a" not in roster
    assert list(roster) == ["b"]


def test_draws_are_uniform():
    roster, counts = _roster([str(i) for i in range(10)]), Counter[str]()
    for n in range(5000):
        drawn = roster.draw(n * 0x9E3779B97F4A7C15 >> 7)
        counts[drawn] += 1
        roster.add(drawn)
    assert len(counts) == 10
    assert all(400 < count < 600 for count in counts.values())
