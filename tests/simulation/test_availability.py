"""When devices are there: the same for one as for all, in order, and as often as it says."""

from __future__ import annotations

from itertools import islice, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedthings as ft
from fedthings.simulation import availability, draws
from fedthings.simulation.availability import HOUR, Always, Diurnal, DutyCycle
from fedthings.simulation.recorded import Trace
from fedthings.simulation.things import Group, Things

shares = st.lists(st.one_of(st.floats(1e-3, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=24, max_size=24)
zones = st.lists(st.sampled_from([-12.0, -3.5, 0.0, 5.5, 5.75, 14.0]), min_size=1, max_size=3)
kinds = st.one_of(
    st.just(Always()),
    st.builds(lambda every, part: DutyCycle(every * part, every), st.floats(60, 1e5), st.floats(0.01, 0.99)),
    st.builds(Diurnal, shares.filter(any).map(tuple), zones.map(tuple)),
)


def world(*kinds, seed=0) -> Things:
    groups = [Group(device="pi4", link="wifi", available=kind, share=1 / len(kinds)) for kind in kinds]
    return Things(tuple(groups), seed)


def until(changes, seconds):
    return list(takewhile(lambda change: change.at < seconds, changes))


@given(st.lists(kinds, min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_changes_are_in_order_and_alternate_and_those_there_at_the_start_come_first(kinds, seed):
    names = [f"d{i}" for i in range(40)]
    found = until(islice(world(*kinds, seed=seed).changes(names), 5000), 3 * 86400)
    assert found == sorted(found, key=lambda change: (change.at, change.device))
    there: set[str] = set()
    for change in found:
        assert change.present == (change.device not in there)
        (there.add if change.present else there.discard)(change.device)
    first = [change for change in found if change.at == 0]
    assert all(change.present for change in first)


@given(kinds, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_one_device_is_there_exactly_when_the_changes_of_all_say_so(kind, seed):
    names, end = [f"d{i}" for i in range(12)], 3 * 86400.0
    said: dict[str, list[float]] = {name: [] for name in names}
    for change in until(world(kind, seed=seed).changes(names), end):
        said[change.device].append(change.at)
    for name in names:
        joined: list[float] = []
        for begin, stop in kind.stretches(name, draws.key(seed, name), 0.0):
            if begin >= end:
                break
            if joined and joined[-1] == begin:
                joined[-1] = stop
            else:
                joined += [max(begin, 0.0), stop]
        assert said[name] == [time for time in joined if time < end]


@given(kinds, st.floats(0, 1e6), st.floats(1, 1e5))
@settings(max_examples=100, deadline=None)
def test_time_that_is_needed_is_time_there(kind, start, seconds):
    key = draws.key(0, "d")
    after = kind.after("d", key, start, seconds)
    assert after >= start + seconds - 1e-3
    spent = 0.0
    for begin, end in kind.stretches("d", key, start):
        spent += max(0.0, min(end, after) - max(begin, start))
        if end >= after:
            break
    assert spent == pytest.approx(seconds, abs=1e-3) if after < np.inf else spent < seconds
    if after > start + seconds + 1e-3:
        assert kind.leaves("d", key, start, seconds) < start + seconds


def test_changes_do_not_depend_on_the_order_of_names_or_on_others():
    kind = Diurnal(zones=(0.0, 5.5))
    names = [f"d{i}" for i in range(200)]
    day = until(world(kind).changes(names), 86400)
    assert until(world(kind).changes(names[::-1]), 86400) == day
    alone = until(world(kind).changes(["d7"]), 86400)
    assert alone == [change for change in day if change.device == "d7"]
    assert until(world(kind, seed=1).changes(names), 86400) != day


def test_the_share_of_a_duty_cycle_is_its_share_of_the_devices():
    names = [f"d{i}" for i in range(20000)]
    kind = DutyCycle(awake=90, every=600)
    there = sum(change.present for change in until(world(kind).changes(names), 1e-9))
    assert there / 20000 == pytest.approx(0.15, abs=0.01)
    later = 0
    for change in until(world(kind).changes(names), 5000.0):
        later += 1 if change.present else -1
    assert later / 20000 == pytest.approx(0.15, abs=0.01)


def counts(kind, hours, devices=20000):
    there, found, hour = 0, [], 0
    for change in world(kind).changes([f"d{i}" for i in range(devices)]):
        while change.at > hour * HOUR:
            found.append(there / devices)
            hour += 1
            if hour == hours:
                return found
        there += 1 if change.present else -1
    raise AssertionError("the changes ended")


def test_a_day_swings_as_the_table_says():
    found = counts(Diurnal(), 48)
    expected = np.tile(Diurnal().hours, 2)
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert max(found) / min(found) == pytest.approx(4, rel=0.15)


def test_a_zone_shifts_the_day_and_zones_spread_it():
    east = counts(Diurnal(zones=(6.0,)), 24)
    np.testing.assert_allclose(east, np.roll(Diurnal().hours, -6), atol=0.015)
    spread = counts(Diurnal(zones=(-12.0, -6.0, 0.0, 6.0)), 24)
    assert max(spread) - min(spread) < 0.05


def test_a_device_stays_for_hours_not_for_moments():
    kind = Diurnal()
    found = until(world(kind).changes([f"d{i}" for i in range(1000)]), 10 * 86400)
    assert sum(change.present for change in found) / 1000 / 10 < 1.3  # comings a device and day


# ---------------------------------------------------------------------- traces


def traced(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return Trace(str(path))


def test_where_nobody_comes_for_ten_years_the_changes_end(monkeypatch):
    monkeypatch.setattr(availability, "HORIZON", 100 * 24 * HOUR)
    rare = Diurnal(hours=(1e-6,) * 24)
    assert list(world(rare).changes([f"d{i}" for i in range(5)])) == []
    assert rare.after("d0", draws.key(0, "d0"), 0.0, 1.0) == np.inf


def test_a_trace_is_what_it_says(tmp_path):
    kind = traced(tmp_path, "device,start,end\na,0,10\nb,5,20\na,30,40\na,40,50\n")
    found = [tuple(change) for change in world(kind).changes(["b", "a"])]
    assert found == [
        (0, "a", True),
        (5, "b", True),
        (10, "a", False),
        (20, "b", False),
        (30, "a", True),
        (50, "a", False),
    ]
    assert kind.after("a", 0, 8.0, 5.0) == 33.0
    assert kind.after("a", 0, 45.0, 6.0) == np.inf
    assert kind.leaves("a", 0, 35.0, 10.0) == np.inf
    assert kind.leaves("a", 0, 35.0, 20.0) == 50.0


HEAD = "device,start,end\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with '': its first line must be device,start,end"),
        ("a,0,1\n", "begins with 'a,0,1': its first line must be device,start,end"),
        (HEAD, "has no line but its header: give each device its stretches"),
        (HEAD + "a,0,1\na,5\n", "line 3 has 2 cells: give device,start,end"),
        (HEAD + "a,0,\n", "line 2 has no end: a trace has no gaps, so give the seconds or leave the line out"),
        (HEAD + "a,,4\n", "line 2 has no start: a trace has no gaps"),
        (HEAD + ",0,4\n", "line 2 has no device: give its name"),
        (HEAD + "a,7,7\n", "line 2: a ends at 7, not after its start at 7: correct one of them"),
        (HEAD + "a,7,3\n", "line 2: a ends at 3, not after its start at 7"),
        (HEAD + "a,-1,3\n", "line 2: start is '-1': give seconds since the start of the run, 0 or more"),
        (HEAD + "a,0,noon\n", "line 2: end is 'noon': give seconds"),
        (HEAD + "a,0,nan\n", "line 2: end is 'nan': give seconds"),
        (HEAD + "a,0,9\nb,0,1\na,5,12\n", "line 4: a from 5 to 12 overlaps its line before, 0 to 9: put"),
        (HEAD + "a,20,30\na,5,12\n", "line 3: a from 5 to 12 comes before its line before, 20 to 30: put"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ft.SpecError) as error:
        world(traced(tmp_path, text))
    assert message in str(error.value)
    assert "trace.csv" in str(error.value)


def test_a_trace_and_a_fleet_must_name_the_same_devices(tmp_path):
    kind = traced(tmp_path, HEAD + "pump-1,0,10\npump-2,0,10\n")
    with pytest.raises(ft.SpecError, match=r"no line for the device pump-3: add one .* did you mean `pump-"):
        world(kind).changes(["pump-1", "pump-2", "pump-3"])
    with pytest.raises(ft.SpecError, match=r"trace.csv, line 3: the fleet has no device 'pump-2'"):
        world(kind).changes(["pump-1"])


def test_a_trace_that_is_not_there_is_refused():
    with pytest.raises(ft.SpecError, match=r"there is no trace nowhere\.csv: name a CSV file"):
        world(Trace("nowhere.csv"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DutyCycle(10, 0), "available.every is 0: give the seconds from waking to waking, above 0"),
        (lambda: DutyCycle(0, 60), "available.awake is 0, of every 60 seconds: it must be above 0 and below"),
        (lambda: DutyCycle(60, 60), 'available.awake is 60, of every 60 seconds: .* or kind = "always"'),
        (lambda: Diurnal(hours=(0.5,) * 23), "available.hours has 23 figures: give 24"),
        (lambda: Diurnal(hours=(0.5,) * 23 + (1.5,)), r"available.hours\[23\] is 1.5: it must be a share"),
        (lambda: Diurnal(hours=(0.0,) * 24), "available.hours are at most 0.0: give one hour a share of 1e-06 or more"),
        (lambda: Diurnal(hours=(5e-324,) * 24), "available.hours are at most 5e-324: .* no device would ever be there"),
        (lambda: Diurnal(zones=()), "available.zones is empty: give hours ahead of UTC"),
        (lambda: Diurnal(zones=(99.0,)), "available.zones has 99.0: it must be hours ahead of UTC, from -12 to 14"),
    ],
)
def test_figures_that_cannot_be_are_refused(make, message):
    with pytest.raises(ft.SpecError, match=message):
        make()
