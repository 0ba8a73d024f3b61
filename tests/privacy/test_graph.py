"""How many neighbours are enough, against the bounds written out in floats; and the graph that is made of them."""

from __future__ import annotations

from math import exp, lgamma, log2

import pytest

from fedthings.errors import SpecError
from fedthings.privacy.graph import COMPLETION, MOST, SECRECY, circle, degree


def tail(of: int, marked: int, drawn: int, hits: range) -> float:
    """The hypergeometric probability of one of `hits` (Johnson, Kotz & Kemp 1992, chapter 6)."""

    def ways(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    possible = (hit for hit in hits if hit <= marked and drawn - hit <= of - marked)
    return sum(exp(ways(marked, hit) + ways(of - marked, drawn - hit) - ways(of, drawn)) for hit in possible)


@pytest.mark.parametrize("n, corrupt", [(12, 0.3), (20, 0.3), (30, 0.2)])
def test_in_a_small_set_two_halves_told_different_things_are_not_both_enough(n: int, corrupt: float) -> None:
    k, t = degree(n, corrupt, 0.1)
    assert k == n - 1 and int(corrupt * (n - 1)) + k + 1 < 2 * t


@pytest.mark.parametrize("corrupt, dropout", [(0.05, 0.1), (0.1, 0.1), (0.05, 0.3), (0.2, 0.3)])
@pytest.mark.parametrize("n", [100, 500, 2000, 100_000])
def test_the_bounds_hold(n: int, corrupt: float, dropout: float) -> None:
    if (n, corrupt, dropout) in ((2000, 0.2, 0.3), (100_000, 0.05, 0.3), (100_000, 0.2, 0.3)):
        with pytest.raises(SpecError, match="leave no number of neighbours up to"):
            degree(n, corrupt, dropout)
        return
    k, t = degree(n, corrupt, dropout)
    assert k % 2 == 0 and k <= MOST and (k + 1) / 2 < t <= k + 1
    bad, there = int(corrupt * (n - 1)), n - 1 - int(dropout * (n - 1))
    assert n * tail(n - 1, bad, k, range(2 * t - k - 1, k + 1)) <= 2.0**-SECRECY
    assert n * tail(n - 1, there, k, range(t - 1)) <= 2.0**-COMPLETION
    assert log2(n) + k / 2 * log2(corrupt + dropout) <= -SECRECY


def test_few_devices_are_all_neighbours() -> None:
    assert [degree(n, 0.05, 0.1) for n in (2, 3, 10, 30)] == [(1, 2), (2, 2), (9, 6), (29, 16)]
    with pytest.raises(SpecError, match="hides nothing"):
        degree(1, 0.05, 0.1)


def test_neighbours_grow_slowly() -> None:
    assert [degree(n, 0.05, 0.1).neighbours for n in (100, 1000, 10_000, 100_000)] == [36, 74, 92, 102]


def test_a_number_that_is_given_is_taken() -> None:
    assert degree(2000, 0.05, 0.3, 100) == (100, 51)
    assert degree(2000, 0.05, 0.1, 99) == (100, 65)
    assert degree(20, 0.05, 0.1, 99).neighbours == 19


@pytest.mark.parametrize("n, k", [(2, 1), (3, 2), (5, 4), (7, 4), (100, 36)])
def test_each_has_so_many_and_is_theirs(n: int, k: int) -> None:
    names = [f"d{i}" for i in range(n)]
    keys = [name.encode() for name in names]
    found = circle(names, keys, b"seed", k)
    assert {len(set(near)) for near in found.values()} == {k}
    assert all(name in found[other] for name, near in found.items() for other in near)
    assert all(name not in near for name, near in found.items())
    assert circle(names, keys, b"seed", k) == found
    if k < n - 1:
        assert circle(names, keys, b"other", k) != found


def test_it_stays_in_one_piece_as_long_as_no_half_in_a_row_is_gone() -> None:
    names = list(range(60))
    found = circle(names, [bytes([i]) for i in names], b"seed", 8)
    for gone in range(30):
        left, seen, queue = set(names[gone % 2 :: 2]), set[int](), [names[gone % 2]]
        while queue:
            at = queue.pop()
            if at not in seen:
                seen.add(at)
                queue += [other for other in found[at] if other in left]
        assert seen == left
