"""Bytes, seconds and joules as people read them: the unit that suits, three digits."""

from __future__ import annotations

import pytest

from fedthings.units import BYTES, JOULES, SECONDS, duration, energy, quantity, unit


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.5, "1 kB"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (2.5e9, "2.5 GB"),
        (7.25e12, "7.25 TB"),
        (4.2e15, "4,200 TB"),
    ],
)
def test_bytes(size: float, text: str) -> None:
    assert quantity(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0722, "0.0722 s"),
        (59.96, "60 s"),
        (99.9, "99.9 s"),
        (100, "1.67 min"),
        (3600, "60 min"),
        (5970, "1.66 h"),
        (86_400, "24 h"),
        (172_500, "2 d"),
        (400 * 86_400, "400 d"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0 J"), (2e-5, "0.02 mJ"), (0.25, "250 mJ"), (0.9996, "1 J"), (9.434, "9.43 J"), (3.6e6, "3.6 MJ")],
)
def test_joules(joules: float, text: str) -> None:
    assert energy(joules) == text


@pytest.mark.parametrize("units", [BYTES, SECONDS, JOULES])
def test_units_grow_and_a_value_takes_the_largest_that_it_fills(units: tuple[object, ...]) -> None:
    assert [one.size for one in units] == sorted(one.size for one in units)
    assert [one.least for one in units] == sorted(one.least for one in units)
    for one in units:
        assert unit(one.least, units) == one
        assert unit(-one.least, units) == one
    assert unit(units[1].least * 0.999, units) == units[0]
