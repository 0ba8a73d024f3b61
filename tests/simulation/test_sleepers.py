"""Devices that sleep: the same in the simulator and with real agents, and few messages a version."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn.digits import digits
from fedthings.messages import Announce, Chunk, Want
from fedthings.simulation.things import Group, Things
from fedthings.wire import unpack
from virtual import Virtual

WORLD = Things(
    groups=(Group(device="pi4", link="wifi", available=ft.duty_cycle(awake=5, every=60), leaving="sleep"),), seed=2
)
CASES = {
    "synchronous": ft.Pace(goal=4, patience=300.0),
    "fewer than there are": ft.Pace(goal=2, patience=300.0),
    "sitting out": ft.Pace(goal=2, patience=300.0, separation=1),
    "buffered": ft.Pace(goal=2, concurrency=4, patience=300.0, staleness=4),
}


def federation(pace: ft.Pace) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=20))
    return ft.Federation(task, pace=pace, devices=4)


@pytest.mark.parametrize("name", CASES)
def test_sleepers_take_part_alike_in_both_worlds(name, tmp_path):
    spec, fleet = federation(CASES[name]), digits(4, 0)
    simulated = ft.simulate(spec, fleet, 6, world=WORLD, out=tmp_path / "simulated", trace=True)
    with (tmp_path / "trace.jsonl").open("w") as trace:
        served = Virtual(spec, fleet, 6, tmp_path / "served", WORLD, trace=trace).run()
    want = [json.loads(line) for line in (tmp_path / "simulated" / "trace.jsonl").read_text().splitlines()]
    have = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    for a, b in zip(want, have, strict=False):
        assert a == b
    assert len(want) == len(have)
    assert np.array_equal(simulated.row, served.row)
    assert [{**line, "joules": None} for line in simulated.history] == served.history
    assert [line["updates"] for line in simulated.history] == [CASES[name].goal] * 6
    assert not any(line["dropped"] for line in simulated.history[:-1])


@pytest.mark.parametrize("name", CASES)
def test_a_version_costs_a_sleeper_at_most_three_messages_of_its_own(name, tmp_path):
    """It says hello and offers its report; what else it says is that it was there for nothing, which is rare."""
    world = Virtual(federation(CASES[name]), digits(4, 0), 20, tmp_path, WORLD)
    sent, heard = Counter(), Counter()
    inject = world.hub.inject

    def counted(sender, to, data):
        message = unpack(data)[1]
        if not isinstance(message, Chunk | Want | Announce):
            sent[sender] += 1
            end = world.hub._ends.get(to)
            heard[to] += end is not None and end.linked
        inject(sender, to, data)

    world.hub.inject = counted
    run = world.run()
    kept = sum(line["updates"] for line in run.history)
    ours = sum(n for name, n in sent.items() if name.startswith("device"))
    theirs = sum(n for name, n in heard.items() if name.startswith("device"))
    print(f"{name}: {ours / kept:.2f} messages sent and {theirs / kept:.2f} received a report")
    assert ours / kept <= 3


def test_a_sleeper_wakes_when_it_was_told_to(tmp_path):
    """With five versions to sit out a device does not wake for nothing in each minute of them."""
    pace = ft.Pace(goal=1, patience=300.0, separation=3)
    ft.simulate(federation(pace), digits(4, 0), 24, world=WORLD, out=tmp_path, trace=True)
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    seconds = lines[-1][0]
    wakings = sum(line[1][0] in ("checkedin", "joined") for line in lines)
    assert wakings < 0.6 * 4 * seconds / 60


def test_to_sleep_takes_a_duty_cycle():
    with pytest.raises(SpecError, match=r'groups\[0\].leaving is "sleep": give available'):
        Things(groups=(Group(device="pi4", link="wifi", leaving="sleep"),))
