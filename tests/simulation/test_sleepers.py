"""Devices that sleep: the same in the simulator and with real agents, and few messages a version."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn.digits import digits
from fedthings.messages import Announce, Chunk, Offer, Want
from fedthings.simulation.devices import Device
from fedthings.simulation.things import Group, Things
from fedthings.transport.transport import Delivery
from virtual import Virtual


def world(flops: float) -> Things:
    """Return devices that wake for 5 seconds of every 60."""
    asleep = ft.duty_cycle(awake=5, every=60)
    group = Group(device="thing", link="wifi", available=asleep, leaving="sleep")
    return Things(groups=(group,), seed=2, devices={"thing": Device(flops=flops, based_on="pi4")})


WORLD = world(1e9)
WORLDS = {"report in the same waking": WORLD, "report in a later waking": world(1e5)}
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


class Counting(Virtual):
    """Counts the messages that reach the coordinator, or a device that is awake, and the wakings."""

    def __init__(self, *arguments, **options):
        self.said, self.wakings = Counter(), 0
        super().__init__(*arguments, **options)

    def wakes(self, waking):
        super().wakes(waking)
        self.wakings += self.agents[waking.device].rest is None

    def post(self, address, arrival):
        if isinstance(arrival, Delivery) and not isinstance(arrival.message, Offer | Chunk | Want | Announce):
            self.said[type(arrival.message).__name__] += 1
        super().post(address, arrival)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_a_version_costs_a_sleeper_at_most_three_messages_both_ways(name, world, tmp_path):
    """Hello, assignment, receipt; the report itself, and the announcement at each link, are not counted."""
    versions = 20
    virtual = Counting(federation(CASES[name]), digits(4, 0), versions, tmp_path, WORLDS[world])
    run = virtual.run()
    kept = sum(line["updates"] for line in run.history)
    said = virtual.said.total()
    print(
        f"{name}, {world}: {said / kept:.2f} messages and {virtual.wakings / kept:.2f} wakings a report, "
        f"{said / versions / 4:.2f} and {virtual.wakings / versions / 4:.2f} a version and device: {dict(virtual.said)}"
    )
    assert said <= 3 * 4 * versions
    if name in ("synchronous", "buffered"):  # all take part, so that nobody wakes for nothing
        assert said <= 3 * kept


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
