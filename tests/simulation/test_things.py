"""A world of things: what a task takes and costs, by hand; how often it fails; TOML; what is refused."""

from __future__ import annotations

from itertools import takewhile
from math import exp
from statistics import fmean, median

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.learn.effort import effort
from fedthings.protocol.events import Ticket
from fedthings.simulation import things
from fedthings.simulation.availability import Diurnal, DutyCycle
from fedthings.simulation.devices import DEVICES, Device
from fedthings.simulation.links import (
    FETCHED,
    LINKS,
    REPORTED,
    TASK,
    Link,
    carried,
    chunks,
    exchanged,
    lost,
    moving,
)
from fedthings.simulation.stragglers import LogNormal, Pareto
from fedthings.simulation.things import Group, Things
from fedthings.transport.chunks import CHUNK, WINDOW


class Task:
    """The work of a task: with the messages around its bodies 10,000 bytes go down and 5,000 up."""

    def __init__(self, down=10_000 - TASK[0] - FETCHED[0], up=5_000 - TASK[1] - FETCHED[1], flops=1e9, memory=1000):
        self.sizes = down, up, flops, memory

    def down(self, ticket):
        return self.sizes[0]

    def up(self, ticket):
        return self.sizes[1]

    def flops(self, ticket, now, effort=1.0):
        return self.sizes[2] * effort

    def effort(self, ticket, seconds, left, most=1.0):
        return effort(seconds, left, most)

    def memory(self, ticket, now):
        return self.sizes[3]


DEVICE = Device(flops=1e8, memory=1e6, joules_per_flop=1e-9)
LINK = Link(
    up=4e4,
    down=8e4,
    round_trip=2.0,
    loss=0.0,
    payload=100,
    joules_per_byte_up=1e-4,
    joules_per_byte_down=1e-5,
    joules_per_contact=0.25,
)
TIMES = 3.0 + 1.0, 10.0, 1.0 + 1.0  # to fetch, to train, to report
JOULES = 0.25 + 0.1, 1.0, 0.25 + 0.5


def world(link=LINK, device=DEVICE, **group) -> Things:
    return Things((Group(device="mine", link="ours", **group),), 0, {"mine": device}, {"ours": link})


def tickets(count, version=0):
    return [Ticket(1, version, f"d{i}", 0) for i in range(count)]


# ------------------------------------------------------------------- by hand


def test_time_and_joules_of_a_task_by_hand():
    at, joules, declined, share = world().outcome(Ticket(1, 0, "d", 0), 100.0, Task())
    assert at == pytest.approx(100 + sum(TIMES))
    assert joules == pytest.approx(sum(JOULES))
    assert (declined, share) == ("", 1.0)


def test_a_part_of_the_work_takes_a_part_of_its_time_and_joules(tmp_path):
    """4 s to fetch, then 0.8 of what is left until the deadline to train in, where all of it would take 10 s."""
    ticket = Ticket(1, 0, "d", 0)
    at, joules, _, share = world().outcome(ticket, 100.0, Task(), 109.0)
    assert share == pytest.approx(0.8 * 5 / 10)
    assert at == pytest.approx(100 + TIMES[0] + 4.0 + TIMES[2])
    assert joules == pytest.approx(JOULES[0] + 0.4 * JOULES[1] + JOULES[2])
    assert world().outcome(ticket, 100.0, Task(), 200.0) == world().outcome(ticket, 100.0, Task())
    assert world(effort=0.25).outcome(ticket, 100.0, Task(), 200.0).effort == 0.25
    assert world(effort=0.25).outcome(ticket, 100.0, Task()).effort == 1.0  # where the strategy wants all of it
    assert world().outcome(ticket, 100.0, Task(), 103.0).effort == 0.01  # too late before it begins
    path = tmp_path / "trace.csv"
    path.write_text("device,start,end\nd,0,2\nd,50,52\nd,100,102\n")
    away = world(available=things.Trace(str(path))).outcome(ticket, 0.0, Task(), 62.0)  # it has fetched at 52
    assert (away.at, away.effort) == (102.0, pytest.approx(0.8))


def test_what_is_asked_for_takes_a_round_trip_more_and_windows_that_end_too_soon_idle():
    assert chunks(4096, CHUNK) == (0, 0)
    assert chunks(4097, CHUNK + 1) == (1, 2)
    assert exchanged(4096, CHUNK) == (4096 + TASK[0], CHUNK + TASK[1])
    down, up = exchanged(3 * CHUNK, 2 * CHUNK)
    assert down == 3 * CHUNK + TASK[0] + 3 * FETCHED[0] + 2 * REPORTED[0]
    assert up == 2 * CHUNK + TASK[1] + 3 * FETCHED[1] + 2 * REPORTED[1]
    assert moving(1000, 0, 8000, 2.0) == 1.0 + 1.0
    assert moving(1000, 1, 8000, 2.0) == 3.0 + 1.0
    # In halves of a window: once two of them have come, the link idles until what was asked for then is there; where
    # a half takes longer than a round trip, it always has something to carry.
    half = 8 * (WINDOW // 2) * CHUNK / 8e6
    count = 5 * (WINDOW // 2)
    assert moving(count * CHUNK, count, 8e6, half / 2) == pytest.approx(0.75 * half + 5 * half)
    assert moving(count * CHUNK, count, 8e6, 3 * half) == pytest.approx(4.5 * half + 5 * half + 2 * 2 * half)


def test_a_device_without_the_memory_declines_after_a_round_trip():
    outcome = world().outcome(Ticket(1, 0, "d", 0), 100.0, Task(memory=1e6 + 1))
    assert outcome == (102.0, 0.25, "memory", 1.0)
    assert world().outcome(Ticket(1, 0, "d", 0), 100.0, Task(memory=1e6)).declined == ""


def test_a_device_that_leaves_trains_on_and_moves_its_bytes_when_it_is_back(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("device,start,end\nd,0,2\nd,50,52\nd,100,101\nd,200,300\n")
    trace = things.Trace(str(path))
    # 4 s to fetch in 0-2 and 50-52; trained at 62; 2 s to report in 100-101 and 200-201.
    outcome = world(available=trace).outcome(Ticket(1, 0, "d", 0), 0.0, Task())
    assert outcome.at == 201.0
    assert outcome.joules == pytest.approx(sum(JOULES))
    gave_up = world(available=trace, leaving="lose").outcome(Ticket(1, 0, "d", 0), 0.0, Task())
    assert gave_up == (None, pytest.approx(JOULES[0] / 2), "", 1.0)
    stays = world(available=trace, leaving="lose").outcome(Ticket(1, 0, "d", 0), 200.0, Task())
    assert stays.at == pytest.approx(216.0)
    gone = world(available=trace).outcome(Ticket(1, 0, "d", 0), 290.0, Task())
    assert gone == (None, pytest.approx(JOULES[0] + JOULES[1]), "", 1.0)  # trained, and never back


def test_lorawan_keeps_the_limits_of_its_band():
    """222 bytes with 13 of header are 368.9 ms on the air at spreading factor 7 (Semtech SX1276, 4.1.1.7)."""
    symbols = 8 + 4.25 + 8 + np.ceil((8 * 235 - 4 * 7 + 28 + 16) / (4 * 7)) * 5
    air = symbols * 2**7 / 125e3
    assert air == pytest.approx(0.3689, abs=1e-4)
    link = things.LINKS["lorawan"]
    assert link.up == pytest.approx(222 * 8 / air * 0.01, rel=0.01)
    assert link.down == pytest.approx(222 * 8 / air * 0.1, rel=0.01)
    assert link.round_trip == pytest.approx(1 + 2 * air, abs=0.01)
    assert link.joules_per_byte_up == pytest.approx(0.0415 * 3.3 * air / 222, rel=0.02)
    assert link.joules_per_byte_down == pytest.approx(0.0127 * 3.3 * air / 222, rel=0.02)


def test_figures_that_are_derived_follow_from_their_sources():
    derived = {
        ("nb_iot", "joules_per_byte_up"): 0.716 * 8 / 62.5e3,
        ("nb_iot", "joules_per_byte_down"): 0.213 * 8 / 25.5e3,
        ("lte_m", "joules_per_byte_up"): 0.105 * 3.7 * 8 / 180e3,
        ("lte_m", "joules_per_byte_down"): 0.045 * 3.7 * 8 / 300e3,
        ("wifi", "joules_per_byte_up"): 0.200 * 3.3 * 8 / 20e6,
        ("wifi", "joules_per_byte_down"): 0.068 * 3.3 * 8 / 20e6,
        ("ethernet", "joules_per_byte_up"): 0.270 * 8 / 94.9e6,
        ("ethernet", "up"): 100e6 * 1460 / 1538,
        ("ethernet", "loss"): 12144e-8,
        ("microcontroller", "flops"): 64e6 / 3,
        ("microcontroller", "joules_per_flop"): 64 * 52e-6 * 3 / (64e6 / 3),
        ("pi_zero", "joules_per_flop"): 1 / 0.236e9,
        ("pi4", "joules_per_flop"): 7.2 / 11.9e9,
        ("jetson", "joules_per_flop"): 10 / 118e9,
        ("phone", "flops"): 48.6e9 / 10 * 4,
        ("phone", "joules_per_flop"): 10 / 48.6e9,
        ("gateway", "joules_per_flop"): 25 / 62.9e9,
    }
    for (name, field), value in derived.items():
        assert getattr({**DEVICES, **LINKS}[name], field) == pytest.approx(value, rel=0.03), (name, field)


# ---------------------------------------------------------------- statistics


def test_what_is_lost_is_sent_again_as_often_as_the_loss_says():
    draws = (np.arange(4000) + 0.5) / 4000
    for packets, loss in ((1, 0.12), (20, 0.1), (1000, 0.12), (100, 0.0)):
        again = [lost(packets, loss, draw) if loss else 0 for draw in draws]
        assert fmean(again) == pytest.approx(packets * loss / (1 - loss), rel=0.02)
        assert np.var(again) == pytest.approx(packets * loss / (1 - loss) ** 2, rel=0.06)
    assert carried(10_000, 100, 0.1, 0.5) == pytest.approx(10_000 / 0.9, rel=0.01)
    assert carried(0, 100, 0.1, 0.99) == 0


def test_loss_costs_time_and_joules():
    lossy = replace(LINK, loss=0.2)
    outcomes = [world(lossy).outcome(ticket, 0.0, Task()) for ticket in tickets(3000)]
    assert fmean(outcome.at for outcome in outcomes) == pytest.approx(4 + 10 + 2 / 0.8, rel=0.005)
    assert fmean(outcome.joules for outcome in outcomes) == pytest.approx(0.5 + 0.6 / 0.8 + 1.0, rel=0.005)


def test_drop_outs_and_crashes_come_as_often_as_they_are_said_to():
    dropped = [world(dropout=0.1).outcome(ticket, 0.0, Task()) for ticket in tickets(20000)]
    assert fmean(outcome.at is None for outcome in dropped) == pytest.approx(0.1, abs=0.006)
    half = fmean(outcome.joules for outcome in dropped if outcome.at is None)
    assert sum(JOULES) * 0.3 < half < sum(JOULES) * 0.7
    crashed = [world(crash=36.0).outcome(ticket, 0.0, Task()) for ticket in tickets(20000)]
    assert fmean(outcome.at is None for outcome in crashed) == pytest.approx(1 - exp(-0.1), abs=0.006)
    spent = [outcome.joules for outcome in crashed if outcome.at is None]
    assert min(spent) >= JOULES[0] and max(spent) <= JOULES[0] + JOULES[1]


@pytest.mark.parametrize(
    ("kind", "middle", "share", "beyond"),
    [(LogNormal(0.5), 1.0, 0.05, exp(0.5 * 1.6449)), (Pareto(1.5), 2 ** (1 / 1.5), 0.05, 0.05 ** (-1 / 1.5))],
)
def test_stragglers_have_the_tail_that_is_given(kind, middle, share, beyond):
    took = [world(stragglers=kind).outcome(ticket, 0.0, Task()).at - TIMES[0] - TIMES[2] for ticket in tickets(20000)]
    assert median(took) / 10 == pytest.approx(middle, rel=0.02)
    assert fmean(time / 10 > beyond for time in took) == pytest.approx(share, abs=0.006)
    for ticket in tickets(20):
        assert world(stragglers=kind).outcome(ticket, 0.0, Task()).joules == pytest.approx(sum(JOULES))


MIXED = Things(
    (
        Group(share=0.6, device="pi_zero", link="wifi", available=Diurnal(zones=(-8.0, 1.0)), dropout=0.05),
        Group(share=0.3, device="microcontroller", link="lte_m", available=DutyCycle(60, 3600), leaving="lose"),
        Group(share=0.1, device="gateway", link="ethernet", stragglers=Pareto(2.0), crash=0.01),
    ),
    seed=3,
)


def test_groups_have_their_shares_keyed_by_name_and_seed():
    names = [f"d{i}" for i in range(20000)]
    groups = [MIXED.group(name) for name in names]
    for group in MIXED.groups:
        assert groups.count(group) / 20000 == pytest.approx(group.share, abs=0.01)
    assert groups != [Things(MIXED.groups, seed=4).group(name) for name in names]
    line_powered = {name for name in names[:500] if MIXED.group(name).device == "gateway"}
    there = takewhile(lambda change: change.at == 0, MIXED.changes(names[:500]))
    assert line_powered <= {change.device for change in there}


def test_outcomes_do_not_depend_on_the_order_of_asking():
    asked = [Ticket(1, version, f"d{i}", attempt) for i in range(60) for version in (0, 1) for attempt in (0, 1)]
    first = {ticket: MIXED.outcome(ticket, 5000.0, Task()) for ticket in asked}
    other = Things(MIXED.groups, seed=3)
    assert {ticket: other.outcome(ticket, 5000.0, Task()) for ticket in reversed(asked)} == first
    assert {t: Things(MIXED.groups, seed=4).outcome(t, 5000.0, Task()) for t in asked} != first


# ---------------------------------------------------------------------- TOML

TEXT = """
seed = 7

[[groups]]
share = 0.75
device = "pump"
link = "mine"
available = { kind = "diurnal", zones = [-8, 5.5] }
stragglers = { kind = "log_normal", spread = 0.5 }
dropout = 0.05

[[groups]]
share = 0.25
device = "gateway"
link = "ethernet"
available = { kind = "trace", path = "gateways.csv" }

[devices.pump]
based_on = "pi4"
flops = 2e9

[links.mine]
up = 1e6
down = 2e6
round_trip = 0
loss = 0
payload = 1000
joules_per_byte_up = 0
joules_per_byte_down = 0
joules_per_contact = 0
"""


def written(folder, text=TEXT):
    (folder / "gateways.csv").write_text("device,start,end\nd0,0,10\n")
    path = folder / "world.toml"
    path.write_text(text)
    return path


def test_a_world_comes_back_from_its_toml(tmp_path):
    found = things.load(written(tmp_path))
    assert found.devices["pump"].flops == 2e9
    assert found.groups[1].available.path == str(tmp_path / "gateways.csv")
    (tmp_path / "again.toml").write_text(things.dumps(found))
    again = things.load(tmp_path / "again.toml")
    assert again == found
    asked = [Ticket(0, 0, f"p{i}", 0) for i in range(50)]
    asked = [ticket for ticket in asked if found.group(ticket.device).device == "pump"]
    assert [again.outcome(t, 9.0, Task()) for t in asked] == [found.outcome(t, 9.0, Task()) for t in asked]
    (tmp_path / "mixed.toml").write_text(things.dumps(MIXED))
    assert things.load(tmp_path / "mixed.toml") == MIXED


def test_a_profile_takes_what_it_does_not_say_from_the_one_it_is_based_on(tmp_path):
    own = Things((Group(device="pump", link="wifi"),), 0, {"pump": Device(based_on="pi4", flops=2e9)})
    task, ticket = Task(flops=4e9), Ticket(0, 0, "d", 0)
    slower = own.outcome(ticket, 0.0, task)
    pi4 = Things((Group(device="pi4", link="wifi"),)).outcome(ticket, 0.0, task)
    assert slower.joules == pi4.joules
    assert slower.at - pi4.at == pytest.approx(4e9 / 2e9 - 4e9 / 11.9e9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('based_on = "pi4"\n', "", r'devices.pump has no memory: give it, or based_on = "microcontroller" to take'),
        ('based_on = "pi4"\nflops = 2e9', "memory = 1e9", "devices.pump has no flops: give it, or based_on"),
        ("up = 1e6\n", "", 'links.mine has no up: give it, or based_on = "lorawan" to take from there'),
        ('based_on = "pi4"', 'based_on = "pi5"', "devices.pump.based_on is 'pi5': did you mean `pi4`"),
        ("flops = 2e9", "flopps = 2e9", "devices.pump: unknown field `flopps`: did you mean `flops`"),
        ("flops = 2e9", 'flops = "fast"', "devices.pump: flops is 'fast': give a number"),
        ("flops = 2e9", "flops = 0", "devices.pump.flops is 0.0: it must be above 0, and finite"),
        ("loss = 0", "loss = 1", "links.mine.loss is 1.0: it must be below 1, or nothing would ever arrive"),
        ("loss = 0", "loss = -0.1", "links.mine.loss is -0.1: it must be at least 0"),
        ("devices.pump", "devices.pi4", "devices.pi4 is a profile already: choose another name"),
        ('device = "gateway"', 'device = "gatway"', r"groups\[1\].device is 'gatway': did you mean `gateway`"),
        (
            'link = "ethernet"',
            'link = "carrier pigeon"',
            r"groups\[1\].link is 'carrier pigeon': valid are: ethernet, ",
        ),
        ("share = 0.75", "share = 0.6", r"the shares of groups are \[0.6, 0.25\], together 0.85: make them 1"),
        ("share = 0.75", "share = 75", r"groups\[0\].share is 75.0: it must be from 0 to 1"),
        ("dropout = 0.05", "dropout = 5", r"groups\[0\].dropout is 5.0: it must be from 0 to 1"),
        ("dropout = 0.05", "crash = -1", r"groups\[0\].crash is -1.0: give crashes an hour of work, 0 or more"),
        ("dropout = 0.05", 'leaving = "stay"', r"groups\[0\].leaving is 'stay': valid are: lose, sleep, wait"),
        ("spread = 0.5", "tail = 0.5", r"unknown field `groups\[0\].stragglers.tail`: valid are: kind, spread"),
        ('kind = "diurnal"', 'kind = "dirunal"', r"groups\[0\].available.kind is 'dirunal': did you mean `diurnal`"),
        ('path = "gateways.csv"', 'path = "gone.csv"', "there is no trace .*gone.csv: name a CSV file"),
        ("[[groups]]", "[[group]]", "unknown field `group`: did you mean `groups`"),
        ("seed = 7", "seed = seven", "is not TOML"),
    ],
)
def test_a_bad_world_is_refused_with_file_field_value_and_remedy(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ft.SpecError, match=message) as error:
        things.load(written(tmp_path, TEXT.replace(old, new)))
    assert str(error.value).startswith(str(tmp_path / "world.toml"))


def test_what_is_made_in_python_is_checked_too():
    with pytest.raises(ft.SpecError, match=r"groups is empty: give at least one"):
        Things(())
    for field, value, message in (
        ("dropout", "0.1", r"groups\[0\].dropout is '0.1': give a number"),
        ("available", "always", r"groups\[0\].available is 'always': give a table of fields"),
        ("crash", -1.0, r"groups\[0\].crash is -1.0: give crashes an hour"),
    ):
        with pytest.raises(ft.SpecError, match=message):
            Things((Group(device="pi4", link="wifi", **{field: value}),))
    with pytest.raises(ft.SpecError, match=r"there is no file nowhere\.toml"):
        things.load("nowhere.toml")
    with pytest.raises(ft.SpecError, match=r"stragglers\.tail is 0: it must be above 0"):
        Pareto(0)
    with pytest.raises(ft.SpecError, match=r"stragglers\.spread is -1: it must be from 0"):
        LogNormal(-1)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (Group(device="pi4", link="wifi", dropout=1.0), r"in the last 8 days.*pace.patience \(60 s\); raise it"),
        (Group(device="pi4", link="wifi", available=DutyCycle(0.001, 1e9)), "no device is there; check when"),
    ],
)
def test_a_world_that_lets_nothing_arrive_is_given_up(group: Group, said: str) -> None:
    X = np.zeros((4, 2), np.float32)
    federation = ft.Federation(ft.Task(model=ft.mlp(2, 2), loss="cross_entropy"), pace=ft.Pace(goal=2, patience=60.0))
    with pytest.raises(ft.SpecError, match=said):
        ft.simulate(federation, ft.Fleet.from_arrays(X, [0, 1, 0, 1], [0, 0, 1, 1]), 2, world=Things((group,)))
